//! What travels on the bus, and how it is written.
//!
//! A payload is protobuf, so that fields can be added: a reader passes over fields that it does not know. A kind that it does not know it cannot work on, and the event
//! becomes a dead letter that is replayed when the reader has been upgraded. Tags are never used again. The layout:
//!
//! ```text
//! message Event {
//!   bytes  id = 1;      // 16 bytes, the same however often the event is published
//!   uint64 at_ms = 2;   // when it happened, Unix milliseconds
//!   oneof what {
//!     Device   device_revoked = 16;        // Device   { bytes account = 1; bytes device = 2; }
//!     Sleeping message_for_sleeping = 17;  // Sleeping { bytes conversation = 1; uint64 seq = 2; Device device = 3; }
//!     Account  account_erased = 18;        // Account  { bytes account = 1; }
//!   }
//! }
//! ```

use std::fmt;

use kith_proto::id::{AccountId, ConversationId, DeviceId, DeviceRef};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

/// What belongs together: events of one topic and one key are in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// What happens to accounts; keyed by account.
    Accounts,
    /// Messages that wait for a device without a connection; keyed by conversation.
    Sleeping,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Accounts, Self::Sleeping];

    /// As it is stored, behind a prefix in Kafka; also a label of metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accounts => "accounts",
            Self::Sleeping => "sleeping",
        }
    }

    /// The topic of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.name() == name)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Tells events apart: made of what happened, so that an event that is written twice has it twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub [u8; 16]);

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {self}")
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The same in every repetition.
    pub id: EventId,
    /// When it happened; Unix milliseconds.
    pub at_ms: u64,
    /// What.
    pub what: What,
}

/// Kinds of events. They hold ids and nothing of a message's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A device has left its account's list, for ever.
    DeviceRevoked(DeviceRef),
    /// A message was accepted for a device that is not connected anywhere.
    MessageForSleepingDevice {
        /// Where it is.
        conversation: ConversationId,
        /// Which it is.
        seq: u64,
        /// Whom to wake.
        device: DeviceRef,
    },
    /// An account was erased. Reserved: nothing publishes it yet.
    AccountErased(AccountId),
}

/// An event as the bus carries it: an older program passes on what only a newer one can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it goes.
    pub topic: Topic,
    /// What it is in order with.
    pub key: [u8; 16],
    /// The event.
    pub payload: Vec<u8>,
}

/// Why a payload is no event to this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is not as this page says.
    #[error("the event is malformed")]
    Malformed,
    /// It is of a kind that this version does not know.
    #[error("the event is of an unknown kind")]
    UnknownKind,
}

impl Unreadable {
    /// For metrics and dead letters.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownKind => "unknown_kind",
        }
    }
}

impl Event {
    /// An event of this kind.
    #[must_use]
    pub fn new(what: What, at_ms: u64) -> Self {
        Self { id: what.id(), at_ms, what }
    }

    /// As the bus carries it.
    #[must_use]
    pub fn to_record(&self) -> Record {
        let wire = wire::Event { id: self.id.0.to_vec(), at_ms: self.at_ms, what: Some(self.what.into()) };
        Record { topic: self.what.topic(), key: self.what.key(), payload: wire.encode_to_vec() }
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// If it is none, or of a kind that this version does not know.
    pub fn from_payload(payload: &[u8]) -> Result<Self, Unreadable> {
        let wire = wire::Event::decode(payload).map_err(|_| Unreadable::Malformed)?;
        let id = EventId(wire.id.try_into().map_err(|_| Unreadable::Malformed)?);
        let what = What::try_from(wire.what.ok_or(Unreadable::UnknownKind)?).ok().ok_or(Unreadable::Malformed)?;
        Ok(Self { id, at_ms: wire.at_ms, what })
    }
}

impl What {
    /// Where events of this kind go.
    #[must_use]
    pub fn topic(&self) -> Topic {
        match self {
            Self::DeviceRevoked(_) | Self::AccountErased(_) => Topic::Accounts,
            Self::MessageForSleepingDevice { .. } => Topic::Sleeping,
        }
    }

    /// What it is in order with.
    #[must_use]
    pub fn key(&self) -> [u8; 16] {
        match self {
            Self::DeviceRevoked(device) => device.account.0,
            Self::AccountErased(account) => account.0,
            Self::MessageForSleepingDevice { conversation, .. } => conversation.0,
        }
    }

    /// Each of these happens once: no id of an account or device is used again, and a sequence number is given once.
    fn id(&self) -> EventId {
        let mut hash = Sha256::new();
        match self {
            Self::DeviceRevoked(device) => {
                hash.update(b"kith device revoked");
                hash.update(device.account.0);
                hash.update(device.device.0);
            }
            Self::MessageForSleepingDevice { conversation, seq, device } => {
                hash.update(b"kith message for sleeping");
                hash.update(conversation.0);
                hash.update(seq.to_be_bytes());
                hash.update(device.account.0);
                hash.update(device.device.0);
            }
            Self::AccountErased(account) => {
                hash.update(b"kith account erased");
                hash.update(account.0);
            }
        }
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        EventId(id)
    }
}

impl From<What> for wire::What {
    fn from(what: What) -> Self {
        let device = |d: DeviceRef| wire::Device { account: d.account.0.to_vec(), device: d.device.0.to_vec() };
        match what {
            What::DeviceRevoked(revoked) => Self::DeviceRevoked(device(revoked)),
            What::MessageForSleepingDevice { conversation, seq, device: sleeping } => {
                Self::Sleeping(wire::Sleeping { conversation: conversation.0.to_vec(), seq, device: Some(device(sleeping)) })
            }
            What::AccountErased(account) => Self::AccountErased(wire::Account { account: account.0.to_vec() }),
        }
    }
}

impl TryFrom<wire::What> for What {
    type Error = kith_proto::id::WrongIdLength;

    fn try_from(what: wire::What) -> Result<Self, Self::Error> {
        let device = |d: wire::Device| {
            Ok::<_, Self::Error>(DeviceRef { account: AccountId::try_from(&d.account[..])?, device: DeviceId::try_from(&d.device[..])? })
        };
        Ok(match what {
            wire::What::DeviceRevoked(revoked) => Self::DeviceRevoked(device(revoked)?),
            wire::What::Sleeping(sleeping) => Self::MessageForSleepingDevice {
                conversation: ConversationId::try_from(&sleeping.conversation[..])?,
                seq: sleeping.seq,
                device: device(sleeping.device.unwrap_or_default())?,
            },
            wire::What::AccountErased(erased) => Self::AccountErased(AccountId::try_from(&erased.account[..])?),
        })
    }
}

/// The layout at the head of this page.
mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Event {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) id: Vec<u8>,
        #[prost(uint64, tag = "2")]
        pub(super) at_ms: u64,
        #[prost(oneof = "What", tags = "16, 17, 18")]
        pub(super) what: Option<What>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum What {
        #[prost(message, tag = "16")]
        DeviceRevoked(Device),
        #[prost(message, tag = "17")]
        Sleeping(Sleeping),
        #[prost(message, tag = "18")]
        AccountErased(Account),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Device {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) account: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) device: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Sleeping {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) conversation: Vec<u8>,
        #[prost(uint64, tag = "2")]
        pub(super) seq: u64,
        #[prost(message, optional, tag = "3")]
        pub(super) device: Option<Device>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Account {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) account: Vec<u8>,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn device() -> impl Strategy<Value = DeviceRef> {
        any::<([u8; 16], [u8; 16])>().prop_map(|(account, device)| DeviceRef { account: AccountId(account), device: DeviceId(device) })
    }

    fn what() -> impl Strategy<Value = What> {
        prop_oneof![
            device().prop_map(What::DeviceRevoked),
            (any::<[u8; 16]>(), any::<u64>(), device()).prop_map(|(conversation, seq, device)| What::MessageForSleepingDevice {
                conversation: ConversationId(conversation),
                seq,
                device
            }),
            any::<[u8; 16]>().prop_map(|account| What::AccountErased(AccountId(account))),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(what in what(), at_ms: u64) {
            let event = Event::new(what, at_ms);
            prop_assert_eq!(Event::from_payload(&event.to_record().payload), Ok(event));
        }

        #[test]
        fn anything_is_read_or_refused(payload in proptest::collection::vec(any::<u8>(), 0..96)) {
            let _ = Event::from_payload(&payload);
        }

        #[test]
        fn a_cut_payload_is_refused(what in what(), at_ms: u64, cut in 0_usize..1_000) {
            let payload = Event::new(what, at_ms).to_record().payload;
            prop_assert!(Event::from_payload(&payload[..cut % payload.len()]).is_err());
        }
    }

    #[test]
    fn bytes_of_a_revocation_do_not_change() {
        let revoked = Event::new(What::DeviceRevoked(DeviceRef { account: AccountId([1; 16]), device: DeviceId([2; 16]) }), 1_790_000_000_000);
        let record = revoked.to_record();
        assert_eq!((record.topic, record.key), (Topic::Accounts, [1; 16]));
        let expected = format!("0a108f6e9d580e5b0097274da24875117e291080d8c1a28c348201240a10{}1210{}", "01".repeat(16), "02".repeat(16));
        assert_eq!(hex::encode(record.payload), expected);
    }

    #[test]
    fn a_newer_field_is_passed_over_and_a_newer_kind_named() {
        let event = Event::new(What::AccountErased(AccountId([3; 16])), 5);
        let mut payload = event.to_record().payload;
        // Field 900, a number.
        payload.extend([0xa0, 0x38, 7]);
        assert_eq!(Event::from_payload(&payload), Ok(event));
        // Field 1 is the id; field 19, bytes, would be a kind of tomorrow.
        let mut tomorrow = vec![0x0a, 16];
        tomorrow.extend([9; 16]);
        tomorrow.extend([0x9a, 0x01, 1, 0]);
        assert_eq!(Event::from_payload(&tomorrow), Err(Unreadable::UnknownKind));
    }

    #[test]
    fn topics_are_found_by_name() {
        for topic in Topic::ALL {
            assert_eq!(Topic::named(topic.name()), Some(topic));
        }
        assert_eq!(Topic::named("tomorrow"), None);
    }
}
