//! Invite codes: 80 random bits in Crockford's base 32, of which the server keeps only a hash.

use kith_chat_core::{
    accounts::{AccountsError, PostgresAccounts, Upkeep as _, add_invites_to_file},
    domain::Clock,
    postgres::{OpenError, Options, Postgres},
};
use sha2::{Digest as _, Sha256};

use crate::config::Config;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Why there are no invite codes.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// PostgreSQL cannot be used; names its address.
    #[error(transparent)]
    Postgres(#[from] OpenError),
    /// The hashes cannot be written.
    #[error("the database cannot be written")]
    Accounts(#[from] AccountsError),
}

/// Makes invite codes, each good for one registration within `days`, in the configured PostgreSQL, or else on the data folder of a server that has run
/// before and may be running. The codes are returned and nowhere kept.
///
/// # Errors
/// If PostgreSQL, or the database of that folder, cannot be written.
pub async fn create_invites(config: &Config, count: usize, days: u64) -> Result<Vec<String>, InviteError> {
    let now_ms = Clock::System.now_ms();
    let codes: Vec<String> = (0..count).map(|_| code(rand::random())).collect();
    let hashes: Vec<_> = codes.iter().map(|code| invite_hash(code)).collect();
    let expires_ms = now_ms.saturating_add(days.saturating_mul(86_400_000));
    match config.postgres.options() {
        None => add_invites_to_file(&config.database(), &hashes, expires_ms, now_ms)?,
        Some(options) => {
            let server = Postgres::open(&Options { replica: None, ..options }).await?;
            PostgresAccounts::new(server.clone()).add_invites(hashes, expires_ms, now_ms).await?;
            server.close().await;
        }
    }
    Ok(codes)
}

/// `XXXX-XXXX-XXXX-XXXX`.
fn code(random: [u8; 16]) -> String {
    let mut code = String::with_capacity(19);
    for (at, byte) in random.iter().enumerate() {
        if at > 0 && at % 4 == 0 {
            code.push('-');
        }
        code.push(char::from(ALPHABET[usize::from(byte % 32)]));
    }
    code
}

/// The hash a code is stored under, however it was typed: dashes, spaces and case do not count, O is 0, I and L are 1.
#[must_use]
pub(crate) fn invite_hash(code: &str) -> [u8; 32] {
    let significant = code.bytes().filter(|b| !matches!(b, b'-' | b' ')).map(|b| match b.to_ascii_uppercase() {
        b'O' => b'0',
        b'I' | b'L' => b'1',
        other => other,
    });
    let folded: Vec<u8> = significant.collect();
    Sha256::new().chain_update("kith/invite").chain_update(folded).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_may_be_typed_in_any_way() {
        let code = code([0, 1, 2, 3, 30, 31, 32, 33, 255, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(code, "0123-YZ01-Z567-89AB");
        assert_eq!(invite_hash(&code), invite_hash(" o l23yzoi z56789ab"));
        assert_ne!(invite_hash(&code), invite_hash("0123-YZ01-Z567-89AC"));
    }
}
