//! Connections that are lost in mid-commit, a server that is killed, and one that is away.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use kith_harness::{Direction, Proxy};

use super::{
    gateways::{Gateway, all, check, gateway},
    *,
};
use crate::log::{
    Append, Outcome, Refusal,
    conformance::{append, append_from, device},
};

async fn two_accounts(url: &str) {
    postgres::migrate(url, 0).await.unwrap();
    let postgres = Postgres::open(&postgres::Options::new(url)).await.unwrap();
    for d in [device(1, 1), device(2, 1), device(3, 1)] {
        link(&postgres, d).await;
    }
}

/// Messages with ids `from..to`, alternately to accounts 2 and 3.
fn messages(ids: std::ops::Range<u32>) -> Vec<Append> {
    ids.map(|id| if id % 2 == 0 { append(id) } else { append_from(device(1, 1), 3, id, &[device(3, 1)]) }).collect()
}

/// What is stored is dense and holds what was accepted, where it was accepted.
async fn check_all(log: &PostgresLog, outcomes: &[(Append, Outcome)]) {
    for peer in [2, 3] {
        let conversation = between(1, peer);
        let accepted: HashMap<_, _> = outcomes
            .iter()
            .filter(|(append, _)| append.conversation == conversation)
            .filter_map(|(append, outcome)| match outcome {
                Outcome::Accepted { seq, .. } => Some(((append.sender, append.client_msg_id.0), *seq)),
                Outcome::Refused(_) => None,
            })
            .collect();
        check(&all(log, device(peer, 1), conversation).await, &accepted);
    }
}

/// Every connection of the log is ended again and again while it appends: everything is accepted once all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_die_in_mid_commit() {
    let database = kith_harness::Postgres::shared().database().await;
    two_accounts(&database.url()).await;
    let mut gateway = gateway(&database.url(), |_| {}).await;
    let postgres = Postgres::open(&postgres::Options::new(&database.url())).await.unwrap();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let killer = tokio::spawn(async move {
        let (mut killed, mut seen) = (0, -1);
        while stopped.try_recv().is_err() {
            tokio::time::sleep(Duration::from_millis(7)).await;
            // Never twice without a commit between: who lets nothing through finds out how fast this machine connects.
            let head = number(&postgres, "SELECT coalesce(sum(head), 0)::bigint FROM conversation").await;
            if head == seen {
                continue;
            }
            seen = head;
            let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                AND application_name LIKE 'kith log%'";
            killed += number(&postgres, sql).await;
        }
        killed
    });
    let mut outcomes = Vec::new();
    for round in 0..60 {
        outcomes.extend(gateway.send(messages(round * 200..round * 200 + 200)).await);
    }
    stop.send(()).unwrap();
    assert!(killer.await.unwrap() > 20, "hardly anything was killed");
    assert_eq!(outcomes.len(), 12_000);
    assert!(outcomes.iter().all(|(_, outcome)| matches!(outcome, Outcome::Accepted { .. })));
    check_all(&gateway.log, &outcomes).await;
}

/// SIGKILL of the whole server under load: what was accepted is there, and appends go on by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_killed_under_load() {
    let server = kith_harness::Postgres::start().await.unwrap();
    let database = server.database().await;
    two_accounts(&database.url()).await;
    let Gateway { log, resolved } = gateway(&database.url(), |options| options.settle_within = Duration::from_secs(60)).await;
    let mut gateway = Gateway { log: Arc::clone(&log), resolved };
    let (rounds, mut done) = tokio::sync::watch::channel(0);
    let sender = tokio::spawn(async move {
        let mut outcomes = Vec::new();
        for round in 0..200 {
            outcomes.extend(gateway.send(messages(round * 50..round * 50 + 50)).await);
            let _ = rounds.send(round);
        }
        (gateway, outcomes)
    });
    for at in [20, 70, 120] {
        done.wait_for(|round| *round >= at).await.unwrap();
        server.kill().await.unwrap();
        server.restart().await.unwrap();
    }
    let (gateway, outcomes) = sender.await.unwrap();
    assert!(outcomes.iter().all(|(_, outcome)| matches!(outcome, Outcome::Accepted { .. })), "within the time to settle nothing is refused");
    check_all(&gateway.log, &outcomes).await;
    assert_eq!(all(&log, device(2, 1), between(1, 2)).await.len(), 5_000);
}

/// Away for longer than it takes to settle: refused, in bounded time, and accepted again as soon as the server is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_away_and_comes_back() {
    let server = kith_harness::Postgres::start().await.unwrap();
    let database = server.database().await;
    two_accounts(&database.url()).await;
    let mut gateway = gateway(&database.url(), |options| options.settle_within = Duration::from_millis(500)).await;
    let mut outcomes = gateway.send(messages(0..100)).await;
    for how in ["stopped", "killed", "paused"] {
        match how {
            "stopped" => server.stop().await.unwrap(),
            "killed" => server.kill().await.unwrap(),
            _ => server.pause().await.unwrap(),
        }
        let first = messages(1_000_000..1_001_000);
        let gates: Vec<_> = first.iter().map(|append| Arc::clone(&append.gate)).collect();
        let refused = gateway.send(first).await;
        assert!(refused.iter().all(|(_, outcome)| *outcome == Outcome::Refused(Refusal::StorageUnavailable)), "{how}");
        assert!(gates.iter().all(|gate| gate.is_shut()));
        let connected = gateway.log.connect(device(1, 1), 1).await;
        assert!(matches!(connected, Err(crate::log::ConnectError::Log(crate::log::LogError::Unavailable(_)))), "{how}: {connected:?}");
        let back = if how == "paused" { server.resume().await } else { server.restart().await };
        back.unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let next = u32::try_from(outcomes.len()).unwrap();
        loop {
            let sent = gateway.send(messages(next..next + 2)).await;
            if sent.iter().all(|(_, outcome)| matches!(outcome, Outcome::Accepted { .. })) {
                outcomes.extend(sent);
                break;
            }
            assert!(Instant::now() < deadline, "{how}: it does not come back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        check_all(&gateway.log, &outcomes).await;
    }
}

/// The server has committed, and its answer never came: what was sent again is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_cut_off() {
    let database = kith_harness::Postgres::shared().database().await;
    two_accounts(&database.url()).await;
    let proxy = Proxy::start(kith_harness::Postgres::shared().address()).await.unwrap();
    let mut gateway = gateway(&database.url_through(proxy.address()), |_| {}).await;
    let direct = Postgres::open(&postgres::Options::new(&database.url())).await.unwrap();
    let mut outcomes = gateway.send(messages(0..10)).await;
    for round in 1..4 {
        let before = number(&direct, "SELECT count(*) FROM message").await;
        proxy.one_way(Direction::ToServer);
        let (ids, log) = (round * 100..round * 100 + 10, Arc::clone(&gateway.log));
        messages(ids).into_iter().for_each(|append| log.submit(append).unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while number(&direct, "SELECT count(*) FROM message").await == before {
            assert!(Instant::now() < deadline, "nothing is committed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        proxy.reset();
        proxy.heal();
        let settled = gateway.receive_many(10).await;
        assert!(settled.iter().all(|(_, outcome)| matches!(outcome, Outcome::Accepted { .. })), "{settled:?}");
        assert!(settled.iter().any(|(_, outcome)| matches!(outcome, Outcome::Accepted { duplicate: true, .. })), "it was committed before");
        outcomes.extend(settled);
    }
    check_all(&gateway.log, &outcomes).await;
}

/// What a gateway had written is still on its way when the device has long sent it again elsewhere, everybody has it, and nothing is left to know it by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_comes_late_appends_nothing_for_a_device_that_is_elsewhere() {
    let database = kith_harness::Postgres::shared().database().await;
    two_accounts(&database.url()).await;
    let proxy = Proxy::start(kith_harness::Postgres::shared().address()).await.unwrap();
    let mut late = gateway(&database.url_through(proxy.address()), |options| options.settle_within = Duration::from_secs(60)).await;
    let mut elsewhere = gateway(&database.url(), |_| {}).await;
    let (sender, reader, conversation) = (device(1, 1), device(2, 1), between(1, 2));
    let sent = |id, epoch| Append { epoch, ..append(id) };
    late.log.connect(sender, 1).await.unwrap();
    late.send(vec![sent(1, 1)]).await;

    proxy.one_way(Direction::FromServer);
    late.log.submit(sent(2, 1)).unwrap();
    // In the same batch, and nobody has connected anew to send it.
    late.log.submit(append_from(device(3, 1), 2, 3, &[reader])).unwrap();
    elsewhere.log.connect(sender, 2).await.unwrap();
    let again = elsewhere.send(vec![sent(2, 2)]).await;
    assert!(matches!(again[0].1, Outcome::Accepted { seq: 2, duplicate: false, .. }), "{:?}", again[0].1);
    for device in [sender, reader] {
        elsewhere.log.acknowledge(device, &[(conversation, 2)]).await.unwrap();
    }
    elsewhere.log.purge(START_MS).await.unwrap();
    let direct = Postgres::open(&postgres::Options::new(&database.url())).await.unwrap();
    assert_eq!(number(&direct, "SELECT count(*) FROM message").await, 0, "nothing is left to know a retry by");

    proxy.heal();
    let outcomes = late.receive_many(2).await;
    for (append, outcome) in &outcomes {
        match append.sender == sender {
            true => assert_eq!(*outcome, Outcome::Refused(Refusal::StorageUnavailable)),
            false => assert!(matches!(outcome, Outcome::Accepted { seq: 1, .. }), "{outcome:?}"),
        }
    }
    assert!(all(&elsewhere.log, reader, conversation).await.is_empty());
    let next = elsewhere.send(vec![sent(4, 2)]).await;
    assert!(matches!(next[0].1, Outcome::Accepted { seq: 3, .. }), "{:?}", next[0].1);
}
