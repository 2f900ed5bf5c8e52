//! One life of the connections to Redis: made whole, never mended, over when anything of it breaks.
//!
//! The driver could reconnect by itself. It is not allowed to, because nobody could then say whether an answer came over a connection that is tracked; nor does
//! it keep commands for later.

use std::{
    future::{Future as _, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use fred::{
    clients::{Client, Pipeline},
    interfaces::{
        ClientLike as _, ClusterInterface as _, EventInterface as _, HashesInterface as _, KeysInterface as _, LuaInterface as _,
        TrackingInterface as _,
    },
    types::{
        ClusterHash, ConnectHandle, CustomCommand, Value,
        config::{Config, ConnectionConfig, PerformanceConfig, TcpConfig},
        scripts::Script,
    },
};
use tokio::sync::{Notify, Semaphore};

use super::{
    CallError,
    keeper::Watch,
    record::Keys,
    scripts::{Call, SCRIPTS},
};
use crate::sessions::{AT_ONCE, GatewayId};

const CONNECTED_WITHIN: Duration = Duration::from_secs(1);
/// At one time; more wait, for as long as their deadline allows.
const CALLS: usize = 64;
/// Commands that the driver may hold, a batch being one.
const COMMANDS: usize = 1024;
/// So that a script does not hold up other clients of the server for longer than half a millisecond.
const KEYS_IN_A_SCRIPT: usize = 128;
/// News that may wait for the task that passes them on; behind that everything is stale.
const NEWS: usize = 1024;

/// A task of the driver, with its connections. Ends when this is dropped.
#[derive(Debug)]
pub(super) struct Running(pub(super) ConnectHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Two clients: what one reads is tracked, the other writes.
#[derive(Debug)]
pub(super) struct Link {
    reads: Client,
    writes: Client,
    calls: Semaphore,
    /// A call failed since the link was last seen to work.
    doubted: AtomicBool,
    doubt: Notify,
}

impl Link {
    /// Connects, switches tracking on, and makes the scripts known. The watch must run, or nothing stale is told.
    pub(super) async fn make(config: &Config, keys: &Keys, gateway: GatewayId) -> Result<(Arc<Self>, Watch), CallError> {
        let ((reads, reading), (writes, writing)) = tokio::try_join!(connect(config, NEWS), connect(config, 1))?;
        // Listens before there can be anything to hear.
        let (invalidations, changes) = (reads.invalidation_rx(), reads.cluster_change_rx());
        reads.start_tracking(Vec::<String>::new(), false, false, false, false).await?;
        let link = Self { reads, writes, calls: Semaphore::new(CALLS), doubted: AtomicBool::new(false), doubt: Notify::new() };
        link.load().await?;
        let mut watch = Watch::new([reading, writing], invalidations, changes, keys.clone(), link.markers(keys), gateway);
        watch.look(&link).await?;
        Ok((Arc::new(link), watch))
    }

    async fn load(&self) -> Result<(), CallError> {
        for script in SCRIPTS.all() {
            let _: Value = self.writes.script_load_cluster(script.lua().cloned().unwrap_or_default()).await?;
        }
        Ok(())
    }

    /// A key for each server that holds keys.
    fn markers(&self, keys: &Keys) -> Vec<Bytes> {
        let Some(state) = self.reads.cached_cluster_state().filter(|_| self.reads.is_clustered()) else { return vec![keys.marker(0)] };
        let mut servers = state.unique_primary_nodes();
        let mut markers = Vec::with_capacity(servers.len());
        // Names are many and hash at random: far fewer are tried, except where a server holds next to no slots.
        for key in (0..1 << 16).map(|number| keys.marker(number)) {
            let held = state.get_server(fred::util::redis_keyslot(&key));
            if let Some(at) = servers.iter().position(|server| Some(server) == held) {
                servers.swap_remove(at);
                markers.push(key);
            }
            if servers.is_empty() {
                break;
            }
        }
        markers
    }

    /// A call went wrong: the link is to be examined now, and calls fail at once until it is seen to work.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Ordering::Release);
        self.doubt.notify_one();
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Acquire)
    }

    pub(super) fn trust(&self) {
        self.doubted.store(false, Ordering::Release);
    }

    /// Until somebody doubts.
    pub(super) async fn doubts(&self) {
        self.doubt.notified().await;
    }

    /// In a cluster the keys of a command must be neighbours, and ours are not.
    pub(super) fn keys_in_a_script(&self) -> usize {
        if self.writes.is_clustered() { 1 } else { KEYS_IN_A_SCRIPT }
    }

    /// The values of at most [`AT_ONCE`] keys in one round trip; in a cluster one to each server.
    pub(super) async fn get(&self, keys: Vec<Bytes>) -> Result<Vec<Value>, CallError> {
        let _permit = self.permit().await?;
        if !self.reads.is_clustered() {
            return super::list(self.reads.mget(keys).await?);
        }
        let pipeline = self.reads.pipeline();
        for key in keys {
            let () = pipeline.get(key).await?;
        }
        super::list(pipeline.all().await?)
    }

    /// The answers of a script, one for each call, in one round trip; in a cluster one to each server.
    pub(super) async fn run(&self, script: &Script, calls: Vec<Call>) -> Result<Vec<Value>, CallError> {
        let _permit = self.permit().await?;
        let mut answers = self.evaluate(script, &calls).await?;
        let forgotten = |answer: &Result<Value, fred::error::Error>| answer.as_ref().is_err_and(|error| error.details().starts_with("NOSCRIPT"));
        if answers.iter().any(forgotten) {
            // Somebody flushed the scripts. Only what did not run is run again: an answer tells what was there before.
            self.load().await?;
            let again: Vec<_> = answers.iter().zip(&calls).filter(|(answer, _)| forgotten(answer)).map(|(_, call)| call.clone()).collect();
            let mut second = self.evaluate(script, &again).await?.into_iter();
            for answer in answers.iter_mut().filter(|answer| forgotten(answer)) {
                *answer = second.next().ok_or(CallError::Answer)?;
            }
        }
        Ok(answers.into_iter().collect::<Result<_, _>>()?)
    }

    async fn evaluate(&self, script: &Script, calls: &[Call]) -> Result<Vec<Result<Value, fred::error::Error>>, CallError> {
        let pipeline = self.writes.pipeline();
        for Call { keys, arguments } in calls {
            let (first, count) = (keys.first().ok_or(CallError::Answer)?, keys.len());
            // Not `evalsha`: a pipeline of the driver does not have it.
            let command = CustomCommand::new_static("EVALSHA", ClusterHash::from(&first[..]), false);
            let words = [Value::from(script.sha1().clone()), Value::from(count.to_string())].into_iter();
            let words = words.chain(keys.iter().chain(arguments).cloned().map(Value::from));
            let () = pipeline.custom(command, words.collect::<Vec<Value>>()).await?;
        }
        let mut answers = pipeline.try_all::<Value>().await;
        match answers.len() {
            count if count == calls.len() => Ok(answers),
            _ => Err(answers.pop().and_then(Result::err).map_or(CallError::Answer, CallError::Redis)),
        }
    }

    pub(super) async fn resign(&self, gateways: Bytes, id: Bytes) -> Result<(), CallError> {
        let _permit = self.permit().await?;
        let _: Value = self.writes.hdel(gateways, id).await?;
        Ok(())
    }

    /// Writes each marker that is not there, then reads them all: both connections to every server work if this does.
    pub(super) async fn mark(&self, markers: &[Bytes], value: &Bytes) -> Result<Vec<Bytes>, CallError> {
        let (writes, reads): (Pipeline<Client>, _) = (self.writes.pipeline(), self.reads.pipeline());
        for key in markers {
            let () = writes.set(key.clone(), value.clone(), None, Some(fred::types::SetOptions::NX), false).await?;
            let () = reads.get(key.clone()).await?;
        }
        let _: Value = writes.all().await?;
        let values = super::list(reads.all().await?)?;
        values.iter().map(|value| super::bytes(value).map(Bytes::copy_from_slice)).collect()
    }

    async fn permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>, CallError> {
        self.calls.acquire().await.map_err(|_| CallError::Away)
    }
}

/// A client that ends for good when a connection of it does.
async fn connect(config: &Config, news: usize) -> Result<(Client, Running), CallError> {
    let performance = PerformanceConfig { max_feed_count: AT_ONCE as u64, broadcast_channel_capacity: news, ..PerformanceConfig::default() };
    let connection = ConnectionConfig {
        connection_timeout: CONNECTED_WITHIN,
        internal_command_timeout: CONNECTED_WITHIN,
        max_command_attempts: 1,
        max_command_buffer_len: COMMANDS,
        tcp: TcpConfig { nodelay: Some(true), ..TcpConfig::default() },
        ..ConnectionConfig::default()
    };
    let client = Client::new(config.clone(), Some(performance), Some(connection), None);
    let running = {
        let mut connected = Box::pin(client.wait_for_connect());
        // Listens from the first poll on, which must come before there is anything to hear.
        let early = poll_fn(|context| Poll::Ready(connected.as_mut().poll(context))).await;
        debug_assert!(early.is_pending(), "nobody has connected it yet");
        let running = Running(client.connect());
        connected.await?;
        running
    };
    Ok((client, running))
}
