//! The SDK under faults: its processes killed, its store copied back, its traffic and files searched.

mod no_plaintext;
mod sdk_crash;
mod stale_store;
mod store_rollback;
mod two_devices;

use kith_tests::{
    recorder::Recorder,
    server::{Options, Server},
};

/// A server behind a wire tap, which is what clients dial.
async fn tapped() -> anyhow::Result<(Server, Recorder)> {
    let (port, tap) = Server::reserve_behind_tap().await?;
    let server = Options::new().set("KITH_PUBLIC_URL", &tap.origin()).set("KITH_REGISTRATION_POLICY", "open").start_on(port).await?;
    Ok((server, tap))
}
