//! What encryption costs: session set-up on both sides, a message in a chain, a message with a ratchet step, and a whole
//! message composed and opened.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use kith_crypto::chain::{ChainOwner, ReceiverChain, SenderChain};
use kith_crypto::device::DeviceKeys;
use kith_crypto::identity::AccountIdentity;
use kith_crypto::incoming::{Envelope, FirstContact, Incoming, open};
use kith_crypto::log_hash::LogView;
use kith_crypto::outgoing::{Draft, Outgoing, Recipient, Sender, compose};
use kith_crypto::prekey::{PrekeyBundle, PrekeyId, PrekeySecret};
use kith_crypto::replay::ReplayMemory;
use kith_crypto::session_set::{Pair, SessionSet};
use kith_crypto::trusted_list::{Lineage, TrustedList};
use kith_crypto::{AccountId, ClientMsgId, ConversationId, DeviceId, Incarnation, ResponderPrekeys};
use rand::SeedableRng;
use rand::rngs::StdRng;

const NOW: u64 = 1_800_000_000_000;
const CONVERSATION: ConversationId = ConversationId::from_bytes([7; 16]);
/// With its 185 bytes of head this body fills the 512-byte bucket.
const BODY: [u8; 256] = [0x5a; 256];

struct Person {
    rng: StdRng,
    keys: DeviceKeys,
    list: TrustedList,
    chain: SenderChain,
    received: Vec<ReceiverChain>,
    prekeys: [PrekeySecret; 3],
    bundle: PrekeyBundle,
}

fn person(seed: u64) -> Person {
    let mut rng = StdRng::seed_from_u64(seed);
    let account = AccountIdentity::create(&mut rng, None);
    let device_id = DeviceId::random(&mut rng);
    let keys = DeviceKeys::random(&mut rng, device_id);
    let request = keys.request_certificate(account.account_id(), account.public(), 1);
    let certificate = account.certify(&request).unwrap();
    let list = account.sign_list(None, &[certificate], NOW);
    let strangers = |_: &DeviceId| None::<AccountId>;
    let lineage = Lineage::unrotated(&list);
    let list = TrustedList::first_contact(&lineage, &list, &[certificate], &strangers).unwrap();
    let id = |id| PrekeyId::from_wire(id).unwrap();
    let prekeys =
        [PrekeySecret::signed(&mut rng, id(1), NOW), PrekeySecret::one_time(&mut rng, id(2), NOW), PrekeySecret::kem_one_time(&mut rng, id(3), NOW)];
    let bundle = PrekeyBundle {
        signed: prekeys[0].signed_public(account.account_id(), &keys).unwrap(),
        one_time: prekeys[1].one_time_public(),
        kem: prekeys[2].signed_public(account.account_id(), &keys).unwrap(),
    };
    let owner =
        ChainOwner { conversation: CONVERSATION, account: account.account_id(), device: device_id, incarnation: Incarnation::random(&mut rng) };
    Person { rng, keys, list, chain: SenderChain::new(owner), received: Vec::new(), prekeys, bundle }
}

fn pair(of: &Person) -> Pair {
    Pair { conversation: CONVERSATION, account: of.list.account_id(), device: of.keys.device_id() }
}

fn draft() -> Draft<'static> {
    Draft { client_msg_id: ClientMsgId::from_bytes([1; 16]), kind: 1, view: LogView::empty(CONVERSATION), body: &BODY }
}

fn send(from: &mut Person, to: &Person, sessions: &mut SessionSet) -> Outgoing {
    let sender = Sender { keys: &from.keys, list: &from.list };
    let mut recipients = [Recipient { list: &to.list, sessions, bundle: None }];
    compose(&mut from.rng, sender, &mut from.chain, draft(), &mut recipients, NOW).unwrap()
}

/// Everything a sender does before its first message: verify the bundle, agree, seal.
fn send_first(from: &mut Person, to: &Person) -> (SessionSet, Outgoing) {
    let party = to.list.device(to.keys.device_id()).unwrap().party();
    let bundle = to.bundle.verify(&party, None).unwrap();
    let mut sessions = SessionSet::new(pair(to));
    let sender = Sender { keys: &from.keys, list: &from.list };
    let mut recipients = [Recipient { list: &to.list, sessions: &mut sessions, bundle: Some(&bundle) }];
    let mut chain = SenderChain::new(*from.chain.owner());
    let outgoing = compose(&mut from.rng, sender, &mut chain, draft(), &mut recipients, NOW).unwrap();
    from.chain = chain;
    (sessions, outgoing)
}

fn receive(by: &mut Person, from: &Person, sessions: &SessionSet, sent: &Outgoing) -> Incoming {
    let envelope = Envelope {
        conversation: CONVERSATION,
        account: from.list.account_id(),
        device: from.keys.device_id(),
        client_msg_id: sent.client_msg_id,
        versions: sent.slices[0].versions,
        slice: &sent.slices[0].bytes,
        body: &sent.body,
    };
    let replay = ReplayMemory::new();
    let [signed, one_time, kem] = &by.prekeys;
    let first = FirstContact {
        keys: &by.keys,
        own: &by.list,
        peer: &from.list,
        prekeys: ResponderPrekeys { signed, one_time: Some(one_time), kem },
        replay: &replay,
    };
    open(&mut by.rng, sessions, &by.received, Some(first), &envelope, NOW).unwrap()
}

/// Two people with a confirmed session.
fn acquainted() -> (Person, Person, SessionSet, SessionSet) {
    let (mut alice, mut bob) = (person(1), person(2));
    let (to_bob, first) = send_first(&mut alice, &bob);
    let mut to_alice = receive(&mut bob, &alice, &SessionSet::new(pair(&alice)), &first).sessions;
    let reply = send(&mut bob, &alice, &mut to_alice);
    let to_bob = receive(&mut alice, &bob, &to_bob, &reply).sessions;
    (alice, bob, to_bob, to_alice)
}

fn set_up(c: &mut Criterion) {
    let (mut alice, mut bob) = (person(1), person(2));
    c.bench_function("set-up, initiator (bundle verified, first message)", |b| {
        b.iter(|| send_first(&mut alice, &bob));
    });
    let (_, first) = send_first(&mut alice, &bob);
    let empty = SessionSet::new(pair(&alice));
    c.bench_function("set-up, responder (first message opened)", |b| {
        b.iter(|| receive(&mut bob, &alice, &empty, &first));
    });
}

fn in_chain(c: &mut Criterion) {
    let (mut alice, mut bob, mut to_bob, to_alice) = acquainted();
    send(&mut alice, &bob, &mut to_bob);
    c.bench_function("256 bytes in a chain, composed", |b| {
        b.iter(|| send(&mut alice, &bob, &mut to_bob));
    });
    let (mut alice, mut to_bob) = {
        let (alice, _, to_bob, _) = acquainted();
        (alice, to_bob)
    };
    let opens_chain = send(&mut alice, &bob, &mut to_bob);
    let to_alice = receive(&mut bob, &alice, &to_alice, &opens_chain).sessions;
    let sent = send(&mut alice, &bob, &mut to_bob);
    c.bench_function("256 bytes in a chain, opened", |b| {
        b.iter(|| receive(&mut bob, &alice, &to_alice, &sent));
    });
    c.bench_function("256 bytes in a chain, session stored", |b| {
        b.iter(|| to_alice.to_bytes());
    });
}

fn with_step(c: &mut Criterion) {
    let (mut alice, mut bob, to_bob, to_alice) = acquainted();
    let stored = to_bob.to_bytes();
    let load = || SessionSet::from_bytes(&stored, None).unwrap();
    c.bench_function("256 bytes with a ratchet step, composed", |b| {
        b.iter_batched_ref(load, |sessions| send(&mut alice, &bob, sessions), BatchSize::SmallInput);
    });
    let sent = send(&mut alice, &bob, &mut load());
    c.bench_function("256 bytes with a ratchet step, opened", |b| {
        b.iter(|| receive(&mut bob, &alice, &to_alice, &sent));
    });
}

criterion_group!(benches, set_up, in_chain, with_step);
criterion_main!(benches);
