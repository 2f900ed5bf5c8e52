//! The message log on the embedded database.
//!
//! A message costs one row, appended to a table without an index: the journal. Everything else (heads, cursors, where to find what is kept) is in
//! memory first, is written as a summary about once a second in small steps between the appends, and is rebuilt from the end of the journal when the
//! database is opened. Most messages are acknowledged within that second and leave the journal without ever having been indexed; that is what makes an
//! append cheap.
//!
//! - `engine`, `append`, `connect`: the writer's side of a transaction. - `round`, `purge`: summaries and deletion. - `recover`: opening.
//! - `hot`, `conversation`: what is in memory, shared with acknowledgements. - `page`, `load`: reading. - `overdue`: what nobody fetches.

mod append;
mod connect;
mod conversation;
mod directory;
mod engine;
mod hot;
mod load;
mod overdue;
mod page;
mod purge;
mod recover;
mod round;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use kith_proto::id::{AccountId, ConversationId, DeviceRef};
use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::oneshot;

pub use self::overdue::SqliteOverdue;
use self::page::Plan;
pub(crate) use self::{engine::LogWriter, hot::Hot};

/// The blob of an entry, for the fuzz targets: taken apart for each of these devices; a blob that is whole is put together again.
#[cfg(fuzzing)]
pub fn fuzzed_row(data: &[u8], devices: &[i64]) {
    super::row::check(data, devices);
}
use super::{Append, Behind, ConnectError, Connected, LogError, MessageLog, Moved, Page, PageLimit, Purged, State};
use crate::sqlite::{Command, Database, PushError, StoreError};

/// Loads that may be overtaken by other changes before giving up.
const ATTEMPTS: usize = 16;
/// What a queued append costs in memory besides its content.
const APPEND_BYTES: usize = 512;

#[async_trait]
impl MessageLog for Database {
    fn submit(&self, append: Append) -> Result<(), Box<Append>> {
        let slices = append.slices.iter().chain(&append.own_slices).map(|s| s.data.len() + 64);
        let weight = APPEND_BYTES + append.body.len() + slices.sum::<usize>();
        self.commands.push(Command::Append(append), weight).map_err(|refused| match refused {
            PushError::Full(Command::Append(append)) | PushError::Closed(Command::Append(append)) => Box::new(append),
            PushError::Full(_) | PushError::Closed(_) => unreachable!("the queue gives back what it was given"),
        })
    }

    async fn connect(&self, device: DeviceRef, epoch: u64) -> Result<Connected, ConnectError> {
        let (answer, answered) = oneshot::channel();
        self.command(Command::Connect { device, epoch, answer })?;
        answered.await.map_err(|_| stopped())?
    }

    async fn behind(&self, devices: &[DeviceRef]) -> Result<Vec<Behind>, LogError> {
        let (devices, hot) = (devices.to_vec(), Arc::clone(&self.hot));
        self.log_read("behind", move |db| {
            let mut behind = Vec::new();
            for device in devices {
                behind_one(db, &hot, device, &mut behind)?;
            }
            Ok(behind)
        })
        .await
    }

    async fn page(&self, device: DeviceRef, conversation: ConversationId, after: u64, limit: PageLimit) -> Result<Page, LogError> {
        for _ in 0..ATTEMPTS {
            let hot = Arc::clone(&self.hot);
            let page = self.log_read("page", move |db| {
                // Memory first: what a round moves into the database after this is then in the snapshot as well.
                let plan = match hot.lock().get(conversation) {
                    Some(conversation) => Plan::new(conversation, device, after, limit),
                    None => return Ok(None),
                };
                plan.map(|plan| plan.read(db)).transpose().map(Some)
            });
            match page.await? {
                Some(page) => return page.ok_or(LogError::NotAMember),
                None => self.load(vec![conversation]).await?.then_some(()).ok_or(LogError::NotAMember)?,
            }
        }
        Err(LogError::Overloaded)
    }

    async fn acknowledge(&self, device: DeviceRef, cursors: &[(ConversationId, u64)]) -> Result<Vec<Moved>, LogError> {
        for _ in 0..ATTEMPTS {
            match self.acknowledge_in_memory(device, cursors)? {
                Some(moved) => return Ok(moved),
                None => self.load(cursors.iter().map(|(id, _)| *id).collect()).await?.then_some(()).ok_or(LogError::NotAMember)?,
            }
        }
        Err(LogError::Overloaded)
    }

    async fn mark_read(&self, device: DeviceRef, conversation: ConversationId, seq: u64) -> Result<Option<Moved>, LogError> {
        for _ in 0..ATTEMPTS {
            match self.mark_read_in_memory(device, conversation, seq)? {
                Some(moved) => return Ok(moved),
                None => self.load(vec![conversation]).await?.then_some(()).ok_or(LogError::NotAMember)?,
            }
        }
        Err(LogError::Overloaded)
    }

    async fn states(&self, device: DeviceRef, conversations: &[ConversationId]) -> Result<Vec<State>, LogError> {
        let mut states = HashMap::with_capacity(conversations.len());
        for _ in 0..ATTEMPTS {
            let missing = self.states_in_memory(device, conversations, &mut states);
            if missing.is_empty() {
                break;
            }
            let hot = Arc::clone(&self.hot);
            // What is not in the database does not exist; what is may be forgotten again before it is looked at, so it is not looked for in memory.
            let found = self.log_read("states", move |db| {
                let epoch = hot.lock().epoch();
                let loaded = missing.iter().map(|id| load::by_id(db, *id)).collect::<Result<Vec<_>, _>>()?;
                let mut hot = hot.lock();
                let states = missing.iter().zip(loaded).map(|(id, loaded)| match loaded {
                    Some(loaded) => hot.insert_loaded(loaded, epoch).then(|| (*id, hot.get(*id).and_then(|c| c.state(device)))),
                    None => Some((*id, hot.get(*id).and_then(|c| c.state(device)))),
                });
                Ok(states.flatten().collect::<Vec<_>>())
            });
            states.extend(found.await?);
        }
        Ok(conversations.iter().filter_map(|id| states.remove(id).flatten()).collect())
    }

    async fn mutual(&self, account: AccountId, others: &[AccountId]) -> Result<Vec<AccountId>, LogError> {
        let others = others.to_vec();
        self.log_read("mutual", move |db| {
            let mut query = db.prepare_cached("SELECT sent = 3 FROM conversation WHERE id = ?")?;
            let mut mutual = Vec::new();
            for other in others {
                let id = ConversationId::direct(account, other);
                if query.query_row([id.0], |row| row.get(0)).optional()? == Some(true) {
                    mutual.push(other);
                }
            }
            Ok(mutual)
        })
        .await
    }

    async fn mutual_of(&self, account: AccountId, limit: usize) -> Result<Vec<AccountId>, LogError> {
        self.log_read("mutual_of", move |db| {
            let mut query = db.prepare_cached(
                "WITH me(no) AS (SELECT no FROM account WHERE id = ?1)
                 SELECT o.id FROM (SELECT high AS other, at_ms FROM conversation WHERE low = (SELECT no FROM me) AND sent = 3
                 UNION ALL SELECT low, at_ms FROM conversation WHERE high = (SELECT no FROM me) AND sent = 3) c
                 JOIN account o ON o.no = c.other ORDER BY c.at_ms DESC LIMIT ?2",
            )?;
            query.query_map((account.0, limit), |row| Ok(AccountId(row.get(0)?)))?.collect()
        })
        .await
    }

    async fn purge(&self, now_ms: u64) -> Result<Purged, LogError> {
        let (answer, answered) = oneshot::channel();
        self.command(Command::Purge { now_ms, answer })?;
        answered.await.map_err(|_| stopped())
    }

    async fn flush(&self) -> Result<(), LogError> {
        let (answer, answered) = oneshot::channel();
        self.command(Command::Flush { answer })?;
        answered.await.map_err(|_| stopped())?.map_err(|fault| LogError::Unavailable(Box::new(fault)))
    }
}

impl Database {
    fn command(&self, command: Command) -> Result<(), LogError> {
        self.commands.push(command, 0).map_err(|refused| match refused {
            PushError::Full(_) => LogError::Overloaded,
            PushError::Closed(_) => stopped(),
        })
    }

    async fn log_read<T, F>(&self, name: &'static str, job: F) -> Result<T, LogError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.read(name, job).await.map_err(|error| match error {
            StoreError::Overloaded => LogError::Overloaded,
            error => LogError::Unavailable(Box::new(error)),
        })
    }

    /// Brings conversations into memory. False if one does not exist.
    async fn load(&self, ids: Vec<ConversationId>) -> Result<bool, LogError> {
        let hot = Arc::clone(&self.hot);
        self.log_read("load", move |db| {
            let epoch = hot.lock().epoch();
            for id in ids {
                if hot.lock().get(id).is_some() {
                    continue;
                }
                let Some(loaded) = load::by_id(db, id)? else { return Ok(hot.lock().get(id).is_some()) };
                hot.lock().insert_loaded(loaded, epoch);
            }
            Ok(true)
        })
        .await
    }

    /// `None` if a conversation is not in memory. Everything is checked before anything moves.
    fn acknowledge_in_memory(&self, device: DeviceRef, cursors: &[(ConversationId, u64)]) -> Result<Option<Vec<Moved>>, LogError> {
        let mut moved = Vec::new();
        let mut hot = self.hot.lock();
        for (id, seq) in cursors {
            let Some(conversation) = hot.get(*id) else { return Ok(None) };
            conversation.check_acknowledge(device, *seq)?;
        }
        let mut wake = false;
        for (id, seq) in cursors {
            let Some(slot) = hot.slot(*id) else { continue };
            let (changed, watermark) = hot.at(slot).acknowledge(device, *seq);
            wake |= changed && hot.mark_dirty(slot);
            moved.extend(watermark);
        }
        drop(hot);
        if wake {
            self.commands.nudge();
        }
        Ok(Some(moved))
    }

    fn mark_read_in_memory(&self, device: DeviceRef, id: ConversationId, seq: u64) -> Result<Option<Option<Moved>>, LogError> {
        let mut hot = self.hot.lock();
        let Some(slot) = hot.slot(id) else { return Ok(None) };
        let moved = hot.at(slot).mark_read(device, seq)?;
        let wake = moved.is_some() && hot.mark_dirty(slot);
        drop(hot);
        if wake {
            self.commands.nudge();
        }
        Ok(Some(moved))
    }

    /// Adds what memory knows and returns what it does not know.
    fn states_in_memory(
        &self,
        device: DeviceRef,
        conversations: &[ConversationId],
        states: &mut HashMap<ConversationId, Option<State>>,
    ) -> Vec<ConversationId> {
        let hot = self.hot.lock();
        let mut missing = Vec::new();
        for id in conversations.iter().filter(|id| !states.contains_key(*id)).collect::<Vec<_>>() {
            match hot.get(*id) {
                Some(conversation) => drop(states.insert(*id, conversation.state(device))),
                None => missing.push(*id),
            }
        }
        missing
    }
}

/// Memory before database before memory again: whatever a round or an acknowledgement changes meanwhile, the newest of the three is told.
fn behind_one(db: &Connection, hot: &parking_lot::Mutex<Hot>, device: DeviceRef, behind: &mut Vec<Behind>) -> rusqlite::Result<()> {
    let stirred = hot.lock().stirred(device);
    let mut query = db.prepare_cached(
        "SELECT c.id, k.seq, c.head FROM device d JOIN cursor k ON k.device = d.no AND k.behind = 1 JOIN conversation c ON c.no = k.conversation
         JOIN account a ON a.no = d.account_no WHERE d.id = ? AND d.revoked_ms IS NULL AND a.id = ?",
    )?;
    let stored = query.query_map((device.device.0, device.account.0), |row| {
        Ok(Behind { device, conversation: ConversationId(row.get(0)?), cursor: row.get(1)?, head: row.get(2)? })
    })?;
    let stored = stored.collect::<Result<Vec<_>, _>>()?;
    let mut seen = HashSet::with_capacity(stored.len());
    let hot = hot.lock();
    for found in stirred.into_iter().chain(stored) {
        if !seen.insert(found.conversation) {
            continue;
        }
        match hot.get(found.conversation) {
            Some(conversation) => behind.extend(conversation.behind(device)),
            None => behind.push(found),
        }
    }
    Ok(())
}

fn stopped() -> LogError {
    LogError::Unavailable("the database has stopped".into())
}
