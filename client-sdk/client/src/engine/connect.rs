//! What happens when a connection comes and goes: epochs, the rollback check, watermarks.

use super::calls::{bytes, id16};
use super::conversation::MAX_SEQ;
use super::people::ME;
use super::{Engine, Fetch, FetchAnswer, Link, Pending, Result};
use crate::fault::FaultPoint;
use crate::model::{ConnectionState, Integrity, NoticeKind, StopReason};
use crate::server::ServerError;
use kith_crypto::{ConversationId, Incarnation};
use kith_proto::v1::{self, client_frame, server_frame};
use std::collections::HashMap;
use tokio::sync::{mpsc, oneshot};

/// A Send without an answer for this long means that the connection is dead, whatever the socket says.
const ANSWER_WITHIN_MS: u64 = 30_000;
/// Ticks that have not come so long after a message was accepted are asked for,
const ASK_TICKS_FIRST_MS: u64 = 30_000;
/// and again after twice as long each time, but at least so often.
const ASK_TICKS_AT_MOST_MS: u64 = 600_000;
/// Conversations that were silent for longer are asked about at the next connect only: whoever is never told that anything was read would ask for ever.
const ASK_TICKS_OF_MS: u64 = 24 * 3_600_000;

impl Engine {
    /// Stores the next epoch before anything is dialled with it.
    pub(super) fn next_epoch(&mut self, reply: oneshot::Sender<u64>) -> Result<()> {
        self.me.epoch += 1;
        let epoch = self.me.epoch;
        self.me_dirty = true;
        let fault = self.fault.clone();
        self.effects.replies.push(Box::new(move |durable| {
            if durable {
                fault.at(FaultPoint::EpochCommitted);
                let _ = reply.send(epoch);
            }
        }));
        Ok(())
    }

    /// The server knows a later epoch: this store is an old copy, or another process runs on a copy of it. The first time it is taken for an old copy:
    /// everything that must not be used twice is dropped, and the epoch jumps ahead of any that counting by one can have reached. The second time in one
    /// run somebody else is counting too, and this one stops.
    pub(super) fn stale(&mut self, reply: oneshot::Sender<bool>) -> Result<()> {
        let again = !std::mem::replace(&mut self.stale_before, true);
        if again {
            self.me.epoch = self.me.epoch.saturating_add(1).max(self.now);
            self.rolled_back()?;
        } else {
            self.effects.stop = Some(StopReason::OtherProcess);
        }
        self.effects.replies.push(Box::new(move |durable| {
            let _ = reply.send(durable && again);
        }));
        Ok(())
    }

    /// A new life for a store that is older than what the server has seen of this device (encryption specification §5): new incarnation, no sessions, new
    /// prekeys. Until the server holds those nothing is sent. What was composed is composed anew under the same client_msg_id, so that what had been
    /// accepted before is recognised as accepted.
    fn rolled_back(&mut self) -> Result<()> {
        let incarnation = Incarnation::random(&mut self.store.rng);
        self.me.incarnation = incarnation.as_bytes().to_vec();
        self.me.rolled_back = true;
        self.me_dirty = true;
        self.store.drop_sessions_and_prekeys()?;
        self.sessions.clear();
        self.bundles.clear();
        let device = self.keys.device_id();
        let all: Vec<i64> = self.conversations.keys().copied().collect();
        for no in all {
            self.uncompose(no, 0)?;
            self.number_queued(no)?;
            let conv = self.conv(no)?;
            conv.reincarnate(incarnation);
            let seq = conv.record.seq;
            self.integrity(no, seq, device, Integrity::OwnRollback)?;
        }
        self.notice(0, NoticeKind::StoreRolledBack)
    }

    /// What waits without a number may have been sent by the run that this store was copied from, under a number above the last one that is known here. The server looks for a retry from
    /// its number on, so all of it gets the first of those.
    fn number_queued(&mut self, no: i64) -> Result<()> {
        let rows: Vec<i64> = self.conv(no)?.queue.iter().map(|out| out.no).collect();
        for row in rows {
            let mut record = self.store.outbox_record(row)?;
            if record.counter == 0 {
                record.counter = self.me.counter + 1;
                self.store.set_outbox(row, &record)?;
            }
        }
        Ok(())
    }

    pub(super) fn welcome(&mut self, connection: u64, welcome: &v1::Welcome, frames: mpsc::Sender<v1::ClientFrame>) -> Result<()> {
        if welcome.account.as_ref() != self.account.as_bytes() || welcome.device.as_ref() != self.keys.device_id().as_bytes() {
            self.effects.stop = Some(StopReason::UnknownDevice);
            return Ok(());
        }
        let limits = welcome.limits.unwrap_or_default();
        self.link = Some(Link {
            connection,
            frames,
            next_id: 1,
            pending: HashMap::new(),
            sends_in_flight: 0,
            max_sends: (limits.max_sends_in_flight as usize).clamp(1, 1_024),
            max_page: (limits.max_page as usize).clamp(1, 1_000),
            caught_up: false,
            ask_ticks_at: self.now + ASK_TICKS_FIRST_MS,
            ask_ticks_pause_ms: ASK_TICKS_FIRST_MS,
        });
        if welcome.device_counter > self.me.counter {
            // If STALE_STORE has said so a moment ago, that was enough: nothing was sent since. What an earlier run did does not count, since the store may
            // be a copy of what that one had.
            if !(self.stale_before && self.me.rolled_back) {
                self.rolled_back()?;
            }
            (self.me.counter, self.me_dirty) = (welcome.device_counter, true);
        }
        self.fetches.forgive();
        if welcome.device_list_version > self.people.accounts.get(&ME).map_or(0, super::people::Account::version) {
            self.want_lists(ME);
        }
        self.want(Fetch::Keys);
        self.ask_states();
        self.watch_presence();
        self.awake.extend(self.conversations.keys());
        self.published.connection.send_replace(ConnectionState::CatchingUp);
        Ok(())
    }

    /// Asks where conversations stand whose ticks are not complete, or whose reading the server may not have heard of.
    fn ask_states(&mut self) {
        let waiting = |conv: &&super::conversation::Conv| {
            let record = &conv.record;
            // What is still in the outbox may have been accepted, delivered and read already, its answers lost with the last connection.
            record.own_head > record.peer_read || record.unread > 0 || record.read > 0 || !conv.queue.is_empty()
        };
        let ids: Vec<ConversationId> = self.conversations.values().filter(waiting).map(|conv| conv.id).collect();
        self.ask_states_of(&ids);
    }

    /// Ticks are pushed once, and what is pushed may be lost between two servers. So what is not ticked is asked for, after a while and then ever less often.
    pub(super) fn ask_for_ticks(&mut self) {
        let now = self.now;
        let Some(link) = self.link.as_mut().filter(|link| link.caught_up && link.ask_ticks_at <= now) else { return };
        link.ask_ticks_pause_ms = (2 * link.ask_ticks_pause_ms).min(ASK_TICKS_AT_MOST_MS);
        link.ask_ticks_at = now + link.ask_ticks_pause_ms;
        let recent = self.conversations.values().filter(|conv| conv.record.at_ms.saturating_add(ASK_TICKS_OF_MS) > now);
        let unticked = recent.filter(|conv| conv.record.own_head > conv.record.peer_read);
        let ids: Vec<ConversationId> = unticked.map(|conv| conv.id).collect();
        self.ask_states_of(&ids);
    }

    /// Something new was accepted, whose ticks may be lost.
    pub(super) fn expect_ticks(&mut self) {
        let now = self.now;
        if let Some(link) = &mut self.link {
            link.ask_ticks_pause_ms = ASK_TICKS_FIRST_MS;
            link.ask_ticks_at = link.ask_ticks_at.min(now + ASK_TICKS_FIRST_MS);
        }
    }

    pub(super) fn ask_states_of(&mut self, ids: &[ConversationId]) {
        let page = self.link.as_ref().map_or(1, |link| link.max_page);
        for ids in ids.chunks(page) {
            let conversations = ids.iter().map(|id| bytes(id.as_bytes())).collect();
            let kind = client_frame::Kind::GetConversations(v1::GetConversations { conversations });
            let _ = self.request(kind, Pending::States);
        }
    }

    pub(super) fn watch_presence(&mut self) {
        let Some(link) = &self.link else { return };
        let peers = self.conversations.values().filter(|conv| conv.record.accepted).map(|conv| conv.record.peer);
        let known = peers.filter_map(|peer| self.people.accounts.get(&peer));
        let accounts = known.take(link.max_page).map(|account| bytes(account.id.as_bytes())).collect();
        let _ = self.request(client_frame::Kind::WatchPresence(v1::WatchPresence { accounts }), Pending::Watch);
    }

    pub(super) fn disconnected(&mut self, connection: u64) {
        if self.link.as_ref().is_some_and(|link| link.connection == connection) {
            self.unlink();
        }
    }

    /// Lets go of the connection; the transport sees its end of the queue close.
    pub(super) fn unlink(&mut self) {
        self.link = None;
        for conv in self.conversations.values_mut() {
            conv.disconnected();
        }
        if !self.presence.is_empty() || !self.typing.is_empty() {
            self.presence.clear();
            self.typing.clear();
            self.published.presence.send_replace(std::sync::Arc::from([]));
            self.published.typing.send_replace(std::sync::Arc::from([]));
        }
    }

    pub(super) fn time_out_sends(&mut self) {
        let now = self.now;
        let late = |pending: &Pending| matches!(pending, Pending::Send { since_ms, .. } if since_ms + ANSWER_WITHIN_MS < now);
        if self.link.as_ref().is_some_and(|link| link.pending.values().any(late)) {
            self.effects.drop_link = true;
        }
    }

    pub(super) fn frame(&mut self, connection: u64, frame: v1::ServerFrame) -> Result<()> {
        if self.link.as_ref().is_none_or(|link| link.connection != connection) {
            return Ok(());
        }
        let Some(kind) = frame.kind else { return Ok(()) };
        if frame.id != 0 {
            let Some(pending) = self.link.as_mut().and_then(|link| link.pending.remove(&frame.id)) else { return Ok(()) };
            return self.answered(pending, kind);
        }
        match kind {
            server_frame::Kind::Deliver(deliver) => self.delivered(deliver),
            server_frame::Kind::Absent(absent) => self.absent(&absent),
            server_frame::Kind::CaughtUp(_) => {
                if let Some(link) = &mut self.link {
                    link.caught_up = true;
                }
                self.published.connection.send_replace(ConnectionState::Online);
                Ok(())
            }
            server_frame::Kind::Watermarks(watermarks) => watermarks.items.iter().try_for_each(|item| self.watermark(item)),
            server_frame::Kind::PeerTyping(typing) => {
                self.typed(&typing);
                Ok(())
            }
            server_frame::Kind::Presence(presence) => {
                self.present(&presence);
                Ok(())
            }
            server_frame::Kind::KeysLow(_) => {
                self.want(Fetch::Keys);
                Ok(())
            }
            server_frame::Kind::DeviceListChanged(changed) => {
                self.list_hint(&changed);
                Ok(())
            }
            // Goodbye is the transport's; answers without an id and kinds of a later version are nobody's.
            _ => Ok(()),
        }
    }

    fn answered(&mut self, pending: Pending, kind: server_frame::Kind) -> Result<()> {
        match (pending, kind) {
            (Pending::Send { conversation, out, .. }, server_frame::Kind::Accepted(accepted)) => self.accepted(conversation, out, &accepted),
            (Pending::Send { conversation, out, .. }, server_frame::Kind::Error(error)) => self.refused(conversation, out, error),
            (Pending::Page { conversation }, server_frame::Kind::Page(page)) => self.paged(conversation, page),
            (Pending::Page { conversation }, _) => {
                let now = self.now;
                let conv = self.conv(conversation)?;
                (conv.paging, conv.gap_at) = (false, Some(now + 1_000));
                Ok(())
            }
            (Pending::States, server_frame::Kind::Conversations(states)) => states.items.iter().try_for_each(|state| self.state(state)),
            (Pending::Presence(reply), server_frame::Kind::Done(_)) => {
                self.reply_request(reply, Ok(()));
                Ok(())
            }
            (Pending::Presence(reply), server_frame::Kind::Error(error)) => {
                self.reply_request(reply, Err(crate::error::RequestError::Refused { code: error.code() }));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn state(&mut self, state: &v1::ConversationState) -> Result<()> {
        let Some(no) = id16(&state.conversation).and_then(|id| self.of.get(&ConversationId::from_bytes(id))).copied() else { return Ok(()) };
        if let Some(peer) = &state.peer {
            self.watermark(peer)?;
        }
        let conv = self.conv(no)?;
        let id = conv.id;
        if conv.record.read > state.own_read {
            let read = v1::Read { conversation: bytes(id.as_bytes()), seq: conv.record.read };
            self.send_frame(client_frame::Kind::Read(read));
        } else if state.own_read > conv.record.read {
            // Another device of this account has read further.
            let read = state.own_read.min(conv.record.seq);
            let unread = self.store.count_unread(no, read)?;
            let conv = self.conv(no)?;
            (conv.record.read, conv.record.unread, conv.dirty) = (read, unread, true);
        }
        Ok(())
    }

    /// Moves the ticks; they only rise. It is the server's word: what the other really has, a checkpoint says. A mark may come before the acceptance of the
    /// message it covers, so it is not held against what is known here.
    fn watermark(&mut self, mark: &v1::Watermark) -> Result<()> {
        let (Some(conversation), Some(account)) = (id16(&mark.conversation), id16(&mark.account)) else { return Ok(()) };
        let Some(no) = self.of.get(&ConversationId::from_bytes(conversation)).copied() else { return Ok(()) };
        let of = self.people.account_of.get(&kith_crypto::AccountId::from_bytes(account)).copied();
        let conv = self.conv(no)?;
        if of != Some(conv.record.peer) {
            return Ok(());
        }
        let delivered = conv.record.peer_delivered.max(mark.delivered.max(mark.read).min(MAX_SEQ));
        let read = conv.record.peer_read.max(mark.read.min(MAX_SEQ));
        // The first mark says that by now both have written, which is when the server begins to tell presence.
        let became_mutual = conv.record.peer_delivered == 0 && delivered > 0;
        if (delivered, read) != (conv.record.peer_delivered, conv.record.peer_read) {
            (conv.record.peer_delivered, conv.record.peer_read, conv.dirty) = (delivered, read, true);
        }
        if became_mutual {
            self.watch_presence();
        }
        Ok(())
    }

    pub(super) fn fetched(&mut self, fetch: &Fetch, answer: Result<FetchAnswer, ServerError>) -> Result<()> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let after = if let ServerError::Refused { after_ms, .. } = &error { *after_ms } else { 0 };
                self.finished(fetch, Some(after));
                return self.fetch_failed(fetch, &error);
            }
        };
        let asked_ms = self.finished(fetch, None);
        match (fetch, answer) {
            (Fetch::Lists { account, .. }, FetchAnswer::Lists(history)) => self.lists_arrived(*account, &history, asked_ms),
            (Fetch::Bundles { conversation, account, .. }, FetchAnswer::Bundles(bundles)) => self.bundles_arrived(*conversation, *account, &bundles),
            (Fetch::Keys, FetchAnswer::Keys(state)) => self.keys_known(&state),
            (Fetch::Upload(upload), FetchAnswer::Keys(state)) => self.keys_uploaded(upload, &state),
            _ => Ok(()),
        }
    }
}
