//! Where Redis is, without who may use it.

use fred::types::{RespVersion, config::Config};

use super::OpenError;
use crate::domain::Address;

/// What a URL may begin with: one server, a cluster, one watched by Sentinels; and each with TLS.
pub const SCHEMES: [&str; 6] = ["redis", "rediss", "redis-cluster", "rediss-cluster", "redis-sentinel", "rediss-sentinel"];

/// Takes the URL apart. What it returns first holds the password.
pub(super) fn parse(url: &str) -> Result<(Config, Address), OpenError> {
    if !url.split_once("://").is_some_and(|(scheme, _)| SCHEMES.contains(&scheme)) {
        return Err(OpenError::Url(format!("it must begin with one of {}", SCHEMES.map(|scheme| format!("{scheme}://")).join(", "))));
    }
    own_password_of_sentinels(url)?;
    // The parser's errors say what is wrong with the text, and do not quote it.
    let mut config = Config::from_url(url).map_err(|error| OpenError::Url(error.details().to_owned()))?;
    // Tells changes on the connection that reads.
    config.version = RespVersion::RESP3;
    let mut hosts: Vec<_> = config.server.hosts().iter().map(|server| format!("{}:{}", server.host, server.port)).collect();
    // The one before the question mark first.
    hosts.rotate_right(1);
    Ok((config, Address::new(hosts.join(", "))))
}

/// The driver, as it is built, shows Sentinels what it shows the server, and would silently leave out another password.
fn own_password_of_sentinels(url: &str) -> Result<(), OpenError> {
    let parameter = |name: &str| url.split(['?', '&']).skip(1).find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let password = url.split_once("://").and_then(|(_, rest)| rest.split_once('@')?.0.split_once(':')).map(|(_, password)| password);
    match (parameter("sentinelUsername"), parameter("sentinelPassword")) {
        (None, None) => Ok(()),
        (None, given) if given == password => Ok(()),
        _ => Err(OpenError::Url("Sentinels must take the same user and password as the server".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_neither_user_nor_password() {
        for (url, shown) in [
            ("redis://kith:s3cret@cache.example:6390/2", "cache.example:6390"),
            ("rediss://:s3cret@cache.example", "cache.example:6379"),
            ("redis-cluster://:s3cret@a:7000?node=b:7001&node=c:7002", "a:7000, b:7001, c:7002"),
            ("redis-sentinel://:s3cret@a:7000?node=b:7001&sentinelServiceName=kith&sentinelPassword=s3cret", "a:7000, b:7001"),
        ] {
            let (config, address) = parse(url).unwrap();
            assert_eq!((address.to_string().as_str(), format!("{address:?}").as_str()), (shown, shown));
            assert_eq!((config.password.as_deref(), config.version), (Some("s3cret"), RespVersion::RESP3));
        }
    }

    #[test]
    fn a_wrong_address_is_not_quoted() {
        for url in [
            "http://:s3cret@a",
            "redis+unix://:s3cret@a",
            "s3cret",
            "redis://:s3cret@a:port",
            "redis://:s3cret@a/database",
            "redis-cluster://:s3cret@a:1?node=nowhere",
            "redis-sentinel://:s3cret@a:1",
            "redis-sentinel://:s3cret@a:1?sentinelServiceName=kith&sentinelPassword=other",
            "redis-sentinel://:s3cret@a:1?sentinelServiceName=kith&sentinelUsername=other",
        ] {
            let error = parse(url).unwrap_err();
            assert!(!error.to_string().contains("s3cret") && !format!("{error:?}").contains("s3cret"), "{error}");
        }
    }
}
