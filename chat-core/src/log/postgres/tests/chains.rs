//! How a retry is found: by the chain of its sender's rows in the conversation, which landmarks make short, or by the index of rows that are on none.

use kith_proto::id::DeviceRef;
use sqlx::{Connection as _, PgConnection, Row as _};

use super::{gateways::gateway, *};
use crate::log::{
    Append,
    conformance::{Bed, accepted, append_from, device},
};

const UNCHAINED: &str = "SELECT count(*) FROM message_run WHERE previous IS NULL";
const BEGUN: &str = "SELECT count(*) FROM message_run WHERE previous = 0";
const CHAINS: &str = "SELECT sum(cardinality(senders)) FROM conversation";
/// Devices of a conversation that have a chain, at most.
const MOST: i64 = 16;

fn from(sender: DeviceRef, id: u32, devices: &[DeviceRef]) -> Append {
    let others: Vec<_> = devices.iter().copied().filter(|d| *d != sender).collect();
    append_from(sender, 3 - sender.account.0[0], id, &others)
}

/// Sends new messages at once, and notes who has sent what and where it is.
async fn send(bed: &mut Bed<OnPostgres>, appends: Vec<Append>, sent: &mut Vec<(DeviceRef, u32, u64)>) {
    let names: Vec<_> = appends.iter().map(|append| (append.sender, u32::try_from(append.device_counter).unwrap())).collect();
    let outcomes = bed.submit(appends).await;
    for ((sender, id), outcome) in names.into_iter().zip(&outcomes) {
        let (seq, duplicate) = accepted(outcome);
        assert!(!duplicate, "{seq} is new");
        sent.push((sender, id, seq));
    }
}

/// Each again, one by one, the newest first and then the oldest first: each is where it was.
async fn all_are_found(bed: &mut Bed<OnPostgres>, sent: &[(DeviceRef, u32, u64)], devices: &[DeviceRef]) {
    for (sender, id, seq) in sent.iter().rev().chain(sent) {
        assert_eq!(accepted(&bed.send(from(*sender, *id, devices)).await), (*seq, true), "{sender:?}");
    }
}

#[tokio::test]
async fn rows_are_on_chains_and_a_retry_is_found_by_them() {
    let mut bed = Bed::<OnPostgres>::new().await;
    let postgres = Arc::clone(&bed.fixture.postgres);
    let both = [device(1, 1), device(2, 1)];
    let mut sent = Vec::new();
    for round in 0..8 {
        let ids = round * 12 + 1..;
        for (sender, count) in [(both[0], 1), (both[1], 3), (both[0], 10)] {
            let appends = ids.clone().take(count).map(|id| from(sender, id + u32::from(count == 10), &both)).collect();
            send(&mut bed, appends, &mut sent).await;
        }
    }
    let counts = (number(&postgres, UNCHAINED).await, number(&postgres, BEGUN).await, number(&postgres, CHAINS).await);
    assert_eq!(counts, (1, 2, 2), "the first message comes twice, since its conversation is not there yet");
    all_are_found(&mut bed, &sent, &both).await;
    // What was purged is on no chain any more, and what is left still is.
    for d in both {
        bed.ack(d, 60).await;
    }
    bed.log().purge(bed.now_ms).await.unwrap();
    let first = bed.state(both[0]).await.first;
    sent.retain(|(.., seq)| *seq >= first);
    assert!(first > 50 && sent.len() > 40, "{first}, {}", sent.len());
    all_are_found(&mut bed, &sent, &both).await;
}

#[tokio::test]
async fn who_writes_second_in_a_batch_is_found_by_the_index() {
    let mut bed = Bed::<OnPostgres>::new().await;
    let postgres = Arc::clone(&bed.fixture.postgres);
    let both = [device(1, 1), device(2, 1)];
    let mut sent = Vec::new();
    // Makes the conversation.
    send(&mut bed, vec![from(both[0], 1, &both)], &mut sent).await;
    for round in 0..4 {
        let ids = round * 10 + 2..round * 10 + 12;
        let appends = ids.flat_map(|id| both.map(|sender| from(sender, id, &both))).collect();
        send(&mut bed, appends, &mut sent).await;
    }
    assert_eq!(number(&postgres, "SELECT count(*) FROM message_run").await, 81, "each comes after one of the other side");
    let unchained = number(&postgres, UNCHAINED).await;
    assert!((25..=41).contains(&unchained), "{unchained}: of the second sender, as far as both are in a batch");
    all_are_found(&mut bed, &sent, &both).await;
}

/// And where all of a conversation is purged there is room again.
#[tokio::test]
async fn more_devices_than_chains_are_found_by_the_index() {
    let mut bed = Bed::<OnPostgres>::new().await;
    let postgres = Arc::clone(&bed.fixture.postgres);
    let mut devices = vec![device(2, 1), device(1, 1)];
    for n in 2..=19 {
        bed.fixture.link(device(1, n)).await;
        devices.push(device(1, n));
    }
    let mut sent = Vec::new();
    for round in 0..3 {
        for sender in devices[1..].iter().rev() {
            // Two rows in a batch, since they are large.
            let large = |id| Append { body: vec![7; 2_500].into(), ..from(*sender, id, &devices) };
            let appends = vec![large(3 * round + 1), large(3 * round + 2), from(*sender, 3 * round + 3, &devices)];
            send(&mut bed, appends, &mut sent).await;
        }
    }
    assert_eq!((number(&postgres, CHAINS).await, number(&postgres, BEGUN).await), (MOST, MOST));
    assert!(number(&postgres, UNCHAINED).await >= 3 * 3 * 2, "of three devices");
    all_are_found(&mut bed, &sent, &devices).await;

    let head = bed.state(devices[0]).await.head;
    for d in &devices {
        bed.ack(*d, head).await;
    }
    bed.log().purge(bed.now_ms).await.unwrap();
    assert_eq!((number(&postgres, "SELECT count(*) FROM message_run").await, number(&postgres, CHAINS).await), (0, 0));
    let again = || from(devices[1], 100, &devices);
    assert_eq!(accepted(&bed.send(again()).await), (head + 1, false));
    assert_eq!((number(&postgres, BEGUN).await, number(&postgres, UNCHAINED).await), (1, 0));
    assert_eq!(accepted(&bed.send(again()).await), (head + 1, true));
}

/// More than a batch, a chain's stretch and a page have, and with much of others before and behind.
#[tokio::test]
async fn a_retry_is_found_among_thousands() {
    let mut bed = Bed::<OnPostgres>::new().await;
    let postgres = Arc::clone(&bed.fixture.postgres);
    let both = [device(1, 1), device(2, 1)];
    let mut sent = Vec::new();
    for part in 0..11_u32 {
        // A row each.
        let large = |id| Append { body: vec![7; 2_000].into(), ..from(both[0], id, &both) };
        send(&mut bed, (part * 450 + 1..=part * 450 + 450).map(large).collect(), &mut sent).await;
        let others = (part * 100 + 1..=part * 100 + 100).map(|id| from(both[1], id, &both));
        send(&mut bed, others.collect(), &mut sent).await;
    }
    assert!(number(&postgres, "SELECT count(*) FROM message_run WHERE previous IS NOT NULL").await > 4_096);
    let landmarks = number(&postgres, "SELECT count(*) FROM message_run WHERE previous > 0 AND seq / 64 <> previous / 64").await;
    assert!((70..=140).contains(&landmarks), "{landmarks}: as few as one of 64");
    let some: Vec<_> = sent.iter().copied().step_by(37).collect();
    all_are_found(&mut bed, &some, &both).await;
    for d in both {
        bed.ack(d, 3_000).await;
    }
    while bed.log().purge(bed.now_ms).await.unwrap().delivered > 0 {}
    let first = bed.state(both[0]).await.first;
    assert!(first > 2_000, "{first}");
    sent.retain(|(.., seq)| *seq >= first);
    let some: Vec<_> = sent.iter().copied().take(100).chain(sent.iter().copied().step_by(41)).collect();
    all_are_found(&mut bed, &some, &both).await;
    // New, though its counter is an old one.
    assert_eq!(accepted(&bed.send(Append { device_counter: 7, ..from(both[0], 9_000, &both) }).await), (6_051, false));
    assert_eq!(accepted(&bed.send(Append { device_counter: 7, ..from(both[0], 9_000, &both) }).await), (6_051, true));
}

/// In one batch with something new of the other side, which comes first, at a gateway that has seen neither before.
#[tokio::test]
async fn a_retry_of_the_second_in_a_batch_is_known_elsewhere() {
    let mut bed = Bed::<OnPostgres>::new().await;
    let both = [device(1, 1), device(2, 1)];
    for (sender, id) in [(both[0], 1), (both[1], 1), (both[0], 2), (both[1], 2)] {
        assert!(!accepted(&bed.send(from(sender, id, &both)).await).1);
    }
    assert_eq!(number(&bed.fixture.postgres, UNCHAINED).await, 1);
    let mut elsewhere = gateway(&bed.fixture.database.url(), |_| {}).await;
    let outcomes = elsewhere.send(vec![from(both[0], 3, &both), from(both[1], 2, &both)]).await;
    assert_eq!(outcomes.iter().map(|(_, outcome)| accepted(outcome)).collect::<Vec<_>>(), [(5, false), (4, true)]);
    elsewhere.log.close().await;
}

/// The statements of two older programs, for one message with this counter: which conversations they find odd, and where the message is.
async fn append_as_before(db: &mut PgConnection, device: Uuid, counter: i64) -> [(Vec<i32>, Vec<i64>); 2] {
    let mut answers = Vec::new();
    for least in ["", ", ARRAY[$2]"] {
        let sql = format!(
            "SELECT coalesce(a.o_odd, '{{}}'), coalesce(a.o_base, '{{}}') FROM conversation c CROSS JOIN LATERAL log_append(ARRAY[c.id], ARRAY[c.low_version], ARRAY[c.high_version], '{{1}}', '{{1}}',
                '{{1}}', '{{1}}', '{{1}}', '{{1}}', ARRAY[$1], ARRAY[gen_random_uuid()], ARRAY[$2], ARRAY[$2], '{{3}}', '{{4}}', '{{0}}', ARRAY[''::bytea], ARRAY[$1],
                ARRAY[9223372036854775807], ARRAY[$2]{least}, 1, false) a"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(device)
            .bind(counter + i64::from(answers.len() == 1 && counter > 200))
            .fetch_one(&mut *db)
            .await
            .unwrap();
        answers.push((row.get(0), row.get(1)));
    }
    answers.try_into().unwrap()
}

/// Where a chain begins anew because all was purged, rows are no landmarks for that.
#[tokio::test]
async fn a_conversation_that_is_purged_all_the_time_has_no_landmarks() {
    let mut bed = Bed::<OnPostgres>::new().await;
    let postgres = Arc::clone(&bed.fixture.postgres);
    bed.send_many(1, 100).await;
    for id in 101..=104 {
        for d in [device(1, 1), device(2, 1)] {
            bed.ack(d, u64::from(id) - 1).await;
        }
        bed.log().purge(bed.now_ms).await.unwrap();
        bed.send_many(id, id).await;
        assert_eq!((number(&postgres, "SELECT count(*) FROM message_run").await, number(&postgres, BEGUN).await), (1, 1));
        assert_eq!(accepted(&bed.send(from(device(1, 1), id, &[device(2, 1)])).await), (u64::from(id), true));
    }
}

/// What programs ask that know of no chains.
#[tokio::test]
async fn older_programs_ask_by_chains_as_well() {
    let mut bed = Bed::<OnPostgres>::new().await;
    let postgres = Arc::clone(&bed.fixture.postgres);
    bed.send_many(1, 1).await;
    bed.send_many(2, 3).await;
    bed.send_many(4, 200).await;
    let rows = number(&postgres, "SELECT count(*) FROM message_run").await;
    assert_eq!(number(&postgres, "SELECT count(*) FROM message_run WHERE log_reaches(conversation, sender, counter)").await, rows);
    assert_eq!(number(&postgres, "SELECT count(*) FROM message_run WHERE log_reaches(conversation, sender, 201)").await, 0);
    let mut db = PgConnection::connect(&bed.fixture.database.url()).await.unwrap();
    let sender = Uuid::from_bytes(device(1, 1).device.0);
    for counter in [2, 200] {
        assert_eq!(append_as_before(&mut db, sender, counter).await, [(vec![1], vec![]), (vec![1], vec![])], "there may be a retry");
    }
    assert_eq!(append_as_before(&mut db, sender, 201).await, [(vec![], vec![200]), (vec![], vec![201])]);
}

#[tokio::test]
async fn parts_have_four_indexes_and_those_built_beside_the_traffic_are_taken() {
    let bed = Bed::<OnPostgres>::new().await;
    let postgres = Arc::clone(&bed.fixture.postgres);
    assert_eq!(number(&postgres, "SELECT count(*) FROM pg_indexes WHERE tablename ~ '^message_[0-7]$'").await, 4 * 8);
    let taken = "SELECT count(*) FROM pg_inherits WHERE inhparent IN ('message_unchained'::regclass, 'message_landmark'::regclass)
        AND inhrelid::regclass::text ~ '^message_[0-7]_(unchained|landmark)$'";
    assert_eq!(number(&postgres, taken).await, 2 * 8);
}

/// Also where PostgreSQL has no statistics yet, no row is gone through that is neither on the chain nor in an index.
#[tokio::test]
async fn a_retry_is_looked_for_by_keys() {
    let mut bed = Bed::<OnPostgres>::new().await;
    let postgres = Arc::clone(&bed.fixture.postgres);
    let both = [device(1, 1), device(2, 1)];
    bed.send(from(both[1], 1, &both)).await;
    for sender in both {
        let large = |id| Append { body: vec![7; 3_000].into(), ..from(sender, id, &both) };
        bed.submit((2..=200).map(large).collect()).await;
    }
    let explained = postgres.statement("explain", &(), async |db: &mut PgConnection, ()| {
        let find =
            "EXPLAIN (ANALYZE, COSTS off, TIMING off) SELECT m.* FROM unnest(ARRAY[$1]::uuid[], ARRAY[$2]::uuid[], ARRAY[$3]::uuid[]) i(c, d, n)
            CROSS JOIN LATERAL log_find(i.c, i.d, i.n, 2) m";
        sqlx::raw_sql(super::super::session::SETTINGS).execute(&mut *db).await?;
        let (sent, uuid) = (from(both[0], 2, &both), Uuid::from_bytes);
        let query = sqlx::query(find).bind(uuid(sent.conversation.0)).bind(uuid(sent.sender.device.0)).bind(uuid(sent.client_msg_id.0));
        let rows = query.fetch_all(db).await?;
        Ok::<Vec<String>, Failure<()>>(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    });
    let plan = explained.await.unwrap().join("\n");
    assert!(plan.contains("_unchained") && plan.contains("_landmark") && !plan.contains("Seq Scan"), "{plan}");
    // No more than a stretch of the chain.
    let counted =
        |line: &str, what| line.split_once(what).map_or(0, |(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap());
    let most =
        plan.lines().map(|line| counted(line, "actual rows=").max(counted(line, "Rows Removed by Filter: ")).max(counted(line, "loops="))).max();
    assert!(most <= Some(65_u32), "{plan}");
}
