//! A device connects: its epoch is raised by compare-and-set, in the transaction of whatever else is waiting.

use kith_proto::id::DeviceRef;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::engine::LogWriter;
use crate::log::{ConnectError, Connected};

struct Known {
    no: i64,
    revoked: bool,
    connected: Connected,
}

fn known(row: &Row<'_>) -> rusqlite::Result<Known> {
    let connected = Connected {
        previous_epoch: row.get(2)?,
        device_counter: row.get(3)?,
        device_list_version: row.get(4)?,
        one_time_left: (row.get(5)?, row.get(6)?),
    };
    Ok(Known { no: row.get(0)?, revoked: row.get(1)?, connected })
}

impl LogWriter {
    /// An error of the outer result means that the transaction is lost.
    pub(crate) fn connect(&mut self, db: &Connection, device: DeviceRef, epoch: u64) -> rusqlite::Result<Result<Connected, ConnectError>> {
        let sql = "SELECT d.no, d.revoked_ms IS NOT NULL, d.epoch, d.counter, a.list_version, d.one_time, d.one_time_kem
            FROM device d JOIN account a ON a.no = d.account_no WHERE d.id = ? AND a.id = ?";
        let found = db.prepare_cached(sql)?.query_row([device.device.0, device.account.0], known).optional()?;
        let Some(mut found) = found.filter(|known| !known.revoked) else { return Ok(Err(ConnectError::Revoked)) };
        if epoch <= found.connected.previous_epoch || i64::try_from(epoch).is_err() {
            return Ok(Err(ConnectError::StaleStore { known: found.connected.previous_epoch }));
        }
        db.prepare_cached("UPDATE device SET epoch = ? WHERE no = ?")?.execute((epoch, found.no))?;
        found.connected.device_counter = found.connected.device_counter.max(self.counter(found.no));
        Ok(Ok(found.connected))
    }
}
