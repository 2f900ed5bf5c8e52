//! Runs in the database, and beside a program that does not know them.

use kith_proto::id::{ConversationId, DeviceRef};
use sqlx::{Connection as _, PgConnection, Row as _};
use uuid::Uuid;

use super::{
    gateways::{all, gateway},
    *,
};
use crate::{
    log::{
        Append,
        conformance::{Bed, accepted, append, append_from, device, slice},
        row,
    },
    postgres::migrate_until,
};

const ROWS: &str = "SELECT count(*) FROM message_run";

#[tokio::test]
async fn a_batch_makes_few_rows() {
    let mut bed = Bed::<OnPostgres>::new().await;
    let postgres = Arc::clone(&bed.fixture.postgres);
    bed.send_many(1, 1).await;
    bed.send_many(2, 101).await;
    let rows = number(&postgres, ROWS).await;
    assert!(rows <= 21, "{rows} rows for 101 small messages");
    assert_eq!(number(&postgres, "SELECT sum(count) FROM message_run").await, 101);
    let inline = "SELECT count(*) FROM message_run WHERE pg_column_size(message_run.*) > 4080";
    assert_eq!(number(&postgres, inline).await, 0, "two to a page");
    // What every device has of a run is gone for all, and the row when all of it is.
    for d in [device(1, 1), device(2, 1)] {
        bed.ack(d, 100).await;
    }
    bed.log().purge(bed.now_ms).await.unwrap();
    assert_eq!((number(&postgres, ROWS).await, bed.state(device(1, 1)).await.first), (1, 101));
    for d in [device(1, 1), device(2, 1)] {
        bed.ack(d, 101).await;
    }
    bed.log().purge(bed.now_ms).await.unwrap();
    assert_eq!(number(&postgres, ROWS).await, 0);
}

/// What a program before there were runs sends: the statement that it appends with.
async fn append_as_before(db: &mut PgConnection, appends: &[Append]) -> (i64, Vec<i64>, Vec<i64>) {
    let uuids = |ids: &[[u8; 16]]| ids.iter().map(|id| Uuid::from_bytes(*id)).collect::<Vec<_>>();
    let count = appends.len();
    let data = |append: &Append| {
        let mut data = Vec::new();
        let slices = append.slices.iter().map(|s| (<[u8; 16]>::try_from(&s.device[..]).unwrap(), &s.data[..]));
        row::encode(&mut data, &append.body, slices).unwrap();
        data
    };
    let number = |n: usize| i64::try_from(n).unwrap();
    let sql = "SELECT o_base[1], coalesce(d_message, '{}'), coalesce(d_seq, '{}')
        FROM log_append($1, '{1}', '{1}', $2, '{1}', $2, $3, $4, $5, $6, $7, $8, $8, $9, $10, $11, '{0}', $12, 1)";
    let row = sqlx::query(sql)
        .bind(uuids(&[appends[0].conversation.0]))
        .bind([number(count)])
        .bind(vec![1_i32; count])
        .bind((1..=number(count)).collect::<Vec<_>>())
        .bind(uuids(&appends.iter().map(|a| a.sender.device.0).collect::<Vec<_>>()))
        .bind(uuids(&appends.iter().map(|a| a.client_msg_id.0).collect::<Vec<_>>()))
        .bind(appends.iter().map(|a| i64::try_from(a.device_counter).unwrap()).collect::<Vec<_>>())
        .bind(vec![1_i64; count])
        .bind(vec![0_i16; count])
        .bind(appends.iter().map(data).collect::<Vec<_>>())
        .bind(uuids(&[appends[0].sender.device.0]))
        .bind([i64::try_from(appends[count - 1].device_counter).unwrap()]);
    let row = row.fetch_one(db).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

/// What such a program reads.
async fn read_as_before(db: &mut PgConnection, conversation: ConversationId) -> Vec<(i64, Uuid, Vec<u8>)> {
    let sql = "SELECT seq, client_msg_id, data FROM message WHERE conversation = $1 ORDER BY seq";
    sqlx::query_as(sql).bind(Uuid::from_bytes(conversation.0)).fetch_all(db).await.unwrap()
}

async fn introduce(db: &mut PgConnection, members: [DeviceRef; 2]) {
    for member in members {
        let sql = "SELECT log_enroll($1, ARRAY[$2])";
        sqlx::query(sql).bind(Uuid::from_bytes(member.account.0)).bind(Uuid::from_bytes(member.device.0)).execute(&mut *db).await.unwrap();
    }
    let [low, high] = if members[0].account < members[1].account { members } else { [members[1], members[0]] };
    let conversation = ConversationId::direct(low.account, high.account);
    let query = sqlx::query("SELECT log_create(ARRAY[$1], ARRAY[$2], ARRAY[$3])").bind(Uuid::from_bytes(conversation.0));
    query.bind(Uuid::from_bytes(low.account.0)).bind(Uuid::from_bytes(high.account.0)).execute(db).await.unwrap();
}

/// A rolling upgrade: rows from before are read and known, and whoever has not been replaced yet reads and writes on.
#[tokio::test]
async fn an_older_program_lives_beside_runs() {
    let database = kith_harness::Postgres::shared().database().await;
    let (alice, bob) = (device(1, 1), device(2, 1));
    let mut old = PgConnection::connect(&database.url()).await.unwrap();
    migrate_until(&mut old, "20261122100000_range").await;
    introduce(&mut old, [alice, bob]).await;
    assert_eq!(append_as_before(&mut old, &[append(1), append(2), append(3)]).await, (0, vec![], vec![]));

    postgres::migrate(&database.url(), 0).await.unwrap();
    let mut new = gateway(&database.url(), |_| ()).await;
    let retry = new.send(vec![append(2)]).await;
    assert_eq!(accepted(&retry[0].1), (2, true));
    let sent = new.send((4..=9).map(append).collect()).await;
    assert_eq!(sent.iter().map(|(_, outcome)| accepted(outcome).0).collect::<Vec<_>>(), [4, 5, 6, 7, 8, 9]);

    assert_eq!(append_as_before(&mut old, &[append(10), append(11)]).await, (9, vec![], vec![]));
    let (base, duplicates, seqs) = append_as_before(&mut old, &[append(7), append(2), append(12)]).await;
    assert_eq!((base, duplicates, seqs), (11, vec![1, 2], vec![7, 2]), "also of a run");
    let read = read_as_before(&mut old, append(1).conversation).await;
    for (n, (seq, name, data)) in (1_u32..).zip(&read) {
        assert_eq!((*seq, name.into_bytes()), (i64::from(n), append(n).client_msg_id.0));
        let view = row::view(data, bob.device.0).unwrap();
        assert_eq!((view.body, view.slice), (format!("body {n}").as_bytes(), Some(&slice(bob).data[..])));
    }
    assert_eq!(read.len(), 12);
    assert_eq!(all(&new.log, bob, append(1).conversation).await.len(), 12);

    let back = new.send(vec![append(12), append_from(bob, 1, 1, &[alice])]).await;
    assert_eq!(back.iter().map(|(_, outcome)| accepted(outcome)).collect::<Vec<_>>(), [(12, true), (13, false)]);
    new.log.close().await;
}
