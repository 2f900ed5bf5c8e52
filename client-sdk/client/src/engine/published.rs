//! What the engine shows to the rest of the process: the newest state of everything, never a queue.

use crate::model::{ConnectionState, Conversation, Presence, Typing};
use kith_proto::id::ConversationId;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;

/// The newest state. Cheap to clone; the engine's clone is dropped when it ends, which ends all subscriptions.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) connection: watch::Sender<ConnectionState>,
    pub(crate) conversations: watch::Sender<Arc<[Conversation]>>,
    pub(crate) typing: watch::Sender<Arc<[Typing]>>,
    pub(crate) presence: watch::Sender<Arc<[Presence]>>,
    /// The row of each conversation, and back.
    pub(crate) rows: watch::Sender<Arc<Rows>>,
    /// The number of the newest change to any entry; moves only after the change is durable.
    pub(crate) changes: watch::Sender<i64>,
    /// The id of the newest notice.
    pub(crate) notices: watch::Sender<i64>,
    /// Set when the engine has ended.
    pub(crate) ended: watch::Sender<bool>,
}

/// Which conversation lives in which row.
#[derive(Debug, Default, Clone)]
pub(crate) struct Rows {
    pub(crate) of: HashMap<ConversationId, i64>,
    pub(crate) id: HashMap<i64, ConversationId>,
}

impl Published {
    pub(crate) fn new() -> Self {
        Self {
            connection: watch::Sender::new(ConnectionState::Connecting),
            conversations: watch::Sender::new(Arc::from([])),
            typing: watch::Sender::new(Arc::from([])),
            presence: watch::Sender::new(Arc::from([])),
            rows: watch::Sender::new(Arc::default()),
            changes: watch::Sender::new(0),
            notices: watch::Sender::new(0),
            ended: watch::Sender::new(false),
        }
    }

    pub(crate) fn conversation(&self, id: ConversationId) -> Option<Conversation> {
        self.conversations.borrow().iter().find(|conversation| conversation.id == id).cloned()
    }

    pub(crate) fn conversation_with(&self, username: &str) -> Option<ConversationId> {
        let all = self.conversations.borrow();
        all.iter().find(|conversation| conversation.username.as_deref() == Some(username)).map(|conversation| conversation.id)
    }
}
