//! Configuration: environment variables `KITH_*` over an optional TOML file over the defaults. Read once, validated before anything starts; every error
//! names the key.
//!
//! A key `name` of section `[section]` is `KITH_SECTION_NAME` in the environment; lists are separated by commas. Unknown keys are refused in both.
//!
//! ```toml
//! data = "./kith-data"                    # KITH_DATA
//! listen = "127.0.0.1:7400"               # KITH_LISTEN
//! public_url = "https://chat.example"     # KITH_PUBLIC_URL
//!
//! [registration]
//! policy = "invite"                       # KITH_REGISTRATION_POLICY
//!
//! [postgres]
//! url = "postgres://kith:…@db.example/kith?sslmode=require"  # KITH_POSTGRES_URL; without it: the embedded database in `data`
//! replica_url = "postgres://kith:…@standby.example/kith"     # KITH_POSTGRES_REPLICA_URL; without it: the primary answers everything
//!
//! [redis]
//! url = "redis://:…@redis.example"        # KITH_REDIS_URL; without it: this server is alone on its database
//! ```

mod origins;
mod role;
mod secret;
mod sections;
mod source;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub(crate) use self::sections::ms;
pub use self::{
    origins::Origins,
    role::{Role, UnknownRole},
    secret::Secret,
    sections::{
        ClusterSection, Http, KafkaSection, Limits, LogFormat, Logging, Metrics, PostgresSection, Prekeys, RedisSection, Registration,
        RegistrationPolicy, RetentionSettings, SessionsSection, Storage, Synchronous, Telemetry, Tls, Tokens,
    },
    source::ConfigError,
};

/// Everything an operator may set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder that holds the embedded database; made if missing.
    pub data: PathBuf,
    /// Address and port for HTTP and WebSocket.
    pub listen: SocketAddr,
    /// The address that clients dial, `https://host` or `https://host:port`. Logins are bound to it. Required unless `listen` is a loopback address.
    pub public_url: String,
    /// Which parts of the server this process runs.
    pub role: Role,
    /// Who may register.
    pub registration: Registration,
    /// How long tokens last.
    pub tokens: Tokens,
    /// HTTP: sizes, times, connections, proxies.
    pub http: Http,
    /// WebSocket connections.
    pub sessions: SessionsSection,
    /// Token buckets.
    pub limits: Limits,
    /// Stored prekeys.
    pub prekeys: Prekeys,
    /// How long messages are kept.
    pub retention: RetentionSettings,
    /// The embedded database.
    pub storage: Storage,
    /// PostgreSQL instead of the embedded database.
    pub postgres: PostgresSection,
    /// Redis, which tells several servers on one PostgreSQL of one another.
    pub redis: RedisSection,
    /// Kafka, for events beside the way of a message.
    pub kafka: KafkaSection,
    /// This server among others.
    pub cluster: ClusterSection,
    /// TLS, if not ended by a proxy.
    pub tls: Tls,
    /// Traces.
    pub telemetry: Telemetry,
    /// Logs.
    pub log: Logging,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("./kith-data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            public_url: String::new(),
            role: Role::All,
            registration: Registration::default(),
            tokens: Tokens::default(),
            http: Http::default(),
            sessions: SessionsSection::default(),
            limits: Limits::default(),
            prekeys: Prekeys::default(),
            retention: RetentionSettings::default(),
            storage: Storage::default(),
            postgres: PostgresSection::default(),
            redis: RedisSection::default(),
            kafka: KafkaSection::default(),
            cluster: ClusterSection::default(),
            tls: Tls::default(),
            telemetry: Telemetry::default(),
            log: Logging::default(),
        }
    }
}

impl Config {
    /// Reads the file, if any (`file`, else the one named by `KITH_CONFIG`), then the process's environment, and validates the result.
    ///
    /// # Errors
    /// Names the key that is unknown, of the wrong type, out of range, or missing.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let environment: Vec<_> = std::env::vars().collect();
        let named = environment.iter().find(|(name, _)| name == "KITH_CONFIG").map(|(_, path)| PathBuf::from(path));
        let text = match file.map(Path::to_owned).or(named) {
            Some(path) => Some(std::fs::read_to_string(&path).map_err(|source| ConfigError::File { path, source })?),
            None => None,
        };
        Self::from_parts(text.as_deref(), environment)
    }

    /// From the text of a file and variables of an environment, of which only `KITH_*` are looked at.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_parts(file: Option<&str>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let config = source::read(file, environment)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// Names the key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.sections_valid()?;
        if self.public_url.is_empty() && !self.listen.ip().is_loopback() {
            return Err(ConfigError::Invalid {
                key: "public_url",
                why: "is required when listen is not a loopback address, because logins are bound to the address that clients dial".to_owned(),
            });
        }
        if !self.public_url.is_empty() {
            origins::of_url(&self.public_url).map_err(|why| ConfigError::Invalid { key: "public_url", why: why.to_owned() })?;
        }
        Ok(())
    }

    /// Who may register, `auto` resolved.
    #[must_use]
    pub fn registration_policy(&self) -> RegistrationPolicy {
        match self.registration.policy {
            RegistrationPolicy::Auto if self.listen.ip().is_loopback() && self.public_url.is_empty() => RegistrationPolicy::Open,
            RegistrationPolicy::Auto => RegistrationPolicy::Invite,
            set => set,
        }
    }

    /// The embedded database's file.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.data.join("kith.db")
    }

    /// Whether connections are encrypted by this process.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        !self.tls.certificate.as_os_str().is_empty()
    }
}

#[cfg(test)]
mod tests;
