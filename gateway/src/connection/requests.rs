//! Everything a client may ask for beside `Hello` and `Send`.

use kith_chat_core::log::{AbsentRange, Entry, LogError, PageLimit, State as Standing};
use kith_proto::{
    id::{AccountId, ConversationId, DeviceRef},
    v1,
    v1::{client_frame, server_frame::Kind},
};

use super::{Action, Connection, DeliverFields, Done, Now, Op, Outgoing, State, hello::token_error, refusal};

/// What a frame around a page may need: ids, lengths, the head, and the names of all that in JSON.
const PAGE_OVERHEAD: usize = 192;

impl Connection {
    /// Cursors of a notice are merged with those that wait; those of a request are a call of their own, since it has an answer of its own.
    pub(super) fn ack(&mut self, id: u64, ack: &v1::Ack, out: &mut Vec<Action>) {
        let cursors: Result<Vec<_>, _> =
            ack.cursors.iter().map(|c| ConversationId::try_from(&c.conversation[..]).map(|conversation| (conversation, c.seq))).collect();
        match cursors {
            Err(_) => self.refuse(id, refusal::invalid("a conversation is not 16 bytes"), out),
            Ok(cursors) if cursors.is_empty() => self.finish(id, Ok(()), out),
            Ok(cursors) if id == 0 => self.acks.extend(cursors),
            Ok(cursors) => self.waiting.push_back(Op::Acknowledge { request: id, cursors: highest(cursors) }),
        }
    }

    pub(super) fn request(&mut self, id: u64, kind: client_frame::Kind, me: DeviceRef, now: Now, out: &mut Vec<Action>) {
        let op = match kind {
            client_frame::Kind::Read(read) => self.read(id, &read),
            client_frame::Kind::Typing(typing) => match self.typing(id, &typing, me, now) {
                Ok(None) => return self.finish(id, Ok(()), out),
                Ok(Some(op)) => Ok(op),
                Err(error) => Err(error),
            },
            client_frame::Kind::Page(page) => self.page(id, &page),
            client_frame::Kind::GetConversations(get) => self.states(id, &get),
            client_frame::Kind::WatchPresence(watch) => self.watch(id, &watch),
            client_frame::Kind::SetPresence(set) => Ok(Op::SetPresence { request: id, hidden: set.hidden }),
            client_frame::Kind::Renew(renew) => return self.renew(id, &renew, me, now, out),
            client_frame::Kind::Ping(_) => {
                return out.push(Action::Send(Outgoing::answer(id, Kind::Pong(v1::Pong { server_time_ms: now.unix_ms }))));
            }
            client_frame::Kind::Hello(_) => Err(refusal::invalid("Hello was said already")),
            client_frame::Kind::Send(_) | client_frame::Kind::Ack(_) => return,
        };
        match op {
            Ok(op) => self.waiting.push_back(op),
            Err(error) => self.refuse(id, error, out),
        }
    }

    fn read(&self, id: u64, read: &v1::Read) -> Result<Op, v1::Error> {
        Ok(Op::Read { request: id, conversation: conversation(&read.conversation)?, seq: read.seq })
    }

    fn typing(&mut self, id: u64, typing: &v1::Typing, me: DeviceRef, now: Now) -> Result<Option<Op>, v1::Error> {
        let conversation = conversation(&typing.conversation)?;
        let peer = AccountId::try_from(&typing.peer[..]).map_err(|_| refusal::invalid("peer is not 16 bytes"))?;
        if peer == me.account || conversation != ConversationId::direct(me.account, peer) {
            return Err(refusal::error(v1::ErrorCode::NotAMember, "conversation is not the one of sender and peer"));
        }
        if now.running_ms.saturating_sub(self.typing_since_ms) >= 1_000 {
            (self.typing_since_ms, self.typing_count) = (now.running_ms, 0);
        }
        self.typing_count = self.typing_count.saturating_add(1);
        let allowed = self.typing_count <= self.shared.settings.typing_per_second;
        Ok(allowed.then_some(Op::Typing { request: id, conversation, peer, active: typing.active }))
    }

    fn page(&self, id: u64, page: &v1::Page) -> Result<Op, v1::Error> {
        let entries = page.limit.clamp(1, self.shared.settings.max_page) as usize;
        let limit = PageLimit { entries, bytes: self.payload_room() };
        Ok(Op::Page { request: id, conversation: conversation(&page.conversation)?, after: page.after_seq, limit })
    }

    /// Bytes of bodies and slices that are worth reading for a frame of this connection: base64 makes four out of three, and field names come on top.
    fn payload_room(&self) -> usize {
        let frame = self.shared.settings.max_frame_bytes;
        let room = if self.text { frame / 2 } else { frame };
        room.saturating_sub(PAGE_OVERHEAD)
    }

    fn states(&self, id: u64, get: &v1::GetConversations) -> Result<Op, v1::Error> {
        self.check_length(get.conversations.len())?;
        let conversations = get.conversations.iter().map(|c| conversation(c)).collect::<Result<_, _>>()?;
        Ok(Op::States { request: id, conversations })
    }

    fn watch(&self, id: u64, watch: &v1::WatchPresence) -> Result<Op, v1::Error> {
        self.check_length(watch.accounts.len())?;
        let account = |a: &bytes::Bytes| AccountId::try_from(&a[..]).map_err(|_| refusal::invalid("an account is not 16 bytes"));
        let mut accounts = watch.accounts.iter().map(account).collect::<Result<Vec<_>, _>>()?;
        accounts.sort_unstable();
        accounts.dedup();
        Ok(Op::Watch { request: id, accounts })
    }

    fn check_length(&self, length: usize) -> Result<(), v1::Error> {
        if length > self.shared.settings.max_page as usize {
            return Err(refusal::invalid("the list is longer than max_page"));
        }
        Ok(())
    }

    fn renew(&mut self, id: u64, renew: &v1::Renew, me: DeviceRef, now: Now, out: &mut Vec<Action>) {
        match self.shared.tokens.verify(&renew.token, now.unix_ms) {
            Ok(caller) if caller.device == me => {
                self.token_until_ms = self.token_until_ms.max(caller.expires_ms);
                out.push(Action::TokenUntil(self.token_until_ms));
                self.finish(id, Ok(()), out);
            }
            Ok(_) => self.refuse(id, refusal::error(v1::ErrorCode::Unauthenticated, "the token is another device's"), out),
            Err(failure) => self.refuse(id, token_error(&failure), out),
        }
    }

    /// An operation is done: its answer, and what follows from it.
    pub(super) fn done(&mut self, done: Done, now: Now, out: &mut Vec<Action>) {
        self.busy = false;
        match done {
            Done::Connect { request, result } => self.connected(request, result, now.unix_ms, out),
            Done::Heads(result) => self.heads_read(result, out),
            Done::Live { clean } => {
                let progress = self.catching_up(|c, _| c.gone_live(clean));
                self.progress(progress, out);
            }
            Done::CatchUp { conversation, result } => self.caught_up(conversation, result, out),
            Done::Acknowledge { request, cursors, result } => self.acknowledged(request, cursors, result, out),
            Done::Plain { request, result } => self.finish(request, result, out),
            Done::Page { request, conversation, result } => {
                let room = Room { left: self.shared.settings.max_frame_bytes.saturating_sub(PAGE_OVERHEAD), text: self.text };
                self.answer_with(request, result, out, |page| Kind::Page(fit(room, conversation, page)));
            }
            Done::States { request, result } => self
                .answer_with(request, result, out, |states| Kind::Conversations(v1::Conversations { items: states.iter().map(standing).collect() })),
            Done::Watch { request, result } => self.watched(request, result, out),
        }
    }

    fn heads_read(&mut self, result: Result<Vec<kith_chat_core::log::Behind>, LogError>, out: &mut Vec<Action>) {
        match result {
            Ok(behind) => {
                let progress = self.catching_up(|c, flow| c.heads(behind, flow));
                self.progress(progress, out);
            }
            // Without heads nothing can be promised: the client comes back later, when the log may answer again.
            Err(_) => self.goodbye(v1::ErrorCode::StorageUnavailable, out),
        }
    }

    fn caught_up(&mut self, conversation: ConversationId, result: Result<kith_chat_core::log::Page, LogError>, out: &mut Vec<Action>) {
        let progress = match result {
            Ok(page) => self.catching_up(|c, flow| c.page(conversation, page, flow, |outgoing| out.push(Action::Send(outgoing)))),
            Err(LogError::NotAMember) => self.catching_up(|c, _| c.skip()),
            Err(_) => return self.goodbye(v1::ErrorCode::StorageUnavailable, out),
        };
        self.progress(progress, out);
    }

    fn catching_up<T>(&mut self, step: impl FnOnce(&mut super::CatchUp, &mut super::Flow) -> T) -> Option<T> {
        match &mut self.state {
            State::CatchingUp(catch_up) => Some(step(catch_up, &mut self.flow)),
            _ => None,
        }
    }

    fn acknowledged(&mut self, request: u64, cursors: Vec<(ConversationId, u64)>, result: Result<(), LogError>, out: &mut Vec<Action>) {
        match &result {
            Ok(()) => {
                for (conversation, seq) in &cursors {
                    self.flow.acknowledged(*conversation, *seq);
                    self.catching_up(|c, _| c.acknowledged(*conversation, *seq));
                }
            }
            // Merged notices must not spoil one another: each cursor is tried by itself.
            Err(LogError::NotAMember | LogError::BeyondHead) if request == 0 && cursors.len() > 1 => {
                self.waiting.extend(cursors.into_iter().map(|cursor| Op::Acknowledge { request: 0, cursors: vec![cursor] }));
            }
            Err(_) => {}
        }
        self.finish(request, result, out);
    }

    fn watched(&mut self, request: u64, result: Result<Vec<v1::Presence>, LogError>, out: &mut Vec<Action>) {
        let presences = match result {
            Ok(presences) => presences,
            Err(failure) => return self.finish(request, Err(failure), out),
        };
        self.finish(request, Ok(()), out);
        out.extend(presences.into_iter().map(|presence| Action::Send(Outgoing::push(Kind::Presence(presence)))));
    }

    fn answer_with<T>(&self, request: u64, result: Result<T, LogError>, out: &mut Vec<Action>, kind: impl FnOnce(T) -> Kind) {
        let kind = match result {
            Ok(value) => kind(value),
            Err(failure) => Kind::Error(refusal::of_log(&failure)),
        };
        out.push(Action::Send(Outgoing::answer(request, kind)));
    }

    /// `Done` or an error; nothing for a notice.
    fn finish(&self, request: u64, result: Result<(), LogError>, out: &mut Vec<Action>) {
        if request != 0 {
            self.answer_with(request, result, out, |()| Kind::Done(v1::Done {}));
        }
    }

    fn refuse(&self, request: u64, error: v1::Error, out: &mut Vec<Action>) {
        if request != 0 {
            out.push(Action::Send(Outgoing::answer(request, Kind::Error(error))));
        }
    }
}

fn conversation(bytes: &[u8]) -> Result<ConversationId, v1::Error> {
    ConversationId::try_from(bytes).map_err(|_| refusal::invalid("conversation is not 16 bytes"))
}

/// The highest cursor of each conversation.
pub(super) fn highest(mut cursors: Vec<(ConversationId, u64)>) -> Vec<(ConversationId, u64)> {
    if cursors.len() > 1 {
        cursors.sort_unstable_by(|a, b| b.cmp(a));
        cursors.dedup_by_key(|(conversation, _)| *conversation);
    }
    cursors
}

fn standing(state: &Standing) -> v1::ConversationState {
    let peer = state.mutual.then(|| v1::Watermark {
        conversation: state.conversation.to_bytes(),
        account: state.peer.to_bytes(),
        delivered: state.peer_delivered,
        read: state.peer_read,
    });
    v1::ConversationState {
        conversation: state.conversation.to_bytes(),
        head: state.head,
        first: state.first,
        cursor: state.cursor,
        own_read: state.own_read,
        peer,
    }
}

/// What is left of a frame, in the form in which it is sent.
#[derive(Clone, Copy)]
struct Room {
    left: usize,
    text: bool,
}

impl Room {
    /// Key and length of an embedded message, or the comma behind it, included.
    fn size(self, item: &(impl prost::Message + serde::Serialize)) -> usize {
        let size = if self.text { serde_json::to_vec(item).map_or(usize::MAX - 4, |json| json.len()) } else { item.encoded_len() };
        size + 4
    }
}

/// As much of a page, in ascending order, as fits into a frame; the client goes on from its last seq. The first item always fits: no `Send` is taken
/// whose `Deliver` would not.
fn fit(mut room: Room, conversation: ConversationId, page: kith_chat_core::log::Page) -> v1::PageResult {
    let mut result = v1::PageResult { conversation: conversation.to_bytes(), entries: Vec::new(), absent: Vec::new(), head: page.head };
    let mut absent = page.absent.into_iter().peekable();
    let mut entries = page.entries.into_iter().peekable();
    loop {
        let range_first = match (absent.peek(), entries.peek()) {
            (Some(range), Some(entry)) => range.from < entry.seq,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return result,
        };
        let empty = result.entries.is_empty() && result.absent.is_empty();
        let size = if range_first {
            take_if_fits(room, empty, absent.next().map(|range| absent_frame(conversation, range)), &mut result.absent)
        } else {
            take_if_fits(
                room,
                empty,
                entries.next().map(|entry: Entry| DeliverFields::of_entry(&conversation, &entry).to_deliver()),
                &mut result.entries,
            )
        };
        match size {
            Some(size) => room.left = room.left.saturating_sub(size),
            None => return result,
        }
    }
}

fn take_if_fits<T: prost::Message + serde::Serialize>(room: Room, first: bool, item: Option<T>, into: &mut Vec<T>) -> Option<usize> {
    let item = item?;
    let size = room.size(&item);
    if size > room.left && !first {
        return None;
    }
    into.push(item);
    Some(size)
}

fn absent_frame(conversation: ConversationId, range: AbsentRange) -> v1::Absent {
    v1::Absent { conversation: conversation.to_bytes(), from_seq: range.from, to_seq: range.to, reason: range.reason.into() }
}
