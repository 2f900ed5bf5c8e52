//! The directory that many gateways share: Redis alone, with Sentinels, or as a cluster.
//!
//! **Reading.** The places of an account are one string (see `record.rs`), so that a batch is one MGET. The connection that reads has `CLIENT TRACKING` on: Redis
//! remembers what it has read and tells, once, when that changes.
//!
//! **What is guaranteed.** For every change that a [`find`](SessionDirectory::find) does not show, a [`Stale`] that names the account, or
//! [`Stale::Everything`], comes out of [`stale`](SessionDirectory::stale) after that `find` was *called*. It may come out before `find` has *returned*,
//! since the answer and the news take different ways through this process. So a caller that (1) does not keep what it found if anything stale concerning it was
//! told between its call and its keeping, and (2) drops what it keeps when it is told, is never wrong for good. How long it may be wrong: as long
//! as the news takes to arrive; if the link has broken silently, or Redis was flushed, until that is noticed, which takes at most 2 s.
//!
//! Why it holds: a `Link` is one life of the connections. They are never mended; when one breaks, or a cluster changes its shape, the whole link is over, and
//! another is made, which is not used before tracking is on. So every answer came over a tracked connection, and Redis sends what changed after the answer, on the
//! same connection. If that does not arrive, the connection broke, and the end of a link tells `Everything`, after the link was taken out of use.
//!
//! **Writing** goes over connections of its own, on which nothing is tracked (a script that writes also reads), by scripts that compare epochs.
//!
//! **Failing.** Every call ends within a second. While there is no link, calls fail at once and nothing is queued. Late effects of calls that failed are harmless:
//! what they would do is decided by the epoch and the exact record when Redis runs them.

mod address;
mod buckets;
mod keeper;
mod link;
mod record;
mod scripts;
#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use fred::{error::ErrorKind, types::Value};
use kith_proto::id::{AccountId, DeviceRef};
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, mpsc},
    time,
};

pub use self::address::SCHEMES;
use self::{
    keeper::Keeper,
    link::Link,
    record::{Keys, gateway_id, places, records, to_gateway_id},
    scripts::{Call, SCRIPTS},
};
use super::{AT_ONCE, DirectoryError, Gateway, GatewayId, Place, Renewal, SessionDirectory, Stale};
use crate::domain::Address;

/// For a whole call, whatever it takes.
const ANSWERED_WITHIN: Duration = Duration::from_millis(900);
/// An account's key lives so long after somebody last connected. Nobody depends on its end: it only clears what gateways that died have left of accounts that never
/// came back. Longer than any connection lasts, because a place is not entered again while its connection stands.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Where and as whom.
#[derive(Clone)]
pub struct Options {
    /// `redis://`, `redis-sentinel://` or `redis-cluster://` (`rediss…` with TLS), `[user]:password@host:port`, more hosts as `?node=host:port`. May hold
    /// passwords, and is not shown.
    pub url: String,
    /// Begins every key, so that a Redis can be shared. All gateways of a fleet have the same.
    pub prefix: String,
    /// A gateway that has not renewed for so long is gone.
    pub lease: Duration,
    /// This gateway.
    pub gateway: GatewayId,
    /// Where other gateways reach this one.
    pub address: String,
}

impl Options {
    /// With the prefix `kith:` and a lease of 10 s.
    #[must_use]
    pub fn new(url: impl Into<String>, gateway: GatewayId, address: impl Into<String>) -> Self {
        Self { url: url.into(), prefix: "kith:".to_owned(), lease: Duration::from_secs(10), gateway, address: address.into() }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, prefix, lease, gateway, address } = self;
        let url = address::parse(url).map_or_else(|_| "not a Redis".to_owned(), |(_, address)| address.to_string());
        f.debug_struct("Options")
            .field("url", &url)
            .field("prefix", prefix)
            .field("lease", lease)
            .field("gateway", gateway)
            .field("address", address)
            .finish()
    }
}

/// Why there is no directory.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is none of Redis; it is not repeated, because it may hold a password.
    #[error("the URL of Redis is wrong: {0}")]
    Url(String),
    /// No link could be made.
    #[error("Redis at {address} cannot be used")]
    Unreachable {
        /// Where it was sought.
        address: Address,
        /// What went wrong.
        #[source]
        source: CallError,
    },
}

impl OpenError {
    /// Whether nobody answered, or whoever did is not ready: waiting may mend it. A wrong URL or password somebody has to.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Url(_) => false,
            Self::Unreachable { source, .. } => source.may_pass(),
        }
    }
}

/// Where a URL of Redis leads, without user and password.
///
/// # Errors
/// If it is none.
pub fn address_of(url: &str) -> Result<Address, OpenError> {
    Ok(address::parse(url)?.1)
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The link is broken and another not yet made.
    #[error("there is no link to Redis")]
    Away,
    /// It took too long.
    #[error("Redis does not answer in time")]
    Late,
    /// It answered with something that the scripts never say.
    #[error("Redis answers with something else than was asked")]
    Answer,
    /// Redis refused, or the connection broke.
    #[error(transparent)]
    Redis(#[from] fred::error::Error),
}

/// One gateway's access to Redis. Its tasks end when it is dropped.
#[derive(Debug)]
pub struct RedisDirectory {
    gateway: Gateway,
    lease: Duration,
    keys: Keys,
    keeper: Keeper,
    stale: Mutex<Option<mpsc::Receiver<Stale>>>,
    /// Room for calls about buckets.
    bucket_calls: Semaphore,
}

impl CallError {
    fn may_pass(&self) -> bool {
        match self {
            Self::Away | Self::Late => true,
            Self::Answer => false,
            // `ERR …` says that a command, for instance AUTH where no password is set, was not understood; while it loads or fails over, Redis says other words.
            Self::Redis(error) => {
                let refused = ["ERR", "NOPERM", "WRONGPASS", "NOAUTH"].iter().any(|word| error.details().starts_with(word));
                !refused && !matches!(error.kind(), ErrorKind::Auth | ErrorKind::Config | ErrorKind::Url | ErrorKind::Tls)
            }
        }
    }
}

impl RedisDirectory {
    /// Connects, and keeps connected from then on.
    ///
    /// # Errors
    /// If the URL is wrong, or Redis cannot be reached, does not take the password, or cannot do what is needed (version 6 at least); within 5 s.
    pub async fn open(options: &Options) -> Result<Self, OpenError> {
        let (config, address) = address::parse(&options.url)?;
        let keys = Keys::new(&options.prefix);
        let (keeper, stale) = Keeper::start(config, address, keys.clone(), options.gateway).await?;
        let gateway = Gateway { id: options.gateway, address: options.address.clone() };
        Ok(Self { gateway, lease: options.lease, keys, keeper, stale: Mutex::new(Some(stale)), bucket_calls: Semaphore::new(buckets::CALLS) })
    }

    /// Where Redis is.
    #[must_use]
    pub fn address(&self) -> &Address {
        self.keeper.address()
    }

    /// Whether there is a link just now, for readiness and metrics.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.keeper.link().is_some()
    }

    /// Gives up in time, and lets the link be examined when something went wrong.
    async fn call<T>(&self, call: impl AsyncFnOnce(&Link) -> Result<T, CallError>) -> Result<T, DirectoryError> {
        let answer = async {
            let link = self.keeper.link().ok_or(CallError::Away)?;
            let answer = time::timeout(ANSWERED_WITHIN, async { call(&link).await }).await.unwrap_or(Err(CallError::Late));
            answer.inspect_err(|_| link.doubt())
        };
        answer.await.map_err(|error| DirectoryError(Box::new(error)))
    }

    /// One call of a script for as many keys as the link can take at once.
    fn calls(&self, link: &Link, before: &[Bytes], sessions: &[(DeviceRef, u64)]) -> Vec<Call> {
        let keys = self.keys.accounts(sessions.iter().map(|(device, _)| device.account));
        let records: Vec<_> = records(self.gateway.id, sessions).collect();
        let size = link.keys_in_a_script();
        let parts = keys.chunks(size).zip(records.chunks(size));
        parts.map(|(keys, records)| Call { keys: keys.to_vec(), arguments: [before, records].concat() }).collect()
    }
}

fn milliseconds(duration: Duration) -> Bytes {
    duration.as_millis().to_string().into()
}

fn list(value: Value) -> Result<Vec<Value>, CallError> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(CallError::Answer),
    }
}

fn bytes(value: &Value) -> Result<&[u8], CallError> {
    value.as_bytes().ok_or(CallError::Answer)
}

#[async_trait]
impl SessionDirectory for RedisDirectory {
    fn gateway(&self) -> GatewayId {
        self.gateway.id
    }

    async fn enter(&self, sessions: &[(DeviceRef, u64)]) -> Result<Vec<(DeviceRef, Place)>, DirectoryError> {
        self.call(async |link| {
            let mut others = Vec::new();
            for batch in sessions.chunks(AT_ONCE) {
                let mut answers = Vec::with_capacity(batch.len());
                for answer in link.run(&SCRIPTS.enter, self.calls(link, &[milliseconds(KEPT_FOR)], batch)).await? {
                    answers.extend(list(answer)?);
                }
                for ((device, _), answer) in batch.iter().zip(&answers) {
                    others.extend(places(bytes(answer)?).filter(|place| place.gateway != self.gateway.id).map(|place| (*device, place)));
                }
            }
            Ok(others)
        })
        .await
    }

    async fn leave(&self, sessions: &[(DeviceRef, u64)]) -> Result<(), DirectoryError> {
        self.call(async |link| {
            for batch in sessions.chunks(AT_ONCE) {
                link.run(&SCRIPTS.leave, self.calls(link, &[], batch)).await?;
            }
            Ok(())
        })
        .await
    }

    async fn find(&self, accounts: &[AccountId]) -> Result<Vec<Vec<Place>>, DirectoryError> {
        self.call(async |link| {
            let mut found = Vec::with_capacity(accounts.len());
            for batch in accounts.chunks(AT_ONCE) {
                let values = link.get(self.keys.accounts(batch.iter().copied())).await?;
                if values.len() != batch.len() {
                    return Err(CallError::Answer);
                }
                found.extend(values.iter().map(|value| value.as_bytes().map_or_else(Vec::new, |value| places(value).collect())));
            }
            Ok(found)
        })
        .await
    }

    async fn renew(&self) -> Result<Renewal, DirectoryError> {
        self.call(async |link| {
            let Gateway { id, address } = &self.gateway;
            let arguments = vec![gateway_id(*id), address.clone().into(), milliseconds(self.lease), milliseconds(KEPT_FOR)];
            let mut answers = link.run(&SCRIPTS.renew, vec![Call { keys: vec![self.keys.gateways()], arguments }]).await?;
            renewal(&list(answers.pop().ok_or(CallError::Answer)?)?)
        })
        .await
    }

    async fn gateways(&self) -> Result<Vec<GatewayId>, DirectoryError> {
        self.call(async |link| {
            let mut answers = link.run(&SCRIPTS.gateways, vec![Call { keys: vec![self.keys.gateways()], arguments: Vec::new() }]).await?;
            let ids = list(answers.pop().ok_or(CallError::Answer)?)?;
            ids.iter().map(|id| to_gateway_id(bytes(id)?).ok_or(CallError::Answer)).collect()
        })
        .await
    }

    async fn resign(&self) -> Result<(), DirectoryError> {
        self.call(async |link| link.resign(self.keys.gateways(), gateway_id(self.gateway.id)).await).await
    }

    fn stale(&self) -> Option<mpsc::Receiver<Stale>> {
        self.stale.lock().take()
    }
}

/// Reads the answer of `renew.lua`.
fn renewal(answer: &[Value]) -> Result<Renewal, CallError> {
    let Some((Value::Integer(anew), gateways)) = answer.split_first() else { return Err(CallError::Answer) };
    let gateway = |pair: &[Value]| {
        let [id, address] = pair else { return Err(CallError::Answer) };
        let id = to_gateway_id(bytes(id)?).ok_or(CallError::Answer)?;
        Ok(Gateway { id, address: String::from_utf8_lossy(bytes(address)?).into_owned() })
    };
    Ok(Renewal { anew: *anew == 1, gateways: gateways.chunks(2).map(gateway).collect::<Result<_, _>>()? })
}
