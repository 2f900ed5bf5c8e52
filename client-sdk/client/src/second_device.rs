//! A second device of an account, without the protocol that will link one.
//!
//! Everything that matters is real: the device makes its own keys and prekeys and asks for a certificate, the first device certifies it, signs the list that
//! names both and publishes it, and the new device pins that list. What is missing is the way between two machines and the user's confirmation on both. Here
//! both stores are in one process, which is enough to show that several devices are addressed as they should be; an app has no use for it.

use crate::builder::ClientBuilder;
use crate::client::Client;
use crate::engine::{self, Command, OwnAccount};
use crate::error::{OpenError, RequestError};
use crate::start;
use crate::store::records::{AccountRecord, SelfRecord};
use crate::store::{Store, StoreError};
use kith_crypto::device::{CertificateRequest, DeviceKeys};
use kith_crypto::prekey::PrekeyId;
use kith_crypto::{DeviceId, Incarnation};
use kith_proto::rest::PrekeyUpload;
use thiserror::Error;

/// Why there is no second device.
#[derive(Debug, Error)]
pub enum AddDeviceError {
    /// Its folder cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The first device or the server did not take it.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Adds a device to the account of `first`, which must hold its identity key, and opens it.
///
/// # Errors
/// [`AddDeviceError`]; the folder is of no use then.
pub async fn add(first: &Client, second: ClientBuilder) -> Result<Client, AddDeviceError> {
    let dialled = start::origin(&second.server_url)?;
    let own = first.request(|reply| Command::DescribeOwn { reply }).await?;
    let me = SelfRecord { origin: dialled.as_str().to_owned(), username: first.me().username.clone(), ..SelfRecord::default() };
    let at = second.clone();
    let (store, request, prekeys) = start::on_a_thread(move || {
        let mut store = Store::create(&at.home, at.passphrase.as_ref())?;
        let (request, prekeys) = prepare(&mut store, &own, me, at.clock.now_ms())?;
        Ok((store, request, prekeys))
    })
    .await?;
    let enrolled = first.request(|reply| Command::SignListWith { request: Box::new(request), prekeys: Box::new(prekeys), reply }).await?;
    first.publish_list(&enrolled.publication).await?;
    let record = enrolled.record;
    let store = start::on_a_thread(move || confirm(store, &record)).await?;
    start::mark_registered(&second.home)?;
    Ok(start::run(second, store, dialled, None).await?)
}

/// Makes the keys of the new device and stores them; gives what the first device signs and what the server hands out.
fn prepare(store: &mut Store, own: &OwnAccount, me: SelfRecord, now_ms: u64) -> Result<(CertificateRequest, PrekeyUpload), OpenError> {
    let device = DeviceId::random(&mut store.rng);
    let keys = DeviceKeys::random(&mut store.rng, device);
    let wanted = engine::Wanted { signed: true, last_resort: true, one_time: engine::BATCH };
    let made = engine::make_prekeys(&mut store.rng, &keys, own.account, PrekeyId::FIRST, wanted, now_ms);
    let (secrets, upload, next) = made.map_err(|_| StoreError::Malformed("prekey id"))?;
    for secret in &secrets {
        store.add_prekey(secret)?;
    }
    let me = SelfRecord {
        account: own.account.as_bytes().to_vec(),
        device: device.as_bytes().to_vec(),
        incarnation: Incarnation::random(&mut store.rng).as_bytes().to_vec(),
        next_prekey: next.get(),
        ..me
    };
    store.set_meta("device", &keys.to_bytes())?;
    store.set_self_record(&me)?;
    store.commit()?;
    Ok((keys.request_certificate(own.account, own.identity, own.next_version), upload))
}

/// The list that names the device is published: from now on the folder is that of a device of the account.
fn confirm(mut store: Store, own: &AccountRecord) -> Result<Store, OpenError> {
    let me = store.self_record()?.ok_or(OpenError::NotRegistered)?;
    store.set_account(1, own)?;
    store.set_self_record(&SelfRecord { registered: true, ..me })?;
    store.commit()?;
    Ok(store)
}
