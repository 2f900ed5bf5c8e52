//! Deterministic randomness and two or more people for the tests of this crate.

use crate::ResponderPrekeys;
use crate::chain::{ChainOwner, ReceiverChain, SenderChain};
use crate::device::DeviceKeys;
use crate::id::{AccountId, ClientMsgId, ConversationId, DeviceId, Incarnation};
use crate::identity::AccountIdentity;
use crate::incoming::{Envelope, FirstContact, Incoming, IncomingError, open};
use crate::log_hash::LogView;
use crate::outgoing::{ComposeError, Draft, Outgoing, Recipient, Sender, compose};
use crate::prekey::{PrekeyBundle, PrekeyId, PrekeySecret, VerifiedBundle};
use crate::ratchet::header::{PrekeyIds, Slice};
use crate::replay::ReplayMemory;
use crate::session_set::{Pair, Route, SessionSet};
use crate::trusted_list::{Lineage, TrustedList};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// A day in the life of the tests, in Unix milliseconds.
pub(crate) const NOW: u64 = 1_800_000_000_000;
pub(crate) const CONVERSATION: ConversationId = ConversationId::from_bytes([7; 16]);

/// A reproducible generator.
pub(crate) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// Nobody else is known.
pub(crate) fn strangers(_: &DeviceId) -> Option<AccountId> {
    None
}

/// Prekeys of one device as its store keeps them.
pub(crate) struct Prekeys {
    pub(crate) signed: PrekeySecret,
    pub(crate) one_time: Option<PrekeySecret>,
    pub(crate) kem: PrekeySecret,
}

/// Somebody with one device, as seen by that device.
pub(crate) struct Person {
    pub(crate) rng: StdRng,
    pub(crate) account: AccountIdentity,
    pub(crate) keys: DeviceKeys,
    pub(crate) list: TrustedList,
    pub(crate) chain: SenderChain,
    pub(crate) received: Vec<ReceiverChain>,
    pub(crate) replay: ReplayMemory,
    pub(crate) prekeys: Prekeys,
    next_id: u128,
}

/// A message on its way.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) from: (AccountId, DeviceId),
    pub(crate) outgoing: Outgoing,
}

impl Person {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = rng(seed);
        let account = AccountIdentity::create(&mut rng, None);
        let device_id = DeviceId::random(&mut rng);
        let keys = DeviceKeys::random(&mut rng, device_id);
        let request = keys.request_certificate(account.account_id(), account.public(), 1);
        let certificate = account.certify(&request).unwrap();
        let signed_list = account.sign_list(None, &[certificate], NOW);
        let lineage = Lineage::unrotated(&signed_list);
        let list = TrustedList::first_contact(&lineage, &signed_list, &[certificate], &strangers).unwrap();
        let owner =
            ChainOwner { conversation: CONVERSATION, account: account.account_id(), device: device_id, incarnation: Incarnation::random(&mut rng) };
        let id = PrekeyId::FIRST;
        let prekeys = Prekeys {
            signed: PrekeySecret::signed(&mut rng, id, NOW),
            one_time: Some(PrekeySecret::one_time(&mut rng, id.next().unwrap(), NOW)),
            kem: PrekeySecret::kem_one_time(&mut rng, id.next().unwrap().next().unwrap(), NOW),
        };
        let chain = SenderChain::new(owner);
        Self { rng, account, keys, list, chain, received: vec![], replay: ReplayMemory::new(), prekeys, next_id: 0 }
    }

    /// The server ran out of one-time keys: what is left is the last-resort KEM key.
    pub(crate) fn exhaust_one_time(&mut self) {
        self.prekeys.one_time = None;
        self.prekeys.kem = PrekeySecret::kem_last_resort(&mut self.rng, PrekeyId::from_wire(9).unwrap(), NOW);
    }

    pub(crate) fn bundle(&self) -> PrekeyBundle {
        let account = self.account.account_id();
        PrekeyBundle {
            signed: self.prekeys.signed.signed_public(account, &self.keys).unwrap(),
            one_time: self.prekeys.one_time.as_ref().and_then(PrekeySecret::one_time_public),
            kem: self.prekeys.kem.signed_public(account, &self.keys).unwrap(),
        }
    }

    pub(crate) fn verified_bundle(&self) -> VerifiedBundle {
        let party = self.list.device(self.keys.device_id()).unwrap().party();
        self.bundle().verify(&party, None).unwrap()
    }

    pub(crate) fn sessions_with(&self, peer: &Self) -> SessionSet {
        let (account, device) = (peer.account.account_id(), peer.keys.device_id());
        SessionSet::new(Pair { conversation: CONVERSATION, account, device })
    }

    pub(crate) fn try_send(
        &mut self,
        sessions: &mut SessionSet,
        to: &Self,
        bundle: Option<&VerifiedBundle>,
        kind: u8,
        body: &[u8],
        now_ms: u64,
    ) -> Result<Sent, ComposeError> {
        self.next_id += 1;
        let client_msg_id = ClientMsgId::from_bytes(self.next_id.to_be_bytes());
        let draft = Draft { client_msg_id, kind, view: LogView::empty(CONVERSATION), body };
        let sender = Sender { keys: &self.keys, list: &self.list };
        let mut recipients = [Recipient { list: &to.list, sessions, bundle }];
        let outgoing = compose(&mut self.rng, sender, &mut self.chain, draft, &mut recipients, now_ms)?;
        Ok(Sent { from: (self.account.account_id(), self.keys.device_id()), outgoing })
    }

    /// Sends, fetching a bundle if there is no session yet.
    pub(crate) fn send(&mut self, sessions: &mut SessionSet, to: &Self, body: &[u8]) -> Sent {
        self.send_at(sessions, to, body, NOW)
    }

    pub(crate) fn send_at(&mut self, sessions: &mut SessionSet, to: &Self, body: &[u8], now_ms: u64) -> Sent {
        let bundle = (!sessions.has_active()).then(|| to.verified_bundle());
        self.try_send(sessions, to, bundle.as_ref(), 1, body, now_ms).unwrap()
    }

    /// Opens without committing anything.
    pub(crate) fn try_open(&mut self, sessions: &SessionSet, from: &Self, envelope: &Envelope<'_>, now_ms: u64) -> Result<Incoming, IncomingError> {
        let slice = Slice::parse(envelope.slice)?;
        let named = |ids: PrekeyIds| {
            let one_time = ids.one_time.and(self.prekeys.one_time.as_ref());
            ResponderPrekeys { signed: &self.prekeys.signed, one_time, kem: &self.prekeys.kem }
        };
        let first = match sessions.route(&slice) {
            Route::FirstContact(ids) => {
                Some(FirstContact { keys: &self.keys, own: &self.list, peer: &from.list, prekeys: named(ids), replay: &self.replay })
            }
            Route::Known | Route::Unknown => None,
        };
        open(&mut self.rng, sessions, &self.received, first, envelope, now_ms)
    }

    /// Opens and commits.
    pub(crate) fn receive(&mut self, sessions: &mut SessionSet, from: &Self, sent: &Sent) -> Result<Incoming, IncomingError> {
        self.receive_at(sessions, from, sent, NOW)
    }

    pub(crate) fn receive_at(&mut self, sessions: &mut SessionSet, from: &Self, sent: &Sent, now_ms: u64) -> Result<Incoming, IncomingError> {
        let mut incoming = self.try_open(sessions, from, &sent.envelope(), now_ms)?;
        let pair = *sessions.pair();
        core::mem::swap(sessions, &mut incoming.sessions);
        assert_eq!(*sessions.pair(), pair);
        if let Ok(message) = &incoming.message
            && let Some(chain) = &message.chain
        {
            self.received.retain(|known| known.owner() != chain.owner());
            self.received.push(chain.clone());
        }
        if let Some(first) = &incoming.first_contact {
            self.replay = first.replay.clone();
        }
        Ok(incoming)
    }
}

impl Sent {
    pub(crate) fn slice(&self) -> &[u8] {
        &self.outgoing.slices[0].bytes
    }

    pub(crate) fn envelope(&self) -> Envelope<'_> {
        Envelope {
            conversation: CONVERSATION,
            account: self.from.0,
            device: self.from.1,
            client_msg_id: self.outgoing.client_msg_id,
            versions: self.outgoing.slices[0].versions,
            slice: self.slice(),
            body: &self.outgoing.body,
        }
    }
}

/// The body of an opened message.
pub(crate) fn text(incoming: Result<Incoming, IncomingError>) -> Vec<u8> {
    incoming.unwrap().message.unwrap().content.body.to_vec()
}

/// A fresh copy of a set, as a store would give it back.
pub(crate) fn reload(sessions: &SessionSet) -> SessionSet {
    SessionSet::from_bytes(&sessions.to_bytes(), Some(&sessions.skipped_to_bytes())).unwrap()
}
