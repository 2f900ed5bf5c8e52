//! The faults, and what is promised for each.

use std::{fmt, time::Duration};

use kith_harness::Direction;

use super::fleet::LEASE;

/// Whoever can be killed or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// One of the `kith serve` processes.
    Gateway(usize),
    /// The database.
    Postgres,
    /// The session directory.
    Redis,
    /// The bus for events.
    Kafka,
}

/// A way between two parties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// From devices to a gateway.
    Clients(usize),
    /// From other gateways to a gateway.
    Peers(usize),
    /// From a gateway to PostgreSQL.
    Postgres(usize),
    /// From a gateway to Redis.
    Redis(usize),
    /// From all gateways to Kafka.
    Kafka,
}

/// What is wrong with a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Connections are reset, and new ones as well.
    Cut,
    /// Everything comes that much later, in each direction.
    Slow(Duration),
    /// Only this direction passes.
    OneWay(Direction),
    /// Nothing passes, and nobody is told.
    BlackHole,
}

/// Something that goes wrong until it is healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; healed by starting it again.
    Kill(Party),
    /// SIGSTOP; healed by SIGCONT.
    Pause(Party),
    /// An orderly end in the middle of its work; healed by starting it again.
    Stop(Party),
    /// A way is bad.
    Way(Link, Trouble),
    /// Redis forgets everything. Nothing is left to heal.
    Flush,
    /// Not one byte more fits onto the disk of PostgreSQL.
    FullDisk,
    /// SIGTERM to one gateway after the other, each started again before the next. Nothing is left to heal.
    RollingRestart,
    /// The wall clock of a gateway is ahead by so many milliseconds, or behind.
    Clock(usize, i64),
}

/// What is promised for a fault. Times are real ones, on a busy machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// So long after it began devices are served although it lasts: all of them, or (`false`) those that go elsewhere when they get no answer.
    pub meanwhile: Option<(Duration, bool)>,
    /// So long after it was healed all are.
    pub after: Duration,
}

/// How long it may take a device to notice that it gets no answer and to be served at another gateway.
const MOVED: Duration = Duration::from_secs(15);
/// How long a gateway may wait for something that it can do without, before it does without.
const DONE_WITHOUT: Duration = Duration::from_secs(10);
/// How long until a gateway has its database again: connections, statements and pauses that were under way have their deadlines.
const DATABASE_BACK: Duration = Duration::from_secs(20);

impl Fault {
    /// What is promised.
    #[must_use]
    pub fn promise(&self) -> Promise {
        let (meanwhile, after) = match self {
            Self::Kill(Party::Gateway(_)) | Self::Pause(Party::Gateway(_)) | Self::Stop(Party::Gateway(_)) | Self::Way(Link::Clients(_), _) => {
                (Some((MOVED, false)), MOVED)
            }
            // Nothing is accepted without the database, and a device cannot know that another gateway would have it.
            Self::Kill(Party::Postgres) | Self::Pause(Party::Postgres) | Self::Stop(Party::Postgres) | Self::FullDisk => (None, DATABASE_BACK),
            // What is slow is slow, and may be refused.
            Self::Way(Link::Postgres(_), _) => (None, DATABASE_BACK),
            Self::Kill(_) | Self::Pause(_) | Self::Stop(_) | Self::Flush | Self::Way(Link::Redis(_) | Link::Peers(_) | Link::Kafka, _) => {
                (Some((DONE_WITHOUT, true)), DONE_WITHOUT)
            }
            Self::RollingRestart => (None, MOVED),
            // Tokens end before their time, and devices log in anew.
            Self::Clock(..) => (Some((MOVED, true)), MOVED),
        };
        Promise { meanwhile, after }
    }

    /// The name under which faults are counted. `lasts` tells a pause that outlasts the lease from one that does not.
    #[must_use]
    pub fn kind(&self, lasts: Duration) -> String {
        match self {
            Self::Kill(party) => format!("{} killed", party.kind()),
            Self::Pause(party @ Party::Gateway(_)) if lasts > LEASE => format!("{} paused beyond its lease", party.kind()),
            Self::Pause(party) => format!("{} paused", party.kind()),
            Self::Stop(Party::Gateway(_)) => "gateway drained".to_owned(),
            Self::Stop(party) => format!("{} restarted", party.kind()),
            Self::Way(link, trouble) => format!("way {} {}", link.kind(), trouble.kind()),
            Self::Flush => "Redis flushed".to_owned(),
            Self::FullDisk => "PostgreSQL's disk full".to_owned(),
            Self::RollingRestart => "rolling restart".to_owned(),
            Self::Clock(_, ahead_ms) => format!("clock {}", if *ahead_ms > 0 { "ahead" } else { "behind" }),
        }
    }

    /// What it befalls: two faults of the same place cannot be there at once.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Kill(party) | Self::Pause(party) | Self::Stop(party) => format!("{party:?}"),
            Self::Way(link, _) => format!("way {link:?}"),
            Self::Flush => format!("{:?}", Party::Redis),
            Self::FullDisk => format!("{:?}", Party::Postgres),
            Self::RollingRestart => "all gateways".to_owned(),
            Self::Clock(gateway, _) => format!("clock {gateway}"),
        }
    }

    /// Healing it starts a gateway, for which everything else has to be there.
    #[must_use]
    pub fn ends_with_a_start(&self) -> bool {
        matches!(self, Self::Kill(Party::Gateway(_)) | Self::Stop(Party::Gateway(_)))
    }
}

impl Party {
    fn kind(self) -> &'static str {
        match self {
            Self::Gateway(_) => "gateway",
            Self::Postgres => "PostgreSQL",
            Self::Redis => "Redis",
            Self::Kafka => "Kafka",
        }
    }
}

impl Link {
    fn kind(self) -> &'static str {
        match self {
            Self::Clients(_) => "devices to gateway",
            Self::Peers(_) => "gateway to gateway",
            Self::Postgres(_) => "gateway to PostgreSQL",
            Self::Redis(_) => "gateway to Redis",
            Self::Kafka => "gateways to Kafka",
        }
    }
}

impl Trouble {
    fn kind(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Slow(_) => "slow",
            Self::OneWay(_) => "one-way",
            Self::BlackHole => "black-holed",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(party) => write!(f, "SIGKILL {party:?}"),
            Self::Pause(party) => write!(f, "SIGSTOP {party:?}"),
            Self::Stop(party) => write!(f, "stop {party:?} in order"),
            Self::Way(link, trouble) => write!(f, "{trouble:?} {link:?}"),
            Self::Clock(gateway, ahead_ms) => write!(f, "clock of Gateway({gateway}) off by {ahead_ms} ms"),
            other => write!(f, "{other:?}"),
        }
    }
}
