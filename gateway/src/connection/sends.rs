//! Sends of one connection: checked, handed to the log in order, answered in order.
//!
//! A conversation with anything unanswered, or with a refusal that no `restart` has followed, has a lane. Answers leave a lane in the order of its
//! requests, also where the edge refuses one while earlier ones are still in the log's queue. After a refusal here the later ones still go to the log,
//! because a duplicate is always answered, but only as duplicates.

use std::{collections::VecDeque, sync::Arc};

use kith_chat_core::{
    domain::statement::MAX_DEVICES,
    log::{Admission, Append, Course, Gate, Refusal, Ticket},
};
use kith_proto::{
    id::{AccountId, ClientMsgId, ConversationId, DeviceRef},
    v1,
};

use super::refusal;

/// Conversations with a lane, per connection. A client that has more refused ones open than this is cut.
const MAX_LANES: usize = 1_024;
/// What a `Deliver` may need beside body and slice.
const DELIVER_OVERHEAD: usize = 256;

/// All lanes of a connection.
#[derive(Debug, Default)]
pub(super) struct Sends {
    lanes: Vec<Lane>,
    in_flight: u32,
    slots: u32,
}

#[derive(Debug)]
struct Lane {
    conversation: ConversationId,
    /// Whose conversation with the sender it is, once that was computed.
    with: Option<AccountId>,
    gate: Arc<Gate>,
    slots: VecDeque<Slot>,
    shut: bool,
}

#[derive(Debug)]
enum Slot {
    Submitted(u64),
    Refused(u64, Box<v1::Error>),
}

/// What is to be done with a send.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "lives for one call; a box would cost an allocation per message")]
pub(super) enum Checked {
    /// Goes to the log.
    Submit(Append),
    /// Is answered at once.
    Answer(Box<v1::Error>),
    /// Is answered after earlier ones of its conversation.
    Later,
    /// The connection asks for too much.
    Cut,
}

/// What the checks need to know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) me: DeviceRef,
    pub(super) epoch: u64,
    pub(super) connection: u64,
    pub(super) max_in_flight: u32,
    pub(super) max_frame_bytes: usize,
}

impl Sends {
    /// Requests that have no answer yet.
    pub(super) fn unanswered(&self) -> u32 {
        self.slots
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Takes a request in.
    pub(super) fn take(&mut self, id: u64, send: v1::Send, rules: &Rules) -> Checked {
        let Ok(conversation) = ConversationId::try_from(&send.conversation[..]) else {
            return Checked::Answer(Box::new(refusal::invalid("conversation is not 16 bytes")));
        };
        let Some(lane) = self.lane(conversation) else { return Checked::Cut };
        let restart = send.restart;
        match self.check(send, &self.lanes[lane], rules) {
            Ok(parts) => {
                let lane = &mut self.lanes[lane];
                lane.with = Some(parts.recipient);
                lane.shut &= !restart;
                let admission = if lane.shut { Admission::DuplicateOnly(Refusal::EarlierRefused) } else { Admission::Admitted };
                lane.slots.push_back(Slot::Submitted(id));
                self.in_flight += 1;
                self.slots += 1;
                Checked::Submit(parts.into_append(
                    Ticket { connection: rules.connection, request: id },
                    conversation,
                    (rules.me, rules.epoch),
                    Arc::clone(&lane.gate),
                    admission,
                ))
            }
            Err(error) => self.refuse(lane, id, error),
        }
    }

    fn check(&self, send: v1::Send, lane: &Lane, rules: &Rules) -> Result<Parts, v1::Error> {
        let parts = Parts::parse(send, lane, rules)?;
        if self.in_flight >= rules.max_in_flight {
            return Err(refusal::overloaded("too many unanswered sends"));
        }
        Ok(parts)
    }

    /// The log's queue was full: the request that was just submitted is refused after all. Returns the answer if nothing is before it.
    pub(super) fn bounced(&mut self, conversation: ConversationId, id: u64) -> Option<Box<v1::Error>> {
        let lane = self.lanes.iter().position(|l| l.conversation == conversation)?;
        let slots = &mut self.lanes[lane].slots;
        let at = slots.iter().rposition(|s| matches!(s, Slot::Submitted(submitted) if *submitted == id))?;
        slots.remove(at);
        self.in_flight -= 1;
        self.slots -= 1;
        match self.refuse(lane, id, refusal::overloaded("the log is overloaded")) {
            Checked::Answer(error) => Some(error),
            _ => None,
        }
    }

    /// The log has answered `id`. Whatever the edge had refused behind it is answered now.
    pub(super) fn answered(&mut self, conversation: ConversationId, id: u64, mut answer: impl FnMut(u64, Box<v1::Error>)) {
        let Some(at) = self.lanes.iter().position(|l| l.conversation == conversation) else { return };
        let lane = &mut self.lanes[at];
        let Some(slot) = lane.slots.iter().position(|s| matches!(s, Slot::Submitted(submitted) if *submitted == id)) else { return };
        debug_assert_eq!(slot, 0, "the log answers one conversation in order");
        lane.slots.remove(slot);
        self.in_flight -= 1;
        self.slots -= 1;
        while let Some(Slot::Refused(..)) = lane.slots.front() {
            let Some(Slot::Refused(id, error)) = lane.slots.pop_front() else { break };
            self.slots -= 1;
            answer(id, error);
        }
        if lane.slots.is_empty() && !lane.shut && !lane.gate.is_shut() {
            self.lanes.swap_remove(at);
            if self.lanes.is_empty() {
                self.lanes = Vec::new();
            }
        }
    }

    fn refuse(&mut self, lane: usize, id: u64, error: v1::Error) -> Checked {
        let lane = &mut self.lanes[lane];
        lane.shut = true;
        if lane.slots.is_empty() {
            return Checked::Answer(Box::new(error));
        }
        lane.slots.push_back(Slot::Refused(id, Box::new(error)));
        self.slots += 1;
        Checked::Later
    }

    fn lane(&mut self, conversation: ConversationId) -> Option<usize> {
        if let Some(at) = self.lanes.iter().position(|l| l.conversation == conversation) {
            return Some(at);
        }
        if self.lanes.len() >= MAX_LANES {
            return None;
        }
        self.lanes.push(Lane { conversation, with: None, gate: Arc::default(), slots: VecDeque::new(), shut: false });
        Some(self.lanes.len() - 1)
    }
}

/// A send whose ids and sizes are right.
struct Parts {
    recipient: AccountId,
    client_msg_id: ClientMsgId,
    send: v1::Send,
}

impl Parts {
    fn parse(send: v1::Send, lane: &Lane, rules: &Rules) -> Result<Self, v1::Error> {
        let recipient = AccountId::try_from(&send.recipient[..]).map_err(|_| refusal::invalid("recipient is not 16 bytes"))?;
        let client_msg_id = ClientMsgId::try_from(&send.client_msg_id[..]).map_err(|_| refusal::invalid("client_msg_id is not 16 bytes"))?;
        if recipient == rules.me.account {
            return Err(refusal::invalid("recipient is the sender"));
        }
        if lane.with != Some(recipient) && lane.conversation != ConversationId::direct(rules.me.account, recipient) {
            let message = "conversation is not the one of sender and recipient";
            return Err(refusal::error(v1::ErrorCode::NotAMember, message));
        }
        if send.body.is_empty() || send.device_counter == 0 {
            return Err(refusal::invalid("body is empty or device_counter is 0"));
        }
        if [send.device_counter, send.sender_list_version, send.recipient_list_version].iter().any(|number| i64::try_from(*number).is_err()) {
            // The databases behind the log have signed integers; clamping would give a message two contents.
            return Err(refusal::invalid("device_counter or a list version is 2^63 or more"));
        }
        check_slices(&send.slices)?;
        check_slices(&send.own_slices)?;
        let largest = send.slices.iter().chain(&send.own_slices).map(|s| s.data.len()).max().unwrap_or(0);
        if send.body.len() + largest + DELIVER_OVERHEAD > rules.max_frame_bytes {
            return Err(refusal::error(v1::ErrorCode::TooLarge, "body and slice do not fit into a frame"));
        }
        Ok(Self { recipient, client_msg_id, send })
    }

    fn into_append(self, ticket: Ticket, conversation: ConversationId, sender: (DeviceRef, u64), gate: Arc<Gate>, admission: Admission) -> Append {
        let (Self { recipient, client_msg_id, send }, (sender, epoch)) = (self, sender);
        Append {
            ticket,
            conversation,
            sender,
            epoch,
            recipient,
            client_msg_id,
            device_counter: send.device_counter,
            checkpoint: send.checkpoint,
            restart: send.restart,
            sender_list_version: send.sender_list_version,
            recipient_list_version: send.recipient_list_version,
            body: send.body,
            slices: send.slices,
            own_slices: send.own_slices,
            gate,
            admission,
            course: Course::default(),
        }
    }
}

fn check_slices(slices: &[v1::Slice]) -> Result<(), v1::Error> {
    if slices.len() > MAX_DEVICES {
        // No list names more. This also bounds the answer that says which ones are on no list.
        return Err(refusal::invalid("more slices than an account can have devices"));
    }
    if slices.iter().any(|s| s.device.len() != 16) {
        return Err(refusal::invalid("a slice's device is not 16 bytes"));
    }
    if slices.len() > 1 {
        let mut devices: Vec<&[u8]> = slices.iter().map(|s| &s.device[..]).collect();
        devices.sort_unstable();
        if devices.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(refusal::invalid("two slices for one device"));
        }
    }
    Ok(())
}
