//! How long a busy writer rests before its next batch.
//!
//! In a server that is busy the next batch is larger then, which costs everybody less for each message, and the more so the more gateways write: the statement's own cost is shared, and what is
//! told of a batch goes on together through gateways, sockets and devices. At loads at which batches are small nothing waits.

use std::time::Duration;

/// A batch of fewer messages is followed by the next one at once.
const BUSY: usize = 64;
/// A batch of so many is followed by a rest as long as it took; of half as many, by one half as long.
const EVEN: u32 = 256;
/// However large the batch, and however slow the database.
const LONGEST: Duration = Duration::from_millis(50);

/// After a batch of so many messages that took so long. Ends sooner when the next batch is full.
pub(super) fn rest(messages: usize, took: Duration) -> Duration {
    if messages < BUSY {
        return Duration::ZERO;
    }
    let messages = u32::try_from(messages).unwrap_or(u32::MAX);
    took.saturating_mul(messages).checked_div(EVEN).unwrap_or(LONGEST).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_with_the_batch_up_to_a_bound() {
        let ms = Duration::from_millis;
        assert_eq!(rest(63, ms(400)), Duration::ZERO);
        assert_eq!(rest(64, ms(8)), ms(2));
        assert_eq!(rest(256, ms(8)), ms(8));
        assert_eq!(rest(1024, ms(8)), ms(32));
        assert_eq!(rest(1024, ms(20)), ms(50));
        assert_eq!(rest(usize::MAX, Duration::MAX), ms(50));
    }
}
