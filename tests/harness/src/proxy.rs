//! A link that can be treated badly: a TCP proxy on 127.0.0.1 in front of one server.
//!
//! What it holds it does not lose: like TCP over a bad network, bytes arrive late or the connection breaks, and never with a gap. While a direction is
//! held the proxy does not read either, so that the sender feels it as it would on a real network: its buffers fill.

mod link;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time,
};

use self::link::{Conditions, Link, reset};

/// More at once are reset.
const MOST_LINKS: usize = 20_000;
const CONNECTED_WITHIN: Duration = Duration::from_secs(10);
/// After a failure to accept, which is most often a lack of descriptors.
const PAUSE: Duration = Duration::from_millis(20);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From whoever connected to the proxy.
    ToServer,
    /// From the server behind the proxy.
    FromServer,
}

/// A link to one server. Ends, with all its connections, when it is dropped. Needs the Tokio runtime in which it was made.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    conditions: watch::Sender<Conditions>,
    open: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// On a free port, in front of `server`.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start(server: SocketAddr) -> anyhow::Result<Self> {
        Self::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), server).await
    }

    /// At `address`, in front of `server`.
    ///
    /// # Errors
    /// If somebody else listens there.
    pub async fn listen(address: SocketAddr, server: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("the proxy cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        let conditions = watch::Sender::new(Conditions::default());
        let open = Arc::new(AtomicUsize::new(0));
        let accepting = tokio::spawn(accept(listener, server, conditions.subscribe(), Arc::clone(&open)));
        Ok(Self { address, conditions, open, accepting })
    }

    /// Where to connect instead of to the server.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Resets all connections, and new ones as soon as they are made.
    pub fn cut(&self) {
        self.conditions.send_modify(|conditions| {
            conditions.cuts += 1;
            conditions.refuses = true;
        });
    }

    /// Resets all connections once; new ones are welcome.
    pub fn reset(&self) {
        self.conditions.send_modify(|conditions| conditions.cuts += 1);
    }

    /// Connections stay and can be made, and nothing passes in either direction, the news of their end included.
    pub fn blackhole(&self) {
        self.conditions.send_modify(|conditions| {
            conditions.to_server.held = true;
            conditions.from_server.held = true;
        });
    }

    /// Only what goes in `direction` passes.
    pub fn one_way(&self, direction: Direction) {
        self.conditions.send_modify(|conditions| {
            conditions.to_server.held = direction != Direction::ToServer;
            conditions.from_server.held = direction != Direction::FromServer;
        });
    }

    /// Whatever is read from now on arrives that much later, in each direction: a round trip takes twice as long. At most 4 MiB are under way in a
    /// direction of a connection.
    pub fn delay(&self, by: Duration) {
        self.delay_one_way(Direction::ToServer, by);
        self.delay_one_way(Direction::FromServer, by);
    }

    /// As [`delay`](Self::delay), for one direction.
    pub fn delay_one_way(&self, direction: Direction, by: Duration) {
        self.conditions.send_modify(|conditions| match direction {
            Direction::ToServer => conditions.to_server.delay = by,
            Direction::FromServer => conditions.from_server.delay = by,
        });
    }

    /// A good link again. What was held arrives now; what was reset stays so.
    pub fn heal(&self) {
        self.conditions.send_modify(|conditions| *conditions = Conditions { cuts: conditions.cuts, ..Conditions::default() });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, conditions: watch::Receiver<Conditions>, open: Arc<AtomicUsize>) {
    // Owns the connections: they end with this task.
    let mut links = JoinSet::new();
    loop {
        let client = tokio::select! {
            client = listener.accept() => client,
            Some(_) = links.join_next() => continue,
        };
        let Ok((client, _)) = client else {
            time::sleep(PAUSE).await;
            continue;
        };
        let now = *conditions.borrow();
        if now.refuses || links.len() >= MOST_LINKS {
            reset(&client);
            continue;
        }
        links.spawn(serve(client, server, conditions.clone(), now.cuts, Counted::one_of(&open)));
    }
}

async fn serve(client: TcpStream, server: SocketAddr, conditions: watch::Receiver<Conditions>, cuts: u64, _counted: Counted) {
    let mut changes = conditions.clone();
    // A call that is not let through does not reach the server.
    let passes = changes.wait_for(|now| now.cuts != cuts || !now.to_server.held).await.is_ok_and(|now| now.cuts == cuts);
    // Not interrupted by a cut: a connection that has just been made would end in order instead of being reset.
    let connected = match passes {
        true => time::timeout(CONNECTED_WITHIN, TcpStream::connect(server)).await.ok().and_then(Result::ok),
        false => None,
    };
    match connected {
        Some(server) => Link::new(client, server).run(conditions, cuts).await,
        None => reset(&client),
    }
}

/// Counts itself while it lives, however its task ends.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn one_of(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
