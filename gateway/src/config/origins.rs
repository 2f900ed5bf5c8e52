//! The origins that a login may be signed for.

use std::net::SocketAddr;

use kith_chat_core::domain::login::is_origin;

use super::Config;

/// What clients may have dialled to get here: `scheme://host:port`, lower case, the port always written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// The public URL's, and on a loopback address those of the port that was bound, at that address and by the usual names of the machine itself.
    #[must_use]
    pub fn new(config: &Config, bound: SocketAddr) -> Self {
        let mut origins: Vec<String> = of_url(&config.public_url).into_iter().collect();
        if bound.ip().is_loopback() {
            let scheme = if config.has_tls() { "https" } else { "http" };
            origins.push(format!("{scheme}://{bound}"));
            origins.extend(["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{scheme}://{host}:{}", bound.port())));
        }
        Self(origins)
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn contains(&self, origin: &str) -> bool {
        self.0.iter().any(|known| known == origin)
    }
}

/// The origin of `http(s)://host[:port][/]`.
pub(super) fn of_url(url: &str) -> Result<String, &'static str> {
    const WRONG: &str = "must be https://host or https://host:port (or http://), without a path";
    let lower = url.strip_suffix('/').unwrap_or(url).to_ascii_lowercase();
    let (scheme, host) = lower.split_once("://").ok_or(WRONG)?;
    let port = if scheme == "https" { 443 } else { 80 };
    let has_port = host.rsplit_once(':').is_some_and(|(before, _)| !before.contains(':') || before.ends_with(']'));
    let origin = if has_port { lower } else { format!("{lower}:{port}") };
    if is_origin(&origin) { Ok(origin) } else { Err(WRONG) }
}
