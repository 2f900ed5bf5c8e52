//! Who is online, for those who may know: accounts with whom both have sent, unless either hides.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
};

use async_trait::async_trait;
use kith_chat_core::sessions::GatewayId;
use kith_chat_core::{
    accounts::{Accounts, AccountsError, PresenceSetting},
    log::LogError,
};
use kith_proto::{id::AccountId, v1, v1::server_frame::Kind};
use parking_lot::Mutex;

use super::{Session, Sessions};

/// The little of [`Accounts`] that presence needs.
#[async_trait]
pub trait PresenceStore: Send + Sync + std::fmt::Debug {
    /// What is known of these accounts; unknown ones are left out.
    async fn presence(&self, accounts: &[AccountId]) -> Result<Vec<PresenceSetting>, LogError>;
    /// The account's own setting.
    async fn set_hidden(&self, account: AccountId, hidden: bool) -> Result<(), LogError>;
    /// When accounts were last seen; a batch.
    async fn seen(&self, seen: &[(AccountId, u64)]) -> Result<(), LogError>;
}

#[async_trait]
impl PresenceStore for Arc<dyn Accounts> {
    async fn presence(&self, accounts: &[AccountId]) -> Result<Vec<PresenceSetting>, LogError> {
        (**self).presence(accounts.to_vec()).await.map_err(unavailable)
    }

    async fn set_hidden(&self, account: AccountId, hidden: bool) -> Result<(), LogError> {
        self.hide_presence(account, hidden).await.map_err(unavailable)
    }

    async fn seen(&self, seen: &[(AccountId, u64)]) -> Result<(), LogError> {
        (**self).seen(seen.to_vec()).await.map_err(unavailable)
    }
}

fn unavailable(failure: AccountsError) -> LogError {
    match failure {
        AccountsError::Overloaded => LogError::Overloaded,
        other => LogError::Unavailable(Box::new(other)),
    }
}

/// Something about an account has changed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub(super) account: AccountId,
    /// It has just gone offline.
    pub(super) last_seen_ms: Option<u64>,
    /// It hides, or hides no more. Otherwise it has come or gone, of which nothing is told while it hides.
    pub(super) setting: bool,
    /// The other gateway at which this has happened, and by which it is stored and told to all.
    pub(super) from: Option<GatewayId>,
}

impl Change {
    /// The other gateway from which it has just gone.
    fn gone_from(&self) -> Option<(AccountId, GatewayId)> {
        self.from.filter(|_| self.last_seen_ms.is_some()).map(|from| (self.account, from))
    }

    /// It has just come online at another gateway, so that nobody need be asked whether it is.
    fn came_elsewhere(&self) -> bool {
        self.from.is_some() && self.last_seen_ms.is_none() && !self.setting
    }
}

/// Who watches whom.
#[derive(Debug)]
pub(super) struct Presence {
    store: Arc<dyn PresenceStore>,
    watches: Mutex<Watches>,
}

#[derive(Debug, Default)]
struct Watches {
    /// Watchers by the account watched.
    of: HashMap<AccountId, Vec<(u64, Weak<Session>)>>,
    /// Accounts watched by connection.
    by: HashMap<u64, Vec<AccountId>>,
}

impl Watches {
    fn forget(&mut self, connection: u64) {
        for account in self.by.remove(&connection).unwrap_or_default() {
            if let Some(watchers) = self.of.get_mut(&account) {
                watchers.retain(|(id, _)| *id != connection);
                if watchers.is_empty() {
                    self.of.remove(&account);
                }
            }
        }
    }
}

impl Presence {
    pub(super) fn new(store: Arc<dyn PresenceStore>) -> Self {
        Self { store, watches: Mutex::default() }
    }

    /// The connection is over.
    pub(super) fn forget(&self, connection: u64) {
        self.watches.lock().forget(connection);
    }

    fn replace(&self, session: &Arc<Session>, accounts: &[AccountId]) {
        let mut watches = self.watches.lock();
        watches.forget(session.id());
        if accounts.is_empty() {
            return;
        }
        for account in accounts {
            watches.of.entry(*account).or_default().push((session.id(), Arc::downgrade(session)));
        }
        watches.by.insert(session.id(), accounts.to_vec());
    }

    pub(super) fn is_watched(&self, account: &AccountId) -> bool {
        self.watches.lock().of.contains_key(account)
    }

    fn watched(&self) -> Vec<AccountId> {
        self.watches.lock().of.keys().copied().collect()
    }

    fn watchers(&self, account: &AccountId) -> Vec<Arc<Session>> {
        let watches = self.watches.lock();
        watches.of.get(account).into_iter().flatten().filter_map(|(_, session)| session.upgrade()).collect()
    }
}

impl Sessions {
    /// The account has come online, or changed its `setting`.
    pub(super) fn presence_changed(&self, account: AccountId, setting: bool) {
        // Other gateways have watchers of their own.
        if self.cluster.is_some() || self.presence.is_watched(&account) {
            self.courier.presence(Change { account, last_seen_ms: None, setting, from: None });
        }
    }

    /// The account's last connection is gone.
    pub(super) fn last_seen(&self, account: AccountId) {
        self.courier.presence(Change { account, last_seen_ms: Some(self.clock.now_ms()), setting: false, from: None });
    }

    /// Accounts that somebody here watches and that are not connected here.
    pub(crate) fn watched_elsewhere(&self) -> Vec<AccountId> {
        self.presence.watched().into_iter().filter(|account| !self.online(*account)).collect()
    }

    /// They were connected to a gateway that has died, and are nowhere else. Every gateway that notices stores when that was: about the same for all.
    pub(crate) async fn gone_with_their_gateway(&self, gone: &[(AccountId, GatewayId)]) {
        if gone.is_empty() {
            return;
        }
        let now_ms = self.clock.now_ms();
        let seen: Vec<_> = gone.iter().map(|(account, _)| (*account, now_ms)).collect();
        // As with others that go: a failure is not repeated.
        let _ = self.within(self.presence.store.seen(&seen)).await;
        for (account, gateway) in gone {
            self.courier.presence(Change { account: *account, last_seen_ms: Some(now_ms), setting: false, from: Some(*gateway) });
        }
    }

    /// Replaces what a connection watches, and tells the current state of those it may see.
    pub(super) async fn watch(&self, session: &Arc<Session>, accounts: &[AccountId]) -> Result<Vec<v1::Presence>, LogError> {
        let me = session.device().account;
        let allowed = self.log.mutual(me, accounts).await?;
        // Watching begins before the state is read, so that no change falls between.
        self.presence.replace(session, &allowed);
        self.visible(me, &allowed).await
    }

    pub(super) async fn hide(&self, account: AccountId, hidden: bool) -> Result<(), LogError> {
        self.presence.store.set_hidden(account, hidden).await?;
        self.presence_changed(account, true);
        Ok(())
    }

    /// The presence of `accounts` as `viewer` may see it.
    async fn visible(&self, viewer: AccountId, accounts: &[AccountId]) -> Result<Vec<v1::Presence>, LogError> {
        if accounts.is_empty() {
            return Ok(Vec::new());
        }
        let mut asked = accounts.to_vec();
        asked.push(viewer);
        let stored = self.presence.store.presence(&asked).await?;
        let viewer_hides = stored.iter().any(|s| s.account == viewer && s.hidden);
        let stored: HashMap<_, _> = stored.into_iter().map(|s| (s.account, s)).collect();
        let online = self.online_anywhere(accounts.iter().copied(), &HashMap::new()).await;
        Ok(accounts.iter().map(|account| shown(*account, stored.get(account), viewer_hides, online.contains(account))).collect())
    }

    /// Those of the accounts that are connected, here or at another gateway.
    async fn online_anywhere(&self, accounts: impl Iterator<Item = AccountId>, gone_from: &HashMap<AccountId, GatewayId>) -> HashSet<AccountId> {
        let (mut online, others): (HashSet<_>, Vec<_>) = {
            let (here, others): (Vec<_>, Vec<_>) = accounts.partition(|account| self.online(*account));
            (here.into_iter().collect(), others)
        };
        if let Some(cluster) = &self.cluster
            && !others.is_empty()
        {
            online.extend(cluster.online_elsewhere(&others, gone_from).await);
        }
        online
    }

    /// Stores when accounts were last seen and tells watchers, and other gateways, what changed.
    pub(super) async fn push_presence(&self, changes: Vec<Change>) {
        // Of an account that nobody here watches only its going needs to be known.
        let asked: HashSet<_> =
            changes.iter().filter(|c| c.last_seen_ms.is_some() || self.presence.is_watched(&c.account)).map(|c| c.account).collect();
        let came: HashSet<_> = changes.iter().filter(|c| c.came_elsewhere()).map(|c| c.account).collect();
        let gone_from: HashMap<_, _> = changes.iter().filter_map(Change::gone_from).collect();
        let mut online = self.online_anywhere(asked.difference(&came).copied(), &gone_from).await;
        online.extend(came);
        let here = || changes.iter().filter(|c| c.from.is_none());
        let gone: Vec<_> = here().filter(|c| !online.contains(&c.account)).filter_map(|c| Some((c.account, c.last_seen_ms?))).collect();
        if !gone.is_empty() {
            // Not repeated: last seen is a courtesy, and the next disconnect tells it anew.
            let _ = self.within(self.presence.store.seen(&gone)).await;
        }
        if let Some(cluster) = &self.cluster {
            cluster.tell_presence(here().map(|c| (c.account, c.last_seen_ms, c.setting)));
        }
        let changed: HashSet<AccountId> = changes.iter().map(|c| c.account).collect();
        let settings: HashSet<AccountId> = changes.iter().filter(|c| c.setting).map(|c| c.account).collect();
        let told: Vec<_> =
            changed.iter().flat_map(|account| self.presence.watchers(account).into_iter().map(|watcher| (*account, watcher))).collect();
        if told.is_empty() {
            return;
        }
        // One read for all of them: an account may have many watchers.
        let asked: HashSet<AccountId> = told.iter().flat_map(|(account, watcher)| [*account, watcher.device().account]).collect();
        let asked: Vec<_> = asked.into_iter().collect();
        // Not repeated either: a client that asks again gets the current state.
        let Ok(stored) = self.within(self.presence.store.presence(&asked)).await else { return };
        let stored: HashMap<_, _> = stored.into_iter().map(|s| (s.account, s)).collect();
        for (account, watcher) in told {
            let watcher_hides = stored.get(&watcher.device().account).is_some_and(|s| s.hidden);
            let presence = shown(account, stored.get(&account), watcher_hides, online.contains(&account));
            // A push that says nothing would say, by its time, that somebody hidden has come or gone.
            if settings.contains(&account) || presence.online || presence.last_seen_ms > 0 {
                self.push_to(&watcher, presence);
            }
        }
    }

    fn push_to(&self, session: &Session, presence: v1::Presence) {
        if session.push(Kind::Presence(presence), self.inbox_limit()) {
            session.wake();
        }
    }
}

/// Somebody hidden looks like somebody who was never seen.
fn shown(account: AccountId, stored: Option<&PresenceSetting>, viewer_hides: bool, online: bool) -> v1::Presence {
    let hidden = viewer_hides || stored.is_some_and(|s| s.hidden);
    let online = !hidden && online;
    let last_seen_ms = if hidden || online { 0 } else { stored.map_or(0, |s| s.last_seen_ms) };
    v1::Presence { account: account.to_bytes(), online, last_seen_ms }
}
