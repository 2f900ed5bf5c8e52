//! Where a PostgreSQL is, without who may use it.

use std::str::FromStr as _;

use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};

use super::OpenError;
use crate::domain::Address;

/// Host, port and database.
fn shown(options: &PgConnectOptions) -> Address {
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    Address::new(match options.get_socket() {
        Some(folder) => format!("{}:{}/{database}", folder.display(), options.get_port()),
        None => format!("{}:{}/{database}", options.get_host(), options.get_port()),
    })
}

/// Takes `postgres://user:password@host:port/database?…` apart.
pub(super) fn parse(url: &str) -> Result<(PgConnectOptions, Address), OpenError> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(OpenError::Url("it must begin with postgres://".to_owned()));
    }
    // The parser's error says what is wrong with the text, and does not quote it.
    let options = PgConnectOptions::from_str(url).map_err(|error| OpenError::Url(error.to_string()))?;
    let address = shown(&options);
    // Statements would be logged with nothing in them that helps an operator, and each would be measured for it.
    Ok((options.application_name("kith").statement_cache_capacity(256).disable_statement_logging(), address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_neither_user_nor_password() {
        let (_, address) = parse("postgres://kith:s3cret@db.example:5433/chat?sslmode=require").unwrap();
        assert_eq!((address.to_string().as_str(), format!("{address:?}").as_str()), ("db.example:5433/chat", "db.example:5433/chat"));
        let (_, address) = parse("postgresql://kith@%2Frun%2Fpostgresql/chat").unwrap();
        assert_eq!(address.to_string(), "/run/postgresql:5432/chat");
    }

    #[test]
    fn a_wrong_address_is_not_quoted() {
        for url in
            ["postgres://kith:s3cret@db.example:port/chat", "mysql://kith:s3cret@db/chat", "kith:s3cret@db", "postgres://kith:s3cret@db/c?sslmode=no"]
        {
            let error = parse(url).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
