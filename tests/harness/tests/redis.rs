//! A real Redis, treated well and badly.

use std::time::Duration;

use anyhow::ensure;
use kith_harness::{Proxy, Redis, RedisCluster, RedisSentinel};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

const SOON: Duration = Duration::from_secs(30);

/// What a client says in the old inline form, and what it must be told.
async fn says(stream: &mut TcpStream, line: &str, answer: &str) -> anyhow::Result<()> {
    stream.write_all(format!("{line}\r\n").as_bytes()).await?;
    let mut got = vec![0; answer.len()];
    time::timeout(SOON, stream.read_exact(&mut got)).await??;
    ensure!(got == answer.as_bytes(), "{:?}", String::from_utf8_lossy(&got));
    Ok(())
}

#[tokio::test]
async fn it_answers_those_who_know_the_password() -> anyhow::Result<()> {
    let redis = Redis::start().await?;
    let proxy = Proxy::start(redis.address()).await?;
    let url = redis.url_through(proxy.address());
    let password = url.strip_prefix("redis://:").and_then(|rest| rest.split('@').next()).unwrap_or_default();
    let mut stream = TcpStream::connect(proxy.address()).await?;
    says(&mut stream, "PING", "-NOAUTH").await?;
    let mut stream = TcpStream::connect(proxy.address()).await?;
    says(&mut stream, &format!("AUTH {password}"), "+OK\r\n").await?;
    says(&mut stream, "PING", "+PONG\r\n").await?;
    ensure!(redis.url().ends_with(&redis.address().to_string()));
    Ok(())
}

#[tokio::test]
async fn it_forgets_when_flushed_killed_or_restarted_and_not_when_paused() -> anyhow::Result<()> {
    let redis = Redis::start().await?;
    redis.ask(&["SET", "k", "v"]).await?;
    redis.pause().await?;
    let mut held = Box::pin(redis.ask(&["GET", "k"]));
    ensure!(time::timeout(Duration::from_millis(300), &mut held).await.is_err(), "a paused server answered");
    redis.resume().await?;
    ensure!(held.await? == "v");
    redis.flush().await?;
    ensure!(redis.ask(&["GET", "k"]).await?.is_empty());
    for orderly in [true, false] {
        redis.ask(&["SET", "k", "v"]).await?;
        if !orderly {
            redis.kill().await?;
            ensure!(redis.ask(&["PING"]).await.is_err() && redis.pid().is_none());
        }
        redis.restart().await?;
        ensure!(redis.ask(&["GET", "k"]).await?.is_empty());
    }
    ensure!(redis.cpu().is_ok());
    Ok(())
}

#[tokio::test]
async fn settings_of_a_server_of_ones_own_win() -> anyhow::Result<()> {
    let redis = Redis::start_with(&[("appendonly", "yes"), ("appendfsync", "always")]).await?;
    redis.ask(&["SET", "k", "v"]).await?;
    redis.kill().await?;
    redis.restart().await?;
    ensure!(redis.ask(&["GET", "k"]).await? == "v");
    Ok(())
}

/// Asks until the answer is the one that is waited for.
async fn until_says(redis: &Redis, command: &[&str], word: &str) -> anyhow::Result<()> {
    let said = async {
        while !redis.ask(command).await.is_ok_and(|answer| answer.contains(word)) {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    Ok(time::timeout(SOON, said).await?)
}

#[tokio::test]
async fn a_cluster_shares_the_keys_and_replaces_a_dead_master() -> anyhow::Result<()> {
    let cluster = RedisCluster::start(3, 1).await?;
    let [first, .., last] = cluster.nodes() else { anyhow::bail!("six nodes") };
    // The slot of "foo" is 12182, of the third master.
    let third = &cluster.nodes()[2];
    third.ask(&["SET", "foo", "bar"]).await?;
    let moved = first.ask(&["GET", "foo"]).await.expect_err("it is elsewhere").to_string();
    ensure!(moved.contains(&format!("MOVED 12182 {}", third.address())), "{moved}");
    ensure!(third.ask(&["WAIT", "1", "10000"]).await? == "1");
    third.kill().await?;
    until_says(last, &["INFO", "replication"], "role:master").await?;
    until_says(last, &["GET", "foo"], "bar").await?;
    third.restart().await?;
    until_says(third, &["INFO", "replication"], "role:slave").await?;
    ensure!(cluster.url().starts_with("redis-cluster://:") && cluster.url().matches("node=127.0.0.1:").count() == 5);
    Ok(())
}

#[tokio::test]
async fn sentinels_replace_a_paused_master() -> anyhow::Result<()> {
    let group = RedisSentinel::start().await?;
    let [master, replica] = group.servers() else { anyhow::bail!("two servers") };
    master.ask(&["SET", "k", "v"]).await?;
    ensure!(master.ask(&["WAIT", "1", "10000"]).await? == "1");
    master.pause().await?;
    until_says(replica, &["INFO", "replication"], "role:master").await?;
    ensure!(replica.ask(&["GET", "k"]).await? == "v");
    until_says(&group.sentinels()[2], &["INFO", "sentinel"], &replica.address().to_string()).await?;
    master.resume().await?;
    until_says(master, &["INFO", "replication"], "role:slave").await?;
    ensure!(group.url().starts_with("redis-sentinel://:"));
    Ok(())
}
