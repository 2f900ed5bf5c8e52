//! Who is on the signed list gets messages, and who is taken off it is out at once. (A23, DESIGN.md rules 5 and 7)

use anyhow::{Context as _, bail, ensure};
use kith_proto::{
    rest::{DevicePrekeys, Devices, KeysState, PublishListRequest},
    v1::{ErrorCode, Slice, client_frame},
};
use kith_tests::{
    Story,
    expect::{accepted, delivered, error, refused_by_rest},
    identity::Device,
    person::Person,
    server::Options,
    socket::{Refusal, SOON, Socket},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

/// Puts a second device on Bob's list and logs it in.
async fn link(bob: &mut Person, first: &kith_proto::rest::Certificate) -> anyhow::Result<(Device, String)> {
    let mut second = Device::default();
    let certificate = bob.identity.certify(&second, bob.identity.list_version() + 1);
    let list = bob.identity.sign_list(&[(&bob.device, first), (&second, &certificate)]);
    let prekeys = DevicePrekeys { device: second.id, name: None, prekeys: second.prekeys(bob.identity.account, 1) };
    let request = PublishListRequest { list, certificates: vec![certificate], prekeys: vec![prekeys] };
    let published = bob.rest.publish(bob.token(), &request).await?;
    ensure!(published.version == 2);
    let tokens = bob.rest.login(bob.identity.account, &second).await?;
    Ok((second, tokens.access_token.as_str().to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_cut_at_once_and_can_never_come_back() -> Story {
    let mut server = Options::new().start().await?;
    let (mut alice, mut bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    // The certificate is made from the same keys and signatures as the one registered with, byte for byte.
    let certificate = bob.identity.certify(&bob.device, 1);
    let (second, token) = link(&mut bob, &certificate).await?;
    let (mut phone, _) = bob.connect().await?;
    let (mut tablet, _) = Socket::hello(&server.origin(), &token, 1).await?;

    // A23: a message must have a slice for each listed device and for no other.
    let (mut from, _) = alice.connect().await?;
    let mut send = alice.message(bob.device_ref(), "for both");
    let refusal = error(from.ask(client_frame::Kind::Send(send.clone())).await?)?;
    let changed = refusal.devices_changed.clone().context("what has changed is not said")?;
    ensure!(refusal.code() == ErrorCode::DevicesChanged && changed.missing.len() == 1 && changed.missing[0].device == second.id.to_bytes());
    send.slices.push(Slice { device: second.id.to_bytes(), data: bytes::Bytes::from_static(b"second") });
    send.recipient_list_version = 2;
    send.restart = true;
    accepted(&mut from, send).await?;
    ensure!(delivered(&mut phone).await?.slice.as_ref() == b"slice");
    ensure!(delivered(&mut tablet).await?.slice.as_ref() == b"second", "each device gets its own slice only");

    let list = bob.identity.sign_list(&[(&bob.device, &certificate)]);
    bob.rest.publish(bob.token(), &PublishListRequest { list, certificates: Vec::new(), prekeys: Vec::new() }).await?;
    let ending = tablet.ending(SOON).await?;
    ensure!(ending.reason() == Some(ErrorCode::DeviceRevoked), "{ending:?}");

    for restarted in [false, true] {
        if restarted {
            server.kill().await?;
            server.start().await?;
        }
        let refusal = Socket::hello(&server.origin(), &token, 9).await.err().context("a revoked device was let in")?;
        ensure!(matches!(refusal.downcast_ref(), Some(Refusal(ErrorCode::DeviceRevoked | ErrorCode::Unauthenticated))), "{refusal:#}");
        let answer = bob.rest.get::<KeysState>("/v1/keys", Some(&token)).await;
        ensure!(matches!(answer.map_err(|error| error.code()), Err(Some(ErrorCode::DeviceRevoked | ErrorCode::Unauthenticated))));
        if bob.rest.login(bob.identity.account, &second).await.is_ok() {
            bail!("a revoked device logged in");
        }
    }

    let (mut from, _) = alice.connect().await?;
    let mut send = alice.message(bob.device_ref(), "for one");
    send.slices.push(Slice { device: second.id.to_bytes(), data: bytes::Bytes::from_static(b"ghost") });
    let refusal = error(from.ask(client_frame::Kind::Send(send.clone())).await?)?;
    ensure!(refusal.devices_changed.is_some_and(|changed| changed.extra.len() == 1 && changed.missing.is_empty()));
    send.slices.truncate(1);
    send.restart = true;
    accepted(&mut from, send).await?;
    Ok(())
}

/// What is committed is also told: whoever revokes may hang up before the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_cut_also_if_the_one_that_revokes_hangs_up() -> Story {
    let server = Options::new().start().await?;
    let address = server.origin().replace("http://", "");
    for name in ["bob", "carol", "dave", "erin", "frank"] {
        let mut person = Person::register(&server.origin(), name).await?;
        let certificate = person.identity.certify(&person.device, 1);
        let (_, token) = link(&mut person, &certificate).await?;
        let (mut tablet, _) = Socket::hello(&server.origin(), &token, 1).await?;
        let list = person.identity.sign_list(&[(&person.device, &certificate)]);
        let request = PublishListRequest { list, certificates: Vec::new(), prekeys: Vec::new() };
        let body = serde_json::to_string(&request)?;
        let (access, length) = (person.token(), body.len());
        let mut revoking = TcpStream::connect(&address).await?;
        let bytes = format!(
            "POST /v1/devices/list HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {access}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        revoking.write_all(bytes.as_bytes()).await?;
        drop(revoking);
        // It may have hung up before anything was committed; then nothing has happened, and the same list is as good as before.
        let now: Devices = person.rest.get("/v1/devices", Some(person.token())).await?;
        if now.version == 2 {
            match person.rest.publish(person.token(), &request).await {
                Ok(_) => {}
                Err(error) => ensure!(error.code() == Some(ErrorCode::DeviceListConflict), "{error}"),
            }
        }
        let ending = tablet.ending(SOON).await?;
        ensure!(ending.reason() == Some(ErrorCode::DeviceRevoked), "{ending:?}");
    }
    Ok(())
}

/// A30's like for devices: the server takes no list that the identity key has not signed, and no fork of the history.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_forged_stale_or_forked_is_refused() -> Story {
    let server = Options::new().start().await?;
    let (mut bob, mut mallory) = (Person::register(&server.origin(), "bob").await?, Person::register(&server.origin(), "mallory").await?);
    let certificate = bob.identity.certify(&bob.device, 1);
    let publish = |list| PublishListRequest { list, certificates: Vec::new(), prekeys: Vec::new() };

    // Mallory's list under Bob's token; Bob's list under Mallory's.
    let hers = mallory.identity.certify(&mallory.device, 1);
    let forged = mallory.identity.sign_list(&[(&mallory.device, &hers)]);
    let answer = bob.rest.publish(bob.token(), &publish(forged)).await;
    ensure!(matches!(
        answer.map_err(|error| error.code()),
        Err(Some(ErrorCode::SignatureInvalid | ErrorCode::DeviceListConflict | ErrorCode::InvalidFrame))
    ));

    let second = bob.identity.sign_list(&[(&bob.device, &certificate)]);
    let mut tampered = publish(second.clone());
    tampered.list.signature.0[7] ^= 1;
    refused_by_rest(bob.rest.publish(bob.token(), &tampered).await, ErrorCode::SignatureInvalid)?;
    let third = bob.identity.sign_list(&[(&bob.device, &certificate)]);
    refused_by_rest(bob.rest.publish(bob.token(), &publish(third.clone())).await, ErrorCode::DeviceListConflict)?;
    bob.rest.publish(bob.token(), &publish(second.clone())).await?;
    refused_by_rest(bob.rest.publish(bob.token(), &publish(second)).await, ErrorCode::DeviceListConflict).context("an old version")?;
    bob.rest.publish(bob.token(), &publish(third)).await?;
    Ok(())
}
