//! What a person would see on a phone.

use super::World;
use crate::model::{Conversation, Entry, Notice};
use crate::store::Reader;
use crate::timeline;
use kith_proto::id::ConversationId;

impl World {
    fn reader(&self, at: usize) -> Reader {
        self.phones[at].engine.as_ref().unwrap().store.reader().unwrap()
    }

    pub(in crate::engine::tests) fn history(&self, at: usize, conversation: ConversationId) -> Vec<Entry> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let published = &self.phones[at].published;
        runtime.block_on(timeline::history(published, &self.reader(at), conversation, None, 5_000)).unwrap()
    }

    pub(in crate::engine::tests) fn texts(&self, at: usize, conversation: ConversationId) -> Vec<String> {
        self.history(at, conversation).iter().filter_map(|entry| entry.text().map(str::to_owned)).collect()
    }

    pub(in crate::engine::tests) fn notices(&self, at: usize) -> Vec<Notice> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut notices = timeline::notices(self.phones[at].published.clone(), self.reader(at), 0);
        runtime.block_on(async {
            let mut all = Vec::new();
            while let Ok(Some(notice)) = tokio::time::timeout(std::time::Duration::from_millis(200), notices.next()).await {
                all.push(notice);
            }
            all
        })
    }

    pub(in crate::engine::tests) fn shown(&self, at: usize, id: ConversationId) -> Conversation {
        self.phones[at].published.conversation(id).unwrap()
    }
}
