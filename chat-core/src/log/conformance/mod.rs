//! What every implementation of [`MessageLog`] promises, as tests. An implementation makes a [`Fixture`] and calls `conformance_tests!` with it.

mod appends;
mod devices;
mod model;
mod overdue;
mod positions;
mod purging;
mod reading;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kith_proto::{
    id::{AccountId, ClientMsgId, ConversationId, DeviceId, DeviceRef},
    v1,
};

use super::{Admission, Append, Behind, Course, Gate, MessageLog, Outcome, Overdue, Page, PageLimit, Refusal, Resolved, State, Ticket};

pub(crate) use self::{appends::*, devices::*, model::random_histories, overdue::*, positions::*, purging::*, reading::*};

/// An implementation under test, with a clock that the test moves. Retention is [`RETENTION_MS`].
#[async_trait]
pub(crate) trait Fixture: Send + Sized {
    /// A fresh one; the clock shows [`START_MS`].
    async fn new() -> Self;
    /// The log.
    fn log(&self) -> Arc<dyn MessageLog>;
    /// What is overdue after so many milliseconds, which may be none or fewer.
    fn overdue(&self, after_ms: i64) -> Box<dyn Overdue>;
    /// The next batch of resolved appends.
    async fn resolved(&mut self) -> Vec<Resolved>;
    /// Registers an account if it is new, and links a device.
    async fn link(&mut self, device: DeviceRef);
    /// Revokes a device.
    async fn revoke(&mut self, device: DeviceRef);
    /// Sets the clock that appends are stamped with.
    fn set_clock(&mut self, now_ms: u64);
    /// Opens the stored data again: after an orderly end, or as if the machine had died.
    async fn reopen(self, how: Reopen) -> Self;
    /// Makes the disk full, or gives space back.
    async fn fill_disk(&mut self, full: bool);
}

/// How a log ends before it is opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reopen {
    Closed,
    Died,
}

pub(crate) const START_MS: u64 = 1_800_000_000_000;
pub(crate) const RETENTION_MS: u64 = 1_000_000_000;
pub(crate) const ALL: PageLimit = PageLimit { entries: 1000, bytes: usize::MAX };

pub(crate) fn account(n: u8) -> AccountId {
    AccountId([n; 16])
}

/// Device `d` of account `a`.
pub(crate) fn device(a: u8, d: u8) -> DeviceRef {
    let mut id = [a; 16];
    id[15] = d;
    DeviceRef { account: account(a), device: DeviceId(id) }
}

pub(crate) fn between(a: u8, b: u8) -> ConversationId {
    ConversationId::direct(account(a), account(b))
}

pub(crate) fn slice(device: DeviceRef) -> v1::Slice {
    v1::Slice { device: device.device.to_bytes(), data: Bytes::from(format!("for {}", device.device)) }
}

/// An append from device 1 of account 1 to account 2 with device 1.
pub(crate) fn append(id: u32) -> Append {
    append_from(device(1, 1), 2, id, &[device(2, 1)])
}

/// An append with slices for these devices.
pub(crate) fn append_from(sender: DeviceRef, recipient: u8, id: u32, to: &[DeviceRef]) -> Append {
    let recipient = account(recipient);
    let mut client_msg_id = [0; 16];
    client_msg_id[..4].copy_from_slice(&id.to_be_bytes());
    Append {
        ticket: Ticket { connection: 1, request: u64::from(id) },
        conversation: ConversationId::direct(sender.account, recipient),
        sender,
        // Newer than any that a test connects with.
        epoch: u64::MAX,
        recipient,
        client_msg_id: ClientMsgId(client_msg_id),
        device_counter: u64::from(id),
        checkpoint: false,
        restart: false,
        sender_list_version: 3,
        recipient_list_version: 4,
        body: Bytes::from(format!("body {id}")),
        slices: to.iter().filter(|d| d.account == recipient).copied().map(slice).collect(),
        own_slices: to.iter().filter(|d| d.account == sender.account).copied().map(slice).collect(),
        gate: Arc::new(Gate::default()),
        admission: Admission::Admitted,
        course: Course::default(),
    }
}

/// A fixture with accounts 1, 2 and 3, one device each, and what tests do with it.
pub(crate) struct Bed<F> {
    pub(crate) fixture: F,
    pub(crate) now_ms: u64,
}

impl<F: Fixture> Bed<F> {
    pub(crate) async fn new() -> Self {
        let mut fixture = F::new().await;
        for n in 1..=3 {
            fixture.link(device(n, 1)).await;
        }
        Self { fixture, now_ms: START_MS }
    }

    pub(crate) fn log(&self) -> Arc<dyn MessageLog> {
        self.fixture.log()
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        self.fixture.set_clock(self.now_ms);
    }

    /// Submits all at once and returns their outcomes. Those of one conversation must be resolved in the order of submission.
    pub(crate) async fn submit(&mut self, appends: Vec<Append>) -> Vec<Outcome> {
        let mut waiting: Vec<_> = appends.iter().map(|a| Some((a.conversation, a.ticket))).collect();
        let mut outcomes: Vec<_> = appends.iter().map(|_| None).collect();
        for append in appends {
            self.log().submit(append).unwrap();
        }
        while outcomes.iter().any(Option::is_none) {
            for Resolved { append, outcome } in self.fixture.resolved().await {
                let next = waiting.iter().position(|w| w.is_some_and(|(conversation, _)| conversation == append.conversation)).unwrap();
                assert_eq!(waiting[next].take().unwrap().1, append.ticket, "out of order");
                outcomes[next] = Some(outcome);
            }
        }
        outcomes.into_iter().flatten().collect()
    }

    pub(crate) async fn send(&mut self, append: Append) -> Outcome {
        self.submit(vec![append]).await.remove(0)
    }

    /// Appends ids `from..=to` from account 1 to account 2.
    pub(crate) async fn send_many(&mut self, from: u32, to: u32) {
        for outcome in self.submit((from..=to).map(append).collect()).await {
            assert!(matches!(outcome, Outcome::Accepted { duplicate: false, .. }), "{outcome:?}");
        }
    }

    pub(crate) async fn ack(&self, device: DeviceRef, seq: u64) {
        self.log().acknowledge(device, &[(between(1, 2), seq)]).await.unwrap();
    }

    pub(crate) async fn state(&self, device: DeviceRef) -> State {
        self.log().states(device, &[between(1, 2)]).await.unwrap()[0]
    }

    pub(crate) async fn page(&self, device: DeviceRef, after: u64) -> Page {
        let page = self.log().page(device, between(1, 2), after, ALL).await.unwrap();
        let level = self.log().catch_up(device, between(1, 2), after, page.head, ALL).await.unwrap();
        assert!(page.entries.iter().all(|entry| level.entries.contains(entry)), "a device that is brought level misses something");
        page
    }

    pub(crate) async fn behind(&self, device: DeviceRef) -> Vec<Behind> {
        self.log().behind(&[device]).await.unwrap()
    }

    pub(crate) async fn reopen(self, how: Reopen) -> Self {
        let mut bed = Self { fixture: self.fixture.reopen(how).await, now_ms: self.now_ms };
        bed.advance(0);
        bed
    }
}

pub(crate) fn accepted(outcome: &Outcome) -> (u64, bool) {
    match outcome {
        Outcome::Accepted { seq, duplicate, .. } => (*seq, *duplicate),
        Outcome::Refused(refusal) => panic!("refused: {refusal}"),
    }
}

pub(crate) fn refused(outcome: &Outcome) -> &Refusal {
    match outcome {
        Outcome::Refused(refusal) => refusal,
        Outcome::Accepted { .. } => panic!("accepted"),
    }
}

pub(crate) fn seqs(page: &Page) -> Vec<u64> {
    page.entries.iter().map(|e| e.seq).collect()
}

/// One test for each promise, for one implementation.
macro_rules! conformance_tests {
    ($fixture:ty; $($name:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let within = std::time::Duration::from_secs(60);
                tokio::time::timeout(within, $crate::log::conformance::$name::<$fixture>()).await.expect("the test hangs");
            }
        )*
    };
    ($fixture:ty) => {
        #[test]
        fn random_histories() {
            $crate::log::conformance::random_histories::<$fixture>();
        }
        $crate::log::conformance::conformance_tests! { $fixture;
            numbers_are_dense_and_in_order, a_retry_returns_the_original, a_retry_in_the_same_batch_is_a_duplicate,
            retries_among_new_messages_are_known_one_by_one, counters_that_fall_are_no_retries,
            the_same_id_elsewhere_is_another_message, a_retry_is_recognised_after_dying_and_after_a_flush, a_duplicate_comes_before_every_refusal,
            checks_come_in_order, a_refusal_shuts_the_gate_until_restart, slices_must_match_both_lists, a_checkpoint_may_leave_out_devices,
            a_revoked_sender_is_refused_but_its_retry_is_answered, time_stamps_do_not_go_back, mutual_once_both_have_sent,
            a_full_disk_refuses_everything_and_recovers, the_writer_waits_for_its_consumer, nothing_accepted_is_lost_by_dying,
            a_page_holds_what_the_device_may_see, pages_are_contiguous_under_limits, a_page_is_for_members_only, a_page_spans_summary_and_journal,
            behind_is_what_was_missed, behind_survives_dying, cursors_move_by_maximum_and_not_beyond_the_head, one_bad_cursor_moves_nothing,
            watermarks_are_the_furthest_device, a41_a_checkpoint_is_acknowledged_in_silence, read_marks_are_per_account, states_leave_out_strangers, connecting_raises_the_epoch,
            the_counter_survives_dying_and_purging, what_every_device_has_is_purged, nothing_is_purged_that_one_device_lacks,
            the_purged_tail_keeps_its_numbers, retention_ends, a_long_conversation_expires_in_one_go, a_jump_of_the_clock_stops_expiry, a_revoked_device_holds_nothing,
            a_new_device_starts_at_the_head, a_new_device_is_addressed_at_once, a_retry_is_recognised_until_purged,
            overdue_is_what_a_device_lacks_but_for_its_own, overdue_comes_in_order_and_once_however_it_is_cut,
            overdue_takes_its_time_and_begins_at_the_present,
        }
    };
}
pub(crate) use conformance_tests;
