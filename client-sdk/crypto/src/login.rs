//! Logging in by signing the server's challenge (§1, §9.9): bound to origin, device and time, useless anywhere else.

use crate::device::DeviceKeys;
use crate::id::{AccountId, DeviceId};
use crate::sign::{Label, Signature, SignatureError, VerifyingKey};
use thiserror::Error;

/// How long a login statement may be valid, in milliseconds.
pub const LOGIN_VALID_MS: u64 = 60_000;
const MAX_ORIGIN_LEN: usize = 280;

/// Why an origin or a login was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LoginError {
    /// The address is no `scheme://host[:port]` of http, https, ws or wss.
    #[error("the address is no origin")]
    BadOrigin,
    /// The server asks for a signature for another origin than the one dialled.
    #[error("the server names another origin than the one dialled")]
    OtherOrigin,
    /// The statement has expired, or would be valid for longer than a minute.
    #[error("the login is outside its time")]
    OutsideTime,
    /// The signature is bad.
    #[error("login signature: {0}")]
    Signature(#[from] SignatureError),
}

/// An origin in its one form: `scheme://host:port`, lower case, the port always written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin(String);

impl Origin {
    /// Normalises an address: path, query and fragment are dropped, the scheme's port is filled in.
    ///
    /// # Errors
    /// [`LoginError::BadOrigin`] for other schemes, credentials, an empty or non-ASCII host or a bad port.
    pub fn parse(address: &str) -> Result<Self, LoginError> {
        let (scheme, rest) = address.split_once("://").ok_or(LoginError::BadOrigin)?;
        let scheme = scheme.to_ascii_lowercase();
        let default_port = match scheme.as_str() {
            "http" | "ws" => 80,
            "https" | "wss" => 443,
            _ => return Err(LoginError::BadOrigin),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (host, port) = split_port(authority)?;
        let port = port.map_or(Ok(default_port), parse_port)?;
        let origin = format!("{scheme}://{}:{port}", host.to_ascii_lowercase());
        if !is_host(host) || origin.len() > MAX_ORIGIN_LEN {
            return Err(LoginError::BadOrigin);
        }
        Ok(Self(origin))
    }

    /// The origin as it is signed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), LoginError> {
    let host_end = if authority.starts_with('[') {
        authority.find(']').ok_or(LoginError::BadOrigin)? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at(host_end);
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if rest.is_empty() => Ok((host, None)),
        None => Err(LoginError::BadOrigin),
    }
}

fn parse_port(port: &str) -> Result<u16, LoginError> {
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(LoginError::BadOrigin);
    }
    port.parse().ok().filter(|port| *port != 0).ok_or(LoginError::BadOrigin)
}

fn is_host(host: &str) -> bool {
    let name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<core::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(name),
    }
}

/// What a device signs to log in: single use, bound to the device, at most a minute long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginStatement {
    /// The origin the client dialled.
    pub origin: Origin,
    /// The account.
    pub account_id: AccountId,
    /// The device.
    pub device_id: DeviceId,
    /// The server's challenge.
    pub challenge: [u8; 32],
    /// The client's own randomness.
    pub client_nonce: [u8; 32],
    /// When the statement ends, in Unix milliseconds.
    pub expires_ms: u64,
}

impl LoginStatement {
    /// Refuses to sign for another origin than `dialled`, as a server in the middle would ask for, or for too long.
    ///
    /// # Errors
    /// [`LoginError::OtherOrigin`] or [`LoginError::OutsideTime`].
    pub fn sign(&self, device: &DeviceKeys, dialled: &Origin, now_ms: u64) -> Result<Signature, LoginError> {
        if self.origin != *dialled {
            return Err(LoginError::OtherOrigin);
        }
        self.check_time(now_ms)?;
        Ok(device.signing_key().sign(Label::Login, &[&self.fields()]))
    }

    /// Verifies a login as a server does; that the challenge is its own and unused is the server's to check.
    ///
    /// # Errors
    /// [`LoginError`] naming what is wrong.
    pub fn verify(&self, key: &VerifyingKey, signature: &Signature, now_ms: u64) -> Result<(), LoginError> {
        self.check_time(now_ms)?;
        key.verify(Label::Login, &[&self.fields()], signature)?;
        Ok(())
    }

    fn check_time(&self, now_ms: u64) -> Result<(), LoginError> {
        match self.expires_ms.checked_sub(now_ms) {
            Some(1..=LOGIN_VALID_MS) => Ok(()),
            _ => Err(LoginError::OutsideTime),
        }
    }

    /// u16 length ‖ origin ‖ account_id ‖ device_id ‖ challenge ‖ client_nonce ‖ expires.
    #[must_use]
    pub fn fields(&self) -> Vec<u8> {
        let origin = self.origin.as_str().as_bytes();
        let mut out = Vec::with_capacity(106 + origin.len());
        out.extend_from_slice(&u16::try_from(origin.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(origin);
        out.extend_from_slice(self.account_id.as_bytes());
        out.extend_from_slice(self.device_id.as_bytes());
        out.extend_from_slice(&self.challenge);
        out.extend_from_slice(&self.client_nonce);
        out.extend_from_slice(&self.expires_ms.to_be_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000_000;

    fn statement() -> (DeviceKeys, LoginStatement) {
        let secret = || Secret::from_bytes([3; 32]);
        let device = DeviceKeys::from_secrets(DeviceId::from_bytes([2; 16]), &secret(), secret(), &secret());
        let statement = LoginStatement {
            origin: Origin::parse("http://127.0.0.1:7400").unwrap(),
            account_id: AccountId::from_bytes([1; 16]),
            device_id: device.device_id(),
            challenge: [4; 32],
            client_nonce: [5; 32],
            expires_ms: NOW + LOGIN_VALID_MS,
        };
        (device, statement)
    }

    #[test]
    fn origins_have_one_form() {
        let form = |address| Origin::parse(address).map(|origin| origin.as_str().to_owned());
        assert_eq!(form("HTTPS://Chat.Example/v1?x#y").unwrap(), "https://chat.example:443");
        assert_eq!(form("http://localhost").unwrap(), "http://localhost:80");
        assert_eq!(form("wss://a.b:7400/").unwrap(), "wss://a.b:7400");
        assert_eq!(form("http://[::1]:7400").unwrap(), "http://[::1]:7400");
        assert_eq!(form("http://[::1]").unwrap(), "http://[::1]:80");
        for bad in
            ["", "a.b", "ftp://a", "http://", "http://:1", "http://u@h", "http://h:0", "http://h:+1", "http://h:99999", "http://ä", "http://[::1"]
        {
            assert_eq!(form(bad), Err(LoginError::BadOrigin), "{bad}");
        }
        let long = format!("http://{}:1", "a".repeat(300));
        for refused in [long.as_str(), "http://[::g]:1", "http://[::::]:1", "http://[1]:1"] {
            assert!(Origin::parse(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a29_login_is_bound_to_origin_device_and_time() {
        let (device, statement) = statement();
        let signature = statement.sign(&device, &statement.origin, NOW).unwrap();
        assert_eq!(statement.verify(&device.verifying_key(), &signature, NOW), Ok(()));
        let other = Origin::parse("http://127.0.0.2:7400").unwrap();
        assert_eq!(statement.sign(&device, &other, NOW), Err(LoginError::OtherOrigin));
        assert_eq!(statement.verify(&device.verifying_key(), &signature, NOW + LOGIN_VALID_MS), Err(LoginError::OutsideTime));
        assert_eq!(statement.sign(&device, &statement.origin, NOW - 1), Err(LoginError::OutsideTime));
        for change in [
            LoginStatement { origin: other, ..statement.clone() },
            LoginStatement { challenge: [0; 32], ..statement.clone() },
            LoginStatement { client_nonce: [0; 32], ..statement.clone() },
            LoginStatement { device_id: DeviceId::from_bytes([9; 16]), ..statement.clone() },
            LoginStatement { account_id: AccountId::from_bytes([9; 16]), ..statement.clone() },
            LoginStatement { expires_ms: NOW + 1, ..statement },
        ] {
            assert!(change.verify(&device.verifying_key(), &signature, NOW).is_err());
        }
    }

    proptest! {
        #[test]
        fn a49_origin_parser_takes_anything_and_is_idempotent(text: String) {
            if let Ok(origin) = Origin::parse(&text) {
                prop_assert_eq!(Origin::parse(origin.as_str()).unwrap(), origin);
            }
        }
    }
}
