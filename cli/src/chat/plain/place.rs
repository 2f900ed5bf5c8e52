//! How far line mode has printed, kept beside the store, so that nothing is printed twice or never when the program is run again.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use kith_client::Arrival;

const FILE: &str = "printed";

/// The last arrival and the last notice printed.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    arrival: i64,
    notice: i64,
}

impl Place {
    /// Reads the place kept in a home folder; the beginning if there is none.
    ///
    /// # Errors
    /// If the file is there and cannot be read or understood.
    pub(super) fn load(home: &Path) -> anyhow::Result<Self> {
        let path = home.join(FILE);
        let (arrival, notice) = match fs::read_to_string(&path) {
            Ok(text) => parse(&text).with_context(|| format!("{} is damaged", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => (0, 0),
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
        };
        Ok(Self { path, arrival, notice })
    }

    /// Everything up to here has been printed.
    pub(super) fn arrival(&self) -> Arrival {
        Arrival(self.arrival)
    }

    /// Notices up to here have been printed.
    pub(super) fn notice(&self) -> i64 {
        self.notice
    }

    /// An arrival has been printed.
    ///
    /// # Errors
    /// If the place cannot be stored.
    pub(super) fn arrived(&mut self, arrival: Arrival) -> io::Result<()> {
        self.arrival = self.arrival.max(arrival.0);
        self.store()
    }

    /// A notice has been printed.
    ///
    /// # Errors
    /// If the place cannot be stored.
    pub(super) fn noticed(&mut self, notice: i64) -> io::Result<()> {
        self.notice = self.notice.max(notice);
        self.store()
    }

    fn store(&self) -> io::Result<()> {
        // Another name first: a crash leaves the old place or the new one, never half of one.
        let next = self.path.with_extension("next");
        let mut file = fs::File::create(&next)?;
        writeln!(file, "{} {}", self.arrival, self.notice)?;
        fs::rename(next, &self.path)
    }
}

fn parse(text: &str) -> Option<(i64, i64)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(arrival)), Some(Ok(notice)), None) => Some((arrival, notice)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_found_again_and_never_goes_back() {
        let home = tempfile::tempdir().unwrap();
        let mut place = Place::load(home.path()).unwrap();
        assert_eq!((place.arrival(), place.notice()), (Arrival(0), 0));
        place.arrived(Arrival(7)).unwrap();
        place.arrived(Arrival(5)).unwrap();
        place.noticed(3).unwrap();
        let again = Place::load(home.path()).unwrap();
        assert_eq!((again.arrival(), again.notice()), (Arrival(7), 3));
    }

    #[test]
    fn a_damaged_place_is_an_error_and_not_the_beginning() {
        let home = tempfile::tempdir().unwrap();
        for damaged in ["", "x", "1", "1 2 3"] {
            fs::write(home.path().join(FILE), damaged).unwrap();
            assert!(Place::load(home.path()).is_err(), "{damaged:?}");
        }
    }
}
