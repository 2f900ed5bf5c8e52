//! Each one-time prekey is handed out once, whoever asks, however many at once, and whatever crashes in between. (A7)

use std::collections::HashSet;

use anyhow::{Context as _, ensure};
use kith_proto::{
    rest::{Bundles, KeysState},
    v1::ErrorCode,
};
use kith_tests::{Story, expect::refused_by_rest, identity::Device, person::Person, server::Options};
use tokio::task::JoinSet;

const LAST_RESORT: u8 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a7_concurrent_fetches_never_share_a_key_and_go_on_with_the_last_resort() -> Story {
    const KEYS: usize = 12;
    const FETCHES: usize = 30;
    let server = Options::new().start().await?;
    let mut bob = Person::register(&server.origin(), "bob").await?;
    let more = bob.device.prekeys(bob.identity.account, KEYS);
    let state: KeysState = bob.rest.post("/v1/keys", Some(bob.token()), &more).await?;
    let held = (state.one_time as usize, state.one_time_kem as usize);
    ensure!(held.0 == held.1 && held.0 >= KEYS, "{state:?}");

    let mut fetches = JoinSet::new();
    for _ in 0..FETCHES {
        let asker = Person::register(&server.origin(), "asker").await?;
        let account = bob.identity.account;
        fetches.spawn(async move { asker.rest.bundles(asker.token(), account).await });
    }
    let (mut x25519, mut kem, mut without) = (HashSet::new(), HashSet::new(), 0);
    while let Some(fetched) = fetches.join_next().await {
        let bundles: Bundles = fetched??;
        ensure!(bundles.bundles.len() == 1);
        let bundle = &bundles.bundles[0];
        match &bundle.one_time {
            Some(key) => ensure!(x25519.insert(key.id), "one-time key {} was handed out twice", key.id),
            None => without += 1,
        }
        if bundle.kem_kind != LAST_RESORT {
            ensure!(kem.insert(bundle.kem.id), "one-time KEM key {} was handed out twice", bundle.kem.id);
        }
    }
    ensure!(x25519.len() == held.0 && kem.len() == held.1 && without == FETCHES - held.0, "{} {} {without} of {held:?}", x25519.len(), kem.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a7_a_key_handed_out_before_a_power_cut_is_not_handed_out_again() -> Story {
    const KEYS: usize = 40;
    let mut server = Options::new().power_cut(30, 7).start().await?;
    let mut bob = Person::register(&server.origin(), "bob").await?;
    let more = bob.device.prekeys(bob.identity.account, KEYS);
    let _: KeysState = bob.rest.post("/v1/keys", Some(bob.token()), &more).await?;
    let mut handed_out = HashSet::new();
    for _ in 0..4 {
        let mut askers = Vec::new();
        for _ in 0..5 {
            askers.push(Person::register(&server.origin(), "asker").await?);
        }
        for asker in askers {
            let bundles = asker.rest.bundles(asker.token(), bob.identity.account).await?;
            let key = bundles.bundles[0].one_time.as_ref().context("there are keys left")?;
            ensure!(handed_out.insert(key.id), "key {} was handed out twice", key.id);
        }
        server.kill().await?;
        server.start().await?;
    }
    let state: KeysState = bob.rest.get("/v1/keys", Some(bob.token())).await?;
    ensure!(state.one_time as usize == KEYS + 2 - handed_out.len(), "{state:?}");
    Ok(())
}

/// Prekey Pogo: one client must not be able to use up all keys of another.
#[tokio::test(flavor = "multi_thread")]
async fn a7_one_client_cannot_drain_the_keys_of_another() -> Story {
    const KEYS: usize = 90;
    let server = Options::new().own_limits().start().await?;
    let mut bob = Person::register(&server.origin(), "bob").await?;
    let mallory = Person::register(&server.origin(), "mallory").await?;
    let more = bob.device.prekeys(bob.identity.account, KEYS);
    let _: KeysState = bob.rest.post("/v1/keys", Some(bob.token()), &more).await?;
    let mut limited = false;
    for _ in 0..KEYS {
        match mallory.rest.bundles(mallory.token(), bob.identity.account).await {
            Ok(bundles) => limited |= bundles.bundles[0].limited,
            Err(error) => {
                ensure!(error.code() == Some(ErrorCode::RateLimited), "{error}");
                limited = true;
                break;
            }
        }
    }
    let state: KeysState = bob.rest.get("/v1/keys", Some(bob.token())).await?;
    ensure!(limited && state.one_time as usize > KEYS / 2, "{limited} {state:?}");
    Ok(())
}

/// A4: a prekey that its device has not signed is not taken, and an id is never used again.
#[tokio::test(flavor = "multi_thread")]
async fn a4_wrongly_signed_and_reused_prekeys_are_refused() -> Story {
    let server = Options::new().start().await?;
    let mut bob = Person::register(&server.origin(), "bob").await?;
    let account = bob.identity.account;
    let before = bob.device.prekeys(account, 1);
    let upload = async |upload| bob.rest.post::<KeysState>("/v1/keys", Some(bob.token()), &upload).await;

    let mut flipped = before.clone();
    flipped.one_time_kem[0].signature.0[3] ^= 1;
    refused_by_rest(upload(flipped).await, ErrorCode::SignatureInvalid)?;
    // Another device's signature, and the signature of another kind.
    let mut foreign = before.clone();
    foreign.signed = Device::default()
        .prekeys(account, 0)
        .signed
        .map(|key| kith_proto::rest::SignedPrekey { id: before.signed.as_ref().map_or(1, |own| own.id), ..key });
    refused_by_rest(upload(foreign).await, ErrorCode::SignatureInvalid)?;
    let mut crossed = before.clone();
    crossed.last_resort_kem = Some(crossed.one_time_kem[0].clone());
    crossed.one_time_kem.clear();
    refused_by_rest(upload(crossed).await, ErrorCode::SignatureInvalid)?;

    upload(before.clone()).await?;
    refused_by_rest(upload(before).await, ErrorCode::PrekeyInvalid).context("reused ids")
}
