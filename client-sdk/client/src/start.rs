//! Opening and registering.
use crate::Client;
use crate::builder::{ClientBuilder, Registered, Registration};
use crate::error::{OpenError, RegisterError};
use std::path::Path;

pub(crate) fn is_registered(home: &Path) -> bool {
    home.join("store.db").exists()
}
#[allow(clippy::unused_async)]
pub(crate) async fn open(_: ClientBuilder) -> Result<Client, OpenError> {
    Err(OpenError::Storage("this build has no store yet".to_owned()))
}
#[allow(clippy::unused_async)]
pub(crate) async fn register(_: ClientBuilder, _: Registration) -> Result<Registered, RegisterError> {
    Err(OpenError::Storage("this build has no store yet".to_owned()).into())
}
