//! Redis with Sentinels.

use super::{Kind, Redis, Server, until_all_say};
use crate::{port::Port, random::random_text};

/// What the Sentinels call the master.
const NAME: &str = "kith";

/// A master, a replica, and three Sentinels of which two decide. A master that has been silent for a second is replaced.
#[derive(Debug)]
pub struct RedisSentinel {
    servers: [Redis; 2],
    sentinels: [Redis; 3],
}

impl RedisSentinel {
    /// Starts all five; returns when the Sentinels know everybody.
    ///
    /// # Errors
    /// If they cannot be started, or do not find one another.
    pub async fn start() -> anyhow::Result<Self> {
        let password = random_text()?;
        let run = |kind, settings| {
            let password = password.clone();
            async move { Redis::run(Server { port: Port::reserve()?, bus: None, password, kind, settings }).await }
        };
        let master = run(Kind::Store, String::new()).await?;
        let port = master.address().port();
        let replica = run(Kind::Store, format!("replicaof 127.0.0.1 {port}\n")).await?;
        until_all_say([&replica], &["INFO", "replication"], &["master_link_status:up"]).await?;
        let settings = format!(
            "sentinel monitor {NAME} 127.0.0.1 {port} 2\nsentinel auth-pass {NAME} {password}\nsentinel sentinel-pass {password}\n\
             sentinel down-after-milliseconds {NAME} 1000\nsentinel failover-timeout {NAME} 5000\n"
        );
        let sentinels =
            [run(Kind::Sentinel, settings.clone()).await?, run(Kind::Sentinel, settings.clone()).await?, run(Kind::Sentinel, settings).await?];
        until_all_say(&sentinels, &["INFO", "sentinel"], &["status=ok", "slaves=1", "sentinels=3"]).await?;
        Ok(Self { servers: [master, replica], sentinels })
    }

    /// The first master, and the one that replaces it.
    #[must_use]
    pub fn servers(&self) -> &[Redis] {
        &self.servers
    }

    /// Those who watch.
    #[must_use]
    pub fn sentinels(&self) -> &[Redis] {
        &self.sentinels
    }

    /// `redis-sentinel://:PASSWORD@FIRST?node=SECOND&node=THIRD&sentinelServiceName=NAME&sentinelPassword=PASSWORD`, as clients in Rust read it.
    #[must_use]
    pub fn url(&self) -> String {
        let [first, second, third] = &self.sentinels;
        let url = first.url().replacen("redis://", "redis-sentinel://", 1);
        let password = &first.server.password;
        format!("{url}?node={}&node={}&sentinelServiceName={NAME}&sentinelPassword={password}", second.address(), third.address())
    }
}
