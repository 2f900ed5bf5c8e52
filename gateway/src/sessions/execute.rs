//! Does what a connection asks for and says what came of it.

use std::{future::Future, pin::Pin, sync::Arc};

use kith_chat_core::log::{ConnectError, Connected, LogError};
use kith_proto::{
    id::{AccountId, ConversationId, DeviceRef},
    v1,
    v1::server_frame::Kind,
};
use tokio::time::timeout;

use super::{Session, Sessions};
use crate::{
    cluster::Entered,
    connection::{ConnectFailure, Done, Op},
};

/// The operation as a future that owns all it needs.
pub(crate) fn execute(sessions: Arc<Sessions>, session: Arc<Session>, op: Op) -> Pin<Box<dyn Future<Output = Done> + Send>> {
    match op {
        // There is one for each message, and it needs a fraction of the memory that the others may need.
        Op::Acknowledge { request, cursors } => Box::pin(async move { sessions.acknowledge(session.device(), request, cursors).await }),
        op => Box::pin(async move { sessions.execute(&session, op).await }),
    }
}

impl Sessions {
    async fn execute(&self, session: &Arc<Session>, op: Op) -> Done {
        let device = session.device();
        match op {
            Op::Connect { request, epoch } => Done::Connect { request, result: self.connect(session, epoch).await },
            Op::Heads => Done::Heads(self.within(self.log.behind(&[device])).await),
            Op::GoLive { force } => Done::Live { clean: session.go_live(force) },
            Op::CatchUp { conversation, after, head, limit } => {
                Done::CatchUp { conversation, result: self.within(self.log.catch_up(device, conversation, after, head, limit)).await }
            }
            Op::Acknowledge { request, cursors } => self.acknowledge(device, request, cursors).await,
            Op::Read { request, conversation, seq } => {
                let moved = self.within(self.log.mark_read(device, conversation, seq)).await;
                Done::Plain { request, result: moved.map(|moved| self.courier.moved(moved.into_iter().collect())) }
            }
            Op::Page { request, conversation, after, limit } => {
                Done::Page { request, conversation, result: self.within(self.log.page(device, conversation, after, limit)).await }
            }
            Op::States { request, conversations } => Done::States { request, result: self.within(self.log.states(device, &conversations)).await },
            Op::Watch { request, accounts } => Done::Watch { request, result: self.within(self.watch(session, &accounts)).await },
            Op::SetPresence { request, hidden } => Done::Plain { request, result: self.within(self.hide(device.account, hidden)).await },
            Op::Typing { request, conversation, peer, active } => {
                Done::Plain { request, result: self.within(self.typing(device.account, conversation, peer, active)).await }
            }
        }
    }

    async fn acknowledge(&self, device: DeviceRef, request: u64, cursors: Vec<(ConversationId, u64)>) -> Done {
        let result = self.within(self.log.acknowledge(device, &cursors)).await.map(|moved| self.courier.moved(moved));
        Done::Acknowledge { request, cursors, result }
    }

    async fn connect(&self, session: &Session, epoch: u64) -> Result<Connected, ConnectFailure> {
        let connected = match timeout(self.shared.settings.log_deadline, self.log.connect(session.device(), epoch)).await {
            Ok(connected) => connected.map_err(ConnectFailure::Refused)?,
            Err(_) => return Err(ConnectFailure::Refused(ConnectError::Log(overdue()))),
        };
        self.establish(session, epoch).map_err(ConnectFailure::Cut)?;
        if let Some(cluster) = &self.cluster {
            // Others find it before it reads its heads, so that nothing falls between. Those that have just looked may not have heard of it yet: hence the check.
            if cluster.enter(session.device(), epoch).await == Entered::Replaced {
                return Err(ConnectFailure::Cut(v1::ErrorCode::Replaced));
            }
            session.check_soon();
        }
        Ok(connected)
    }

    /// Passed on only between accounts that have both sent; dropped without a word otherwise.
    async fn typing(&self, from: AccountId, conversation: ConversationId, peer: AccountId, active: bool) -> Result<(), LogError> {
        if !self.courier.knows_mutual(conversation) {
            if self.log.mutual(from, &[peer]).await?.is_empty() {
                return Ok(());
            }
            self.courier.note_mutual(conversation);
        }
        self.tell(peer, &Kind::PeerTyping(v1::PeerTyping { conversation: conversation.to_bytes(), account: from.to_bytes(), active }));
        Ok(())
    }

    pub(super) async fn within<T>(&self, operation: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
        timeout(self.shared.settings.log_deadline, operation).await.unwrap_or_else(|_| Err(overdue()))
    }
}

fn overdue() -> LogError {
    LogError::Unavailable("no answer in time".into())
}
