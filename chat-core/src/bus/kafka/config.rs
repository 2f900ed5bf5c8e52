//! Settings of the driver, and what it tells by itself.

use std::time::Duration;

use rdkafka::{
    ClientConfig, ClientContext, Statistics,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};

use crate::bus::{KafkaOptions, Topic};

/// A request that is not answered in this time is given up, and its connection with it.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// Events that wait in the producer.
const QUEUED: u32 = 50_000;
/// Their size in KiB.
const QUEUED_KIB: u32 = 64 * 1024;
/// What a consumer fetches ahead, in KiB.
const FETCHED_KIB: u32 = 8 * 1024;
/// Events that it fetches ahead of each partition.
const FETCHED: u32 = 1_000;

/// What all clients have in common.
fn client(options: &KafkaOptions) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &options.brokers)
        .set("client.id", "kith")
        .set("socket.timeout.ms", ms(REQUEST_WITHIN))
        .set("socket.connection.setup.timeout.ms", ms(REQUEST_WITHIN))
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("allow.auto.create.topics", "false");
    for (name, value) in options.properties.iter() {
        config.set(name, value);
    }
    config
}

/// For making topics.
pub(super) fn admin(options: &KafkaOptions) -> ClientConfig {
    client(options)
}

/// Gathering on a timer brings nothing under load and costs time without: what waits is sent.
pub(super) fn producer(options: &KafkaOptions) -> ClientConfig {
    let mut config = client(options);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "0")
        .set("compression.type", "lz4")
        .set("message.timeout.ms", ms(options.publish_within))
        .set("queue.buffering.max.messages", QUEUED.to_string())
        .set("queue.buffering.max.kbytes", QUEUED_KIB.to_string());
    config
}

/// A member of a group.
pub(super) fn consumer(options: &KafkaOptions, group: &str) -> ClientConfig {
    let mut config = reader(options, group);
    config
        // What is committed is what was stored, and that is done after the work.
        .set("enable.auto.offset.store", "false")
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "500")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", "10000")
        .set("heartbeat.interval.ms", "2000")
        .set("statistics.interval.ms", "5000");
    config
}

/// Somebody who reads without being a member.
pub(super) fn reader(options: &KafkaOptions, group: &str) -> ClientConfig {
    let mut config = client(options);
    config
        .set("group.id", format!("{}.{group}", options.prefix))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "100")
        .set("queued.min.messages", FETCHED.to_string())
        .set("queued.max.messages.kbytes", FETCHED_KIB.to_string());
    config
}

pub(super) fn topic(options: &KafkaOptions, topic: Topic) -> String {
    format!("{}.{topic}", options.prefix)
}

pub(super) fn dead_letters(options: &KafkaOptions, topic: Topic) -> String {
    format!("{}.{topic}.dlq", options.prefix)
}

fn ms(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// Takes what the driver says by itself: it repeats every failed attempt to connect, which is for whoever looks for that. What follows from it, callers are told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        log(level, fac, log_message);
    }

    fn stats(&self, _statistics: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        match error {
            // Waiting does not mend these, and callers see no more than that time has passed.
            KafkaError::Global(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed | RDKafkaErrorCode::SSL) => {
                tracing::warn!(%error, reason, "Kafka does not let this process in");
            }
            _ => tracing::debug!(%error, reason, "the client of Kafka reports"),
        }
    }
}

impl ConsumerContext for Quiet {}

pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => tracing::error!(facility, "Kafka's client: {message}"),
        _ => tracing::debug!(facility, "Kafka's client: {message}"),
    }
}
