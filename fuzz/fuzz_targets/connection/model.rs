//! What the log holds, and which answer fits which request.

use std::collections::{BTreeSet, VecDeque};

use kith_chat_core::log::{AbsentRange, ConnectError, Connected, Entry, Page, PageLimit, Payload, State};
use kith_gateway::connection::ConnectFailure;
use kith_proto::{
    id::{AccountId, ClientMsgId, ConversationId, DeviceRef},
    v1,
    v1::{client_frame as asked, server_frame as said},
};

/// A conversation as the log has it, and what this device was sent of it.
#[derive(Default)]
pub(crate) struct Conversation {
    pub(crate) head: u64,
    pub(crate) cursor: u64,
    pub(crate) delivered: BTreeSet<u64>,
    /// Requests whose answers are owed, in order.
    pub(crate) sends: VecDeque<u64>,
}

impl Conversation {
    /// A run of it, with bodies of these lengths at even and odd places. Every seventh place holds nothing for this device.
    pub(crate) fn page(&self, sender: DeviceRef, after: u64, limit: PageLimit, bodies: [usize; 2]) -> Page {
        let (mut entries, mut absent, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut seq = after;
        while seq < self.head && entries.len() + absent.len() < limit.entries && (bytes == 0 || bytes < limit.bytes) {
            seq += 1;
            if seq % 7 == 0 {
                absent.push(AbsentRange { from: seq, to: seq, reason: v1::AbsentReason::Expired });
                continue;
            }
            let body = bodies[usize::try_from(seq % 2).expect("small")];
            bytes += body + 60;
            entries.push(Entry {
                seq,
                at_ms: 1,
                sender,
                client_msg_id: ClientMsgId([3; 16]),
                checkpoint: false,
                sender_list_version: 1,
                recipient_list_version: 1,
                payload: Payload::Sealed { body: vec![0; body].into(), slice: vec![0; 60].into() },
            });
        }
        Page { absent, entries, head: self.head }
    }

    /// Where it stands.
    pub(crate) fn state(&self, conversation: ConversationId, peer: AccountId) -> State {
        State {
            conversation,
            head: self.head,
            first: 1,
            cursor: self.cursor,
            own_read: 0,
            peer,
            peer_delivered: 0,
            peer_read: 0,
            mutual: self.head % 2 == 0,
        }
    }
}

/// Whether this answers that.
pub(crate) fn fits(request: &asked::Kind, answer: &said::Kind) -> bool {
    use asked::Kind as Asked;
    use said::Kind as Said;
    match (request, answer) {
        (_, Said::Error(_)) => true,
        (Asked::Hello(_), Said::Welcome(_)) | (Asked::Page(_), Said::Page(_)) | (Asked::GetConversations(_), Said::Conversations(_)) => true,
        (Asked::Ping(_), Said::Pong(_)) => true,
        (Asked::Send(send), Said::Accepted(accepted)) => send.client_msg_id == accepted.client_msg_id,
        (Asked::Ack(_) | Asked::Read(_) | Asked::Typing(_) | Asked::WatchPresence(_) | Asked::SetPresence(_) | Asked::Renew(_), Said::Done(_)) => {
            true
        }
        _ => false,
    }
}

/// Whether the log takes the device.
pub(crate) fn connect(fails: u8) -> Result<Connected, ConnectFailure> {
    match fails {
        0 => Ok(Connected { device_counter: 0, previous_epoch: 0, device_list_version: 1, one_time_left: (0, 100) }),
        1 => Err(ConnectFailure::Refused(ConnectError::StaleStore { known: 9 })),
        2 => Err(ConnectFailure::Cut(v1::ErrorCode::Replaced)),
        _ => Err(ConnectFailure::Refused(ConnectError::Revoked)),
    }
}
