//! Values put into a real store behind its back.

use super::{Store, StoreError};
use rusqlite::params;

/// A value and its place: row numbers, and the columns that are not sealed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plant<'a> {
    pub(crate) no: i64,
    pub(crate) columns: [i64; 3],
    pub(crate) value: &'a [u8],
    /// Sealed for its place, as if this store had written it; else as it stands.
    pub(crate) sealed: bool,
}

/// Table and column of the values.
pub(crate) const PLACES: [(&str, &str); 13] = [
    ("meta", "value"),
    ("account", "value"),
    ("device", "value"),
    ("device", "replay"),
    ("conversation", "value"),
    ("session", "state"),
    ("session", "skipped"),
    ("chain", "value"),
    ("prekey", "value"),
    ("outbox", "value"),
    ("notice", "value"),
    ("entry", "value"),
    ("log", "hash"),
];

impl Store {
    /// Writes it into the transaction.
    pub(crate) fn plant(&mut self, place: usize, plant: Plant<'_>) -> Result<(), StoreError> {
        self.begin()?;
        let Plant { no, columns: [a, b, c], value, sealed } = plant;
        let (table, column) = PLACES[place];
        let pair = [no.to_be_bytes(), a.to_be_bytes()].concat();
        let row: &[u8] = match table {
            "meta" => b"self",
            "session" | "log" => &pair,
            _ => &pair[..8],
        };
        let value = if sealed { self.vault.seal(&mut self.rng, table, row, column, value) } else { value.to_vec() };
        let conn = &self.conn;
        match (table, column) {
            ("meta", _) => conn.execute("INSERT OR REPLACE INTO meta VALUES ('self', ?)", params![value]),
            ("account" | "conversation", _) => conn.execute(&format!("INSERT OR REPLACE INTO {table} VALUES (?, ?)"), params![no, value]),
            ("device", "value") => conn.execute("INSERT OR REPLACE INTO device VALUES (?, ?, ?, NULL)", params![no, a, value]),
            ("device", _) => conn.execute("UPDATE device SET replay = ?2 WHERE no = ?1", params![no, value]),
            ("session", "state") => conn.execute("INSERT OR REPLACE INTO session VALUES (?, ?, ?, NULL)", params![no, a, value]),
            ("session", _) => conn.execute("UPDATE session SET skipped = ?3 WHERE conversation = ?1 AND device = ?2", params![no, a, value]),
            ("chain", _) => conn.execute("INSERT OR REPLACE INTO chain VALUES (?, ?, ?, ?)", params![no, a, b, value]),
            ("prekey", _) => conn.execute("INSERT OR REPLACE INTO prekey VALUES (?, ?, ?)", params![no, a, value]),
            ("outbox", _) => conn.execute("INSERT OR REPLACE INTO outbox VALUES (?, ?, ?)", params![no, a, value]),
            ("notice", _) => conn.execute("INSERT OR REPLACE INTO notice VALUES (?, ?)", params![no, value]),
            ("entry", _) => {
                let insert = "INSERT OR REPLACE INTO entry VALUES (?1, 1, ?2, ?3, ?4, ?4, ?2, ?3, 1, ?5)";
                conn.execute(insert, params![no, a, b, c, value])
            }
            _ => conn.execute("INSERT OR REPLACE INTO log VALUES (?, ?, ?)", params![no, a, value]),
        }?;
        Ok(())
    }
}
