//! The least that a load balancer does: one address, and each connection goes to the first backend that answers.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use parking_lot::Mutex;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// A backend that does not answer by then is passed over.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Connections at one time; it is for demonstrations.
const MOST: usize = 1_024;

/// A running balancer. It and all its connections end when this is dropped.
#[derive(Debug)]
pub(crate) struct Balancer {
    address: SocketAddr,
    backends: Arc<Mutex<Vec<SocketAddr>>>,
    task: JoinHandle<()>,
}

impl Balancer {
    /// Listens on a free port of the loopback address, with no backend yet.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("no port for the balancer")?;
        let address = listener.local_addr()?;
        let backends: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
        let task = tokio::spawn(accept(listener, Arc::clone(&backends)));
        Ok(Self { address, backends, task })
    }

    /// What clients dial.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections go to the first of these that answers.
    pub(crate) fn set(&self, backends: Vec<SocketAddr>) {
        *self.backends.lock() = backends;
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, backends: Arc<Mutex<Vec<SocketAddr>>>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        if connections.len() < MOST {
            let order = backends.lock().clone();
            connections.spawn(serve(client, order));
        }
    }
}

async fn serve(mut client: TcpStream, order: Vec<SocketAddr>) {
    for backend in order {
        if let Ok(Ok(mut server)) = timeout(CONNECT_WITHIN, TcpStream::connect(backend)).await {
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let _ = copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}
