//! Which database it is that a connection leads to.

use sqlx::PgConnection;

use crate::postgres::{
    error::{FaultCause, Unfit},
    migrate,
};

/// What a server has in common with its standbys, and with nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) struct Identity {
    server: Server,
    /// When the schema was made, in milliseconds.
    made_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Server {
    /// Drawn when the server was made; `None` if we may not know it.
    system: Option<i64>,
    /// The number of the database on it.
    database: i64,
}

impl Server {
    async fn read(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let system = sqlx::query_scalar("SELECT system_identifier FROM pg_control_system()").fetch_one(&mut *connection).await;
        let system = match system {
            Ok(system) => Some(system),
            // Some operators of databases for others keep it to themselves: insufficient_privilege, undefined_function.
            Err(sqlx::Error::Database(error)) if matches!(error.code().as_deref(), Some("42501" | "42883")) => None,
            Err(error) => return Err(error),
        };
        let sql = "SELECT oid::bigint FROM pg_database WHERE datname = current_database()";
        Ok(Self { system, database: sqlx::query_scalar(sql).fetch_one(connection).await? })
    }

    fn may_be(self, other: Self) -> bool {
        self.database == other.database && self.system.zip(other.system).is_none_or(|(ours, theirs)| ours == theirs)
    }
}

async fn made_ms(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT min(applied_ms) FROM schema_migration").fetch_one(connection).await
}

impl Identity {
    /// Of a database with the schema of this program.
    pub(in crate::postgres) async fn read(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        Ok(Self { server: Server::read(connection).await?, made_ms: made_ms(connection).await? })
    }
}

/// Refuses what is not a standby of the primary's database, with our schema.
pub(in crate::postgres) async fn vet(connection: &mut PgConnection, primary: Identity) -> Result<(), FaultCause> {
    if !Server::read(connection).await?.may_be(primary.server) {
        return Err(Unfit::Stranger.into());
    }
    if !sqlx::query_scalar::<_, bool>("SELECT pg_is_in_recovery()").fetch_one(&mut *connection).await? {
        return Err(Unfit::TakesWrites.into());
    }
    // A standby that is late may not have the newest migration yet.
    migrate::check(connection).await.map_err(Unfit::Schema)?;
    if made_ms(connection).await? != primary.made_ms {
        return Err(Unfit::Stranger.into());
    }
    Ok(())
}
