//! The rules of user names: stable for ever, since a name once taken is never given to another.

use std::fmt;

/// A user name in its folded form.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Username(String);

/// The text is no user name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a user name is 3 to 32 characters of a-z 0-9 . _ - that begin and end with a letter or digit")]
pub struct WrongUsername;

impl Username {
    /// Folds upper case and checks: 3 to 32 of `a-z 0-9 . _ -`, a letter or digit at either end. Only ASCII, so that no two names look alike by script.
    ///
    /// # Errors
    /// If the text is no user name.
    pub fn parse(text: &str) -> Result<Self, WrongUsername> {
        let bytes = text.as_bytes();
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        if !(3..=32).contains(&bytes.len()) || !bytes.iter().all(allowed) || !ends(bytes.first()) || !ends(bytes.last()) {
            return Err(WrongUsername);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// The folded text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// User names are user data.
impl fmt::Debug for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Username(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_case() {
        assert_eq!(Username::parse("Al.ice_9").unwrap().as_str(), "al.ice_9");
    }

    #[test]
    fn refuses_what_is_no_name() {
        let long = "a".repeat(33);
        for wrong in ["", "ab", ".abc", "abc-", "_ab", "a b", "a/b", "älice", "аlice", "ali\0ce", "a%20b", long.as_str()] {
            assert_eq!(Username::parse(wrong), Err(WrongUsername), "{wrong}");
        }
        assert!(Username::parse(&long[..32]).is_ok());
    }
}
