//! Several gateways in one process: one log, one directory, real links.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use kith_chat_core::{
    domain::Clock,
    sessions::{GatewayId, memory::Hub},
};
use kith_harness::Proxy;
use tokio::{net::TcpListener, sync::mpsc};

use crate::{
    cluster::{Cluster, ClusterPorts},
    sessions::{
        PresenceStore, SessionSettings, Sleepers,
        tests::{FakeLog, FakePresence, Rig, Told, until},
    },
};

pub(super) const SECRET: [u8; 32] = [5; 32];

/// A busy machine may keep a test from running for a while, which is not what is tested.
const LEASE: Duration = Duration::from_secs(60);

/// What gateways share.
pub(super) struct Fleet {
    pub(super) hub: Hub,
    log: FakeLog,
    presence: Arc<dyn PresenceStore>,
}

/// One of them.
pub(super) struct Member {
    pub(super) rig: Rig,
    pub(super) cluster: Arc<Cluster>,
    /// Where it listens for others.
    pub(super) bound: SocketAddr,
    /// What stands between it and others.
    pub(super) proxy: Proxy,
    /// What it says of sleepers.
    pub(super) told: mpsc::Receiver<Told>,
}

/// So long that nothing in a test can be the keep-alive's doing.
fn settings() -> SessionSettings {
    SessionSettings { keep_alive: Duration::from_secs(3_600), receipts_every: Duration::from_millis(1), ..SessionSettings::default() }
}

impl Fleet {
    pub(super) fn new() -> Self {
        let (log, _) = FakeLog::new();
        Self { hub: Hub::new(LEASE), log, presence: Arc::new(FakePresence::default()) }
    }

    pub(super) async fn start(&self, id: u64) -> Member {
        self.start_with_secret(id, SECRET).await
    }

    pub(super) async fn start_with_secret(&self, id: u64, secret: [u8; 32]) -> Member {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bound = listener.local_addr().unwrap();
        let proxy = Proxy::start(bound).await.unwrap();
        let directory = Arc::new(self.hub.join(GatewayId(id), proxy.address().to_string()));
        let (sleepers, told) = Sleepers::new();
        let ports = ClusterPorts { directory, secret, lease: LEASE, sleepers: Some(sleepers), clock: Clock::System, tracer: None };
        let cluster = Cluster::new(ports);
        let (log, resolved) = self.log.beside();
        let rig = Rig::start_among(settings(), Arc::new(log), resolved, Arc::clone(&self.presence), Some(Arc::clone(&cluster)));
        cluster.start(&rig.sessions, listener, Box::new(|_| ()), &rig.shutdown, &rig.tracker);
        Member { rig, cluster, bound, proxy, told }
    }

    /// Two that are linked.
    pub(super) async fn pair(&self) -> (Member, Member) {
        let (a, b) = (self.start(1).await, self.start(2).await);
        a.linked(1).await;
        b.linked(1).await;
        (a, b)
    }
}

impl Member {
    pub(super) async fn linked(&self, links: usize) {
        until(|| self.cluster.sizes().0 == links).await;
    }

    pub(super) fn delivered_live(&self) -> u64 {
        self.rig.sessions.counters().delivered_live.value()
    }

    pub(super) fn rechecks(&self) -> u64 {
        self.cluster.counters().rechecks.value()
    }
}
