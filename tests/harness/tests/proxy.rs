//! A link that is cut, held, slowed and healed.

use std::{
    future::Future,
    io::ErrorKind,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use kith_harness::{Direction, Proxy};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time,
};

/// Long enough on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(30);
/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(300);

/// Both ends of one connection through a proxy.
struct Ends {
    proxy: Proxy,
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

async fn soon<T>(what: impl Future<Output = std::io::Result<T>>) -> anyhow::Result<T> {
    Ok(time::timeout(SOON, what).await.context("too late")??)
}

async fn connect() -> anyhow::Result<Ends> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let proxy = Proxy::start(listener.local_addr()?).await?;
    let client = soon(TcpStream::connect(proxy.address())).await?;
    let (server, _) = soon(listener.accept()).await?;
    Ok(Ends { proxy, listener, client, server })
}

async fn carries(from: &mut TcpStream, to: &mut TcpStream, word: &[u8]) -> anyhow::Result<()> {
    soon(from.write_all(word)).await?;
    arrives(to, word).await
}

async fn arrives(to: &mut TcpStream, word: &[u8]) -> anyhow::Result<()> {
    let mut got = vec![0; word.len()];
    soon(to.read_exact(&mut got)).await?;
    ensure!(got == word, "{got:?} instead of {word:?}");
    Ok(())
}

/// Nothing comes, not even the end.
async fn is_silent(stream: &mut TcpStream) -> anyhow::Result<()> {
    let heard = time::timeout(SILENCE, stream.read(&mut [0; 1])).await;
    ensure!(heard.is_err(), "{heard:?} came through");
    Ok(())
}

async fn is_reset(stream: &mut TcpStream) -> anyhow::Result<()> {
    let error = time::timeout(SOON, stream.read(&mut [0; 1])).await?.err().context("it ended in order")?;
    ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
    Ok(())
}

#[tokio::test]
async fn a_good_link_carries_both_ways_and_passes_on_the_end_of_each() -> anyhow::Result<()> {
    let Ends { proxy, mut client, mut server, .. } = connect().await?;
    carries(&mut client, &mut server, b"there").await?;
    carries(&mut server, &mut client, b"and back").await?;
    soon(client.shutdown()).await?;
    ensure!(soon(server.read(&mut [0; 1])).await? == 0);
    carries(&mut server, &mut client, b"half open").await?;
    ensure!(proxy.connections() == 1);
    soon(server.shutdown()).await?;
    ensure!(soon(client.read(&mut [0; 1])).await? == 0);
    time::timeout(SOON, async {
        while proxy.connections() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn much_arrives_whole_while_the_link_is_held_and_healed_again_and_again() -> anyhow::Result<()> {
    const SIZE: usize = 32 << 20;
    let Ends { proxy, mut client, mut server, .. } = connect().await?;
    let pattern = |at: usize| u8::try_from(at % 251).unwrap_or(0);
    let sending = tokio::spawn(async move {
        let bytes: Vec<u8> = (0..SIZE).map(pattern).collect();
        client.write_all(&bytes).await?;
        client.shutdown().await?;
        std::io::Result::Ok(client)
    });
    let mut got = Vec::with_capacity(SIZE);
    for round in 0..8 {
        match round % 4 {
            0 => proxy.blackhole(),
            1 => proxy.one_way(Direction::FromServer),
            2 => proxy.delay(Duration::from_millis(20)),
            _ => {}
        }
        proxy.heal();
        let mut part = vec![0; SIZE / 8];
        soon(server.read_exact(&mut part)).await?;
        got.extend_from_slice(&part);
    }
    ensure!(got.iter().enumerate().all(|(at, byte)| *byte == pattern(at)), "bytes were lost or changed");
    ensure!(soon(server.read(&mut [0; 1])).await? == 0);
    sending.await??;
    Ok(())
}

#[tokio::test]
async fn a_cut_link_resets_what_is_there_and_what_comes_until_it_is_healed() -> anyhow::Result<()> {
    let Ends { proxy, listener, mut client, mut server } = connect().await?;
    carries(&mut client, &mut server, b"before").await?;
    proxy.cut();
    is_reset(&mut client).await?;
    is_reset(&mut server).await?;
    let mut refused = soon(TcpStream::connect(proxy.address())).await?;
    is_reset(&mut refused).await?;
    proxy.heal();
    let mut client = soon(TcpStream::connect(proxy.address())).await?;
    let (mut server, _) = soon(listener.accept()).await?;
    carries(&mut client, &mut server, b"after").await
}

#[tokio::test]
async fn a_cut_that_is_healed_at_once_has_still_reset_everything() -> anyhow::Result<()> {
    let Ends { proxy, listener, mut client, mut server } = connect().await?;
    proxy.cut();
    proxy.heal();
    is_reset(&mut client).await?;
    is_reset(&mut server).await?;
    let mut client = soon(TcpStream::connect(proxy.address())).await?;
    let (mut server, _) = soon(listener.accept()).await?;
    proxy.reset();
    is_reset(&mut client).await?;
    is_reset(&mut server).await
}

#[tokio::test]
async fn a_blackhole_holds_bytes_ends_and_new_connections_until_it_is_healed() -> anyhow::Result<()> {
    let Ends { proxy, listener, mut client, mut server } = connect().await?;
    proxy.blackhole();
    soon(client.write_all(b"held")).await?;
    soon(server.write_all(b"too")).await?;
    soon(server.shutdown()).await?;
    is_silent(&mut client).await?;
    is_silent(&mut server).await?;
    let mut late = soon(TcpStream::connect(proxy.address())).await?;
    ensure!(time::timeout(SILENCE, listener.accept()).await.is_err(), "a connection came through");
    proxy.heal();
    arrives(&mut server, b"held").await?;
    arrives(&mut client, b"too").await?;
    ensure!(soon(client.read(&mut [0; 1])).await? == 0);
    let (mut server, _) = soon(listener.accept()).await?;
    carries(&mut late, &mut server, b"late").await
}

#[tokio::test]
async fn an_answer_can_be_cut_off_after_the_question_has_arrived() -> anyhow::Result<()> {
    let Ends { proxy, mut client, mut server, .. } = connect().await?;
    proxy.one_way(Direction::ToServer);
    carries(&mut client, &mut server, b"commit").await?;
    soon(server.write_all(b"committed")).await?;
    is_silent(&mut client).await?;
    proxy.cut();
    is_reset(&mut client).await?;
    is_reset(&mut server).await
}

#[tokio::test]
async fn one_way_the_other_way() -> anyhow::Result<()> {
    let Ends { proxy, mut client, mut server, .. } = connect().await?;
    proxy.one_way(Direction::FromServer);
    carries(&mut server, &mut client, b"news").await?;
    soon(client.write_all(b"thanks")).await?;
    is_silent(&mut server).await?;
    proxy.heal();
    arrives(&mut server, b"thanks").await
}

#[tokio::test]
async fn a_slow_link_takes_at_least_its_delay_and_does_not_queue_up() -> anyhow::Result<()> {
    let Ends { proxy, mut client, mut server, .. } = connect().await?;
    let delay = Duration::from_millis(200);
    proxy.delay(delay);
    let began = Instant::now();
    for _ in 0..50 {
        soon(client.write_all(b"x")).await?;
        tokio::task::yield_now().await;
    }
    arrives(&mut server, &[b'x'; 50]).await?;
    ensure!(began.elapsed() >= delay, "it was too early");
    carries(&mut server, &mut client, b"y").await?;
    ensure!(began.elapsed() >= 2 * delay, "the way back was too early");
    // Fifty delays one after the other would be ten seconds.
    ensure!(began.elapsed() < Duration::from_secs(9), "each waited for the one before");
    proxy.delay_one_way(Direction::ToServer, Duration::ZERO);
    carries(&mut client, &mut server, b"z").await
}

#[tokio::test]
async fn a_held_sender_feels_it() -> anyhow::Result<()> {
    let Ends { proxy, mut client, mut server, .. } = connect().await?;
    proxy.blackhole();
    let bytes = vec![1; 64 << 20];
    ensure!(time::timeout(Duration::from_secs(1), client.write_all(&bytes)).await.is_err(), "the proxy swallowed 64 MiB");
    proxy.heal();
    arrives(&mut server, &vec![1; 1 << 20]).await
}

#[tokio::test]
async fn a_server_that_is_away_is_a_reset_and_a_dropped_proxy_is_no_link() -> anyhow::Result<()> {
    let Ends { proxy, listener, mut client, server } = connect().await?;
    drop((listener, server));
    ensure!(soon(client.read(&mut [0; 1])).await? == 0);
    let mut refused = soon(TcpStream::connect(proxy.address())).await?;
    is_reset(&mut refused).await?;
    let address = proxy.address();
    drop(proxy);
    let gone = async { while TcpStream::connect(address).await.is_ok() {} };
    Ok(time::timeout(SOON, gone).await?)
}
