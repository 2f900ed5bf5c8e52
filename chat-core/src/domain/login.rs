//! What a device signs to log in, and the origins at which a server may be dialled.

use kith_proto::id::DeviceRef;

use super::{
    signature,
    statement::{Bytes32, StatementError, begin},
};

/// The longest origin: a host name has at most 253 characters.
const MAX_ORIGIN: usize = 280;

/// The fields of the statement `login` (encryption specification §1, §9.9).
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    /// The origin the client dialled.
    pub origin: &'a str,
    /// Who logs in.
    pub device: DeviceRef,
    /// As given by the server.
    pub challenge: &'a Bytes32,
    /// Random bytes of the client.
    pub client_nonce: &'a Bytes32,
    /// When the challenge ends; Unix milliseconds.
    pub expires_ms: u64,
}

impl Login<'_> {
    /// The bytes that are signed; `None` if the origin is too long to be one.
    #[must_use]
    pub fn signed(&self) -> Option<Vec<u8>> {
        let length = u16::try_from(self.origin.len()).ok().filter(|n| usize::from(*n) <= MAX_ORIGIN)?;
        let mut out = begin("kith/v1/login", 400);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(self.origin.as_bytes());
        out.extend_from_slice(&self.device.account.0);
        out.extend_from_slice(&self.device.device.0);
        out.extend_from_slice(self.challenge);
        out.extend_from_slice(self.client_nonce);
        out.extend_from_slice(&self.expires_ms.to_be_bytes());
        Some(out)
    }

    /// Verifies the device's signature.
    ///
    /// # Errors
    /// If it does not hold.
    pub fn verify(&self, key: &Bytes32, signature: &[u8; 64]) -> Result<(), StatementError> {
        let signed = self.signed().ok_or(StatementError::Malformed("the origin is too long"))?;
        signature::verify(key, &signed, signature)
    }
}

/// Whether the text is an origin as it is signed: `scheme://host:port`, lower-case ASCII, the port always written, nothing after it.
#[must_use]
pub fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let Some((host, port)) = rest.rsplit_once(':') else { return false };
    let host_is_good = if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        inner.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
    };
    let port_is_good = port.parse::<u16>().is_ok_and(|n| n != 0 && n.to_string() == port);
    text.len() <= MAX_ORIGIN && matches!(scheme, "http" | "https") && host_is_good && port_is_good
}

#[cfg(test)]
mod tests {
    use super::is_origin;

    #[test]
    fn knows_an_origin() {
        for good in ["http://127.0.0.1:7400", "https://chat.example:443", "http://[::1]:80", "http://localhost:1", "http://kith_server:7400"] {
            assert!(is_origin(good), "{good}");
        }
        let cases = [
            "",
            "https://chat.example",
            "https://Chat.example:443",
            "ftp://a:1",
            "https://a:443/",
            "https://a:0",
            "https://a:0443",
            "https://u@a:1",
            "https://:443",
            "https://a:65536",
            "http://[::g]:1",
            "https://ä:1",
        ];
        for wrong in cases {
            assert!(!is_origin(wrong), "{wrong}");
        }
    }
}
