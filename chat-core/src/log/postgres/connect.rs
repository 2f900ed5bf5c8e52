//! Devices connect: their epochs are raised by compare-and-set, all that wait in one statement.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use kith_proto::id::{DeviceId, DeviceRef};
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    bounded,
    queue::Queue,
    session::{Call, Failed, Session, Twice, unsigned},
    unavailable,
};
use crate::log::{ConnectError, Connected};

/// Devices in one batch.
const BATCH: usize = 256;

/// Rows of log_device are locked in ascending order.
const RAISE: &str = "WITH old AS MATERIALIZED (
        SELECT i.n, i.epoch AS wanted, d.device, d.account, d.epoch, d.counter
        FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) WITH ORDINALITY i(device, account, epoch, n)
        JOIN log_device d ON d.device = i.device AND d.account = i.account AND NOT d.retired
        ORDER BY d.device FOR NO KEY UPDATE OF d
    ), raised AS (
        UPDATE log_device d SET epoch = o.wanted FROM old o WHERE d.device = o.device AND o.wanted > o.epoch
    )
    SELECT o.device, o.epoch, o.counter, a.list_version, d.one_time, d.one_time_kem
    FROM old o JOIN account a ON a.id = o.account JOIN device d ON d.id = o.device";

/// A device that wants to connect.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) device: DeviceRef,
    pub(super) epoch: u64,
    pub(super) answer: oneshot::Sender<Result<Connected, ConnectError>>,
}

struct Raise<'a>(&'a [Hello]);

impl Call for Raise<'_> {
    type Answer = HashMap<DeviceId, Connected>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Answer, sqlx::Error> {
        let query = sqlx::query(RAISE)
            .bind(self.0.iter().map(|h| Uuid::from_bytes(h.device.device.0)).collect::<Vec<_>>())
            .bind(self.0.iter().map(|h| Uuid::from_bytes(h.device.account.0)).collect::<Vec<_>>())
            .bind(self.0.iter().map(|h| bounded(h.epoch)).collect::<Vec<_>>());
        query.fetch_all(connection).await?.iter().map(connected).collect()
    }
}

fn connected(row: &PgRow) -> Result<(DeviceId, Connected), sqlx::Error> {
    let device: Uuid = row.try_get(0)?;
    let left = |n: usize| Ok::<_, sqlx::Error>(u32::try_from(row.try_get::<i32, _>(n)?).unwrap_or(0));
    let connected = Connected {
        previous_epoch: unsigned(row.try_get(1)?),
        device_counter: unsigned(row.try_get(2)?),
        device_list_version: unsigned(row.try_get(3)?),
        one_time_left: (left(4)?, left(5)?),
    };
    Ok((DeviceId(device.into_bytes()), connected))
}

/// The task that lets them in.
pub(super) struct Porter {
    pub(super) queue: Arc<Queue<Hello>>,
    pub(super) session: Session,
}

impl Porter {
    /// Until the queue is closed and empty.
    pub(super) async fn run(mut self) {
        let mut later: Vec<Hello> = Vec::new();
        while !later.is_empty() || self.queue.ready().await {
            let mut waiting = std::mem::take(&mut later);
            self.queue.take_now(&mut waiting, BATCH, usize::MAX);
            // The second of one device is decided after the first.
            let mut seen = HashSet::new();
            let (now, twice) = waiting.into_iter().partition(|hello: &Hello| seen.insert(hello.device.device));
            later = twice;
            self.batch(now).await;
        }
    }

    async fn batch(&mut self, hellos: Vec<Hello>) {
        // An epoch that was raised must not be raised to the same number again: with the answer lost, the device has to come back with a higher one.
        match self.session.call(Twice::Never, &Raise(&hellos)).await {
            Ok(known) => {
                for Hello { device, epoch, answer } in hellos {
                    let _ = answer.send(match known.get(&device.device) {
                        None => Err(ConnectError::Revoked),
                        Some(c) if epoch <= c.previous_epoch || i64::try_from(epoch).is_err() => {
                            Err(ConnectError::StaleStore { known: c.previous_epoch })
                        }
                        Some(c) => Ok(*c),
                    });
                }
            }
            Err(Failed::Sql(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "devices could not connect");
                hellos.into_iter().for_each(|h| drop(h.answer.send(Err(unavailable("devices could not connect").into()))));
            }
            Err(Failed::Away(fault)) => hellos.into_iter().for_each(|h| drop(h.answer.send(Err(unavailable(fault.clone()).into())))),
        }
    }
}
