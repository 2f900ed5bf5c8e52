//! The engine without a network, for the benchmark: texts in, frames out, every commit real. Not part of the interface.

use crate::builder::Registration;
use crate::engine::{Command, Engine, Fetch, FetchAnswer, Input, Parts, Published};
use crate::error::OpenError;
use crate::fault::FaultHook;
use crate::statements::{AccountHistory, Step};
use crate::store::Store;
use crate::{ClientMsgId, ConversationId, start};
use kith_crypto::device::SignedCertificate;
use kith_crypto::device_list::SignedDeviceList;
use kith_proto::id::{AccountId, DeviceId};
use kith_proto::rest::{Bundle, Bundles, KeysState, PrekeyUpload};
use kith_proto::v1::{self, client_frame, server_frame};
use std::path::Path;
use tokio::sync::{mpsc, oneshot};

const NOW: u64 = 1_800_000_000_000;

/// A sender with one peer, whose server accepts everything at once.
pub struct Sending {
    engine: Engine,
    frames: mpsc::Receiver<v1::ClientFrame>,
    peer: Peer,
    conversation: ConversationId,
    seq: u64,
}

impl std::fmt::Debug for Sending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sending")
    }
}

struct Peer {
    account: AccountId,
    device: DeviceId,
    history: AccountHistory,
    stock: PrekeyUpload,
}

/// An account made in a folder: its history, its public prekeys, and its store.
fn account(home: &Path, name: &str) -> Result<(Store, Peer), OpenError> {
    let mut store = Store::create(home, None)?;
    let prepared = start::prepare(&mut store, &Registration::new(name), "http://127.0.0.1:7400".to_owned(), NOW)?;
    let unreadable = |_| OpenError::Damaged("registration".to_owned());
    let list = SignedDeviceList::from_bytes(&prepared.me.list).map_err(unreadable)?;
    let certificate = SignedCertificate::from_bytes(&prepared.me.certificate).map_err(unreadable)?;
    let id = |bytes: &[u8]| bytes.try_into().map_err(|_| OpenError::Damaged("id".to_owned()));
    let peer = Peer {
        account: AccountId(id(&prepared.me.account)?),
        device: DeviceId(id(&prepared.me.device)?),
        history: AccountHistory { newest_version: 1, steps: vec![Step::List(list, vec![certificate])], leaves: Vec::new(), username: None },
        stock: prepared.upload,
    };
    Ok((start::confirm(store)?, peer))
}

impl Sending {
    /// Makes two accounts under `folder` and a session between them.
    ///
    /// # Errors
    /// [`OpenError`] if the stores cannot be made.
    pub fn new(folder: &Path) -> Result<Self, OpenError> {
        let (store, me) = account(&folder.join("alice"), "alice")?;
        let (_, peer) = account(&folder.join("bob"), "bob")?;
        let engine = Engine::load(Parts { store, published: Published::new(), fault: FaultHook::default(), now_ms: NOW })?;
        let (sender, frames) = mpsc::channel(4_096);
        let conversation = ConversationId::direct(me.account, peer.account);
        let mut sending = Self { engine, frames, peer, conversation, seq: 0 };
        let welcome = v1::Welcome {
            account: me.account.to_bytes(),
            device: me.device.to_bytes(),
            device_list_version: 1,
            limits: Some(v1::Limits { max_sends_in_flight: 64, max_page: 100, ..v1::Limits::default() }),
            ..v1::Welcome::default()
        };
        sending.round(vec![Input::Welcome { connection: 1, welcome: Box::new(welcome), frames: sender }]);
        let (reply, _answer) = oneshot::channel();
        let history = sending.peer.history.clone();
        let meet = Command::Meet { account: sending.peer.account, username: "bob".to_owned(), history, reply };
        sending.round(vec![Input::Command(meet)]);
        sending.send(1, "first");
        Ok(sending)
    }

    /// The engine by itself.
    #[cfg(fuzzing)]
    pub(crate) fn into_engine(self) -> Engine {
        self.engine
    }

    /// Sends so many texts in one round of the engine and has them accepted in another; gives how many were accepted.
    pub fn send(&mut self, count: usize, text: &str) -> usize {
        let command = || {
            let (reply, _) = oneshot::channel();
            Input::Command(Command::SendText { conversation: self.conversation, text: text.to_owned().into(), reply })
        };
        let commands = (0..count).map(|_| command()).collect();
        self.round(commands);
        let mut accepted = Vec::new();
        while let Ok(frame) = self.frames.try_recv() {
            let Some(client_frame::Kind::Send(send)) = frame.kind else { continue };
            self.seq += 1;
            let message = ClientMsgId::try_from(send.client_msg_id.as_ref()).map_or_else(|_| Vec::new(), |id| id.0.to_vec());
            let kind = v1::Accepted { client_msg_id: message.into(), seq: self.seq, at_ms: NOW, duplicate: false };
            let frame = v1::ServerFrame { id: frame.id, kind: Some(server_frame::Kind::Accepted(kind)) };
            accepted.push(Input::Frame { connection: 1, frame: Box::new(frame) });
        }
        let count = accepted.len();
        self.round(accepted);
        count
    }

    fn round(&mut self, inputs: Vec<Input>) {
        let mut inputs = inputs;
        loop {
            let fetches = self.engine.round(inputs, NOW);
            if fetches.is_empty() {
                return;
            }
            inputs = fetches.into_iter().map(|fetch| self.answer(fetch)).collect();
        }
    }

    fn answer(&mut self, fetch: Fetch) -> Input {
        let stock = &mut self.peer.stock;
        let answer = match (&fetch, stock.signed.clone(), stock.one_time_kem.pop()) {
            (Fetch::Bundles { .. }, Some(signed), Some(kem)) => {
                let bundle = Bundle { device: self.peer.device, signed, kem_kind: 2, kem, one_time: stock.one_time.pop(), limited: false };
                FetchAnswer::Bundles(Bundles { account: self.peer.account, list_version: 1, bundles: vec![bundle] })
            }
            (Fetch::Lists { .. }, ..) => FetchAnswer::Lists(self.peer.history.clone()),
            _ => FetchAnswer::Keys(KeysState {
                one_time: 100,
                one_time_kem: 100,
                signed_id: 1,
                signed_created_ms: NOW,
                last_resort_kem_id: 2,
                last_resort_kem_created_ms: NOW,
                highest_id: 102,
            }),
        };
        Input::Fetched { fetch, answer: Ok(answer) }
    }
}
