//! Who wins when two processes do at the same time what cannot both be done (see the head of [`accounts`](crate::accounts)).
//!
//! The rules get two stores over one database: two processes, or twice the same one where there can be only one.

use std::time::Duration;

use tokio::{task::JoinSet, time::timeout};

use super::*;

/// Far longer than anything here takes: a deadlock or a lock that is never let go of shows as a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes one `#[tokio::test]` of each race; `$make` gives two stores and whatever must outlive them; `$check` looks at the guard afterwards.
macro_rules! race_suite {
    ($make:expr, $check:expr) => {
        $crate::accounts::conformance::races::race_suite!($make, $check;
            two_registrations_of_a_name_have_one_winner, one_registration_sent_twice_is_one_account, a_challenge_presented_twice_opens_one_login, an_invite_makes_one_account,
            two_lists_on_one_version_have_one_winner, a_list_and_a_leave_do_not_both_win, takers_never_get_the_same_key,
            takers_of_each_other_do_not_block, one_upload_sent_twice_is_stored_once, nothing_of_a_device_outlives_its_revocation, a_secret_is_the_same_for_all, purges_share_the_work);
    };
    ($make:expr, $check:expr; $($name:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $name() {
            let (one, other, guard) = $make.await;
            $crate::accounts::conformance::races::within_patience($crate::accounts::conformance::races::$name([one, other])).await;
            let check = $check;
            check(&guard).await;
        }
    )*};
}
pub(in crate::accounts) use race_suite;

type Stores = [Store; 2];

pub(in crate::accounts) async fn within_patience(race: impl Future<Output = ()>) {
    timeout(PATIENCE, race).await.expect("a race must end");
}

/// Runs attempts at the same time, by turns at either store, and gives what became of them.
async fn all_at_once<T: Send + 'static, F>(stores: &Stores, attempts: impl IntoIterator<Item = impl FnOnce(Store) -> F>) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
{
    let mut running = JoinSet::new();
    for (n, attempt) in attempts.into_iter().enumerate() {
        running.spawn(attempt(Arc::clone(&stores[n % 2])));
    }
    running.join_all().await
}

pub(in crate::accounts) async fn two_registrations_of_a_name_have_one_winner(stores: Stores) {
    for round in 0..5 {
        let attempts = (0..8).map(|n| {
            let owner = Owner::new(&format!("owner {round} {n}"));
            let registration = registration(&owner, &owner.device(&format!("device {round} {n}")), &format!("alice{round}"), 2);
            move |store: Store| async move { store.register(registration, NOW).await }
        });
        let outcomes = all_at_once(&stores, attempts).await;
        let lost = outcomes.iter().filter(|o| matches!(o, Err(AccountsError::UsernameTaken))).count();
        let won = outcomes.iter().filter(|o| matches!(o, Ok(Registered::New))).count();
        assert_eq!((won, lost), (1, 7), "{outcomes:?}");
    }
}

pub(in crate::accounts) async fn one_registration_sent_twice_is_one_account(stores: Stores) {
    for round in 0..5 {
        let owner = Owner::new(&format!("owner {round}"));
        let device = owner.device(&format!("device {round}"));
        let attempts = (0..4).map(|n| {
            let again = registration(&owner, &device, &format!("alice{round}"), 2);
            let again = Registration { login: login(&format!("{round} {n}")), ..again };
            move |store: Store| async move { store.register(again, NOW).await.unwrap() }
        });
        let outcomes = all_at_once(&stores, attempts).await;
        assert_eq!(outcomes.iter().filter(|o| **o == Registered::New).count(), 1, "the others come again");
        for n in 0..4 {
            let exchange = exchange(&format!("{round} {n}"), &format!("{round} {n}/token"), "next");
            stores[0].refresh(exchange, NOW).await.expect("each has its login");
        }
    }
}

pub(in crate::accounts) async fn a_challenge_presented_twice_opens_one_login(stores: Stores) {
    let (_, phone) = account(&stores[0], "alice", 0).await;
    for round in 0..5 {
        let challenge = login(&format!("{round}")).challenge;
        let attempts = (0..6).map(|n| {
            let login = NewLogin { challenge, ..login(&format!("{round} {n}")) };
            move |store: Store| async move { store.login(phone.at, login, NOW).await }
        });
        let outcomes = all_at_once(&stores, attempts).await;
        let lost = outcomes.iter().filter(|o| matches!(o, Err(AccountsError::ChallengeSpent))).count();
        assert_eq!((outcomes.iter().filter(|o| o.is_ok()).count(), lost), (1, 5), "{outcomes:?}");
    }
}

pub(in crate::accounts) async fn an_invite_makes_one_account(stores: Stores) {
    stores[0].add_invites(vec![[1; 32]], NOW + DAY, NOW).await.unwrap();
    let attempts = (0..6).map(|n| move |store: Store| async move { store.register(invited(&format!("name{n}"), [1; 32]), NOW).await });
    let outcomes = all_at_once(&stores, attempts).await;
    let lost = outcomes.iter().filter(|o| matches!(o, Err(AccountsError::InviteInvalid))).count();
    assert_eq!((outcomes.iter().filter(|o| o.is_ok()).count(), lost), (1, 5), "{outcomes:?}");
}

pub(in crate::accounts) async fn two_lists_on_one_version_have_one_winner(stores: Stores) {
    let (alice, phone) = account(&stores[0], "alice", 0).await;
    let base = state(&stores[0], &alice).await;
    let attempts = (0..8).map(|n| {
        let mut alice = alice.clone();
        let laptop = alice.device(&format!("laptop {n}"));
        let list = alice.next_list(&[&phone, &laptop]);
        let (publication, by) = (publication(base.clone(), list, &[&laptop], &alice), phone.at);
        move |store: Store| async move { (alice.hash, store.publish(Some(by), publication, NOW).await) }
    });
    let outcomes = all_at_once(&stores, attempts).await;
    let won: Vec<_> = outcomes.iter().filter(|(_, o)| o.is_ok()).collect();
    let lost = outcomes.iter().filter(|(_, o)| matches!(o, Err(AccountsError::ListConflict))).count();
    assert_eq!((won.len(), lost), (1, 7), "{outcomes:?}");
    let newest = state(&stores[1], &alice).await;
    assert_eq!((newest.version, newest.hash, newest.devices.len()), (2, won[0].0, 2));
}

pub(in crate::accounts) async fn a_list_and_a_leave_do_not_both_win(stores: Stores) {
    for round in 0..8 {
        let name = format!("alice{round}");
        let (mut alice, phone) = account(&stores[0], &name, 0).await;
        let laptop = alice.device(&format!("{name} laptop"));
        publish(&stores[0], &mut alice, &phone, &[&phone, &laptop], &[&laptop]).await.unwrap();
        let base = state(&stores[0], &alice).await;
        let list = alice.next_list(&[&phone, &laptop]);
        let publication = publication(base, list, &[], &alice);
        let (published, left) = tokio::join!(
            stores[round % 2].publish(Some(phone.at), publication, NOW),
            stores[1 - round % 2].leave(laptop.at, 2, signed(laptop.leave(2)), NOW)
        );
        assert!(published.is_ok() != left.is_ok(), "{published:?} {left:?}");
        let is_current = stores[0].signing_key(laptop.at).await.unwrap().is_some();
        assert_eq!(is_current, published.is_ok());
    }
}

pub(in crate::accounts) async fn takers_never_get_the_same_key(stores: Stores) {
    let (alice, phone) = account(&stores[0], "alice", 40).await;
    let mut takers = Vec::new();
    for n in 0..16 {
        takers.push(account(&stores[0], &format!("taker{n}"), 0).await.1);
    }
    let refill =
        more_keys(&phone, (100..140).flat_map(|id| [prekey(&phone, Kind::OneTime, id), prekey(&phone, Kind::OneTimeKem, 100 + id)]).collect());
    let filling = tokio::spawn({
        let store = Arc::clone(&stores[1]);
        async move { store.add_prekeys(refill, PrekeyCaps { one_time: 200, one_time_kem: 200 }).await.unwrap() }
    });
    let attempts = takers.iter().map(|taker| {
        let request = bundles(taker, &alice);
        move |store: Store| async move {
            let mut taken = Vec::new();
            for _ in 0..4 {
                taken.extend(store.take_bundles(request.clone(), NOW).await.unwrap().bundles);
            }
            taken
        }
    });
    let given: Vec<_> = all_at_once(&stores, attempts).await.into_iter().flatten().collect();
    filling.await.unwrap();
    assert_eq!(given.len(), 64);
    let (mut one_time, mut kem) = (HashSet::new(), HashSet::new());
    for bundle in &given {
        assert!(!bundle.limited);
        if let Some(key) = &bundle.one_time {
            assert!(one_time.insert(key.id), "key {} was handed out twice", key.id);
        }
        if bundle.kem.kind == Kind::OneTimeKem {
            assert!(kem.insert(bundle.kem.id), "key {} was handed out twice", bundle.kem.id);
        }
    }
    assert!(one_time.len() >= 40 && kem.len() >= 40, "none is withheld while there are some");
    let left = stores[0].prekeys(phone.at).await.unwrap();
    assert_eq!((left.one_time as usize, left.one_time_kem as usize), (80 - one_time.len(), 80 - kem.len()), "none is lost");
}

pub(in crate::accounts) async fn takers_of_each_other_do_not_block(stores: Stores) {
    let mut people = Vec::new();
    for name in ["alice", "bob", "carol"] {
        let (mut owner, phone) = account(&stores[0], name, 20).await;
        let laptop = owner.device(&format!("{name} laptop"));
        publish(&stores[0], &mut owner, &phone, &[&phone, &laptop], &[&laptop]).await.unwrap();
        people.push((owner, phone));
    }
    let pairs = (0..36).map(|n| (n % 3, (n % 3 + 1 + n / 3 % 2) % 3));
    let attempts = pairs.map(|(from, of)| {
        let request = bundles(&people[from].1, &people[of].0);
        move |store: Store| async move { store.take_bundles(request, NOW).await.unwrap().bundles.len() }
    });
    assert_eq!(all_at_once(&stores, attempts).await, vec![2; 36]);
}

pub(in crate::accounts) async fn one_upload_sent_twice_is_stored_once(stores: Stores) {
    for round in 0..5 {
        let (_, phone) = account(&stores[0], &format!("alice{round}"), 0).await;
        let upload = more_keys(&phone, (50..60).map(|id| prekey(&phone, Kind::OneTime, id)).collect());
        let attempts = (0..6).map(|_| {
            let upload = upload.clone();
            move |store: Store| async move { store.add_prekeys(upload, CAPS).await }
        });
        let outcomes = all_at_once(&stores, attempts).await;
        let lost = outcomes.iter().filter(|o| matches!(o, Err(AccountsError::PrekeyIdUsed))).count();
        assert_eq!((outcomes.iter().filter(|o| o.is_ok()).count(), lost), (1, 5), "{outcomes:?}");
    }
}

pub(in crate::accounts) async fn nothing_of_a_device_outlives_its_revocation(stores: Stores) {
    let (_, bob) = account(&stores[0], "bob", 0).await;
    for round in 0..8 {
        let name = format!("alice{round}");
        let (mut alice, phone) = account(&stores[0], &name, 0).await;
        let laptop = alice.device(&format!("{name} laptop"));
        publish(&stores[0], &mut alice, &phone, &[&phone, &laptop], &[&laptop]).await.unwrap();
        let family = |n: usize| format!("{name} {n}");
        for n in 0..2 {
            stores[0].login(laptop.at, login(&family(n)), NOW).await.unwrap();
        }
        let base = state(&stores[0], &alice).await;
        let without = publication(base, alice.next_list(&[&phone]), &[], &alice);
        let (one, other) = (&stores[round % 2], &stores[1 - round % 2]);
        let more = more_keys(&laptop, vec![prekey(&laptop, Kind::OneTime, 99)]);
        let (revoked, _, _, _, _, _) = tokio::join!(
            one.publish(Some(phone.at), without, NOW),
            other.login(laptop.at, login(&family(2)), NOW),
            other.login(laptop.at, login(&family(3)), NOW),
            other.refresh(exchange(&family(0), &format!("{}/token", family(0)), "next"), NOW),
            other.add_prekeys(more, CAPS),
            other.take_bundles(bundles(&bob, &alice), NOW),
        );
        assert_eq!(revoked.unwrap(), [laptop.at]);
        for store in &stores {
            for n in 0..4 {
                for token in [format!("{}/token", family(n)), "next".to_owned()] {
                    let refused = store.refresh(exchange(&family(n), &token, "later"), NOW).await;
                    assert!(matches!(refused, Err(AccountsError::RefreshInvalid | AccountsError::Revoked)), "{refused:?}");
                }
            }
            assert!(matches!(store.login(laptop.at, login("late"), NOW).await, Err(AccountsError::Revoked)));
            let given = store.take_bundles(bundles(&bob, &alice), NOW).await.unwrap();
            assert!(given.bundles.iter().all(|b| b.device != laptop.at.device));
        }
    }
}

pub(in crate::accounts) async fn a_secret_is_the_same_for_all(stores: Stores) {
    let attempts = (0..8).map(|n| move |store: Store| async move { store.secret("token", [n; 32]).await.unwrap() });
    let secrets = all_at_once(&stores, attempts).await;
    assert!(secrets.iter().all(|s| *s == secrets[0]));
}

pub(in crate::accounts) async fn purges_share_the_work(stores: Stores) {
    let hashes = (0..1_200_u32).map(|n| seed(&n.to_string())).collect();
    stores[0].add_invites(hashes, NOW + DAY, NOW).await.unwrap();
    let (one, other) = tokio::join!(stores[0].purge(NOW + DAY), stores[1].purge(NOW + DAY));
    assert_eq!(one.unwrap() + other.unwrap(), 1_200);
}
