//! The least that a load balancer does: one address, and connections go to one backend after the other.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

/// A backend that does not answer by then is passed over.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// After a failure to accept, which is most often a lack of descriptors.
const PAUSE: Duration = Duration::from_millis(20);

/// A running balancer. It and all its connections end when this is dropped.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Balancer {
    /// Listens on a free port of the loopback address before there are any backends; they are taken from the cell when it is filled.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start(backends: Arc<std::sync::OnceLock<Vec<SocketAddr>>>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("no port for the balancer")?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(listener, backends));
        Ok(Self { address, task })
    }

    /// What clients dial.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, backends: Arc<std::sync::OnceLock<Vec<SocketAddr>>>) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        if let Some(backends) = backends.get() {
            let first = next.fetch_add(1, Ordering::Relaxed);
            let order = (0..backends.len()).map(|n| backends[(first + n) % backends.len()]).collect();
            connections.spawn(serve(client, order));
        }
    }
}

async fn serve(mut client: TcpStream, order: Vec<SocketAddr>) {
    for backend in order {
        if let Ok(Ok(mut server)) = timeout(CONNECT_WITHIN, TcpStream::connect(backend)).await {
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            // However it ends, both are closed.
            let _ = copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}
