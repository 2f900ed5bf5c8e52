//! Composing a message: one body, one slice per addressed device (§4).
//!
//! Everything that [`compose`] changes (the sender's chain, the session sets) must be committed together with what it
//! gives, *before* any of it is sent. A retry sends the same bytes; it never composes again.

use crate::chain::{CounterExhausted, SenderChain};
use crate::content::{ContentHead, KIND_CHECKPOINT};
use crate::device::DeviceKeys;
use crate::handshake::HandshakeError;
use crate::handshake::initiator::Freshness;
use crate::id::{AccountId, ClientMsgId, DeviceId};
use crate::log_hash::LogView;
use crate::message::{BodyAddress, SlicePlaintext, seal_body};
use crate::padding::TooLong;
use crate::prekey::VerifiedBundle;
use crate::ratchet::session::{ListVersions, SealError};
use crate::secret::{Secret, random_array};
use crate::session_set::SessionSet;
use crate::trusted_list::{ListError, TrustedList};
use rand_core::CryptoRng;
use thiserror::Error;

/// Why a message could not be composed. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ComposeError {
    /// The content is longer than one message holds.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The sender's counter is used up.
    #[error(transparent)]
    CounterExhausted(#[from] CounterExhausted),
    /// A recipient is not on its account's newest list.
    #[error("recipient: {0}")]
    Recipient(#[from] ListError),
    /// The chain, a session set and a bundle are not all of this conversation and these devices.
    #[error("the states given do not belong together")]
    Mismatched,
    /// A recipient has no active session and no bundle was given: fetch one.
    #[error("recipient {0} has no session and no bundle was given")]
    NeedsBundle(usize),
    /// A session could not be begun.
    #[error("handshake: {0}")]
    Handshake(#[from] HandshakeError),
    /// A slice could not be sealed.
    #[error("slice: {0}")]
    Seal(#[from] SealError),
}

/// The sending device.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// Its private keys.
    pub keys: &'a DeviceKeys,
    /// Its own account's list.
    pub list: &'a TrustedList,
}

/// One addressed device.
#[derive(Debug)]
pub struct Recipient<'a> {
    /// The newest list of its account.
    pub list: &'a TrustedList,
    /// Its sessions with this device. The pair says which device it is.
    pub sessions: &'a mut SessionSet,
    /// Begin a new session from this bundle; needed when there is no active one, or to repair a broken one.
    pub bundle: Option<&'a VerifiedBundle>,
}

/// What is to be said.
#[derive(Clone, Copy)]
pub struct Draft<'a> {
    /// The sender's name for the message, fresh for every message.
    pub client_msg_id: ClientMsgId,
    /// What the body is; [`KIND_CHECKPOINT`] stands outside the chain.
    pub kind: u8,
    /// The last log entry seen.
    pub view: LogView,
    /// The body: protobuf, hashed as it is.
    pub body: &'a [u8],
}

impl core::fmt::Debug for Draft<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Draft").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// A composed message, to be committed and then sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The sender's name for the message.
    pub client_msg_id: ClientMsgId,
    /// Whether it is to be marked as a checkpoint in the clear (§9.35).
    pub checkpoint: bool,
    /// Its place in the sender's chain.
    pub k: u64,
    /// The hash of its content; edits and deletions name it.
    pub c_k: [u8; 32],
    /// The body, the same for all.
    pub body: Vec<u8>,
    /// A slice per addressed device.
    pub slices: Vec<OutgoingSlice>,
}

/// The slice for one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingSlice {
    /// The account.
    pub account: AccountId,
    /// The device.
    pub device: DeviceId,
    /// The slice.
    pub bytes: Vec<u8>,
    /// The list versions to name beside it, if it is a first message.
    pub versions: Option<ListVersions>,
    /// What to tell the sender, if a session was begun.
    pub freshness: Option<Freshness>,
    /// Whether the skipped half of this recipient's sessions changed and has to be written too: beginning a session may
    /// erase an old one.
    pub skipped_changed: bool,
}

/// Composes a message. Draws, in this order: 32 bytes of content key, 16 of salt, then for each recipient what its
/// handshake (64) and its slice need.
///
/// # Errors
/// [`ComposeError`]; then neither chain nor sessions have changed.
pub fn compose<R: CryptoRng + ?Sized>(
    rng: &mut R,
    sender: Sender<'_>,
    chain: &mut SenderChain,
    draft: Draft<'_>,
    recipients: &mut [Recipient<'_>],
    now_ms: u64,
) -> Result<Outgoing, ComposeError> {
    check(sender, chain, recipients)?;
    let content_key = Secret::random(rng);
    let head = content_head(rng, sender, chain, draft)?;
    let ContentHead { conversation, client_msg_id, incarnation, k, .. } = head;
    let address = BodyAddress { conversation, device: sender.keys.device_id(), client_msg_id };
    let (body, c_k) = seal_body(&content_key, address, &head, draft.body)?;
    let checkpoint = draft.kind == KIND_CHECKPOINT;
    // A checkpoint takes no place in the chain: the next message is the first that a new device is addressed with.
    let first_k = if checkpoint { k.saturating_add(1) } else { k };
    let mut plaintext = SlicePlaintext { content_key, c_k, since: 0, list_hash: [0; 32] };
    let mut slices = Vec::with_capacity(recipients.len());
    let mut advanced = Vec::with_capacity(recipients.len());
    for recipient in &*recipients {
        let mut sessions = recipient.sessions.working_copy();
        plaintext.since = sessions.address(incarnation, first_k);
        plaintext.list_hash = *recipient.list.hash();
        slices.push(seal_for(rng, sender, recipient, &mut sessions, &plaintext, now_ms)?);
        advanced.push(sessions);
    }
    for (recipient, sessions) in recipients.iter_mut().zip(advanced) {
        *recipient.sessions = sessions;
    }
    *chain = chain.moved(draft.kind, &c_k);
    Ok(Outgoing { client_msg_id, checkpoint, k, c_k, body, slices })
}

fn check(sender: Sender<'_>, chain: &SenderChain, recipients: &[Recipient<'_>]) -> Result<(), ComposeError> {
    let owner = chain.owner();
    if owner.account != sender.list.account_id() || owner.device != sender.keys.device_id() {
        return Err(ComposeError::Mismatched);
    }
    for (i, recipient) in recipients.iter().enumerate() {
        let pair = recipient.sessions.pair();
        if pair.conversation != owner.conversation || pair.account != recipient.list.account_id() {
            return Err(ComposeError::Mismatched);
        }
        let device = recipient.list.device(pair.device)?;
        match recipient.bundle {
            Some(bundle) if *bundle.device() != device.party() => {
                return Err(ComposeError::Mismatched);
            }
            None if !recipient.sessions.has_active() => return Err(ComposeError::NeedsBundle(i)),
            _ => {}
        }
    }
    Ok(())
}

fn content_head<R: CryptoRng + ?Sized>(
    rng: &mut R,
    sender: Sender<'_>,
    chain: &SenderChain,
    draft: Draft<'_>,
) -> Result<ContentHead, CounterExhausted> {
    let (k, prev) = chain.place(draft.kind)?;
    Ok(ContentHead {
        conversation: chain.owner().conversation,
        incarnation: chain.owner().incarnation,
        k,
        prev,
        client_msg_id: draft.client_msg_id,
        salt: random_array(rng),
        view: draft.view,
        list_version: sender.list.version(),
        list_hash: *sender.list.hash(),
        kind: draft.kind,
    })
}

fn seal_for<R: CryptoRng + ?Sized>(
    rng: &mut R,
    sender: Sender<'_>,
    recipient: &Recipient<'_>,
    sessions: &mut SessionSet,
    plaintext: &SlicePlaintext,
    now_ms: u64,
) -> Result<OutgoingSlice, ComposeError> {
    let versions = ListVersions { sender: sender.list.version(), recipient: recipient.list.version() };
    let generation = sessions.skipped_generation();
    let freshness = match recipient.bundle {
        Some(bundle) => Some(sessions.begin(rng, sender.keys, sender.list, bundle, versions, now_ms)?),
        None => None,
    };
    let sealed = sessions.seal(rng, plaintext, now_ms)?;
    let pair = sessions.pair();
    Ok(OutgoingSlice {
        account: pair.account,
        device: pair.device,
        bytes: sealed.bytes,
        versions: sealed.versions,
        freshness,
        skipped_changed: sessions.skipped_generation() != generation,
    })
}
