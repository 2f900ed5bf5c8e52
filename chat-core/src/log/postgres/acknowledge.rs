//! Cursors and read marks. What many devices say is written by one statement; under load it waits a little, so that what is said of one cursor several
//! times is written once.
//!
//! The commit does not wait for the disk: what a crash takes back is delivered again. Nothing is purged by a cursor that could be taken back: the log of
//! PostgreSQL is written in order, so a crash that takes back the cursor takes back the purge as well, which came later.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use kith_proto::id::{AccountId, ConversationId, DeviceId, DeviceRef};
use parking_lot::Mutex;
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use tokio::{sync::oneshot, time::sleep};
use uuid::Uuid;

use super::{
    bounded,
    chores::Chores,
    queue::Queue,
    session::{Call, Failed, Session, Twice, unsigned},
    unavailable,
};
use crate::log::{LogError, Moved};

/// Devices heard in one batch.
const BATCH: usize = 1024;
/// Cursors in one batch, unless a single device names more.
const BATCH_CURSORS: usize = 4096;
/// After a statement the next one is not sent before so many times its duration have passed: at most a tenth of the time goes into it,
const REST: u32 = 9;
/// and nobody waits longer than this for company,
const LONGEST_REST: Duration = Duration::from_millis(200);
/// nor shorter where there is company: a statement costs more than the cursors in it, and several gateways each have theirs.
const SHORTEST_REST: Duration = Duration::from_millis(30);
/// Batches that may be spoilt one after the other by the same device.
const ATTEMPTS: usize = 4;

/// If anything in the batch is wrong, nothing moves, and the facts tell what is wrong. Watermarks are those from before; cursors that were put at the head
/// when their device was linked acknowledge nothing. Rows come, and are locked, in the order of the keys.
const MOVE: &str = "WITH facts AS MATERIALIZED (
        SELECT i.n, i.conversation, i.device, i.seq, i.read, c.low, c.high, c.sent, c.head, c.shown, k.side, k.seq AS old_seq, k.read AS old_read
        FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::bigint[]) WITH ORDINALITY i(conversation, device, account, seq, read, n)
        LEFT JOIN conversation c ON c.id = i.conversation
        LEFT JOIN cursor k ON k.conversation = i.conversation AND k.device = i.device AND NOT k.retired
            AND i.account = CASE k.side WHEN 0 THEN c.low ELSE c.high END AND c.head > 0
    ), moved AS (
        UPDATE cursor k SET seq = greatest(k.seq, f.seq), read = greatest(k.read, f.read),
            delivered = CASE WHEN f.seq > f.old_seq THEN greatest(k.delivered, least(f.seq, f.shown)) ELSE k.delivered END
        FROM facts f
        WHERE k.conversation = f.conversation AND k.device = f.device AND (f.seq > f.old_seq OR f.read > f.old_read)
            AND NOT EXISTS (SELECT FROM facts WHERE side IS NULL OR greatest(seq, read) > head)
    )
    SELECT f.low, f.high, f.sent, f.head, f.side, w.delivered, w.read, coalesce(f.old_seq, 0), coalesce(f.shown, 0)
    FROM facts f CROSS JOIN LATERAL (
        SELECT coalesce(max(delivered), 0) AS delivered, coalesce(max(read), 0) AS read
        FROM cursor WHERE conversation = f.conversation AND side = f.side
    ) w ORDER BY f.n";

/// What a device says.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) device: DeviceRef,
    pub(super) what: What,
    /// The watermarks that it moved.
    pub(super) answer: oneshot::Sender<Result<Vec<Moved>, LogError>>,
}

#[derive(Debug)]
pub(super) enum What {
    Acknowledged(Vec<(ConversationId, u64)>),
    Read(ConversationId, u64),
}

impl What {
    /// Conversation, acknowledged, read.
    fn marks(&self) -> impl Iterator<Item = (ConversationId, u64, u64)> {
        let (acknowledged, read) = match self {
            Self::Acknowledged(cursors) => (&cursors[..], None),
            Self::Read(conversation, seq) => (&[][..], Some((*conversation, 0, *seq))),
        };
        acknowledged.iter().map(|(conversation, seq)| (*conversation, *seq, 0)).chain(read)
    }

    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Acknowledged(cursors) => cursors.len(),
            Self::Read(..) => 1,
        }
    }
}

type Key = (ConversationId, DeviceId, AccountId);

/// The furthest that each cursor is to be moved, in the order in which they are locked.
struct Move(BTreeMap<Key, (u64, u64)>);

/// A cursor and its conversation before the batch.
#[derive(Debug, Clone, Copy)]
struct Fact {
    members: [AccountId; 2],
    head: u64,
    mutual: bool,
    /// `None` if the device is no current device of a member.
    side: Option<usize>,
    /// Of the device's account.
    delivered: u64,
    read: u64,
    /// The device's own.
    cursor: u64,
    /// The newest entry that is no checkpoint.
    shown: u64,
}

impl Call for Move {
    type Answer = Vec<Fact>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Fact>, sqlx::Error> {
        let uuid = |id: [u8; 16]| Uuid::from_bytes(id);
        let query = sqlx::query(MOVE)
            .bind(self.0.keys().map(|(conversation, _, _)| uuid(conversation.0)).collect::<Vec<_>>())
            .bind(self.0.keys().map(|(_, device, _)| uuid(device.0)).collect::<Vec<_>>())
            .bind(self.0.keys().map(|(_, _, account)| uuid(account.0)).collect::<Vec<_>>())
            .bind(self.0.values().map(|(seq, _)| bounded(*seq)).collect::<Vec<_>>())
            .bind(self.0.values().map(|(_, read)| bounded(*read)).collect::<Vec<_>>());
        query.fetch_all(connection).await?.iter().map(fact).collect()
    }
}

fn fact(row: &PgRow) -> Result<Fact, sqlx::Error> {
    let member = |n: usize| Ok::<_, sqlx::Error>(AccountId(row.try_get::<Option<Uuid>, _>(n)?.unwrap_or_default().into_bytes()));
    let side: Option<i16> = row.try_get(4)?;
    Ok(Fact {
        members: [member(0)?, member(1)?],
        mutual: row.try_get::<Option<i16>, _>(2)? == Some(0b11),
        head: unsigned(row.try_get::<Option<i64>, _>(3)?.unwrap_or(0)),
        side: side.map(|side| usize::from(side != 0)),
        delivered: unsigned(row.try_get(5)?),
        read: unsigned(row.try_get(6)?),
        cursor: unsigned(row.try_get(7)?),
        shown: unsigned(row.try_get(8)?),
    })
}

/// The task that writes them.
pub(super) struct Secretary {
    pub(super) queue: Arc<Queue<Said>>,
    pub(super) session: Session,
    pub(super) chores: Arc<Mutex<Chores>>,
}

impl Secretary {
    /// Until the queue is closed and empty.
    pub(super) async fn run(mut self) {
        while self.queue.ready().await {
            let mut said = Vec::new();
            self.queue.take_now(&mut said, BATCH, BATCH_CURSORS);
            let (begun, shortest) = (Instant::now(), if said.len() > 1 { SHORTEST_REST } else { Duration::ZERO });
            self.batch(said).await;
            sleep(begun.elapsed().saturating_mul(REST).clamp(shortest, LONGEST_REST)).await;
        }
    }

    async fn batch(&mut self, mut said: Vec<Said>) {
        for _ in 0..ATTEMPTS {
            if said.is_empty() {
                return;
            }
            let call = Move(furthest(&said));
            match self.session.call(Twice::Harmless, &call).await {
                Ok(facts) => {
                    let facts: HashMap<Key, Fact> = call.0.keys().copied().zip(facts).collect();
                    match sort_out(said, &facts) {
                        Ok(good) => return self.answer(good, facts),
                        Err(good) => said = good,
                    }
                }
                Err(Failed::Sql(error)) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "cursors could not be written");
                    return said.into_iter().for_each(|s| drop(s.answer.send(Err(unavailable("cursors could not be written")))));
                }
                Err(Failed::Away(fault)) => return said.into_iter().for_each(|s| drop(s.answer.send(Err(unavailable(fault.clone()))))),
            }
        }
        said.into_iter().for_each(|s| drop(s.answer.send(Err(LogError::Overloaded))));
    }

    fn answer(&self, said: Vec<Said>, mut facts: HashMap<Key, Fact>) {
        // Devices of one account share their watermarks.
        let mut watermarks: HashMap<(ConversationId, AccountId), (u64, u64)> = HashMap::new();
        for ((conversation, _, account), fact) in &facts {
            watermarks.insert((*conversation, *account), (fact.delivered, fact.read));
        }
        let now = Instant::now();
        let mut chores = self.chores.lock();
        for Said { device, what, answer } in said {
            let mut moved = Vec::new();
            for (conversation, seq, read) in what.marks() {
                let Some(fact) = facts.get_mut(&(conversation, device.device, device.account)) else { continue };
                chores.acknowledged(conversation, seq == fact.head, now);
                let Some(watermark) = watermarks.get_mut(&(conversation, device.account)) else { continue };
                // What lies before a device was linked it has not received. A checkpoint is not seen by its recipient: whoever could have one
                // acknowledged in silence could watch when a device is on.
                let delivered = if seq > fact.cursor { seq.min(fact.shown) } else { 0 };
                fact.cursor = fact.cursor.max(seq);
                let new = (watermark.0.max(delivered), watermark.1.max(read));
                if new != *watermark {
                    *watermark = new;
                    moved.extend(fact.moved(conversation, new));
                }
            }
            let _ = answer.send(Ok(moved));
        }
    }
}

fn furthest(said: &[Said]) -> BTreeMap<Key, (u64, u64)> {
    let mut furthest: BTreeMap<Key, (u64, u64)> = BTreeMap::new();
    for Said { device, what, .. } in said {
        for (conversation, seq, read) in what.marks() {
            let mark = furthest.entry((conversation, device.device, device.account)).or_default();
            *mark = (mark.0.max(seq), mark.1.max(read));
        }
    }
    furthest
}

/// Refuses what is wrong. If anything was, nothing has been moved, and what is left is to be tried again.
fn sort_out(said: Vec<Said>, facts: &HashMap<Key, Fact>) -> Result<Vec<Said>, Vec<Said>> {
    let count = said.len();
    let mut good = Vec::with_capacity(count);
    for said in said {
        let verdict = said.what.marks().try_for_each(|(conversation, seq, read)| {
            let fact = facts.get(&(conversation, said.device.device, said.device.account)).filter(|fact| fact.side.is_some());
            let head = fact.ok_or(LogError::NotAMember)?.head;
            if seq.max(read) > head { Err(LogError::BeyondHead) } else { Ok(()) }
        });
        match verdict {
            Ok(()) => good.push(said),
            Err(error) => drop(said.answer.send(Err(error))),
        }
    }
    if good.len() == count { Ok(good) } else { Err(good) }
}

impl Fact {
    fn moved(&self, conversation: ConversationId, (delivered, read): (u64, u64)) -> Option<Moved> {
        let side = self.side?;
        let (account, peer) = (self.members[side], self.members[1 - side]);
        Some(Moved { conversation, account, peer, delivered, read, mutual: self.mutual })
    }
}
