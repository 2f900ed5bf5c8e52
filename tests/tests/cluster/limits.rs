//! What somebody may ask for in a minute does not grow with the number of servers, and nobody is refused because Redis is away.

use anyhow::ensure;
use kith_tests::{Story, person::Person, rest::Rest};
use reqwest::Method;

use crate::fleet::{Fleet, LEASE, NEVER, until_metric};

/// The status of asking for the keys of an account.
async fn asks(rest: &Rest, person: &Person) -> anyhow::Result<u16> {
    let path = format!("/v1/accounts/{}/bundles", person.identity.account);
    let (status, ..) = rest.raw(Method::POST, &path, Some(person.token()), Some(br#"{"devices":[]}"#.to_vec())).await?;
    Ok(status.as_u16())
}

const ANSWERED: u16 = 200;
const TOO_MANY: u16 = 429;

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_have_one_limit_and_nobody_is_refused_because_redis_is_away() -> Story {
    let settings = [("KITH_LIMITS_ENFORCED", "true"), ("KITH_LIMITS_BUNDLES_ACCOUNT_BURST", "4"), ("KITH_LIMITS_BUNDLES_ACCOUNT_PER_MINUTE", "1")];
    let fleet = Fleet::start_with(NEVER, LEASE, &settings).await?;
    let (alice, bob) = fleet.friends().await?;
    let (one, two) = (fleet.one.rest()?, fleet.two.rest()?);
    for _ in 0..2 {
        ensure!(asks(&one, &alice.person).await? == ANSWERED);
        ensure!(asks(&two, &alice.person).await? == ANSWERED);
    }
    ensure!(asks(&one, &alice.person).await? == TOO_MANY, "the other server's count holds here");
    ensure!(asks(&two, &alice.person).await? == TOO_MANY, "and there");

    fleet.redis.kill().await?;
    for _ in 0..4 {
        ensure!(asks(&one, &bob.person).await? == ANSWERED, "Redis is away, and that is no reason to refuse anybody");
    }
    ensure!(asks(&one, &bob.person).await? == TOO_MANY, "its own count still holds");
    until_metric(&fleet.one, "kith_limits_unshared_total", |times| times >= 4).await
}
