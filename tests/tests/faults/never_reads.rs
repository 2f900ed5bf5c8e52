//! A client that never reads costs a cursor, not memory, and harms nobody else. (DESIGN.md, promise 6)

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use kith_proto::v1::{self, ClientFrame, client_frame, server_frame};
use kith_tests::{
    Story,
    expect::still_serves,
    person::{Person, ack},
    server::{Options, resident_bytes},
    socket::{Event, SOON},
    wait,
};
use tokio::time::timeout;

/// What the server may need beyond what it had: caches and the write buffers of a few connections, not 30 MB of messages.
const ROOM: u64 = 24 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_to_one_who_never_reads_stays_on_disk() -> Story {
    const MESSAGES: u64 = 8_000;
    const SIZE: usize = 4_000;
    let server = Options::new().start().await?;
    let (mut alice, mut bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    let conversation = bob.conversation(alice.device_ref());
    let (deaf, _) = bob.connect().await?;
    let (mut from, _) = alice.connect().await?;
    let mut after_warm_up = 0;
    for n in 0..MESSAGES {
        let send = alice.message(bob.device_ref(), vec![7; SIZE]);
        from.feed(&ClientFrame { id: n + 10, kind: Some(client_frame::Kind::Send(send)) }).await?;
        if n % 32 == 31 {
            from.flush().await?;
            let answer = from.answer(n + 10).await?;
            ensure!(matches!(answer, server_frame::Kind::Accepted(_)), "{answer:?}");
        }
        if n == MESSAGES / 8 {
            after_warm_up = resident_bytes(server.pid().context("runs")?)?;
        }
    }
    let after = resident_bytes(server.pid().context("runs")?)?;
    ensure!(after < after_warm_up + ROOM, "memory grew from {after_warm_up} to {after} for a client that does not read");
    still_serves(&server.origin()).await?;
    drop(deaf);

    // Once it reads, nothing is missing.
    let (mut to, _) = bob.connect().await?;
    let mut upto = 0;
    while upto < MESSAGES {
        match to.next_within(SOON).await? {
            Event::Frame(v1::ServerFrame { kind: Some(server_frame::Kind::Deliver(deliver)), .. }) => {
                if deliver.seq == upto + 1 {
                    upto += 1;
                }
                if upto % 100 == 0 {
                    to.notice(ack(conversation, upto)).await?;
                }
            }
            Event::Frame(_) => {}
            Event::Closed(ending) => bail!("{ending:?} at {upto}"),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_asks_without_reading_the_answers_is_held_up_or_cut() -> Story {
    let server = Options::new().start().await?;
    let mut mallory = Person::register(&server.origin(), "mallory").await?;
    let before = resident_bytes(server.pid().context("runs")?)?;
    let (mut socket, _) = mallory.connect().await?;
    // A server that neither stops reading nor hangs up would take this for ever.
    let flood = async {
        for id in 10.. {
            socket.feed(&ClientFrame { id, kind: Some(client_frame::Kind::Ping(v1::Ping {})) }).await?;
        }
        anyhow::Ok(())
    };
    let stopped = timeout(Duration::from_secs(10), flood).await;
    ensure!(!matches!(stopped, Ok(Ok(()))));
    let after = resident_bytes(server.pid().context("runs")?)?;
    ensure!(after < before + ROOM, "memory grew from {before} to {after} by answers nobody reads");
    still_serves(&server.origin()).await
}

/// A client that is gone without a word is found out by the keep-alive.
#[tokio::test(flavor = "multi_thread")]
async fn one_who_answers_no_pings_is_cut() -> Story {
    let server = Options::new().set(kith_tests::server::KEEP_ALIVE_MS, "500").start().await?;
    let mut bob = Person::register(&server.origin(), "bob").await?;
    let (socket, _) = bob.connect().await?;
    // The bare stream answers nothing; the kernel goes on acknowledging.
    let mut tcp = socket.into_tcp();
    let mut sink = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut tcp, &mut sink);
    wait::within("the server gives up on a silent peer", SOON, read).await?.map(drop).or_else(|error| match error.kind() {
        std::io::ErrorKind::ConnectionReset => Ok(()),
        _ => Err(error),
    })?;
    Ok(())
}
