//! The sections, with their defaults and ranges.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use kith_chat_core::{
    accounts::PrekeyCaps,
    bus::{ClientProperties, KafkaOptions, PropertiesError},
    domain::Rate,
    postgres,
    sessions::redis,
};
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError, Role, Secret};
use crate::peer::Network;

/// `[registration]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Registration {
    /// `auto`, `open`, `invite` or `closed`.
    pub policy: RegistrationPolicy,
}

/// Who may register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum RegistrationPolicy {
    /// Open on a loopback address without a public URL, else by invitation.
    #[default]
    Auto,
    /// Everybody.
    Open,
    /// Whoever has an invite code (`kith admin invite`).
    Invite,
    /// Nobody.
    Closed,
}

/// `[tokens]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tokens {
    /// An access token lasts so long.
    pub access_seconds: u64,
    /// A refresh token lasts so long unless used.
    pub refresh_seconds: u64,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { access_seconds: 600, refresh_seconds: 30 * 86_400 }
    }
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Largest REST body, checked before it is read.
    pub max_body_bytes: usize,
    /// A request, its body included, must be answered by then.
    pub request_timeout_ms: u64,
    /// A request's head must have come by then; also how long a quiet connection is kept.
    pub header_timeout_ms: u64,
    /// Connections that speak HTTP at a time; WebSockets count in `[sessions]` instead. More are turned away.
    pub max_connections: usize,
    /// The same from one address. Not applied to loopback addresses and trusted proxies.
    pub max_connections_per_address: usize,
    /// Networks (`10.0.0.0/8`, `::1`) of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<String>,
    /// Who may read `/metrics`.
    pub metrics: Metrics,
    /// When asked to stop, requests and sockets get so long to finish.
    pub drain_ms: u64,
}

/// Who may read `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Metrics {
    /// Peers on a loopback address, unless they are proxies.
    #[default]
    Loopback,
    /// Everybody who can connect.
    All,
    /// Nobody.
    Off,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            max_body_bytes: 512 * 1024,
            request_timeout_ms: 30_000,
            header_timeout_ms: 15_000,
            max_connections: 20_000,
            max_connections_per_address: 512,
            trusted_proxies: Vec::new(),
            metrics: Metrics::Loopback,
            drain_ms: 10_000,
        }
    }
}

impl Http {
    /// The trusted proxies, parsed; validated at start.
    #[must_use]
    pub fn trusted(&self) -> Vec<Network> {
        self.trusted_proxies.iter().filter_map(|text| text.parse().ok()).collect()
    }
}

/// `[sessions]`: WebSocket connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionsSection {
    /// Largest frame, checked before it is read.
    pub max_frame_bytes: usize,
    /// A quiet connection is pinged this often.
    pub keep_alive_ms: u64,
    /// The first frame must have come by then.
    pub hello_timeout_ms: u64,
    /// Sends that may be unanswered on a connection.
    pub max_sends_in_flight: u32,
    /// Delivered and not yet acknowledged messages at which catch-up pauses.
    pub catch_up_window: u32,
    /// Largest page and list of a request.
    pub max_page: u32,
    /// Connections at a time.
    pub max_connections: usize,
    /// Of these, such as have not yet said who they are.
    pub max_unauthenticated: usize,
    /// The same from one address.
    pub max_unauthenticated_per_address: usize,
    /// Origins that browsers may connect from; `*` for all, none by default.
    pub allowed_origins: Vec<String>,
    /// For tests: live deliveries are dropped on purpose.
    pub drop_deliveries: bool,
}

impl Default for SessionsSection {
    fn default() -> Self {
        Self {
            max_frame_bytes: kith_proto::DEFAULT_MAX_FRAME,
            keep_alive_ms: 30_000,
            hello_timeout_ms: 5_000,
            max_sends_in_flight: 64,
            catch_up_window: 1_024,
            max_page: 256,
            max_connections: 100_000,
            max_unauthenticated: 16_384,
            max_unauthenticated_per_address: 4_096,
            allowed_origins: Vec::new(),
            drop_deliveries: false,
        }
    }
}

/// `[limits]`: token buckets, each with what it holds at most (`…_burst`) and what comes back in a minute (`…_per_minute`).
///
/// Limits per address are not applied to peers on a loopback address that are no trusted proxies, nor are the login and registration limits at all then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Off, for measuring only: no bucket is ever empty.
    pub enforced: bool,
    /// Registrations per address.
    pub register_address_burst: u32,
    /// Registrations per address.
    pub register_address_per_minute: u32,
    /// Challenges, logins, refreshes and rotations per address.
    pub login_address_burst: u32,
    /// Challenges, logins, refreshes and rotations per address.
    pub login_address_per_minute: u32,
    /// Logins and refreshes per device.
    pub login_device_burst: u32,
    /// Logins and refreshes per device.
    pub login_device_per_minute: u32,
    /// Look-ups by name per account; a device may have half.
    pub lookup_account_burst: u32,
    /// Look-ups by name per account; a device may have half.
    pub lookup_account_per_minute: u32,
    /// Requests for bundles per account.
    pub bundles_account_burst: u32,
    /// Requests for bundles per account.
    pub bundles_account_per_minute: u32,
    /// One-time prekeys of one device that one account gets.
    pub one_time_pair_burst: u32,
    /// One-time prekeys of one device that one account gets.
    pub one_time_pair_per_minute: u32,
    /// One-time prekeys of one device that all accounts together get.
    pub one_time_target_burst: u32,
    /// One-time prekeys of one device that all accounts together get.
    pub one_time_target_per_minute: u32,
    /// Changes of keys and device lists per device.
    pub change_device_burst: u32,
    /// Changes of keys and device lists per device.
    pub change_device_per_minute: u32,
    /// All authenticated requests per account.
    pub request_account_burst: u32,
    /// All authenticated requests per account.
    pub request_account_per_minute: u32,
    /// Sends per device; an account may have twice as many.
    pub send_device_burst: u32,
    /// Sends per device; an account may have twice as many.
    pub send_device_per_minute: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            enforced: true,
            register_address_burst: 20,
            register_address_per_minute: 2,
            login_address_burst: 120,
            login_address_per_minute: 120,
            login_device_burst: 20,
            login_device_per_minute: 10,
            lookup_account_burst: 60,
            lookup_account_per_minute: 30,
            bundles_account_burst: 120,
            bundles_account_per_minute: 60,
            one_time_pair_burst: 10,
            one_time_pair_per_minute: 1,
            one_time_target_burst: 100,
            one_time_target_per_minute: 10,
            change_device_burst: 30,
            change_device_per_minute: 10,
            request_account_burst: 600,
            request_account_per_minute: 600,
            // A person types a message a second at best; a bot, or a device that sends what it wrote offline, may do more for a while.
            send_device_burst: 10_000,
            send_device_per_minute: 60_000,
        }
    }
}

impl Limits {
    /// One-time keys per pair and per target.
    #[must_use]
    pub fn one_time(&self) -> (Rate, Rate) {
        if !self.enforced {
            let plenty = Rate { capacity: u32::MAX, per_minute: u32::MAX };
            return (plenty, plenty);
        }
        (
            Rate { capacity: self.one_time_pair_burst, per_minute: self.one_time_pair_per_minute },
            Rate { capacity: self.one_time_target_burst, per_minute: self.one_time_target_per_minute },
        )
    }
}

/// `[prekeys]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prekeys {
    /// Unused one-time X25519 prekeys that a device may have stored.
    pub max_one_time: u32,
    /// Unused one-time KEM prekeys that a device may have stored.
    pub max_one_time_kem: u32,
    /// A device whose unused keys fall below this is told to top up.
    pub low_below: u32,
}

impl Default for Prekeys {
    fn default() -> Self {
        Self { max_one_time: 200, max_one_time_kem: 200, low_below: 20 }
    }
}

impl Prekeys {
    /// As the store wants them.
    #[must_use]
    pub fn caps(&self) -> PrekeyCaps {
        PrekeyCaps { one_time: self.max_one_time, one_time_kem: self.max_one_time_kem }
    }
}

/// `[retention]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionSettings {
    /// A message that not every device has acknowledged is kept so long.
    pub days: u64,
    /// Pause between two purges of the embedded database; that of PostgreSQL is [`PostgresSection::sweep_every_ms`].
    pub purge_every_ms: u64,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self { days: 30, purge_every_ms: 300_000 }
    }
}

impl RetentionSettings {
    /// In milliseconds.
    #[must_use]
    pub fn ms(&self) -> u64 {
        self.days * 86_400_000
    }
}

/// `[storage]`: the embedded database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// Whether a commit outlives the machine.
    pub synchronous: Synchronous,
}

/// Whether a commit outlives the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// Every commit is synced before it is answered.
    #[default]
    Full,
    /// Nothing is synced. Loses accepted messages when the machine fails: only for the test that shows that the tests notice.
    Off,
}

/// `[postgres]`: accounts and messages in PostgreSQL, which any number of processes share. `kith migrate` makes the schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresSection {
    /// `postgres://user:password@host:port/database?sslmode=verify-full&sslrootcert=…`; none for the embedded database.
    pub url: Secret,
    /// The same of a standby that may answer the paging of messages to devices that return; none to ask the primary for all of it.
    pub replica_url: Secret,
    /// Connections of this process for requests. The message log has a few of its own beside them.
    pub connections: usize,
    /// A new connection must be there by then.
    pub connect_timeout_ms: u64,
    /// The longest a statement may take.
    pub statement_timeout_ms: u64,
    /// Pause between two looks of one of the processes at everything that is kept. What every device has is deleted without that.
    pub sweep_every_ms: u64,
}

impl Default for PostgresSection {
    fn default() -> Self {
        Self {
            url: Secret::default(),
            replica_url: Secret::default(),
            connections: 16,
            connect_timeout_ms: 5_000,
            statement_timeout_ms: 10_000,
            sweep_every_ms: 3_600_000,
        }
    }
}

impl PostgresSection {
    /// How to use the server, if there is one.
    #[must_use]
    pub fn options(&self) -> Option<postgres::Options> {
        let options = || postgres::Options {
            connections: self.connections,
            connect_within: ms(self.connect_timeout_ms),
            statement_within: ms(self.statement_timeout_ms),
            // All attempts of a transaction together, and what it waits for before.
            transaction_within: ms(self.statement_timeout_ms + self.connect_timeout_ms),
            replica: self.replica_url.is_set().then(|| postgres::ReplicaOptions::new(self.replica_url.reveal())),
            ..postgres::Options::new(self.url.reveal())
        };
        self.url.is_set().then(options)
    }
}

/// `[redis]`: where several servers on one PostgreSQL find one another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct RedisSection {
    /// `redis://`, `redis-sentinel://` or `redis-cluster://`, `user:password@host:port`; none for a server that is alone.
    pub url: Secret,
}

/// `[cluster]`: this server among others; without `redis.url` nothing of it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterSection {
    /// Address and port for other gateways, never for clients. What they say is authenticated and not encrypted: a network of its own, or a tunnel.
    pub listen: SocketAddr,
    /// `host:port` under which other gateways reach it. The bound address if empty; required if that is unspecified (`0.0.0.0`).
    pub advertise: String,
    /// A gateway that has not renewed its lease for so long counts as gone, and one that did not run for half as long closes its connections.
    pub lease_ms: u64,
}

impl Default for ClusterSection {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 0)), advertise: String::new(), lease_ms: 10_000 }
    }
}

/// `[kafka]`: where events go that are worked on beside the way of a message; without brokers they stay in this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaSection {
    /// Addresses of brokers to begin with, `host:port`, separated by commas.
    pub brokers: String,
    /// File with the security settings of the clients, as librdkafka names them; none if brokers let everybody in.
    pub client_properties: PathBuf,
    /// What the names of topics and groups begin with.
    pub topic_prefix: String,
    /// A message that a device has not acknowledged by then, when it is connected nowhere, is told of once more: longer than twice `sessions.keep_alive_ms`, by which a
    /// connection that is dead is noticed.
    pub sleeping_after_ms: u64,
}

impl Default for KafkaSection {
    fn default() -> Self {
        Self { brokers: String::new(), client_properties: PathBuf::new(), topic_prefix: "kith".to_owned(), sleeping_after_ms: 75_000 }
    }
}

impl KafkaSection {
    /// How to use the brokers, if there are any.
    ///
    /// # Errors
    /// If there is a file with properties that cannot be read or is not valid.
    pub fn options(&self) -> Result<Option<KafkaOptions>, PropertiesError> {
        if self.brokers.is_empty() {
            return Ok(None);
        }
        let file = Some(&self.client_properties).filter(|path| !path.as_os_str().is_empty());
        let properties = file.map(|path| ClientProperties::read(path)).transpose()?.unwrap_or_default();
        Ok(Some(KafkaOptions { properties, prefix: self.topic_prefix.clone(), ..KafkaOptions::new(&self.brokers) }))
    }
}

/// `[tls]`: paths of PEM files; none for plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The certificate with its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `[telemetry]`: some messages are followed on their way, and an OpenTelemetry collector is told where their time went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// `http://host:4318` of a collector (OTLP over HTTP, protobuf; `/v1/traces` is added); empty for none, and then nothing is recorded.
    pub otlp_endpoint: String,
    /// One message in so many is followed.
    pub sample_one_in: u64,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { otlp_endpoint: String::new(), sample_one_in: 1_000 }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// Levels, as in `info,kith_gateway=debug`.
    pub filter: String,
    /// `text` or `json`.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for Logging {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

/// Milliseconds from the configuration.
#[must_use]
pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Config {
    pub(super) fn sections_valid(&self) -> Result<(), ConfigError> {
        let day = 86_400;
        within("tokens.access_seconds", self.tokens.access_seconds, 1, day)?;
        within("tokens.refresh_seconds", self.tokens.refresh_seconds, 60, 400 * day)?;
        within("http.max_body_bytes", self.http.max_body_bytes as u64, 64 * 1024, 16 << 20)?;
        within("http.request_timeout_ms", self.http.request_timeout_ms, 100, 600_000)?;
        within("http.header_timeout_ms", self.http.header_timeout_ms, 100, 600_000)?;
        within("http.max_connections", self.http.max_connections as u64, 1, 1_000_000)?;
        within("http.max_connections_per_address", self.http.max_connections_per_address as u64, 1, 1_000_000)?;
        within("http.drain_ms", self.http.drain_ms, 0, 600_000)?;
        within("sessions.max_frame_bytes", self.sessions.max_frame_bytes as u64, 4 * 1024, 16 << 20)?;
        within("sessions.keep_alive_ms", self.sessions.keep_alive_ms, 50, 600_000)?;
        within("sessions.hello_timeout_ms", self.sessions.hello_timeout_ms, 50, 60_000)?;
        within("sessions.max_sends_in_flight", self.sessions.max_sends_in_flight.into(), 1, 4_096)?;
        within("sessions.catch_up_window", self.sessions.catch_up_window.into(), 1, 65_536)?;
        within("sessions.max_page", self.sessions.max_page.into(), 1, 4_096)?;
        within("sessions.max_connections", self.sessions.max_connections as u64, 1, 10_000_000)?;
        within("prekeys.max_one_time", self.prekeys.max_one_time.into(), 1, 10_000)?;
        within("prekeys.max_one_time_kem", self.prekeys.max_one_time_kem.into(), 1, 10_000)?;
        within("retention.days", self.retention.days, 1, 3_650)?;
        within("retention.purge_every_ms", self.retention.purge_every_ms, 10, 86_400_000)?;
        within("postgres.connections", self.postgres.connections as u64, 1, 1_000)?;
        within("postgres.connect_timeout_ms", self.postgres.connect_timeout_ms, 100, 60_000)?;
        within("postgres.statement_timeout_ms", self.postgres.statement_timeout_ms, 100, 600_000)?;
        within("postgres.sweep_every_ms", self.postgres.sweep_every_ms, 10, 86_400_000)?;
        if let Some(options) = self.postgres.options() {
            options.address().map_err(|error| ConfigError::Invalid { key: "postgres.url", why: format!("cannot be used: {error}") })?;
            let replica = options.replica.as_ref().map(postgres::ReplicaOptions::address).transpose();
            replica.map_err(|error| ConfigError::Invalid { key: "postgres.replica_url", why: format!("cannot be used: {error}") })?;
            if self.storage.synchronous == Synchronous::Off {
                let why = "is for the embedded database; with PostgreSQL the server decides, and must sync".to_owned();
                return Err(ConfigError::Invalid { key: "storage.synchronous", why });
            }
        }
        within("kafka.sleeping_after_ms", self.kafka.sleeping_after_ms, 1_000, 3_600_000)?;
        if self.postgres.replica_url.is_set() && !self.postgres.url.is_set() {
            let why = "needs postgres.url: a replica has a primary".to_owned();
            return Err(ConfigError::Invalid { key: "postgres.replica_url", why });
        }
        within("telemetry.sample_one_in", self.telemetry.sample_one_in, 1, 1_000_000_000)?;
        let endpoint = &self.telemetry.otlp_endpoint;
        if !endpoint.is_empty() && !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
            return Err(ConfigError::Invalid { key: "telemetry.otlp_endpoint", why: "must begin with http:// or https://".to_owned() });
        }
        if self.role != Role::All && !self.postgres.url.is_set() {
            let why = format!(
                "cannot be {} with the embedded database, which one process has for itself: only all can (there are: all, gateway, relay)",
                self.role
            );
            return Err(ConfigError::Invalid { key: "role", why });
        }
        self.cluster_valid()?;
        for text in &self.http.trusted_proxies {
            let why = || format!("{text} is no network (write 10.0.0.0/8 or ::1)");
            text.parse::<Network>().map_err(|_| ConfigError::Invalid { key: "http.trusted_proxies", why: why() })?;
        }
        if self.tls.certificate.as_os_str().is_empty() != self.tls.key.as_os_str().is_empty() {
            return Err(ConfigError::Invalid { key: "tls", why: "needs both certificate and key, or neither".to_owned() });
        }
        Ok(())
    }
}

impl Config {
    fn cluster_valid(&self) -> Result<(), ConfigError> {
        let invalid = |key, why: &str| Err(ConfigError::Invalid { key, why: why.to_owned() });
        within("cluster.lease_ms", self.cluster.lease_ms, 1_000, 600_000)?;
        let advertise = &self.cluster.advertise;
        let is_address =
            |(host, port): (&str, &str)| !host.is_empty() && !host.contains(['/', '@']) && port.parse::<u16>().is_ok_and(|port| port > 0);
        if !advertise.is_empty() && !advertise.rsplit_once(':').is_some_and(is_address) {
            return invalid("cluster.advertise", "must be host:port, as other gateways dial it");
        }
        if !self.redis.url.is_set() {
            return Ok(());
        }
        let has_scheme = |(scheme, _): (&str, &str)| redis::SCHEMES.contains(&scheme);
        if !self.redis.url.reveal().split_once("://").is_some_and(has_scheme) {
            return invalid("redis.url", "must begin with redis://, redis-sentinel:// or redis-cluster:// (or rediss… for TLS)");
        }
        if !self.postgres.url.is_set() {
            return invalid("postgres.url", "is required with redis.url: servers that know of one another share one PostgreSQL");
        }
        if advertise.is_empty() && self.cluster.listen.ip().is_unspecified() {
            return invalid("cluster.advertise", "is required when cluster.listen is an unspecified address: other gateways have to dial this one");
        }
        Ok(())
    }
}

fn within(key: &'static str, value: u64, least: u64, most: u64) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::Invalid { key, why: format!("must be between {least} and {most}, and is {value}") })
}
