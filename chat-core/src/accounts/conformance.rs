//! What every implementation of [`Accounts`] must do.

#[path = "../../tests/support/owner.rs"]
pub(super) mod owner;
pub(super) mod races;
pub(super) mod revocations;

use std::{collections::HashSet, sync::Arc};

use kith_proto::id::{DeviceId, DeviceRef};

use self::owner::{Certificate, Device, Owner, Statement, seed};
use super::{
    Accounts, AccountsError, BundleRequest, NewDevice, NewLogin, PrekeyCaps, Publication, Refresh, Registered, Registration, SpentChallenge,
};
use crate::domain::{
    Rate, Username,
    device_list::{self, AccountState},
    prekeys::{KEM_KEY, Kind, Prekey, VerifiedPrekeys},
    statement::{Signed, SignedCertificate},
};

/// Before what any machine's clock shows, since some things are also kept until then.
pub(super) const NOW: u64 = 1_700_000_000_000;
const DAY: u64 = 86_400_000;
const PLENTY: Rate = Rate { capacity: 1_000, per_minute: 1_000 };
pub(super) const CAPS: PrekeyCaps = PrekeyCaps { one_time: 50, one_time_kem: 50 };

/// Makes one `#[tokio::test]` of each rule; `$make` gives fresh accounts and whatever must outlive them.
macro_rules! suite {
    ($make:expr) => {
        $crate::accounts::conformance::suite!($make;
            registers_once, a_name_has_one_owner, concurrent_registrations_of_a_name_have_one_winner, an_invite_works_once, an_invite_ends,
            a_failed_registration_keeps_the_invite, finds_users_by_exact_name, a_device_id_of_another_account_is_refused,
            publishes_the_next_list, concurrent_lists_have_one_winner, a_revoked_device_can_do_nothing, a_revoked_id_never_comes_back,
            a_device_leaves, a_device_that_left_meanwhile_is_a_conflict, rotates, a_rotation_with_a_used_challenge_changes_nothing, history_pages, a7_each_one_time_key_once_also_under_concurrency,
            a7_beyond_the_limits_only_the_last_resort, prekey_ids_only_grow, unused_prekeys_are_capped, refresh_tokens_rotate,
            a_lost_refresh_answer_can_be_asked_again, a_copied_refresh_token_ends_the_login, logins_per_device_are_bounded, a_challenge_opens_one_login,
            presence_is_kept, a_secret_is_made_once, purge_deletes_what_has_ended);
    };
    ($make:expr; $($name:ident),* $(,)?) => {$(
        #[tokio::test]
        async fn $name() {
            let (accounts, _guard) = $make.await;
            $crate::accounts::conformance::$name(accounts).await;
        }
    )*};
}
pub(super) use suite;

pub(super) type Store = Arc<dyn Accounts>;

fn signed(statement: Statement) -> Signed {
    Signed { bytes: statement.0, signature: statement.1 }
}

fn certificate(certificate: Certificate) -> SignedCertificate {
    SignedCertificate { bytes: certificate.0, aik_signature: certificate.1, accept_signature: certificate.2 }
}

pub(super) fn prekey(device: &Device, kind: Kind, id: u32) -> Prekey {
    let key = vec![u8::try_from(id % 251).unwrap(); if matches!(kind, Kind::OneTime | Kind::Signed) { 32 } else { KEM_KEY }];
    let signature = if kind == Kind::OneTime { [0; 64] } else { device.prekey(kind as u8, id, NOW, &key) };
    Prekey { kind, id, created_ms: if kind == Kind::OneTime { 0 } else { NOW }, key, signature }
}

/// Signed and last-resort keys 1 and 2, then `count` of either one-time kind.
fn first_keys(device: &Device, count: u32) -> VerifiedPrekeys {
    let mut keys = vec![prekey(device, Kind::Signed, 1), prekey(device, Kind::LastResortKem, 2)];
    keys.extend((3..3 + count).map(|id| prekey(device, Kind::OneTime, id)));
    keys.extend((3 + count..3 + 2 * count).map(|id| prekey(device, Kind::OneTimeKem, id)));
    VerifiedPrekeys::verify_first(device.at, &device.key.verifying_key().to_bytes(), keys).unwrap()
}

pub(super) fn more_keys(device: &Device, keys: Vec<Prekey>) -> VerifiedPrekeys {
    VerifiedPrekeys::verify(device.at, &device.key.verifying_key().to_bytes(), keys).unwrap()
}

fn new_device(device: &Device, one_time: u32) -> NewDevice {
    NewDevice { prekeys: first_keys(device, one_time), name: Some("phone".to_owned()) }
}

pub(super) fn login(name: &str) -> NewLogin {
    let mut family = [0; 16];
    family.copy_from_slice(&seed(name)[..16]);
    let challenge = SpentChallenge { id: family, until_ms: NOW + DAY };
    NewLogin { family, token: seed(&format!("{name}/token")), expires_ms: NOW + 30 * DAY, challenge }
}

fn registration(owner: &Owner, device: &Device, username: &str, one_time: u32) -> Registration {
    let mut owner = owner.clone();
    let certificates = vec![certificate(owner.certificate(device))];
    let list = device_list::first(signed(owner.next_list(&[device])), certificates).unwrap();
    let login = login(&format!("{username} {}", device.at.device));
    Registration { username: Username::parse(username).unwrap(), list, first: new_device(device, one_time), invite: None, login }
}

/// An account with one device.
pub(super) async fn account(store: &Store, name: &str, one_time: u32) -> (Owner, Device) {
    let mut owner = Owner::new(name);
    let device = owner.device(name);
    let registration = registration(&owner, &device, name, one_time);
    assert_eq!(store.register(registration, NOW).await.unwrap(), Registered::New);
    owner.next_list(&[&device]);
    (owner, device)
}

fn publication(base: AccountState, list: Statement, new: &[&Device], owner: &Owner) -> Publication {
    let certificates = new.iter().map(|d| certificate(owner.certificate(d))).collect();
    let list = device_list::next(&base, signed(list), certificates).unwrap();
    Publication::new(base, None, list, new.iter().map(|d| new_device(d, 2)).collect()).unwrap()
}

async fn state(store: &Store, owner: &Owner) -> AccountState {
    store.state(owner.account).await.unwrap().unwrap()
}

/// Publishes the next list.
pub(super) async fn publish(
    store: &Store,
    owner: &mut Owner,
    by: &Device,
    devices: &[&Device],
    new: &[&Device],
) -> Result<Vec<DeviceRef>, AccountsError> {
    let base = state(store, owner).await;
    let list = owner.next_list(devices);
    store.publish(Some(by.at), publication(base, list, new, owner), NOW + 1).await
}

pub(super) fn bundles(caller: &Device, of: &Owner) -> BundleRequest {
    BundleRequest { caller: caller.at, account: of.account, devices: None, per_pair: PLENTY, per_target: PLENTY }
}

pub(super) async fn registers_once(store: Store) {
    let (owner, device) = account(&store, "alice", 3).await;
    let again = registration(&owner_before(&owner), &device, "alice", 3);
    let again = Registration { login: login("again"), ..again };
    assert_eq!(store.register(again, NOW + 5).await.unwrap(), Registered::Again);
    let renamed = Registration { login: login("renamed"), ..registration(&owner_before(&owner), &device, "alicia", 3) };
    assert!(matches!(store.register(renamed, NOW).await, Err(AccountsError::AccountExists)));
    let other = Registration { login: login("other"), ..registration(&owner_before(&owner), &owner.device("other"), "alice", 3) };
    assert!(matches!(store.register(other, NOW).await, Err(AccountsError::AccountExists)));
    assert_eq!(store.signing_key(device.at).await.unwrap(), Some(device.key.verifying_key().to_bytes()));
    let keys = store.prekeys(device.at).await.unwrap();
    assert_eq!((keys.one_time, keys.one_time_kem, keys.signed, keys.last_resort, keys.highest_id), (3, 3, (1, NOW), (2, NOW), 8));
    let (version, devices) = store.devices(device.at).await.unwrap();
    assert_eq!((version, devices.len(), devices[0].device, devices[0].linked_ms), (1, 1, device.at.device, NOW));
    assert_eq!((devices[0].name.as_deref(), devices[0].last_seen_ms), (Some("phone"), NOW + 5));
}

/// The owner as before the first list.
fn owner_before(owner: &Owner) -> Owner {
    Owner { version: 0, hash: [0; 32], ..owner.clone() }
}

pub(super) async fn a_name_has_one_owner(store: Store) {
    account(&store, "alice", 0).await;
    let mallory = Owner::new("mallory");
    let device = mallory.device("mallory");
    let taken = store.register(registration(&mallory, &device, "ALICE", 0), NOW).await;
    assert!(matches!(taken, Err(AccountsError::UsernameTaken)));
    assert_eq!(store.signing_key(device.at).await.unwrap(), None, "nothing of it was kept");
    account(&store, "mallory", 0).await;
}

pub(super) async fn concurrent_registrations_of_a_name_have_one_winner(store: Store) {
    let attempts = (0..20).map(|n| {
        let owner = Owner::new(&format!("owner {n}"));
        let device = owner.device(&format!("device {n}"));
        let (store, registration) = (Arc::clone(&store), registration(&owner, &device, "alice", 0));
        tokio::spawn(async move { store.register(registration, NOW).await })
    });
    let mut won = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            Ok(Registered::New) => won += 1,
            Err(AccountsError::UsernameTaken) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(won, 1);
}

fn invited(name: &str, invite: [u8; 32]) -> Registration {
    let owner = Owner::new(name);
    Registration { invite: Some(invite), ..registration(&owner, &owner.device(name), name, 0) }
}

pub(super) async fn an_invite_works_once(store: Store) {
    store.add_invites(vec![[1; 32], [2; 32]], NOW + DAY, NOW).await.unwrap();
    assert!(matches!(store.register(invited("nobody", [9; 32]), NOW).await, Err(AccountsError::InviteInvalid)));
    store.register(invited("alice", [1; 32]), NOW).await.unwrap();
    assert!(matches!(store.register(invited("bob", [1; 32]), NOW).await, Err(AccountsError::InviteInvalid)));
    let again = Registration { login: login("again"), ..invited("alice", [1; 32]) };
    assert_eq!(store.register(again, NOW).await.unwrap(), Registered::Again, "a repeated registration needs no second invite");
    let (one, two) = tokio::join!(store.register(invited("carol", [2; 32]), NOW), store.register(invited("dave", [2; 32]), NOW));
    assert!(one.is_ok() != two.is_ok());
}

pub(super) async fn an_invite_ends(store: Store) {
    store.add_invites(vec![[1; 32]], NOW + DAY, NOW).await.unwrap();
    assert!(matches!(store.register(invited("alice", [1; 32]), NOW + DAY).await, Err(AccountsError::InviteInvalid)));
    store.register(invited("alice", [1; 32]), NOW + DAY - 1).await.unwrap();
}

pub(super) async fn a_failed_registration_keeps_the_invite(store: Store) {
    account(&store, "alice", 0).await;
    store.add_invites(vec![[1; 32]], NOW + DAY, NOW).await.unwrap();
    let mallory = Owner::new("mallory");
    let taken = Registration { invite: Some([1; 32]), ..registration(&mallory, &mallory.device("m"), "alice", 0) };
    assert!(matches!(store.register(taken, NOW).await, Err(AccountsError::UsernameTaken)));
    store.register(invited("bob", [1; 32]), NOW).await.unwrap();
}

pub(super) async fn finds_users_by_exact_name(store: Store) {
    let (alice, phone) = account(&store, "alice", 0).await;
    let find = |name: &str| store.user(phone.at, Username::parse(name).unwrap());
    let found = find("Alice").await.unwrap().unwrap();
    assert_eq!((found.account, found.aik, found.list_version), (alice.account, alice.aik_public(), 1));
    assert_eq!(find("alic").await.unwrap(), None);
    assert_eq!(find("alice1").await.unwrap(), None);
}

pub(super) async fn a_device_id_of_another_account_is_refused(store: Store) {
    let (_, phone) = account(&store, "alice", 0).await;
    let (mut bob, bobs) = account(&store, "bob", 0).await;
    let borrowed = Device { at: DeviceRef { account: bob.account, device: phone.at.device }, key: bob.device("b").key };
    let refused = publish(&store, &mut bob, &bobs, &[&bobs, &borrowed], &[&borrowed]).await;
    assert!(matches!(refused, Err(AccountsError::ListConflict)));
}

pub(super) async fn publishes_the_next_list(store: Store) {
    let (mut alice, phone) = account(&store, "alice", 0).await;
    let laptop = alice.device("laptop");
    let revoked = publish(&store, &mut alice, &phone, &[&phone, &laptop], &[&laptop]).await.unwrap();
    assert!(revoked.is_empty());
    let newest = state(&store, &alice).await;
    assert_eq!((newest.version, newest.hash, newest.devices.len()), (2, alice.hash, 2));
    let revoked = publish(&store, &mut alice, &laptop, &[&phone], &[]).await.unwrap();
    assert_eq!(revoked, [laptop.at]);
    assert_eq!(state(&store, &alice).await.devices.len(), 1);
    let history = store.history(phone.at, alice.account, 0, 10).await.unwrap().unwrap();
    assert_eq!(history.versions.iter().map(|v| (v.version, v.certificates.len())).collect::<Vec<_>>(), [(1, 1), (2, 1), (3, 0)]);
    assert_eq!((history.username.as_str(), history.newest_version, history.more), ("alice", 3, false));
}

pub(super) async fn concurrent_lists_have_one_winner(store: Store) {
    let (alice, phone) = account(&store, "alice", 0).await;
    let base = state(&store, &alice).await;
    let attempts = (0..10).map(|n| {
        let mut alice = alice.clone();
        let laptop = alice.device(&format!("laptop {n}"));
        let list = alice.next_list(&[&phone, &laptop]);
        let publication = publication(base.clone(), list, &[&laptop], &alice);
        let (store, by) = (Arc::clone(&store), phone.at);
        tokio::spawn(async move { store.publish(Some(by), publication, NOW).await })
    });
    let mut won = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            Ok(_) => won += 1,
            Err(AccountsError::ListConflict) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(won, 1);
    assert_eq!(state(&store, &alice).await.devices.len(), 2);
}

pub(super) async fn a_revoked_device_can_do_nothing(store: Store) {
    let (mut alice, phone) = account(&store, "alice", 2).await;
    let laptop = alice.device("laptop");
    publish(&store, &mut alice, &phone, &[&phone, &laptop], &[&laptop]).await.unwrap();
    store.login(laptop.at, login("laptop"), NOW).await.unwrap();
    let stale = state(&store, &alice).await;
    publish(&store, &mut alice, &phone, &[&phone], &[]).await.unwrap();
    assert_eq!(store.signing_key(laptop.at).await.unwrap(), None);
    let list = alice.list(4, alice.hash, &[&phone]);
    let next = publication(AccountState { version: 3, hash: alice.hash, ..stale }, list, &[], &alice);
    let refusals = [
        store.login(laptop.at, login("laptop 2"), NOW).await.err(),
        store.user(laptop.at, Username::parse("alice").unwrap()).await.err(),
        store.history(laptop.at, alice.account, 0, 9).await.err(),
        store.devices(laptop.at).await.err(),
        store.prekeys(laptop.at).await.err(),
        store.add_prekeys(more_keys(&laptop, vec![prekey(&laptop, Kind::OneTime, 99)]), CAPS).await.err(),
        store.take_bundles(bundles(&laptop, &alice), NOW).await.err(),
        store.publish(Some(laptop.at), next, NOW).await.err(),
        store.leave(laptop.at, 3, signed(laptop.leave(3)), NOW).await.err(),
    ];
    for (at, refusal) in refusals.iter().enumerate() {
        assert!(matches!(refusal, Some(AccountsError::Revoked)), "{at}: {refusal:?}");
    }
    assert!(matches!(store.refresh(exchange("laptop", "laptop/token", "next"), NOW).await, Err(AccountsError::RefreshInvalid)));
    let given = store.take_bundles(bundles(&phone, &alice), NOW).await.unwrap();
    assert!(given.bundles.is_empty(), "no bundle of a revoked device, none of one's own");
}

pub(super) async fn a_revoked_id_never_comes_back(store: Store) {
    let (mut alice, phone) = account(&store, "alice", 0).await;
    let laptop = alice.device("laptop");
    publish(&store, &mut alice, &phone, &[&phone, &laptop], &[&laptop]).await.unwrap();
    publish(&store, &mut alice, &phone, &[&phone], &[]).await.unwrap();
    let back = publish(&store, &mut alice, &phone, &[&phone, &laptop], &[&laptop]).await;
    assert!(matches!(back, Err(AccountsError::ListConflict)));
}

pub(super) async fn a_device_leaves(store: Store) {
    let (mut alice, phone) = account(&store, "alice", 0).await;
    let laptop = alice.device("laptop");
    publish(&store, &mut alice, &phone, &[&phone, &laptop], &[&laptop]).await.unwrap();
    assert!(matches!(store.leave(laptop.at, 1, signed(laptop.leave(1)), NOW).await, Err(AccountsError::ListConflict)));
    store.leave(laptop.at, 2, signed(laptop.leave(2)), NOW).await.unwrap();
    assert_eq!(store.signing_key(laptop.at).await.unwrap(), None);
    let history = store.history(phone.at, alice.account, 1, 10).await.unwrap().unwrap();
    assert_eq!(history.leaves, [signed(laptop.leave(2))]);
    publish(&store, &mut alice, &phone, &[&phone], &[]).await.unwrap();
    assert!(store.history(phone.at, alice.account, 1, 10).await.unwrap().unwrap().leaves.is_empty());
}

pub(super) async fn a_device_that_left_meanwhile_is_a_conflict(store: Store) {
    let (mut alice, phone) = account(&store, "alice", 0).await;
    let laptop = alice.device("laptop");
    publish(&store, &mut alice, &phone, &[&phone, &laptop], &[&laptop]).await.unwrap();
    let base = state(&store, &alice).await;
    store.leave(laptop.at, 2, signed(laptop.leave(2)), NOW).await.unwrap();
    let list = alice.next_list(&[&phone, &laptop]);
    let late = store.publish(Some(phone.at), publication(base, list, &[], &alice), NOW).await;
    assert!(matches!(late, Err(AccountsError::ListConflict)));
}

pub(super) async fn rotates(store: Store) {
    let (mut alice, phone) = account(&store, "alice", 0).await;
    let base = state(&store, &alice).await;
    let rotation = signed(alice.rotate("alice again"));
    let after = device_list::rotate(&base, &rotation).unwrap();
    let fresh = alice.device("fresh");
    let certificates = vec![certificate(alice.certificate(&fresh))];
    let list = device_list::next(&after, signed(alice.next_list(&[&fresh])), certificates).unwrap();
    let publication = Publication::new(base, Some(rotation), list, vec![new_device(&fresh, 0)]).unwrap().with_login(fresh.at, login("l"));
    assert_eq!(store.publish(None, publication, NOW).await.unwrap(), [phone.at]);
    store.refresh(exchange("l", "l/token", "two"), NOW).await.expect("the login came with it");
    let newest = state(&store, &alice).await;
    assert_eq!((newest.version, newest.aik, newest.recovery), (3, alice.aik_public(), alice.recovery_public()));
    let history = store.history(fresh.at, alice.account, 0, 10).await.unwrap().unwrap();
    assert_eq!(history.versions.iter().map(|v| (v.version, v.rotation)).collect::<Vec<_>>(), [(1, false), (2, true), (3, false)]);
    let user = store.user(fresh.at, Username::parse("alice").unwrap()).await.unwrap().unwrap();
    assert_eq!((user.account, user.aik, user.list_version), (alice.account, alice.aik_public(), 3));
}

pub(super) async fn a_rotation_with_a_used_challenge_changes_nothing(store: Store) {
    let (mut alice, phone) = account(&store, "alice", 0).await;
    store.login(phone.at, login("first"), NOW).await.unwrap();
    let base = state(&store, &alice).await;
    let rotation = signed(alice.rotate("alice again"));
    let after = device_list::rotate(&base, &rotation).unwrap();
    let certificates = vec![certificate(alice.certificate(&phone))];
    let list = device_list::next(&after, signed(alice.next_list(&[&phone])), certificates).unwrap();
    let publication = |login| Publication::new(base.clone(), Some(rotation.clone()), list.clone(), Vec::new()).unwrap().with_login(phone.at, login);
    let replayed = NewLogin { challenge: login("first").challenge, ..login("second") };
    assert!(matches!(store.publish(None, publication(replayed), NOW).await, Err(AccountsError::ChallengeSpent)));
    assert_eq!(state(&store, &alice).await, base);
    store.publish(None, publication(login("second")), NOW).await.unwrap();
}

pub(super) async fn history_pages(store: Store) {
    let (mut alice, phone) = account(&store, "alice", 0).await;
    for _ in 0..4 {
        publish(&store, &mut alice, &phone, &[&phone], &[]).await.unwrap();
    }
    let page = store.history(phone.at, alice.account, 1, 2).await.unwrap().unwrap();
    assert_eq!((page.versions.iter().map(|v| v.version).collect::<Vec<_>>(), page.more), (vec![2, 3], true));
    let page = store.history(phone.at, alice.account, 3, 2).await.unwrap().unwrap();
    assert_eq!((page.versions.iter().map(|v| v.version).collect::<Vec<_>>(), page.more), (vec![4, 5], false));
    let page = store.history(phone.at, alice.account, u64::MAX, 2).await.unwrap().unwrap();
    assert!(page.versions.is_empty() && !page.more);
    assert!(store.history(phone.at, Owner::new("nobody").account, 0, 2).await.unwrap().is_none());
}

pub(super) async fn a7_each_one_time_key_once_also_under_concurrency(store: Store) {
    let (alice, _) = account(&store, "alice", 10).await;
    let (_, bob) = account(&store, "bob", 0).await;
    let fetches: Vec<_> = (0..25)
        .map(|_| {
            let (store, request) = (Arc::clone(&store), bundles(&bob, &alice));
            tokio::spawn(async move { store.take_bundles(request, NOW).await.unwrap().bundles.remove(0) })
        })
        .collect();
    let (mut ids, mut last_resort) = (HashSet::new(), 0);
    for fetch in fetches {
        let bundle = fetch.await.unwrap();
        assert_eq!((bundle.signed.kind, bundle.signed.id, bundle.limited), (Kind::Signed, 1, false));
        if let Some(one_time) = &bundle.one_time {
            assert!(ids.insert(one_time.id), "key {} was handed out twice", one_time.id);
            assert!(ids.insert(bundle.kem.id));
            assert_eq!(bundle.kem.kind, Kind::OneTimeKem);
        } else {
            assert_eq!((bundle.kem.kind, bundle.kem.id, bundle.left), (Kind::LastResortKem, 2, (0, 0)));
            last_resort += 1;
        }
    }
    assert_eq!((ids.len(), last_resort), (20, 15));
}

pub(super) async fn a7_beyond_the_limits_only_the_last_resort(store: Store) {
    let (alice, phone) = account(&store, "alice", 20).await;
    let (_, bob) = account(&store, "bob", 0).await;
    let (_, carol) = account(&store, "carol", 0).await;
    let few = |capacity| Rate { capacity, per_minute: 1 };
    let take = |caller: &Device, now| {
        let request = BundleRequest { per_pair: few(3), per_target: few(5), ..bundles(caller, &alice) };
        let store = Arc::clone(&store);
        async move { store.take_bundles(request, now).await.unwrap().bundles.remove(0) }
    };
    for _ in 0..3 {
        assert!(take(&bob, NOW).await.one_time.is_some());
    }
    let beyond = take(&bob, NOW).await;
    assert!(beyond.limited && beyond.one_time.is_none() && beyond.kem.kind == Kind::LastResortKem);
    assert_eq!(beyond.left, (17, 17), "withheld, not spent");
    for _ in 0..2 {
        assert!(!take(&carol, NOW).await.limited);
    }
    assert!(take(&carol, NOW).await.limited, "all requesters together");
    assert!(!take(&bob, NOW + 60_000).await.limited, "refilled");
    assert_eq!(store.prekeys(phone.at).await.unwrap().one_time, 14);
    let unknown = BundleRequest { account: Owner::new("nobody").account, ..bundles(&bob, &alice) };
    assert!(matches!(store.take_bundles(unknown, NOW).await, Err(AccountsError::UnknownAccount)));
    let none = BundleRequest { devices: Some(vec![DeviceId([7; 16])]), ..bundles(&bob, &alice) };
    assert!(store.take_bundles(none, NOW).await.unwrap().bundles.is_empty());
}

pub(super) async fn prekey_ids_only_grow(store: Store) {
    let (alice, phone) = account(&store, "alice", 2).await;
    let (_, bob) = account(&store, "bob", 0).await;
    for id in [1, 3, 6] {
        let again = more_keys(&phone, vec![prekey(&phone, Kind::OneTime, id), prekey(&phone, Kind::OneTime, 7)]);
        assert!(matches!(store.add_prekeys(again, CAPS).await, Err(AccountsError::PrekeyIdUsed)), "{id}");
    }
    store.take_bundles(bundles(&bob, &alice), NOW).await.unwrap();
    let spent = more_keys(&phone, vec![prekey(&phone, Kind::OneTime, 3)]);
    assert!(matches!(store.add_prekeys(spent, CAPS).await, Err(AccountsError::PrekeyIdUsed)), "a key that was handed out does not come back");
    let rotated =
        more_keys(&phone, vec![prekey(&phone, Kind::Signed, 8), prekey(&phone, Kind::OneTimeKem, 9), prekey(&phone, Kind::LastResortKem, 7)]);
    let keys = store.add_prekeys(rotated, CAPS).await.unwrap();
    assert_eq!((keys.one_time, keys.one_time_kem, keys.signed.0, keys.last_resort.0, keys.highest_id), (1, 2, 8, 7, 9));
    let bundle = store.take_bundles(bundles(&bob, &alice), NOW).await.unwrap().bundles.remove(0);
    assert_eq!(bundle.signed, prekey(&phone, Kind::Signed, 8), "the newest one");
}

pub(super) async fn unused_prekeys_are_capped(store: Store) {
    let (_, phone) = account(&store, "alice", 2).await;
    let caps = PrekeyCaps { one_time: 4, one_time_kem: 2 };
    let keys = |kind, from, to| more_keys(&phone, (from..=to).map(|id| prekey(&phone, kind, id)).collect());
    assert!(matches!(store.add_prekeys(keys(Kind::OneTime, 7, 9), caps).await, Err(AccountsError::PrekeyLimit)));
    assert!(matches!(store.add_prekeys(keys(Kind::OneTimeKem, 7, 7), caps).await, Err(AccountsError::PrekeyLimit)));
    assert_eq!(store.add_prekeys(keys(Kind::OneTime, 7, 8), caps).await.unwrap().one_time, 4);
    store.add_prekeys(keys(Kind::Signed, 9, 9), PrekeyCaps { one_time: 0, one_time_kem: 0 }).await.unwrap();
}

pub(super) fn exchange(family: &str, presented: &str, next: &str) -> Refresh {
    Refresh { family: login(family).family, presented: seed(presented), next: seed(next), expires_ms: NOW + 60 * DAY, grace_ms: 60_000 }
}

pub(super) async fn refresh_tokens_rotate(store: Store) {
    let (_, phone) = account(&store, "alice", 0).await;
    store.login(phone.at, login("l"), NOW).await.unwrap();
    assert_eq!(store.refresh(exchange("l", "l/token", "two"), NOW).await.unwrap(), phone.at);
    assert_eq!(store.refresh(exchange("l", "two", "three"), NOW + DAY).await.unwrap(), phone.at);
    let wrong = store.refresh(exchange("unknown", "three", "four"), NOW + DAY).await;
    assert!(matches!(wrong, Err(AccountsError::RefreshInvalid)));
    let late = store.refresh(exchange("l", "three", "four"), NOW + 60 * DAY).await;
    assert!(matches!(late, Err(AccountsError::RefreshInvalid)), "ended");
}

pub(super) async fn a_lost_refresh_answer_can_be_asked_again(store: Store) {
    let (_, phone) = account(&store, "alice", 0).await;
    store.login(phone.at, login("l"), NOW).await.unwrap();
    store.refresh(exchange("l", "l/token", "lost"), NOW).await.unwrap();
    store.refresh(exchange("l", "l/token", "found"), NOW + 60_000).await.unwrap();
    store.refresh(exchange("l", "found", "next"), NOW + 60_000).await.unwrap();
    let lost = store.refresh(exchange("l", "lost", "x"), NOW + 60_000).await;
    assert!(matches!(lost, Err(AccountsError::RefreshInvalid)), "the token that was lost has ended");
}

pub(super) async fn a_copied_refresh_token_ends_the_login(store: Store) {
    let (_, phone) = account(&store, "alice", 0).await;
    store.login(phone.at, login("l"), NOW).await.unwrap();
    store.login(phone.at, login("other"), NOW).await.unwrap();
    store.refresh(exchange("l", "l/token", "two"), NOW).await.unwrap();
    let thief = store.refresh(exchange("l", "l/token", "x"), NOW + 60_001).await;
    assert!(matches!(thief, Err(AccountsError::RefreshInvalid)));
    assert!(matches!(store.refresh(exchange("l", "two", "three"), NOW + 60_001).await, Err(AccountsError::RefreshInvalid)), "the whole family ended");
    store.refresh(exchange("other", "other/token", "two"), NOW + 60_001).await.unwrap();
}

pub(super) async fn logins_per_device_are_bounded(store: Store) {
    let (_, phone) = account(&store, "alice", 0).await;
    for n in 0..10 {
        store.login(phone.at, login(&format!("l{n}")), NOW + n).await.unwrap();
    }
    let ended = store.refresh(exchange("l1", "l1/token", "x"), NOW + 20).await;
    assert!(matches!(ended, Err(AccountsError::RefreshInvalid)), "the oldest ended");
    for n in 2..10 {
        store.refresh(exchange(&format!("l{n}"), &format!("l{n}/token"), "x"), NOW + 20).await.unwrap();
    }
}

pub(super) async fn a_challenge_opens_one_login(store: Store) {
    let (owner, phone) = account(&store, "alice", 0).await;
    let (_, bob) = account(&store, "bob", 0).await;
    let first = login("first");
    let replayed = |name| NewLogin { challenge: first.challenge, ..login(name) };
    store.login(phone.at, first, NOW).await.unwrap();
    assert!(matches!(store.login(phone.at, replayed("thief"), NOW + 1).await, Err(AccountsError::ChallengeSpent)));
    let again = Registration { login: replayed("again"), ..registration(&owner_before(&owner), &phone, "alice", 0) };
    assert!(matches!(store.register(again, NOW + 1).await, Err(AccountsError::ChallengeSpent)));
    for name in ["thief", "again"] {
        let nothing = store.refresh(exchange(name, &format!("{name}/token"), "x"), NOW + 1).await;
        assert!(matches!(nothing, Err(AccountsError::RefreshInvalid)), "nothing was opened");
    }
    // It stays spent when its login has ended long ago, and is another device's own affair.
    for n in 0..9 {
        store.login(phone.at, login(&format!("later {n}")), NOW + 2 + n).await.unwrap();
    }
    assert!(matches!(store.login(phone.at, replayed("late"), NOW + 20).await, Err(AccountsError::ChallengeSpent)));
    store.refresh(exchange("later 1", "later 1/token", "x"), NOW + 20).await.expect("what was refused has ended no login");
    store.login(bob.at, replayed("bob's"), NOW + 20).await.unwrap();
}

pub(super) async fn presence_is_kept(store: Store) {
    let (alice, _) = account(&store, "alice", 0).await;
    let (bob, _) = account(&store, "bob", 0).await;
    store.hide_presence(alice.account, true).await.unwrap();
    let seen = vec![(alice.account, NOW + 9), (alice.account, NOW + 3), (Owner::new("nobody").account, NOW)];
    store.seen(seen).await.unwrap();
    let settings = store.presence(vec![alice.account, Owner::new("nobody").account, bob.account]).await.unwrap();
    let settings: Vec<_> = settings.iter().map(|s| (s.account, s.hidden, s.last_seen_ms)).collect();
    assert_eq!(settings, [(alice.account, true, NOW + 9), (bob.account, false, 0)]);
}

pub(super) async fn a_secret_is_made_once(store: Store) {
    assert_eq!(store.secret("token", [1; 32]).await.unwrap(), [1; 32]);
    assert_eq!(store.secret("token", [2; 32]).await.unwrap(), [1; 32]);
    assert_eq!(store.secret("other", [3; 32]).await.unwrap(), [3; 32]);
}

pub(super) async fn purge_deletes_what_has_ended(store: Store) {
    let (alice, phone) = account(&store, "alice", 2).await;
    let (_, bob) = account(&store, "bob", 0).await;
    store.take_bundles(bundles(&bob, &alice), NOW).await.unwrap();
    store.add_invites((0..5).map(|n| [n; 32]).collect(), NOW + DAY, NOW).await.unwrap();
    assert_eq!(store.purge(NOW).await.unwrap(), 0);
    assert_eq!(store.purge(NOW + DAY).await.unwrap(), 5 + 2 + 2, "invites; the buckets of pair and target; the challenges of the logins");
    assert_eq!(store.purge(NOW + 30 * DAY).await.unwrap(), 2, "the logins");
    assert!(store.devices(phone.at).await.is_ok());
}
