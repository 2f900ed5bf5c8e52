//! What both benches need: both servers at work, their processor time, and how figures are written.

use std::{sync::Arc, time::Duration};

use kith_harness::{Postgres, PostgresOptions, Service};

use crate::{ejabberd::Ejabberd, process};

/// ejabberd on a PostgreSQL of its own. Both end with this value.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) ejabberd: Arc<Ejabberd>,
    service: Service,
    postgres: Postgres,
}

/// Processor time since the start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) server: Duration,
    pub(crate) postgres: Duration,
    pub(crate) own: Duration,
}

impl Cpu {
    /// What was used since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            server: self.server.saturating_sub(before.server),
            postgres: self.postgres.saturating_sub(before.postgres),
            own: self.own.saturating_sub(before.own),
        }
    }
}

impl Servers {
    /// Starts both, with `users` users registered.
    ///
    /// # Errors
    /// If one does not start; the message says what to install, or ends with its log.
    pub(crate) async fn start(users: usize, pool: u16) -> anyhow::Result<Self> {
        // The same as `kith bench --spawn-cluster` gives to its own.
        let postgres = Postgres::start_with(PostgresOptions::measured()).await?;
        postgres.season().await?;
        let database = postgres.create_database().await?;
        let ejabberd = Arc::new(Ejabberd::new(&database.url(), pool)?);
        ejabberd.register(users)?;
        let service = Service::start(Arc::<Ejabberd>::clone(&ejabberd)).await?;
        Ok(Self { ejabberd, service, postgres })
    }

    /// Where the time goes.
    ///
    /// # Errors
    /// If a server is gone.
    pub(crate) fn cpu(&self) -> anyhow::Result<Cpu> {
        Ok(Cpu { server: self.service.cpu()?, postgres: self.postgres.cpu()?, own: process::own_cpu_time()? })
    }

    /// Memory of ejabberd in bytes: its proportional set size.
    ///
    /// # Errors
    /// If it is gone.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        process::proportional_set_size(self.service.pid().unwrap_or_default())
    }
}

/// Events per second.
#[expect(clippy::cast_precision_loss, reason = "counts of a run are exact in a double")]
pub(crate) fn per_second(events: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { round(events as f64 / seconds, 1) } else { 0.0 }
}

/// Microseconds of processor time for each of so many events.
#[expect(clippy::cast_precision_loss, reason = "counts of a run are exact in a double")]
pub(crate) fn microseconds_each(time: Duration, events: u64) -> f64 {
    if events > 0 { round(time.as_secs_f64() * 1e6 / events as f64, 2) } else { 0.0 }
}

/// Rounds to some digits after the point.
pub(crate) fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}
