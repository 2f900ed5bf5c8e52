//! Fetches what a Kafka broker is made of into the user's cache, so that tests need not wait for it.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    kith_harness::Kafka::fetch().await.map(drop)
}
