//! Bringing a device up to date from the log, under flow control by its acknowledgements.
//!
//! A round asks for the conversations in which the device is behind and pages each up to its head. While it runs, live deliveries are dropped and only
//! noted. A round during which none was noted is the last. Under constant traffic that would never be so: after a few rounds live delivery is let in
//! first and one more round follows, in which `Deliver` may come out of order.

use std::collections::{HashMap, VecDeque};

use kith_chat_core::log::{AbsentRange, Behind, Entry, Page, PageLimit, Payload};
use kith_proto::{id::ConversationId, v1, v1::server_frame::Kind};

use super::{Op, Outgoing};
use crate::sessions::SessionSettings;

/// After so many rounds live delivery is let in before the last one.
const MAX_ROUNDS: u32 = 3;
/// What an entry or a range costs beside its body and slice.
const ENTRY_OVERHEAD: u64 = 64;

/// What was sent from the log over this connection and is not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Flow {
    sent: HashMap<ConversationId, Sent>,
    items: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Sent {
    up_to: u64,
    acknowledged: u64,
    items: u64,
    bytes: u64,
}

impl Flow {
    /// A cursor moved.
    pub(super) fn acknowledged(&mut self, conversation: ConversationId, seq: u64) {
        let Some(sent) = self.sent.get_mut(&conversation) else { return };
        if seq <= sent.acknowledged {
            return;
        }
        let (before, left) = (sent.up_to.saturating_sub(sent.acknowledged).max(1), sent.up_to.saturating_sub(seq));
        // Given back in proportion: the exact sums per entry are not worth keeping.
        let share = |total: u64| u64::try_from(u128::from(total) * u128::from(left) / u128::from(before)).unwrap_or(0);
        let (items, bytes) = (share(sent.items), share(sent.bytes));
        self.items = self.items.saturating_sub(sent.items - items);
        self.bytes = self.bytes.saturating_sub(sent.bytes - bytes);
        *sent = Sent { up_to: sent.up_to, acknowledged: seq, items, bytes };
        if left == 0 {
            self.sent.remove(&conversation);
        }
        if self.sent.is_empty() {
            *self = Self::default();
        }
    }

    /// Takes over what the log knows of the cursors. A conversation that is not listed is acknowledged.
    fn reconcile(&mut self, behind: &[Behind]) {
        if self.sent.is_empty() {
            return;
        }
        let cursors: HashMap<_, _> = behind.iter().map(|b| (b.conversation, b.cursor)).collect();
        for conversation in self.sent.keys().copied().collect::<Vec<_>>() {
            self.acknowledged(conversation, cursors.get(&conversation).copied().unwrap_or(u64::MAX));
        }
    }

    /// Items and bytes.
    #[cfg(fuzzing)]
    pub(super) fn unacknowledged(&self) -> (u64, u64) {
        (self.items, self.bytes)
    }

    fn sent_up_to(&self, conversation: &ConversationId) -> u64 {
        self.sent.get(conversation).map_or(0, |s| s.up_to)
    }

    fn send(&mut self, conversation: ConversationId, after: u64, run: Run) {
        let sent = self.sent.entry(conversation).or_insert(Sent { up_to: after, acknowledged: after, ..Sent::default() });
        sent.up_to = sent.up_to.max(run.up_to);
        sent.items += run.items;
        sent.bytes += run.bytes;
        self.items += run.items;
        self.bytes += run.bytes;
    }

    fn room(&self, settings: &SessionSettings) -> Option<PageLimit> {
        let items = u64::from(settings.catch_up_window).saturating_sub(self.items);
        let bytes = (settings.catch_up_window_bytes as u64).saturating_sub(self.bytes);
        if items == 0 || bytes == 0 {
            return None;
        }
        let at_most = |left: u64, page: usize| usize::try_from(left).unwrap_or(usize::MAX).min(page);
        Some(PageLimit { entries: at_most(items, settings.catch_up_page), bytes: at_most(bytes, settings.catch_up_page_bytes) })
    }
}

/// What a page put out.
#[derive(Debug, Clone, Copy)]
struct Run {
    up_to: u64,
    items: u64,
    bytes: u64,
}

/// A catch-up under way.
#[derive(Debug)]
pub(super) struct CatchUp {
    step: Step,
    todo: VecDeque<Behind>,
    round: u32,
    live: bool,
    announce: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Heads,
    Paging,
    GoingLive,
}

/// What a step led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// More to do.
    Going,
    /// Level with the log, and live.
    Level,
}

impl CatchUp {
    /// After connecting, with `CaughtUp` at its end.
    pub(super) fn after_connect() -> Self {
        Self { step: Step::Heads, todo: VecDeque::new(), round: 1, live: false, announce: true }
    }

    /// After live pushes were dropped.
    pub(super) fn after_overflow() -> Self {
        Self { announce: false, ..Self::after_connect() }
    }

    /// While live: the keep-alive has found the device behind.
    pub(super) fn while_live() -> Self {
        Self { live: true, ..Self::after_overflow() }
    }

    /// Whether `CaughtUp` is still owed.
    pub(super) fn announces(&self) -> bool {
        self.announce
    }

    /// The queue for live pushes has run over: live delivery has ended, and another round is needed.
    pub(super) fn overflowed(&mut self) {
        self.live = false;
    }

    /// What to ask for next; nothing while the window is full.
    pub(super) fn next(&self, flow: &Flow, settings: &SessionSettings) -> Option<Op> {
        match self.step {
            Step::Heads => Some(Op::Heads),
            Step::GoingLive => Some(Op::GoLive { force: self.round >= MAX_ROUNDS }),
            Step::Paging => {
                let next = self.todo.front()?;
                let limit = flow.room(settings)?;
                Some(Op::CatchUp { conversation: next.conversation, after: next.cursor, head: next.head, limit })
            }
        }
    }

    /// A cursor moved: what the device has stored already is not sent again.
    pub(super) fn acknowledged(&mut self, conversation: ConversationId, seq: u64) {
        self.todo.iter_mut().filter(|b| b.conversation == conversation).for_each(|b| b.cursor = b.cursor.max(seq));
    }

    /// The window has been full since the last look: the device may have acknowledged elsewhere, over a connection that this one has replaced.
    pub(super) fn look_again(&mut self, flow: &Flow, settings: &SessionSettings) {
        if self.step == Step::Paging && flow.room(settings).is_none() {
            self.step = Step::Heads;
        }
    }

    /// The heads are known.
    pub(super) fn heads(&mut self, behind: Vec<Behind>, flow: &mut Flow) -> Progress {
        flow.reconcile(&behind);
        self.todo = behind.into();
        self.todo.retain_mut(|b| {
            b.cursor = b.cursor.max(flow.sent_up_to(&b.conversation));
            b.cursor < b.head
        });
        self.step = Step::Paging;
        self.end_of_round()
    }

    /// A page has come: puts it out.
    pub(super) fn page(&mut self, conversation: ConversationId, page: Page, flow: &mut Flow, mut put: impl FnMut(Outgoing)) -> Progress {
        let Some(next) = self.todo.front_mut().filter(|b| b.conversation == conversation) else { return Progress::Going };
        let after = next.cursor;
        let head = page.head;
        let run = put_page(conversation, page, after, &mut put);
        flow.send(conversation, after, run);
        next.cursor = run.up_to;
        if run.up_to >= head || run.up_to == after {
            self.todo.pop_front();
        }
        self.end_of_round()
    }

    /// The conversation cannot be paged; it is left for the next check of the heads.
    pub(super) fn skip(&mut self) -> Progress {
        self.todo.pop_front();
        self.end_of_round()
    }

    /// Live delivery was asked for.
    pub(super) fn gone_live(&mut self, clean: bool) -> Progress {
        self.live = clean || self.round >= MAX_ROUNDS;
        if clean {
            return Progress::Level;
        }
        self.round += 1;
        self.step = Step::Heads;
        Progress::Going
    }

    fn end_of_round(&mut self) -> Progress {
        if !self.todo.is_empty() {
            return Progress::Going;
        }
        self.todo = VecDeque::new();
        if self.live {
            return Progress::Level;
        }
        self.step = Step::GoingLive;
        Progress::Going
    }
}

/// Entries and absent ranges in ascending order.
fn put_page(conversation: ConversationId, page: Page, after: u64, put: &mut dyn FnMut(Outgoing)) -> Run {
    let mut run = Run { up_to: after, items: 0, bytes: 0 };
    let mut absent = page.absent.into_iter().peekable();
    for entry in page.entries {
        while let Some(range) = absent.next_if(|range| range.from < entry.seq) {
            put_absent(conversation, range, &mut run, put);
        }
        run.up_to = run.up_to.max(entry.seq);
        run.items += 1;
        run.bytes += ENTRY_OVERHEAD + weight(&entry);
        put(Outgoing::Entry(conversation, Box::new(entry)));
    }
    for range in absent {
        put_absent(conversation, range, &mut run, put);
    }
    run
}

fn put_absent(conversation: ConversationId, range: AbsentRange, run: &mut Run, put: &mut dyn FnMut(Outgoing)) {
    let absent = v1::Absent { conversation: conversation.to_bytes(), from_seq: range.from, to_seq: range.to, reason: range.reason.into() };
    put(Outgoing::push(Kind::Absent(absent)));
    run.up_to = run.up_to.max(range.to);
    run.items += 1;
    run.bytes += ENTRY_OVERHEAD;
}

/// Bytes of body and slice.
fn weight(entry: &Entry) -> u64 {
    match &entry.payload {
        Payload::Sealed { body, slice } => (body.len() + slice.len()) as u64,
        Payload::Absent(_) => 0,
    }
}
