//! Streams over the store.
use crate::engine::Published;
use crate::error::CallError;
use crate::model::{Arrival, Entry, Notice, Position};
use crate::store::Reader;
use crate::subscription::Subscription;
use futures_util::stream;
use kith_proto::id::ConversationId;

pub(crate) fn timeline(_: Published, _: Reader, _: ConversationId) -> Subscription<Vec<Entry>> {
    Subscription::from_stream(stream::empty())
}
pub(crate) fn received(_: Published, _: Reader, _: Arrival) -> Subscription<Entry> {
    Subscription::from_stream(stream::empty())
}
pub(crate) fn notices(_: Published, _: Reader, _: i64) -> Subscription<Notice> {
    Subscription::from_stream(stream::empty())
}
#[allow(clippy::unused_async)]
pub(crate) async fn history(_: &Published, _: &Reader, _: ConversationId, _: Option<Position>, _: usize) -> Result<Vec<Entry>, CallError> {
    Err(CallError::Closed)
}
