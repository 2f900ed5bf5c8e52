//! What the fuzz targets share: a conversation whose states and messages they damage.

mod plan;

pub use plan::Plan;

use kith_crypto::{
    ClientMsgId, ConversationId, DeviceId, Incarnation, ListVersions,
    chain::{ChainOwner, ReceiverChain, SenderChain},
    device::DeviceKeys,
    identity::AccountIdentity,
    incoming::{Envelope, FirstContact, Incoming, IncomingError, open},
    log_hash::LogView,
    outgoing::{Draft, Recipient, Sender, compose},
    prekey::{PrekeyBundle, PrekeyId, PrekeySecret},
    replay::ReplayMemory,
    session_set::{Pair, SessionSet},
    trusted_list::{Lineage, TrustedList},
};
use rand::{SeedableRng as _, rngs::StdRng};

/// When everything happens.
pub const NOW: u64 = 1_800_000_000_000;
/// Where.
pub const CONVERSATION: ConversationId = ConversationId::from_bytes([7; 16]);

/// Randomness that is the same in every run, so that an input fails the same way again.
#[must_use]
pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// One side.
pub struct Person {
    pub account: AccountIdentity,
    pub keys: DeviceKeys,
    pub list: TrustedList,
    pub chain: SenderChain,
    pub signed: PrekeySecret,
    pub one_time: PrekeySecret,
    pub kem: PrekeySecret,
}

impl Person {
    fn new(seed: u64) -> Self {
        let mut rng = rng(seed);
        let account = AccountIdentity::create(&mut rng, None);
        let device = DeviceId::random(&mut rng);
        let keys = DeviceKeys::random(&mut rng, device);
        let certificate = account.certify(&keys.request_certificate(account.account_id(), account.public(), 1)).expect("own request");
        let signed_list = account.sign_list(None, &[certificate], NOW);
        let strangers = |_: &DeviceId| None;
        let list = TrustedList::first_contact(&Lineage::unrotated(&signed_list), &signed_list, &[certificate], &strangers).expect("own list");
        let incarnation = Incarnation::random(&mut rng);
        let chain = SenderChain::new(ChainOwner { conversation: CONVERSATION, account: account.account_id(), device, incarnation });
        let id = |n: u32| (1..n).fold(PrekeyId::FIRST, |id, _| id.next().expect("small"));
        let signed = PrekeySecret::signed(&mut rng, id(1), NOW);
        let one_time = PrekeySecret::one_time(&mut rng, id(2), NOW);
        let kem = PrekeySecret::kem_one_time(&mut rng, id(3), NOW);
        Self { account, keys, list, chain, signed, one_time, kem }
    }

    fn sessions_with(&self, other: &Self) -> SessionSet {
        SessionSet::new(Pair { conversation: CONVERSATION, account: other.account.account_id(), device: other.keys.device_id() })
    }
}

/// A message on its way.
#[derive(Clone)]
pub struct Message {
    pub id: ClientMsgId,
    pub versions: Option<ListVersions>,
    pub slice: Vec<u8>,
    pub body: Vec<u8>,
}

/// Alice has written to Bob three times; he has taken the first, answered, and not yet taken the others.
pub struct Scene {
    pub alice: Person,
    pub bob: Person,
    /// Bob before anything came.
    pub fresh: SessionSet,
    /// Bob after the first message.
    pub known: SessionSet,
    pub chains: Vec<ReceiverChain>,
    pub replay: ReplayMemory,
    /// The first message, an ordinary one of the same chain, and one two further on.
    pub first: Message,
    pub second: Message,
    pub later: Message,
}

impl Scene {
    /// Plays it.
    #[must_use]
    pub fn new() -> Self {
        let (mut alice, mut bob) = (Person::new(1), Person::new(2));
        let mut to_bob = alice.sessions_with(&bob);
        let fresh = bob.sessions_with(&alice);
        let first = send(&mut alice, &bob, &mut to_bob, 1);
        let mut scene_replay = ReplayMemory::new();
        let taken = {
            let contact = contact(&alice, &bob, &scene_replay);
            open(&mut rng(3), &fresh, &[], Some(contact), &envelope(&alice, &first), NOW).expect("the first message opens")
        };
        let mut known = taken.sessions;
        let chains = taken.message.expect("its body is good").chain.into_iter().collect::<Vec<_>>();
        scene_replay = taken.first_contact.expect("a session began").replay;
        // Bob's answer confirms the session, so that Alice's next messages are ordinary ones.
        let answer = send(&mut bob, &alice, &mut known, 2);
        let answered = open(&mut rng(4), &to_bob, &[], None, &envelope(&bob, &answer), NOW).expect("the answer opens");
        to_bob = answered.sessions;
        let second = send(&mut alice, &bob, &mut to_bob, 3);
        send(&mut alice, &bob, &mut to_bob, 4);
        let later = send(&mut alice, &bob, &mut to_bob, 5);
        Self { alice, bob, fresh, known, chains, replay: scene_replay, first, second, later }
    }

    /// Opens a message as Bob. `known`: with the session that the first message began.
    ///
    /// # Errors
    /// Whatever is wrong with the message.
    pub fn open(&self, known: bool, message: &Message) -> Result<Incoming, IncomingError> {
        if known {
            return self.open_with(&self.known, message);
        }
        let nothing = ReplayMemory::new();
        open(&mut rng(5), &self.fresh, &[], Some(contact(&self.alice, &self.bob, &nothing)), &envelope(&self.alice, message), NOW)
    }

    /// Opens a message as Bob with these sessions.
    ///
    /// # Errors
    /// Whatever is wrong with the message or the sessions.
    pub fn open_with(&self, sessions: &SessionSet, message: &Message) -> Result<Incoming, IncomingError> {
        let contact = contact(&self.alice, &self.bob, &self.replay);
        open(&mut rng(5), sessions, &self.chains, Some(contact), &envelope(&self.alice, message), NOW)
    }
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}

fn contact<'a>(alice: &'a Person, bob: &'a Person, replay: &'a ReplayMemory) -> FirstContact<'a> {
    let prekeys = kith_crypto::ResponderPrekeys { signed: &bob.signed, one_time: Some(&bob.one_time), kem: &bob.kem };
    FirstContact { keys: &bob.keys, own: &bob.list, peer: &alice.list, prekeys, replay }
}

fn envelope<'a>(from: &Person, message: &'a Message) -> Envelope<'a> {
    Envelope {
        conversation: CONVERSATION,
        account: from.account.account_id(),
        device: from.keys.device_id(),
        client_msg_id: message.id,
        versions: message.versions,
        slice: &message.slice,
        body: &message.body,
    }
}

fn send(from: &mut Person, to: &Person, sessions: &mut SessionSet, n: u8) -> Message {
    let account = to.account.account_id();
    let bundle = PrekeyBundle {
        signed: to.signed.signed_public(account, &to.keys).expect("a signed prekey"),
        one_time: to.one_time.one_time_public(),
        kem: to.kem.signed_public(account, &to.keys).expect("a KEM prekey"),
    };
    let party = to.list.device(to.keys.device_id()).expect("listed").party();
    let bundle = bundle.verify(&party, None).expect("own signatures");
    let bundle = (!sessions.has_active()).then_some(&bundle);
    let id = ClientMsgId::from_bytes([n; 16]);
    let draft = Draft { client_msg_id: id, kind: 1, view: LogView::empty(CONVERSATION), body: b"hello" };
    let sender = Sender { keys: &from.keys, list: &from.list };
    let mut recipients = [Recipient { list: &to.list, sessions, bundle }];
    let sent = compose(&mut rng(100 + u64::from(n)), sender, &mut from.chain, draft, &mut recipients, NOW).expect("composes");
    Message { id, versions: sent.slices[0].versions, slice: sent.slices[0].bytes.to_vec(), body: sent.body.to_vec() }
}

/// Damages bytes as `plan` says: each four bytes of it are an offset (u16), what to do, and a value. Returns whether anything is different now.
pub fn damage(bytes: &mut Vec<u8>, plan: &[u8]) -> bool {
    let before = bytes.clone();
    for step in plan.as_chunks::<4>().0 {
        let at = usize::from(u16::from_be_bytes([step[0], step[1]]));
        match step[2] % 4 {
            0 | 1 if !bytes.is_empty() => {
                let at = at % bytes.len();
                bytes[at] = step[3];
            }
            2 => bytes.truncate(at),
            _ => bytes.insert(at.min(bytes.len()), step[3]),
        }
    }
    *bytes != before
}

/// Whether two sealed values end in the same sixteen bytes.
#[must_use]
pub fn same_tag(one: &[u8], other: &[u8]) -> bool {
    matches!((one.last_chunk::<16>(), other.last_chunk::<16>()), (Some(one), Some(other)) if one == other)
}
