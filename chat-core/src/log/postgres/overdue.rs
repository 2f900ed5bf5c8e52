//! Messages that are overdue: read by their times, over a session of its own, by one process at a time.
//!
//! Costs a look at all that lies on the pages which were written since the watermark, and nothing when messages are appended and deleted: they have no entries by time.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use kith_proto::id::{ConversationId, DeviceRef};
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    read::{account_id, device_id},
    session::{SETTINGS, unsigned},
    unavailable,
};
use crate::{
    log::{
        LogError,
        overdue::{Found, Overdue, OverdueMessage, Terms, TermsMs, WRITTEN_EVERY_MS, late},
    },
    postgres::{Alone, Postgres},
};

/// Names the advisory lock of whoever looks: "kithdue" in ASCII.
const LOCK: i64 = 0x006b_6974_6864_7565;
/// More than all deadlines between two requests together: of the session directory, of the bus, and the longest pause.
const IDLE: Duration = Duration::from_secs(60);

const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
const MARK: &str = "SELECT at_ms, conversation, seq FROM log_overdue";
const SET_MARK: &str = "INSERT INTO log_overdue (one, at_ms, conversation, seq) VALUES (true, $1, $2, $3)
    ON CONFLICT (one) DO UPDATE SET at_ms = excluded.at_ms, conversation = excluded.conversation, seq = excluded.seq";
/// A row for each device that lacks a message, or one without a device. The time alone finds the pages; several messages of a batch have the same.
const READ: &str = "WITH due AS MATERIALIZED (
        SELECT m.at_ms, m.conversation, s.seq, m.sender, m.flags
        FROM message_run m CROSS JOIN LATERAL generate_series(m.seq - m.count + 1, m.seq) s(seq)
        WHERE m.at_ms >= $1 AND m.at_ms <= $4 AND (m.at_ms, m.conversation, s.seq) > ($1, $2, $3)
        ORDER BY m.at_ms, m.conversation, s.seq LIMIT $5
    )
    SELECT d.at_ms, d.conversation, d.seq, CASE k.side WHEN 0 THEN c.low ELSE c.high END, k.device
    FROM due d JOIN conversation c ON c.id = d.conversation
    LEFT JOIN cursor k ON k.conversation = d.conversation AND NOT k.retired AND k.seq < d.seq AND k.device <> d.sender AND d.flags & 1 = 0
    ORDER BY d.at_ms, d.conversation, d.seq, k.device";

/// Everything up to here has been looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    at_ms: i64,
    conversation: Uuid,
    seq: i64,
}

impl Mark {
    /// Behind everything that was accepted until then.
    fn after(at_ms: i64) -> Self {
        Self { at_ms, conversation: Uuid::max(), seq: i64::MAX }
    }
}

/// Messages that are overdue in PostgreSQL.
#[derive(Debug)]
pub struct PostgresOverdue {
    alone: Alone,
    terms: TermsMs,
    /// Where the next look begins, once it is known.
    mark: Option<Mark>,
    /// What is in the database.
    written: Option<Mark>,
    /// Where the one after it begins, and whether it is to be written down at once.
    next: Option<(Mark, bool)>,
}

impl PostgresOverdue {
    /// Of this database.
    #[must_use]
    pub fn new(db: Arc<Postgres>, terms: Terms) -> Self {
        Self::on(db, terms.into())
    }

    pub(super) fn on(db: Arc<Postgres>, terms: TermsMs) -> Self {
        Self { alone: Alone::new(db, LOCK, IDLE), terms, mark: None, written: None, next: None }
    }

    /// Where to begin, by the clock of the database; written down if it is not what stands there.
    async fn begin(&self, db: &mut PgConnection, known: Option<Mark>, now_ms: i64) -> Result<Mark, sqlx::Error> {
        let upto = now_ms.saturating_sub(self.terms.after);
        let stored = match known {
            Some(mark) => Some(mark),
            None => {
                sqlx::raw_sql(SETTINGS).execute(&mut *db).await?;
                sqlx::query(MARK).fetch_optional(&mut *db).await?.as_ref().map(mark).transpose()?
            }
        };
        match stored.filter(|mark| mark.at_ms >= now_ms.saturating_sub(self.terms.retention)) {
            Some(mark) if mark.at_ms <= upto => Ok(mark),
            // There is none, or it is of no use any more, or the clock was set back and gives times anew.
            _ => {
                set_mark(db, Mark::after(upto)).await?;
                Ok(Mark::after(upto))
            }
        }
    }
}

async fn set_mark(db: &mut PgConnection, mark: Mark) -> Result<(), sqlx::Error> {
    sqlx::query(SET_MARK).bind(mark.at_ms).bind(mark.conversation).bind(mark.seq).execute(db).await.map(drop)
}

async fn read(db: &mut PgConnection, from: Mark, upto: i64, limit: i64) -> Result<Vec<PgRow>, sqlx::Error> {
    sqlx::query(READ).bind(from.at_ms).bind(from.conversation).bind(from.seq).bind(upto).bind(limit).fetch_all(db).await
}

#[async_trait]
impl Overdue for PostgresOverdue {
    async fn next(&mut self, limit: usize) -> Result<Found, LogError> {
        let limit = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
        let Some(mut turn) = self.alone.turn().await.map_err(unavailable)? else { return Ok(Found::Elsewhere) };
        let known = self.mark.filter(|_| !turn.anew);
        let looking = async {
            let now_ms: i64 = sqlx::query_scalar(NOW).fetch_one(&mut turn.session).await?;
            let from = self.begin(&mut turn.session, known, now_ms).await?;
            let upto = now_ms.saturating_sub(self.terms.after);
            let rows = read(&mut turn.session, from, upto, limit).await?;
            let (messages, looked_at, last) = gather(&rows)?;
            Ok::<_, sqlx::Error>((from, upto, messages, looked_at, last))
        };
        let (from, upto, messages, looked_at, last) = self.alone.within(looking).await.map_err(unavailable)?;
        if known != Some(from) {
            self.written = Some(from);
        }
        self.alone.keep(turn);
        self.mark = Some(from);
        let more = looked_at >= limit;
        let next = last.filter(|_| more).unwrap_or(Mark::after(upto));
        self.next = Some((next, !messages.is_empty()));
        Ok(Found::Here { messages, more, late: late(from.at_ms, upto) })
    }

    async fn done(&mut self) -> Result<(), LogError> {
        let Some((next, found)) = self.next.take() else { return Ok(()) };
        let far = self.written.is_none_or(|written| next.at_ms.saturating_sub(written.at_ms) >= WRITTEN_EVERY_MS);
        if found || far {
            // If it is another's turn by now, that one looks at all this again.
            let Some(mut turn) = self.alone.turn().await.map_err(unavailable)? else { return Ok(()) };
            if turn.anew {
                // Others may have been further meanwhile.
                self.mark = None;
                self.alone.keep(turn);
                return Ok(());
            }
            self.alone.within(set_mark(&mut turn.session, next)).await.map_err(unavailable)?;
            self.written = Some(next);
            self.alone.keep(turn);
        }
        self.mark = Some(next);
        Ok(())
    }

    async fn release(&mut self) {
        self.alone.release().await;
    }
}

fn mark(row: &PgRow) -> Result<Mark, sqlx::Error> {
    Ok(Mark { at_ms: row.try_get(0)?, conversation: row.try_get(1)?, seq: row.try_get(2)? })
}

/// The messages that somebody lacks, how many were looked at, and the last of them.
fn gather(rows: &[PgRow]) -> Result<(Vec<OverdueMessage>, i64, Option<Mark>), sqlx::Error> {
    let (mut messages, mut looked_at, mut last) = (Vec::<OverdueMessage>::new(), 0, None);
    for row in rows {
        let here = mark(row)?;
        let is_new = last.replace(here) != Some(here);
        looked_at += i64::from(is_new);
        if row.try_get::<Option<Uuid>, _>(4)?.is_none() {
            continue;
        }
        let device = DeviceRef { account: account_id(row, 3)?, device: device_id(row, 4)? };
        match messages.last_mut().filter(|_| !is_new) {
            Some(message) => message.devices.push(device),
            None => messages.push(OverdueMessage {
                conversation: ConversationId(here.conversation.into_bytes()),
                seq: unsigned(here.seq),
                at_ms: unsigned(here.at_ms),
                devices: vec![device],
            }),
        }
    }
    Ok((messages, looked_at, last))
}
