//! One connection through the proxy.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

/// What is read at once.
const CHUNK: usize = 16 * 1024;
/// How much may be under way in one direction: 4 MiB.
const CHUNKS: usize = 256;

/// The state of the link, for all its connections.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Conditions {
    /// Goes up with each cut; whoever has seen a lower number is reset.
    pub(super) cuts: u64,
    /// New connections are reset too.
    pub(super) refuses: bool,
    pub(super) to_server: Flow,
    pub(super) from_server: Flow,
}

/// One direction.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flow {
    pub(super) held: bool,
    pub(super) delay: Duration,
}

type Select = fn(&Conditions) -> Flow;

/// A connection made and a connection taken.
pub(super) struct Link {
    client: TcpStream,
    server: TcpStream,
}

impl Link {
    pub(super) fn new(client: TcpStream, server: TcpStream) -> Self {
        Self { client, server }
    }

    /// Carries bytes until both sides have ended, one has failed, or the link is cut.
    pub(super) async fn run(mut self, mut conditions: watch::Receiver<Conditions>, cuts: u64) {
        // What is small should not wait for more. A socket that is gone says so below.
        let _ = (self.client.set_nodelay(true), self.server.set_nodelay(true));
        let good = {
            let (from_client, to_client) = self.client.split();
            let (from_server, to_server) = self.server.split();
            let out = pump(from_client, to_server, conditions.clone(), |now| now.to_server);
            let back = pump(from_server, to_client, conditions.clone(), |now| now.from_server);
            tokio::select! {
                biased;
                _ = conditions.wait_for(|now| now.cuts != cuts) => false,
                ended = async { tokio::try_join!(out, back) } => ended.is_ok(),
            }
        };
        if !good {
            reset(&self.client);
            reset(&self.server);
        }
    }
}

/// Closing it will tell the other side that something broke, and not that all was said.
pub(super) fn reset(stream: &TcpStream) {
    // Of a socket that is already gone, nothing more can be asked.
    let _ = stream.set_zero_linger();
}

/// One direction until its end, which is passed on.
async fn pump(from: ReadHalf<'_>, to: WriteHalf<'_>, conditions: watch::Receiver<Conditions>, select: Select) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    tokio::try_join!(take(from, sender, conditions.clone(), select), give(to, receiver, conditions, select)).map(drop)
}

async fn take(
    mut from: ReadHalf<'_>,
    sender: mpsc::Sender<(Instant, Vec<u8>)>,
    mut conditions: watch::Receiver<Conditions>,
    select: Select,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        until_let_through(&mut conditions, select).await?;
        let count = from.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        let due = Instant::now() + select(&conditions.borrow()).delay;
        sender.send((due, chunk[..count].to_vec())).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
    }
}

async fn give(
    mut to: WriteHalf<'_>,
    mut receiver: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut conditions: watch::Receiver<Conditions>,
    select: Select,
) -> io::Result<()> {
    while let Some((due, chunk)) = receiver.recv().await {
        sleep_until(due).await;
        until_let_through(&mut conditions, select).await?;
        to.write_all(&chunk).await?;
    }
    until_let_through(&mut conditions, select).await?;
    // The other side may have ended the connection meanwhile.
    let _ = to.shutdown().await;
    Ok(())
}

async fn until_let_through(conditions: &mut watch::Receiver<Conditions>, select: Select) -> io::Result<()> {
    conditions.wait_for(|now| !select(now).held).await.map(drop).map_err(|_| io::ErrorKind::BrokenPipe.into())
}
