//! Lines on standard output, each flushed at once, because somebody reads them as they come.

use std::io::{self, Write as _, stdout};

/// Standard output.
#[derive(Debug, Default)]
pub(super) struct Output;

impl Output {
    /// Prints one event: a word, then its fields. Fields hold no line breaks; only the last may hold spaces.
    ///
    /// # Errors
    /// If nobody reads any more.
    #[expect(clippy::unused_self, reason = "having it is having the right to print")]
    pub(super) fn line(&self, word: &str, fields: &[&str]) -> io::Result<()> {
        let mut out = stdout().lock();
        out.write_all(word.as_bytes())?;
        for field in fields {
            debug_assert!(!field.contains('\n'), "a field of {word} holds a line break");
            out.write_all(b" ")?;
            out.write_all(field.as_bytes())?;
        }
        out.write_all(b"\n")?;
        out.flush()
    }
}
