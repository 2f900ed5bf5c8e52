//! Who is connected anywhere, for a process that holds no connections itself. The directory is opened when it is first asked, so that nothing else that the process does
//! waits for it.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use kith_chat_core::sessions::{
    Connections, DirectoryError, Everywhere, GatewayId,
    redis::{self, RedisDirectory},
};
use kith_proto::id::DeviceRef;
use tokio::sync::OnceCell;

use crate::config::{self, Config};

#[derive(Debug)]
pub(super) struct Lookout {
    options: redis::Options,
    opened: OnceCell<Everywhere>,
}

impl Lookout {
    /// `me` is no gateway: it has no address and never a lease.
    pub(super) fn new(config: &Config, me: GatewayId) -> Self {
        let lease = config::ms(config.cluster.lease_ms);
        let options = redis::Options { lease, ..redis::Options::new(config.redis.url.reveal(), me, "") };
        Self { options, opened: OnceCell::new() }
    }
}

#[async_trait]
impl Connections for Lookout {
    async fn connected(&self, devices: &[DeviceRef]) -> Result<HashSet<DeviceRef>, DirectoryError> {
        let open = || async {
            let directory = RedisDirectory::open(&self.options).await.map_err(|error| DirectoryError(Box::new(error)))?;
            Ok(Everywhere::new(Arc::new(directory)))
        };
        self.opened.get_or_try_init(open).await?.connected(devices).await
    }
}
