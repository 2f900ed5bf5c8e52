//! Who is connected at all, for work beside the way of a message.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use async_trait::async_trait;
use kith_proto::id::{AccountId, DeviceRef};

use super::{AT_ONCE, DirectoryError, GatewayId, SessionDirectory};

/// Knows which devices are connected.
#[async_trait]
pub trait Connections: Send + Sync + fmt::Debug {
    /// Those of the devices that have a connection to any process of the service.
    ///
    /// # Errors
    /// If that is not known just now, which is not the same as nobody.
    async fn connected(&self, devices: &[DeviceRef]) -> Result<HashSet<DeviceRef>, DirectoryError>;
}

/// As a directory tells it, for all gateways that share it.
#[derive(Debug)]
pub struct Everywhere(Arc<dyn SessionDirectory>);

impl Everywhere {
    /// The one who asks need not be a gateway.
    #[must_use]
    pub fn new(directory: Arc<dyn SessionDirectory>) -> Self {
        Self(directory)
    }
}

#[async_trait]
impl Connections for Everywhere {
    async fn connected(&self, devices: &[DeviceRef]) -> Result<HashSet<DeviceRef>, DirectoryError> {
        let accounts: HashSet<AccountId> = devices.iter().map(|device| device.account).collect();
        let accounts: Vec<_> = accounts.into_iter().collect();
        let mut places = HashMap::with_capacity(accounts.len());
        for some in accounts.chunks(AT_ONCE) {
            places.extend(some.iter().copied().zip(self.0.find(some).await?));
        }
        // Afterwards: whoever has entered a place that was found had a lease by then.
        let alive: HashSet<GatewayId> = self.0.gateways().await?.into_iter().collect();
        if alive.is_empty() {
            return Err(DirectoryError("no gateway has a lease: it has lost everything, or there is nobody to ask".into()));
        }
        let is_connected = |device: &&DeviceRef| {
            let places = places.get(&device.account).map(Vec::as_slice).unwrap_or_default();
            places.iter().any(|place| place.device == device.device && alive.contains(&place.gateway))
        };
        Ok(devices.iter().filter(is_connected).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kith_proto::id::DeviceId;

    use super::*;
    use crate::sessions::memory::Hub;

    fn device(n: u8) -> DeviceRef {
        DeviceRef { account: AccountId([n; 16]), device: DeviceId([n; 16]) }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_connected_anywhere_and_not_who_was_where_nobody_is_any_more() {
        let hub = Hub::new(Duration::from_secs(10));
        let [one, two] = [1, 2].map(|id| hub.join(GatewayId(id), "host:1"));
        let everywhere = Everywhere::new(Arc::new(hub.join(GatewayId(9), "")));
        let all: Vec<_> = (1..=4).map(device).collect();
        assert!(everywhere.connected(&all).await.is_err(), "nobody knows");
        one.renew().await.unwrap();
        two.renew().await.unwrap();
        one.enter(&[(device(1), 1)]).await.unwrap();
        two.enter(&[(device(2), 1), (device(3), 1)]).await.unwrap();
        let other = DeviceRef { device: DeviceId([77; 16]), ..device(1) };
        assert_eq!(everywhere.connected(&all).await.unwrap(), [1, 2, 3].map(device).into());
        assert!(everywhere.connected(&[other]).await.unwrap().is_empty(), "another device of the account");
        tokio::time::advance(Duration::from_secs(6)).await;
        one.renew().await.unwrap();
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(everywhere.connected(&all).await.unwrap(), [device(1)].into());
        hub.set_away(true);
        assert!(everywhere.connected(&all).await.is_err());
    }
}
