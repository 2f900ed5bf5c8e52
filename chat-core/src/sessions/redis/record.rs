//! What stands in Redis: the names of the keys and the packed values.
//!
//! | key | value |
//! | --- | --- |
//! | prefix `s:` account (16 bytes) | the account's places: records of 32 bytes, one after another |
//! | prefix `gateways` | hash: gateway (8 bytes) -> end of its lease and address, see `renew.lua` |
//! | prefix `b:` kind (1 byte) whose (32 bytes) | a token bucket: when it is full again, see `take.lua` |
//! | prefix `m:` number | a marker, by which a flush is noticed, see `link.rs` |
//!
//! A record is the device (16 bytes), the gateway and the epoch (8 bytes each, big-endian). One string per account rather than a hash: so many accounts are
//! read by one MGET, which costs a third of what it costs to read a hash each, and the script that writes finds its device among a handful just the same.

use bytes::{BufMut as _, Bytes, BytesMut};
use kith_proto::id::{AccountId, DeviceId, DeviceRef};

use super::super::{GatewayId, Place};

const RECORD: usize = 32;

/// The names of all keys.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    sessions: Bytes,
    markers: Bytes,
    buckets: Bytes,
    gateways: Bytes,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let name = |name: &str| Bytes::from(format!("{prefix}{name}"));
        Self { sessions: name("s:"), markers: name("m:"), buckets: name("b:"), gateways: name("gateways") }
    }

    pub(super) fn buckets(&self) -> &Bytes {
        &self.buckets
    }

    pub(super) fn gateways(&self) -> Bytes {
        self.gateways.clone()
    }

    pub(super) fn marker(&self, number: usize) -> Bytes {
        [&self.markers, number.to_string().as_bytes()].concat().into()
    }

    /// In one piece of memory.
    pub(super) fn accounts(&self, accounts: impl ExactSizeIterator<Item = AccountId>) -> Vec<Bytes> {
        let mut buffer = BytesMut::with_capacity(accounts.len() * (self.sessions.len() + 16));
        let key = |account: AccountId| {
            buffer.put_slice(&self.sessions);
            buffer.put_slice(&account.0);
            buffer.split().freeze()
        };
        accounts.map(key).collect()
    }

    /// Whose key this is, if it is an account's.
    pub(super) fn account(&self, key: &[u8]) -> Option<AccountId> {
        AccountId::try_from(key.strip_prefix(&*self.sessions)?).ok()
    }
}

/// One record for each session, in one piece of memory.
pub(super) fn records(gateway: GatewayId, sessions: &[(DeviceRef, u64)]) -> impl Iterator<Item = Bytes> {
    let mut buffer = BytesMut::with_capacity(sessions.len() * RECORD);
    sessions.iter().map(move |(device, epoch)| {
        buffer.put_slice(&device.device.0);
        buffer.put_u64(gateway.0);
        buffer.put_u64(*epoch);
        buffer.split().freeze()
    })
}

/// The places that a value holds. Bytes that are no whole record at its end are not looked at: nobody writes such, and nothing that depends on it is lost.
pub(super) fn places(value: &[u8]) -> impl Iterator<Item = Place> {
    value.chunks_exact(RECORD).map(|record| {
        let (device, rest) = record.split_at(16);
        let number = |from: usize| rest[from..from + 8].iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        let mut id = [0; 16];
        id.copy_from_slice(device);
        Place { device: DeviceId(id), gateway: GatewayId(number(0)), epoch: number(8) }
    })
}

/// As it is written in the hash of all gateways.
pub(super) fn gateway_id(id: GatewayId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_be_bytes())
}

pub(super) fn to_gateway_id(bytes: &[u8]) -> Option<GatewayId> {
    bytes.try_into().ok().map(u64::from_be_bytes).map(GatewayId)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_come_back_as_they_were(gateway: u64, sessions: Vec<([u8; 16], u64)>) {
            let gateway = GatewayId(gateway);
            let sessions: Vec<_> =
                sessions.into_iter().map(|(id, epoch)| (DeviceRef { account: AccountId([0; 16]), device: DeviceId(id) }, epoch)).collect();
            let value: Vec<u8> = records(gateway, &sessions).flatten().collect();
            let expected: Vec<_> = sessions.iter().map(|(device, epoch)| Place { device: device.device, gateway, epoch: *epoch }).collect();
            prop_assert_eq!(places(&value).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn any_value_is_read_without_harm(value: Vec<u8>) {
            prop_assert_eq!(places(&value).count(), value.len() / RECORD);
        }

        #[test]
        fn keys_name_their_account(prefix: String, id: [u8; 16], other: Vec<u8>) {
            let keys = Keys::new(&prefix);
            let account = AccountId(id);
            prop_assert_eq!(keys.account(&keys.accounts([account].into_iter())[0]), Some(account));
            prop_assert_eq!(keys.account(&keys.marker(7)), None);
            prop_assert_eq!(keys.account(&keys.gateways()), None);
            prop_assert!(keys.account(&other).is_none_or(|account| keys.accounts([account].into_iter())[0] == other));
            prop_assert_eq!(to_gateway_id(&gateway_id(GatewayId(5))), Some(GatewayId(5)));
        }
    }

    #[test]
    fn the_bytes_do_not_change() {
        let device = DeviceRef { account: AccountId([1; 16]), device: DeviceId([2; 16]) };
        let record = records(GatewayId(0x0102_0304_0506_0708), &[(device, 9)]).next().unwrap();
        assert_eq!(hex::encode(record), "0202020202020202020202020202020201020304050607080000000000000009");
        let key = &Keys::new("kith:").accounts([device.account].into_iter())[0];
        assert_eq!(hex::encode(key), format!("{}{}", hex::encode("kith:s:"), "01".repeat(16)));
    }
}
