//! What the app asks of the engine, and the way there.

use crate::error::{CallError, RequestError};
use crate::model::{EntryId, SafetyNumber};
use crate::statements::AccountHistory;
use crate::store::records::AccountRecord;
use kith_crypto::device::CertificateRequest;
use kith_crypto::sign::VerifyingKey;
use kith_proto::id::{AccountId, ConversationId, DeviceId};
use kith_proto::rest::{PrekeyUpload, PublishListRequest};
use tokio::sync::{mpsc, oneshot, watch};
use zeroize::Zeroizing;

use super::Input;

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<T>;

/// What a new device of this account has to know of it.
pub(crate) struct OwnAccount {
    pub(crate) account: kith_crypto::AccountId,
    pub(crate) identity: VerifyingKey,
    /// The version of the list that will name it first.
    pub(crate) next_version: u64,
}

/// A device that was certified: what is to be published, and the account as the new device may pin it once that is done.
pub(crate) struct Enrolled {
    pub(crate) publication: PublishListRequest,
    pub(crate) record: AccountRecord,
}

/// A call of the app. It is answered after what it changed is durable.
pub(crate) enum Command {
    SendText { conversation: ConversationId, text: Zeroizing<String>, reply: Reply<Result<EntryId, CallError>> },
    MarkRead { conversation: ConversationId, seq: u64, reply: Reply<Result<(), CallError>> },
    SetTyping { conversation: ConversationId, active: bool, reply: Reply<Result<(), CallError>> },
    Accept { conversation: ConversationId, reply: Reply<Result<(), CallError>> },
    SafetyNumber { conversation: ConversationId, reply: Reply<Result<SafetyNumber, CallError>> },
    SetVerified { conversation: ConversationId, verified: bool, reply: Reply<Result<(), CallError>> },
    Meet { account: AccountId, username: String, history: AccountHistory, reply: Reply<Result<ConversationId, RequestError>> },
    SignListWithout { device: DeviceId, reply: Reply<Result<PublishListRequest, RequestError>> },
    DescribeOwn { reply: Reply<Result<OwnAccount, RequestError>> },
    SignListWith { request: Box<CertificateRequest>, prekeys: Box<PrekeyUpload>, reply: Reply<Result<Enrolled, RequestError>> },
    RefreshOwnList { reply: Reply<Result<(), CallError>> },
    SetPresence { hidden: bool, reply: Reply<Result<(), RequestError>> },
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Command")
    }
}

/// The way to the engine: a bounded queue, so that an app that asks faster than the disk answers waits.
#[derive(Clone, Debug)]
pub(crate) struct EngineHandle {
    inputs: mpsc::Sender<Input>,
    ended: watch::Receiver<bool>,
}

/// The engine has ended.
#[derive(Debug)]
pub(crate) struct Ended;

impl EngineHandle {
    pub(crate) fn new(inputs: mpsc::Sender<Input>, ended: watch::Receiver<bool>) -> Self {
        Self { inputs, ended }
    }

    pub(crate) async fn send(&self, command: Command) -> Result<(), Ended> {
        self.inputs.send(Input::Command(command)).await.map_err(|_| Ended)
    }

    /// Waits until the engine has ended and its files are closed.
    pub(crate) async fn joined(&self) {
        let mut ended = self.ended.clone();
        let _ = ended.wait_for(|ended| *ended).await;
    }
}
