//! Token buckets in Redis: one key each, which is gone when the bucket is full, and a script that takes in one step by the server's clock.
//!
//! They use the directory's connections, and must not be in its way: few calls at a time, a short deadline, and no doubt about the link on their account.

use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use fred::types::Value;
use tokio::time;

use super::{Call, CallError, RedisDirectory, SCRIPTS, list};
use crate::{
    domain::Rate,
    sessions::{
        AT_ONCE,
        buckets::{BucketKey, Buckets, BucketsError, Take},
    },
};

/// For a whole call: whoever waits for it is a request of a client, which can go on without.
const ANSWERED_WITHIN: Duration = Duration::from_millis(250);
/// Calls at a time; beyond them there is no room.
pub(super) const CALLS: usize = 32;

/// What the script answers.
struct Answer {
    left: u32,
    after_ms: u64,
}

impl RedisDirectory {
    async fn buckets(&self, buckets: &[(BucketKey, Rate)], take: bool) -> Result<Vec<Answer>, BucketsError> {
        let _permit = self.bucket_calls.try_acquire().map_err(|full| BucketsError(Box::new(full)))?;
        let asking = async {
            let link = self.keeper.link().ok_or(CallError::Away)?;
            let calls = buckets.iter().map(|(key, rate)| self.bucket_call(*key, *rate, take)).collect();
            let answers = link.run(&SCRIPTS.take, calls).await?;
            if answers.len() != buckets.len() {
                return Err(CallError::Answer);
            }
            answers.into_iter().map(answer).collect()
        };
        let answers = time::timeout(ANSWERED_WITHIN, asking).await.unwrap_or(Err(CallError::Late));
        answers.map_err(|error| BucketsError(Box::new(error)))
    }

    fn bucket_call(&self, key: BucketKey, rate: Rate, take: bool) -> Call {
        let mut name = BytesMut::from(&self.keys.buckets()[..]);
        name.put_u8(key.kind);
        name.put_slice(&key.of);
        let arguments = [rate.interval_us().to_string(), rate.span_us().to_string(), u8::from(take).to_string()];
        Call { keys: vec![name.freeze()], arguments: arguments.map(Bytes::from).to_vec() }
    }
}

fn answer(value: Value) -> Result<Answer, CallError> {
    let values = list(value)?;
    let number = |at: usize| values.get(at).and_then(Value::as_u64).ok_or(CallError::Answer);
    Ok(Answer { left: u32::try_from(number(0)?).unwrap_or(u32::MAX), after_ms: number(1)? })
}

#[async_trait]
impl Buckets for RedisDirectory {
    async fn take(&self, key: BucketKey, rate: Rate) -> Result<Take, BucketsError> {
        let answers = self.buckets(&[(key, rate)], true).await?;
        match answers.first() {
            Some(Answer { after_ms: 0, .. }) => Ok(Take::Taken),
            Some(answer) => Ok(Take::Empty { after_ms: answer.after_ms }),
            None => Err(BucketsError(Box::new(CallError::Answer))),
        }
    }

    async fn remaining(&self, buckets: &[(BucketKey, Rate)]) -> Result<Vec<u32>, BucketsError> {
        let mut left = Vec::with_capacity(buckets.len());
        for some in buckets.chunks(AT_ONCE) {
            left.extend(self.buckets(some, false).await?.into_iter().map(|answer| answer.left));
        }
        Ok(left)
    }
}
