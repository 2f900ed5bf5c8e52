//! Many accounts: registered, connected, kept.

use std::rc::Rc;

use anyhow::ensure;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kith_proto::v1;
use rand::{SeedableRng as _, rngs::StdRng};

use super::{
    api::{Account, Api},
    link::{Endpoint, Link},
    outbox::Outbox,
    participant::Participant,
    peer::{Peer, Shared},
    progress::Progress,
};

/// Calls and connects under way at one time while a run is prepared.
const AT_ONCE: usize = 64;

/// Registers `count` accounts whose names begin with `run`.
///
/// # Errors
/// If one registration fails.
pub(super) async fn register(api: &Api, run: &str, count: usize, progress: &Progress) -> anyhow::Result<Vec<Account>> {
    let step = progress.step("registering", count);
    let accounts = stream::iter(0..count).map(|n| {
        let step = &step;
        async move {
            let account = api.register(format!("{run}-{n}"), &mut StdRng::from_rng(&mut rand::rng())).await?;
            step.one_more();
            anyhow::Ok(account)
        }
    });
    accounts.buffered(AT_ONCE).try_collect().await
}

/// Connects one account by token.
///
/// # Errors
/// If the server refuses or cannot be reached.
pub(super) async fn connect(endpoint: &Endpoint, n: usize, account: &mut Account, shared: &Shared) -> anyhow::Result<(Link, v1::Welcome)> {
    let mut link = Link::open(endpoint, n).await?;
    account.epoch += 1;
    let welcome = link.hello(&account.token, account.epoch, &shared.scratch).await?;
    Ok((link, welcome))
}

/// Connects every account; `endpoint` says where the n-th one goes, `participant` makes its side.
///
/// # Errors
/// If one connection fails.
pub(super) async fn connect_all<'a>(
    endpoint: impl Fn(usize) -> &'a Endpoint,
    accounts: &mut [Account],
    shared: &Rc<Shared>,
    progress: &Progress,
    participant: impl Fn(usize, &Account) -> Participant,
) -> anyhow::Result<Vec<Peer>> {
    let step = progress.step("connecting", accounts.len());
    let peers = stream::iter(accounts.iter_mut().enumerate()).map(|(n, account)| {
        let (step, endpoint, participant) = (&step, &endpoint, &participant);
        async move {
            let (link, welcome) = connect(endpoint(n), n, account, shared).await?;
            let participant = participant(n, account);
            fits(&participant, &welcome)?;
            step.one_more();
            Ok(Peer::start(link, participant, Rc::clone(shared)))
        }
    });
    peers.buffered(AT_ONCE).try_collect().await
}

/// Whether the server allows as much under way as the participant wants.
///
/// # Errors
/// If it does not.
pub(super) fn fits(participant: &Participant, welcome: &v1::Welcome) -> anyhow::Result<()> {
    let (wanted, allowed) = (participant.outbox.as_ref().map_or(0, Outbox::window), welcome.limits.map_or(0, |limits| limits.max_sends_in_flight));
    ensure!(wanted <= allowed as usize, "the server takes {allowed} unanswered messages on a connection, not {wanted}");
    Ok(())
}
