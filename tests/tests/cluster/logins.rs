//! A balancer may deal out single requests: what a login takes at one server it brings to another. And it works once, at whatever server.

use anyhow::Context as _;
use kith_proto::{
    rest::{LoginRequest, RegisterRequest, RegisterResponse, Tokens},
    v1::ErrorCode,
};
use kith_tests::{
    Story,
    expect::refused_by_rest,
    identity::{Device, Identity},
    rest::Rest,
};

use crate::fleet::{Fleet, LEASE, NEVER};

/// What a balancer before both servers is dialled as.
const PUBLIC: &str = "https://chat.example:443";

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_was_begun_at_one_server_is_finished_at_the_other_and_replayed_at_neither() -> Story {
    let fleet = Fleet::start_with(NEVER, LEASE, &[("KITH_PUBLIC_URL", PUBLIC), ("KITH_REGISTRATION_POLICY", "open")]).await?;
    let (one, two) = (Rest::behind(&fleet.one.origin(), PUBLIC)?, Rest::behind(&fleet.two.origin(), PUBLIC)?);
    let (mut identity, mut device) = (Identity::default(), Device::default());
    let certificate = identity.certify(&device, 1);
    let list = identity.sign_list(&[(&device, &certificate)]);
    let registration = RegisterRequest {
        username: "alice".into(),
        aik: identity.aik().into(),
        recovery: [0; 32].into(),
        certificate,
        list,
        prekeys: device.prekeys(identity.account, 1),
        proof: one.prove(identity.account, &device).await?,
        device_name: None,
        invite_code: None,
    };
    let _: RegisterResponse = two.post("/v1/accounts", None, &registration).await.context("a registration")?;
    for rest in [&one, &two] {
        let replayed = rest.post::<RegisterResponse>("/v1/accounts", None, &registration).await;
        refused_by_rest(replayed, ErrorCode::ChallengeInvalid).context("the registration replayed")?;
    }

    for (given_by, taken_by) in [(&one, &two), (&two, &one)] {
        let request = LoginRequest { account: identity.account, device: device.id, proof: given_by.prove(identity.account, &device).await? };
        let tokens: Tokens = taken_by.post("/v1/login", None, &request).await.context("a login")?;
        given_by.refresh(tokens.refresh_token.as_str()).await?;
        for rest in [&one, &two] {
            refused_by_rest(rest.post::<Tokens>("/v1/login", None, &request).await, ErrorCode::ChallengeInvalid).context("the login replayed")?;
        }
    }
    Ok(())
}
