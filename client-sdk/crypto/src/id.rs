//! The 16-byte names that travel inside signatures and ciphertexts (encryption specification §9.1).

use core::fmt;

/// Length of every identifier of this protocol in bytes.
pub const ID_LEN: usize = 16;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; ID_LEN]);

        impl $name {
            /// Takes the 16 bytes as they are.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; ID_LEN]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; ID_LEN] {
                &self.0
            }

            /// The 16 bytes, by value.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; ID_LEN] {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "("))?;
                for byte in self.0 {
                    write!(f, "{byte:02x}")?;
                }
                write!(f, ")")
            }
        }
    };
}

identifier! {
    /// Names a conversation: one append-only log on the server.
    ConversationId
}
identifier! {
    /// Names an account for ever, whatever happens to its keys; see [`crate::identity`].
    AccountId
}
identifier! {
    /// Names a device; unique only within its account (§9.3).
    DeviceId
}
identifier! {
    /// Names one life of a device's store: a store that was rolled back takes a new one (§5).
    Incarnation
}
identifier! {
    /// Names a message for its sender, so that a retry is recognised.
    ClientMsgId
}

impl DeviceId {
    /// Draws a new device id: 16 random bytes, never reused (§1).
    pub fn random<R: rand_core::CryptoRng + ?Sized>(rng: &mut R) -> Self {
        Self(crate::secret::random_array(rng))
    }
}

impl Incarnation {
    /// Draws a new incarnation for a store that is new or was rolled back.
    pub fn random<R: rand_core::CryptoRng + ?Sized>(rng: &mut R) -> Self {
        Self(crate::secret::random_array(rng))
    }
}
