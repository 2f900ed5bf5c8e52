//! Which sessions an account has, in shards so that connects and deliveries do not wait for one another.

use std::{collections::hash_map::Entry, sync::Arc};

use kith_chat_core::domain::IdMap;
use kith_proto::id::AccountId;
use parking_lot::RwLock;

use super::session::Session;

/// Shards; also the number of steps in which the keep-alive sweep goes round.
pub(super) const SHARDS: usize = 64;

/// The sessions of one account: nearly always one.
#[derive(Debug)]
pub(super) enum OfAccount {
    One(Arc<Session>),
    Many(Vec<Arc<Session>>),
}

impl OfAccount {
    pub(super) fn as_slice(&self) -> &[Arc<Session>] {
        match self {
            Self::One(session) => std::slice::from_ref(session),
            Self::Many(sessions) => sessions,
        }
    }
}

/// All sessions by account.
#[derive(Debug)]
pub(super) struct Directory {
    shards: Box<[RwLock<IdMap<AccountId, OfAccount>>]>,
}

impl Default for Directory {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }
}

impl Directory {
    fn shard(&self, account: &AccountId) -> &RwLock<IdMap<AccountId, OfAccount>> {
        // Account ids are hashes: any of their bytes spreads well enough.
        &self.shards[account.0[15] as usize % SHARDS]
    }

    pub(super) fn insert(&self, session: Arc<Session>) {
        match self.shard(&session.device().account).write().entry(session.device().account) {
            Entry::Vacant(vacant) => {
                vacant.insert(OfAccount::One(session));
            }
            Entry::Occupied(mut occupied) => {
                let mut sessions = match occupied.get_mut() {
                    OfAccount::One(first) => vec![Arc::clone(first)],
                    OfAccount::Many(sessions) => std::mem::take(sessions),
                };
                sessions.push(session);
                *occupied.get_mut() = OfAccount::Many(sessions);
            }
        }
    }

    pub(super) fn remove(&self, session: &Session) {
        if let Entry::Occupied(mut occupied) = self.shard(&session.device().account).write().entry(session.device().account) {
            let left: Vec<_> = occupied.get().as_slice().iter().filter(|s| s.id() != session.id()).cloned().collect();
            match <[Arc<Session>; 1]>::try_from(left) {
                Ok([only]) => *occupied.get_mut() = OfAccount::One(only),
                Err(left) if left.is_empty() => {
                    occupied.remove();
                }
                Err(left) => *occupied.get_mut() = OfAccount::Many(left),
            }
        }
    }

    /// Looks at an account's sessions, if it has any.
    pub(super) fn of<T>(&self, account: &AccountId, look: impl FnOnce(&[Arc<Session>]) -> T) -> T {
        match self.shard(account).read().get(account) {
            Some(sessions) => look(sessions.as_slice()),
            None => look(&[]),
        }
    }

    /// The sessions of one shard.
    pub(super) fn in_shard(&self, shard: usize) -> Vec<Arc<Session>> {
        self.shards[shard % SHARDS].read().values().flat_map(OfAccount::as_slice).cloned().collect()
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        (0..SHARDS).flat_map(|shard| self.in_shard(shard)).collect()
    }
}
