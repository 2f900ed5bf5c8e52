//! `sqlite_probe DATABASE SYNCHRONOUS`: commits numbers 1, 2, 3 … and prints each after its commit, checkpointing as it goes, until it is killed.
//! The fault shim is tested with it: with FULL no printed number may be lost by a power cut, with OFF numbers must be.

use std::io::Write as _;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(synchronous)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: sqlite_probe DATABASE SYNCHRONOUS");
    };
    let database = rusqlite::Connection::open(path)?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.pragma_update(None, "synchronous", synchronous)?;
    database.pragma_update(None, "wal_autocheckpoint", 50)?;
    database.pragma_update(None, "mmap_size", 1 << 20)?;
    database.execute_batch("CREATE TABLE IF NOT EXISTS number(n INTEGER PRIMARY KEY, filling BLOB)")?;
    let from: i64 = database.query_row("SELECT coalesce(max(n), 0) FROM number", [], |row| row.get(0))?;
    let mut out = std::io::stdout().lock();
    for n in from + 1.. {
        database.execute("INSERT INTO number VALUES(?, randomblob(700))", [n])?;
        writeln!(out, "{n}")?;
        out.flush()?;
    }
    Ok(())
}
