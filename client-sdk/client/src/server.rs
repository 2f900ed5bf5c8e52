//! REST.
use crate::error::RequestError;
use crate::model::OwnDevice;
use kith_proto::id::{AccountId, DeviceId};

#[derive(Debug)]
pub(crate) struct Server;
#[derive(Debug)]
pub(crate) struct AccountHistory;
#[derive(Debug)]
pub(crate) struct NextList;
pub(crate) struct Found {
    pub(crate) account: AccountId,
}

fn not_yet() -> RequestError {
    RequestError::Unreachable("this build has no transport yet".to_owned())
}

#[allow(clippy::unused_async)]
impl Server {
    pub(crate) async fn find_user(&self, _: &str) -> Result<Found, RequestError> {
        Err(not_yet())
    }
    pub(crate) async fn device_lists(&self, _: AccountId, _: u64) -> Result<AccountHistory, RequestError> {
        Err(not_yet())
    }
    pub(crate) async fn own_devices(&self, _: DeviceId) -> Result<Vec<OwnDevice>, RequestError> {
        Err(not_yet())
    }
    pub(crate) async fn revoke(&self, _: DeviceId, _: &NextList) -> Result<(), RequestError> {
        Err(not_yet())
    }
}
