//! Kith's end-to-end encryption as values: what goes in comes out changed, and nothing else happens.
//!
//! **What it is.** The encryption specification's keys and signed device lists (§1), PQXDH with ML-KEM-768 (§2), the Double
//! Ratchet with a periodic post-quantum step (§3), bodies, slices, hash chains and checkpoints (§4), the seals of the store
//! (§5) and padding (§6), to the byte (§9).
//!
//! **What it is not.** No IO, no async, no clock, no storage, no ambient randomness: callers pass `rng` first and `now_ms`
//! (Unix milliseconds) last. It does not know the server's frames and depends on no other crate of ours. MLS groups (§7)
//! are not here.
//!
//! **When things fail.** An error means that nothing changed and nothing is to be committed. The one exception is spelled
//! out in a type: [`incoming::Incoming::message`] may be a bad body in a good slice, whose session state is committed all
//! the same. Randomness is infallible by type: wrap the system's source in `rand_core::UnwrapErr`, so that its failure aborts the
//! operation before anything exists that could be sent. Secrets are wiped on drop, are compared in constant time and do
//! not show in `Debug`.
//!
//! # What to commit with what
//!
//! - [`outgoing::compose`] changes the sender's chain and the recipients' session sets. Commit both with the
//!   [`outgoing::Outgoing`] in one transaction, *then* send; a retry sends the same bytes. If the commit fails, read the
//!   states back from the store.
//! - [`incoming::open`] changes nothing and gives the states afterwards. Commit them with the message and its cursor, then put
//!   them in the old ones' place. A session that began also gives the new replay memory and the one-time prekeys to delete.
//! - A session set is stored in two halves: [`session_set::SessionSet::to_bytes`] (some 400 bytes) with every message, the
//!   skipped keys only when `skipped_changed` of [`incoming::Incoming`] or [`outgoing::OutgoingSlice`] says so.
//! - Every state reads back with `from_bytes`, which checks kind, version and damage: an unreadable state is an error,
//!   never a fresh start.
//!
//! # A whole exchange
//!
//! ```
//! use kith_crypto::chain::{ChainOwner, SenderChain, Verdict};
//! use kith_crypto::device::{DeviceKeys, SignedCertificate};
//! use kith_crypto::identity::AccountIdentity;
//! use kith_crypto::incoming::{Envelope, FirstContact, open};
//! use kith_crypto::log_hash::LogView;
//! use kith_crypto::outgoing::{Draft, Recipient, Sender, compose};
//! use kith_crypto::prekey::{PrekeyBundle, PrekeyId, PrekeySecret};
//! use kith_crypto::replay::ReplayMemory;
//! use kith_crypto::session_set::{Pair, Route, SessionSet};
//! use kith_crypto::trusted_list::{Lineage, TrustedList};
//! use kith_crypto::{AccountId, ClientMsgId, ConversationId, DeviceId, Incarnation, ResponderPrekeys, Slice};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut rng = rand_core::UnwrapErr(rand::rngs::SysRng);
//! let now = 1_800_000_000_000;
//! let conversation = ConversationId::from_bytes([7; 16]);
//!
//! // Each side: an account, its first device, the certificate and the signed list. (A recovery key was declined here.)
//! let mut register = || -> Result<_, Box<dyn std::error::Error>> {
//!     let account = AccountIdentity::create(&mut rng, None);
//!     let device_id = DeviceId::random(&mut rng);
//!     let device = DeviceKeys::random(&mut rng, device_id);
//!     let request = device.request_certificate(account.account_id(), account.public(), 1);
//!     let certificate = account.certify(&request)?;
//!     let list = account.sign_list(None, &[certificate], now);
//!     Ok((device, certificate, list))
//! };
//! let (alice, alice_certificate, alice_list) = register()?;
//! let (bob, bob_certificate, bob_list) = register()?;
//!
//! // Nobody believes a list before verifying it; a device can be addressed only through a verified list.
//! let no_others = |_: &DeviceId| None::<AccountId>;
//! let alice_list = TrustedList::first_contact(&Lineage::unrotated(&alice_list), &alice_list, &[alice_certificate], &no_others)?;
//! let bob_list = TrustedList::first_contact(&Lineage::unrotated(&bob_list), &bob_list, &[bob_certificate], &no_others)?;
//!
//! // Bob leaves prekeys with the server.
//! let signed = PrekeySecret::signed(&mut rng, PrekeyId::FIRST, now);
//! let one_time = PrekeySecret::one_time(&mut rng, PrekeyId::FIRST.next()?, now);
//! let kem = PrekeySecret::kem_one_time(&mut rng, one_time.id().next()?, now);
//! let bundle = PrekeyBundle {
//!     signed: signed.signed_public(bob_list.account_id(), &bob).ok_or("a signed key")?,
//!     one_time: one_time.one_time_public(),
//!     kem: kem.signed_public(bob_list.account_id(), &bob).ok_or("a signed key")?,
//! };
//!
//! // Alice writes first.
//! let bob_device = bob_list.device(bob.device_id())?;
//! let bundle = bundle.verify(&bob_device.party(), None)?;
//! let pair = Pair { conversation, account: bob_list.account_id(), device: bob.device_id() };
//! let mut to_bob = SessionSet::new(pair);
//! let incarnation = Incarnation::random(&mut rng);
//! let owner = ChainOwner { conversation, account: alice_list.account_id(), device: alice.device_id(), incarnation };
//! let mut alice_chain = SenderChain::new(owner);
//! let sender = Sender { keys: &alice, list: &alice_list };
//! let draft = Draft {
//!     client_msg_id: ClientMsgId::from_bytes([1; 16]),
//!     kind: 1,
//!     view: LogView::empty(conversation),
//!     body: b"hello",
//! };
//! let mut recipients = [Recipient { list: &bob_list, sessions: &mut to_bob, bundle: Some(&bundle) }];
//! let sent = compose(&mut rng, sender, &mut alice_chain, draft, &mut recipients, now)?;
//! // ... commit `alice_chain`, `to_bob` and `sent`, then send ...
//!
//! // Bob receives: the slice begins a session, so he looks up the prekeys it names.
//! let envelope = Envelope {
//!     conversation,
//!     account: alice_list.account_id(),
//!     device: alice.device_id(),
//!     client_msg_id: sent.client_msg_id,
//!     versions: sent.slices[0].versions,
//!     slice: &sent.slices[0].bytes,
//!     body: &sent.body,
//! };
//! let from_alice = SessionSet::new(Pair { account: envelope.account, device: envelope.device, ..pair });
//! let Route::FirstContact(ids) = from_alice.route(&Slice::parse(envelope.slice)?) else { panic!("no first message") };
//! assert_eq!((ids.signed, ids.one_time, ids.kem), (signed.id(), Some(one_time.id()), kem.id()));
//! let first = FirstContact {
//!     keys: &bob,
//!     own: &bob_list,
//!     peer: &alice_list,
//!     prekeys: ResponderPrekeys { signed: &signed, one_time: Some(&one_time), kem: &kem },
//!     replay: &ReplayMemory::new(),
//! };
//! let received = open(&mut rng, &from_alice, &[], Some(first), &envelope, now)?;
//! let message = received.message?;
//! assert_eq!(message.content.body.as_slice(), b"hello");
//! assert_eq!(message.verdict, Verdict::InOrder);
//! let began = received.first_contact.ok_or("a session began")?;
//! assert_eq!(began.used_up, [one_time.id(), kem.id()]);
//! // ... commit `received.sessions`, `message.chain`, `began.replay`, delete `began.used_up`, store the message ...
//! let mut to_alice = received.sessions;
//!
//! // Bob answers without a bundle, and Alice's session is confirmed.
//! let owner = ChainOwner { conversation, account: bob_list.account_id(), device: bob.device_id(), incarnation };
//! let mut bob_chain = SenderChain::new(owner);
//! let sender = Sender { keys: &bob, list: &bob_list };
//! let mut recipients = [Recipient { list: &alice_list, sessions: &mut to_alice, bundle: None }];
//! let answer = compose(&mut rng, sender, &mut bob_chain, Draft { body: b"hi", ..draft }, &mut recipients, now)?;
//! let envelope = Envelope {
//!     conversation,
//!     account: bob_list.account_id(),
//!     device: bob.device_id(),
//!     client_msg_id: answer.client_msg_id,
//!     versions: answer.slices[0].versions,
//!     slice: &answer.slices[0].bytes,
//!     body: &answer.body,
//! };
//! let received = open(&mut rng, &to_bob, &[], None, &envelope, now)?;
//! assert_eq!(received.message?.content.body.as_slice(), b"hi");
//! assert!(received.sessions.is_confirmed());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation))]

mod aead;
mod bytes;
pub mod chain;
pub mod checkpoint;
pub mod content;
pub mod device;
pub mod device_list;
mod handshake;
mod hash;
pub mod id;
pub mod identity;
pub mod incoming;
pub mod kem;
pub mod log_hash;
pub mod login;
pub mod message;
pub mod outgoing;
pub mod padding;
pub mod prekey;
mod ratchet;
pub mod repair;
pub mod replay;
pub mod safety_number;
pub mod seal;
mod secret;
pub mod session_set;
pub mod sign;
pub mod trusted_list;
pub mod x25519;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod vectors;

pub use bytes::{FormatError, StateError};
pub use handshake::initiator::Freshness;
pub use handshake::responder::ResponderPrekeys;
pub use handshake::{HANDSHAKE_VERSION, HandshakeError};
pub use id::{AccountId, ClientMsgId, ConversationId, DeviceId, Incarnation};
pub use ratchet::header::{FIRST_SLICE_LEN, Header, ORDINARY_SLICE_LEN, PQ_SLICE_LEN, PrekeyIds, SessionId, Slice, SliceType};
pub use ratchet::session::{ListVersions, OpenError, SealError};
pub use ratchet::{MAX_JUMP, MAX_RECEIVING_CHAINS, MAX_SKIPPED, MIX_AFTER_MESSAGES, MIX_AFTER_MS, SKIPPED_LIFETIME_MS};
pub use secret::Secret;
