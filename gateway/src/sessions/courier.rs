//! Watermarks and presence, gathered for some milliseconds and pushed to the other member's live devices: a receipt per message would cost as much as the message.

use std::{collections::HashMap, sync::Arc};

use kith_chat_core::{domain::IdSet, log::Moved};
use kith_proto::{
    id::{AccountId, ConversationId, DeviceRef},
    v1,
    v1::server_frame::Kind,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Sessions, presence::Change};

/// Conversations remembered as mutual. When there are more, all are forgotten: it only costs asking the log again.
const MAX_MUTUAL: usize = 200_000;
/// Watermarks in one frame.
const MAX_ITEMS: usize = 256;
/// Conversations that have become mutual and wait to be told. Beyond them a client learns the watermarks when they move.
const MAX_NEWLY_MUTUAL: usize = 10_000;
/// Changes of presence that wait to be told. Beyond them watchers learn the next one.
const MAX_PRESENCE: usize = 100_000;

/// What waits to be pushed.
#[derive(Debug, Default)]
pub(super) struct Courier {
    moved: Mutex<HashMap<(ConversationId, AccountId), Moved>>,
    newly_mutual: Mutex<Vec<(ConversationId, [AccountId; 2])>>,
    mutual: Mutex<IdSet<ConversationId>>,
    presence: Mutex<Vec<Change>>,
    work: Notify,
    presence_work: Notify,
}

impl Courier {
    /// Watermarks that an acknowledgement has moved.
    pub(super) fn moved(&self, moved: Vec<Moved>) {
        let mut any = false;
        for moved in moved.into_iter().filter(|m| m.mutual) {
            any = true;
            let mut waiting = self.moved.lock();
            let known = waiting.entry((moved.conversation, moved.account)).or_insert(moved);
            known.delivered = known.delivered.max(moved.delivered);
            known.read = known.read.max(moved.read);
        }
        if any {
            self.work.notify_one();
        }
    }

    pub(super) fn knows_mutual(&self, conversation: ConversationId) -> bool {
        self.mutual.lock().contains(&conversation)
    }

    pub(super) fn note_mutual(&self, conversation: ConversationId) {
        let mut mutual = self.mutual.lock();
        if mutual.len() >= MAX_MUTUAL {
            mutual.clear();
        }
        mutual.insert(conversation);
    }

    /// Both have sent now, as far as this process knows for the first time.
    pub(super) fn became_mutual(&self, conversation: ConversationId, a: AccountId, b: AccountId) {
        self.note_mutual(conversation);
        let mut waiting = self.newly_mutual.lock();
        if waiting.len() < MAX_NEWLY_MUTUAL {
            waiting.push((conversation, [a, b]));
            self.work.notify_one();
        }
    }

    pub(super) fn presence(&self, change: Change) {
        let mut waiting = self.presence.lock();
        if waiting.len() < MAX_PRESENCE {
            waiting.push(change);
            self.presence_work.notify_one();
        }
    }
}

impl Sessions {
    /// Runs for as long as the process serves.
    pub(super) async fn carry(self: Arc<Self>) {
        loop {
            self.courier.work.notified().await;
            tokio::time::sleep(self.shared.settings.receipts_every).await;
            let moved = std::mem::take(&mut *self.courier.moved.lock());
            self.push_moved(moved.into_values());
            let mutual = std::mem::take(&mut *self.courier.newly_mutual.lock());
            self.push_first_watermarks(&mutual).await;
        }
    }

    /// The same for presence, by itself: it asks the accounts, and ticks must not wait for them.
    pub(super) async fn carry_presence(self: Arc<Self>) {
        loop {
            self.courier.presence_work.notified().await;
            tokio::time::sleep(self.shared.settings.receipts_every).await;
            let changes = std::mem::take(&mut *self.courier.presence.lock());
            self.push_presence(changes).await;
        }
    }

    fn push_moved(&self, moved: impl Iterator<Item = Moved>) {
        let mut by_peer: HashMap<AccountId, Vec<v1::Watermark>> = HashMap::new();
        for moved in moved {
            let Moved { conversation, account, peer, delivered, read, .. } = moved;
            let watermark = v1::Watermark { conversation: conversation.to_bytes(), account: account.to_bytes(), delivered, read };
            by_peer.entry(peer).or_default().push(watermark);
        }
        for (peer, items) in by_peer {
            watermarks(&items).for_each(|watermarks| self.tell(peer, &watermarks));
        }
    }

    /// Receipts flow from the moment both have sent: what moved before is told now.
    async fn push_first_watermarks(&self, mutual: &[(ConversationId, [AccountId; 2])]) {
        let mut by_device: HashMap<DeviceRef, Vec<ConversationId>> = HashMap::new();
        for (conversation, members) in mutual {
            for member in members {
                let device = self.directory.of(member, |sessions| sessions.iter().find(|s| s.is_established()).map(|s| s.device()));
                if let Some(device) = device {
                    by_device.entry(device).or_default().push(*conversation);
                }
            }
        }
        for (device, conversations) in by_device {
            // A failure is not repeated: the watermarks are told again when they move, and a client can ask.
            let Ok(states) = self.within(self.log.states(device, &conversations)).await else { continue };
            let seen = states.iter().filter(|s| s.mutual && (s.peer_delivered > 0 || s.peer_read > 0));
            let items: Vec<_> = seen
                .map(|s| v1::Watermark {
                    conversation: s.conversation.to_bytes(),
                    account: s.peer.to_bytes(),
                    delivered: s.peer_delivered,
                    read: s.peer_read,
                })
                .collect();
            // Another gateway at which the account has devices has heard of the message as well.
            watermarks(&items).for_each(|watermarks| self.tell_here(device.account, None, &watermarks));
        }
    }
}

/// In frames that are not too large.
fn watermarks(items: &[v1::Watermark]) -> impl Iterator<Item = Kind> + '_ {
    items.chunks(MAX_ITEMS).map(|items| Kind::Watermarks(v1::Watermarks { items: items.to_vec() }))
}
