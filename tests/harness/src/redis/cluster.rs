//! Redis Cluster.

use super::{Kind, Redis, Server, until_all_say};
use crate::{port::Port, random::random_text};

/// What a key can hash to.
const SLOTS: usize = 16_384;

/// Nodes that share the keys. Each is a server of its own and can be treated badly; a replica takes over from its master about two seconds after that has
/// gone silent.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// So many masters (three at least, or nobody can be outvoted), each with so many replicas; returns when all agree.
    ///
    /// # Errors
    /// If it cannot be started, or they do not agree.
    pub async fn start(masters: usize, replicas_each: usize) -> anyhow::Result<Self> {
        let password = random_text()?;
        let mut nodes = Vec::new();
        for _ in 0..masters * (1 + replicas_each) {
            let (port, bus) = (Port::reserve()?, Some(Port::reserve()?));
            nodes.push(Redis::run(Server { port, bus, password: password.clone(), kind: Kind::Store, settings: String::new() }).await?);
        }
        let cluster = Self { nodes };
        cluster.introduce().await?;
        cluster.share_out(masters).await?;
        cluster.replicate(masters).await?;
        until_all_say(&cluster.nodes, &["CLUSTER", "INFO"], &["cluster_state:ok"]).await?;
        Ok(cluster)
    }

    async fn introduce(&self) -> anyhow::Result<()> {
        for (number, node) in (1..).zip(&self.nodes) {
            node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &u64::to_string(&number)]).await?;
            let (port, bus) = (node.address().port().to_string(), node.server.bus.as_ref().map_or(0, Port::number).to_string());
            self.nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await?;
        }
        let all = format!("cluster_known_nodes:{}\r", self.nodes.len());
        until_all_say(&self.nodes, &["CLUSTER", "INFO"], &[&all]).await
    }

    async fn share_out(&self, masters: usize) -> anyhow::Result<()> {
        for (number, node) in self.nodes.iter().take(masters).enumerate() {
            let (first, last) = (number * SLOTS / masters, (number + 1) * SLOTS / masters - 1);
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await?;
        }
        Ok(())
    }

    async fn replicate(&self, masters: usize) -> anyhow::Result<()> {
        let replicas = &self.nodes[masters..];
        for (number, replica) in replicas.iter().enumerate() {
            let master = self.nodes[number % masters].ask(&["CLUSTER", "MYID"]).await?;
            replica.ask(&["CLUSTER", "REPLICATE", &master]).await?;
        }
        until_all_say(replicas, &["INFO", "replication"], &["master_link_status:up"]).await
    }

    /// The masters, then the replicas: of the first master, of the second, and so on, and again from the first.
    #[must_use]
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// `redis-cluster://:PASSWORD@FIRST?node=SECOND&node=THIRD`, as clients in Rust read it.
    #[must_use]
    pub fn url(&self) -> String {
        let first = self.nodes[0].url().replacen("redis://", "redis-cluster://", 1);
        let others: Vec<_> = self.nodes[1..].iter().map(|node| format!("node={}", node.address())).collect();
        format!("{first}?{}", others.join("&"))
    }
}
