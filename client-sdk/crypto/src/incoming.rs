//! Opening a message: slice, body, chain, and what follows from them (§4, §9.14, §9.16, §9.22, §9.23).
//!
//! [`open`] changes nothing. It gives the states as they are afterwards; commit them in one transaction with the message,
//! then put them in the old ones' place.

use crate::bytes::FormatError;
use crate::chain::{ChainOwner, ReceiverChain, Verdict};
use crate::content::Content;
use crate::device::DeviceKeys;
use crate::handshake::HandshakeError;
use crate::handshake::responder::{ResponderPrekeys, accept};
use crate::id::{AccountId, ClientMsgId, ConversationId, DeviceId};
use crate::message::{BodyAddress, BodyError, SlicePlaintext, open_body};
use crate::prekey::PrekeyId;
use crate::ratchet::header::Slice;
use crate::ratchet::session::{ListVersions, OpenError};
use crate::replay::ReplayMemory;
use crate::session_set::{NewSession, OpenedSlice, Route, SessionSet};
use crate::trusted_list::{ListError, TrustedList};
use rand_core::CryptoRng;
use thiserror::Error;

/// A message as the server delivered it.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// The conversation.
    pub conversation: ConversationId,
    /// The account it is said to come from.
    pub account: AccountId,
    /// The device it is said to come from.
    pub device: DeviceId,
    /// The sender's name for it.
    pub client_msg_id: ClientMsgId,
    /// The list versions named beside a first message.
    pub versions: Option<ListVersions>,
    /// This device's slice.
    pub slice: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

/// What opening a first message needs beyond the sessions.
#[derive(Debug, Clone, Copy)]
pub struct FirstContact<'a> {
    /// This device's private keys.
    pub keys: &'a DeviceKeys,
    /// This account's newest list.
    pub own: &'a TrustedList,
    /// The sender account's newest list.
    pub peer: &'a TrustedList,
    /// The private prekeys that the slice names.
    pub prekeys: ResponderPrekeys<'a>,
    /// The first messages accepted from the sender's device.
    pub replay: &'a ReplayMemory,
}

/// Why a message could not be opened. Nothing has changed, and nothing may be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IncomingError {
    /// The slice is malformed.
    #[error("slice: {0}")]
    Malformed(#[from] FormatError),
    /// The envelope names another sender or conversation than the sessions belong to.
    #[error("the envelope does not fit the session")]
    SenderMismatch,
    /// The slice begins a session, and nothing was given to answer it with.
    #[error("the slice begins a session and no prekeys were given")]
    NeedsPrekeys,
    /// A first message does not name the list versions it was made with.
    #[error("the first message names no list versions")]
    NeedsVersions,
    /// The sender, or this device, is not on the list that a first message needs.
    #[error("device list: {0}")]
    List(#[from] ListError),
    /// The session could not be begun.
    #[error("handshake: {0}")]
    Handshake(#[from] HandshakeError),
    /// The slice does not open.
    #[error("slice: {0}")]
    Open(#[from] OpenError),
    /// The body of a first message is bad, so its session does not begin.
    #[error("first body: {0}")]
    FirstBody(BodyError),
}

/// An opened message and the states to commit with it.
#[derive(Debug)]
pub struct Incoming {
    /// The sessions from now on. Always to be committed.
    pub sessions: SessionSet,
    /// Whether the skipped half of the sessions changed and has to be written too.
    pub skipped_changed: bool,
    /// What the slice said of this device's addressing.
    pub addressing: Addressing,
    /// The content, or why the body is bad. A bad body is an event; the sessions are committed all the same.
    pub message: Result<OpenedMessage, BodyError>,
    /// What else to commit if a session began.
    pub first_contact: Option<AcceptedFirst>,
}

/// What the sender believed about this device and its account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addressing {
    /// The first k of the sender's incarnation that was addressed to this device.
    pub since: u64,
    /// The hash of this account's list that the sender used; another than the own one needs an explanation.
    pub list_hash: [u8; 32],
}

/// A good body and its place in the sender's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedMessage {
    /// The content.
    pub content: Content,
    /// Its hash.
    pub c_k: [u8; 32],
    /// Whose chain it belongs to.
    pub owner: ChainOwner,
    /// What it means for that chain.
    pub verdict: Verdict,
    /// The chain from now on, if it moved.
    pub chain: Option<ReceiverChain>,
}

/// What a session that began changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedFirst {
    /// The memory from now on.
    pub replay: ReplayMemory,
    /// One-time prekeys that are used up: delete their private parts in the same transaction.
    pub used_up: Vec<PrekeyId>,
}

/// Opens a message. `chains` are the chains known of the sender's device in this conversation, one per incarnation.
/// `first` is needed if [`SessionSet::route`] says so. Draws 32 bytes only if a post-quantum offer is answered.
///
/// # Errors
/// [`IncomingError`]; then nothing may be committed.
pub fn open<R: CryptoRng + ?Sized>(
    rng: &mut R,
    sessions: &SessionSet,
    chains: &[ReceiverChain],
    first: Option<FirstContact<'_>>,
    envelope: &Envelope<'_>,
    now_ms: u64,
) -> Result<Incoming, IncomingError> {
    let pair = sessions.pair();
    if (pair.conversation, pair.account, pair.device) != (envelope.conversation, envelope.account, envelope.device) {
        return Err(IncomingError::SenderMismatch);
    }
    let slice = Slice::parse(envelope.slice)?;
    match sessions.route(&slice) {
        Route::Known => Ok(open_known(sessions.open(rng, &slice, now_ms)?, chains, envelope)),
        Route::Unknown => Err(OpenError::UnknownSession.into()),
        Route::FirstContact(_) => {
            let first = first.ok_or(IncomingError::NeedsPrekeys)?;
            open_first(sessions, chains, first, envelope, &slice, now_ms)
        }
    }
}

fn open_known(opened: OpenedSlice, chains: &[ReceiverChain], envelope: &Envelope<'_>) -> Incoming {
    let message = open_message(&opened.plaintext, chains, envelope);
    incoming(opened, message, None)
}

fn incoming(opened: OpenedSlice, message: Result<OpenedMessage, BodyError>, first_contact: Option<AcceptedFirst>) -> Incoming {
    let addressing = Addressing { since: opened.plaintext.since, list_hash: opened.plaintext.list_hash };
    Incoming { sessions: opened.next, skipped_changed: opened.skipped_changed, addressing, message, first_contact }
}

fn open_first(
    sessions: &SessionSet,
    chains: &[ReceiverChain],
    first: FirstContact<'_>,
    envelope: &Envelope<'_>,
    slice: &Slice<'_>,
    now_ms: u64,
) -> Result<Incoming, IncomingError> {
    let versions = envelope.versions.ok_or(IncomingError::NeedsVersions)?;
    if first.peer.account_id() != envelope.account {
        return Err(IncomingError::SenderMismatch);
    }
    let peer = first.peer.party_at(envelope.device, versions.sender)?;
    let own = first.own.party_at(first.keys.device_id(), versions.recipient)?;
    let accepted = accept(first.keys, &own, &peer, envelope.conversation, slice, first.prekeys, first.replay)?;
    let new = sessions.open_first(&accepted, slice, now_ms)?;
    let message = open_message(&new.plaintext, chains, envelope).map_err(IncomingError::FirstBody)?;
    let highest = chains.iter().find(|chain| *chain.owner() == message.owner).map_or(0, ReceiverChain::k);
    let accepted = accepted_first(&new, first);
    let opened = sessions.joined(new, message.content.head.k >= highest, now_ms);
    Ok(incoming(opened, Ok(message), Some(accepted)))
}

fn accepted_first(new: &NewSession, first: FirstContact<'_>) -> AcceptedFirst {
    let mut used_up: Vec<PrekeyId> = new.ids.one_time.into_iter().collect();
    if first.prekeys.kem.is_one_time() {
        used_up.push(new.ids.kem);
    }
    AcceptedFirst { replay: first.replay.with(new.th, new.ids.signed), used_up }
}

fn open_message(slice: &SlicePlaintext, chains: &[ReceiverChain], envelope: &Envelope<'_>) -> Result<OpenedMessage, BodyError> {
    let Envelope { conversation, account, device, client_msg_id, .. } = *envelope;
    let content = open_body(slice, BodyAddress { conversation, device, client_msg_id }, envelope.body)?;
    let owner = ChainOwner { conversation, account, device, incarnation: content.head.incarnation };
    let known = chains.iter().find(|chain| *chain.owner() == owner);
    let (verdict, chain) = ReceiverChain::judge(known, owner, &content.head, &slice.c_k, slice.since);
    Ok(OpenedMessage { content, c_k: slice.c_k, owner, verdict, chain })
}

#[cfg(test)]
mod tests;
