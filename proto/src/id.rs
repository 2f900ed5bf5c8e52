//! The 16-byte ids that travel. Each is a type of its own, so that one cannot stand in for another.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// What should have been an id has another length than 16 bytes, or is not written as 32 lower-case hexadecimal digits. Holds how many bytes it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 16 bytes, in text 32 lower-case hexadecimal digits; this has {0} bytes")]
pub struct WrongIdLength(pub usize);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// The 16 bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// The id as an owned buffer, for a frame.
            #[must_use]
            pub fn to_bytes(self) -> bytes::Bytes {
                bytes::Bytes::copy_from_slice(&self.0)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = WrongIdLength;
            fn try_from(bytes: &[u8]) -> Result<Self, WrongIdLength> {
                bytes.try_into().map(Self).map_err(|_| WrongIdLength(bytes.len()))
            }
        }

        /// Lower-case hexadecimal, as in paths and JSON bodies of REST.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        /// Ids of people are user data: `Debug` shows only the first two bytes, which is enough to tell two apart in a test and too little to name
        /// anyone in a log.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}..)"), hex::encode(&self.0[..2]))
            }
        }

        impl std::str::FromStr for $name {
            type Err = WrongIdLength;
            fn from_str(s: &str) -> Result<Self, WrongIdLength> {
                let mut out = [0; 16];
                if s.bytes().any(|b| b.is_ascii_uppercase()) {
                    // One spelling per id, so that an id can be compared as text.
                    return Err(WrongIdLength(s.len() / 2));
                }
                hex::decode_to_slice(s, &mut out).map_err(|_| WrongIdLength(s.len() / 2))?;
                Ok(Self(out))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// An account: derived from its first identity and recovery keys, never reused.
    AccountId
);
id!(
    /// A device, unique within its account only; 16 random bytes, never reused.
    DeviceId
);
id!(
    /// A conversation. Knowing it authorises nothing.
    ConversationId
);
id!(
    /// The sender's name for a message: 16 random bytes. With conversation and sender device it makes an append idempotent.
    ClientMsgId
);

impl ConversationId {
    /// The id of the direct conversation of two accounts, whichever way round they are given.
    #[must_use]
    pub fn direct(a: AccountId, b: AccountId) -> Self {
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        let hash = Sha256::new().chain_update("kith/v1/direct").chain_update(low.0).chain_update(high.0).finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        Self(id)
    }
}

/// A device of an account: what a session, a slice or a cursor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceRef {
    /// The account.
    pub account: AccountId,
    /// The device within it.
    pub device: DeviceId,
}
