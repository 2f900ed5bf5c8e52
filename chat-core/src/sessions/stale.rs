//! The bounded way on which a directory tells what is no longer to be believed.

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Stale;

/// Until the taker has caught up. A storm of reconnects changes many accounts at once; whoever is further behind than this drops everything it knows,
/// which costs one batched look-up per account that it still needs.
const WAITING: usize = 4096;

/// Says [`Stale::Everything`] instead of what does not fit.
#[derive(Debug)]
pub(super) struct Stales {
    sender: mpsc::Sender<Stale>,
    /// The last thing said was [`Stale::Everything`]: while it waits it says all that comes after it, too.
    swept: Mutex<bool>,
}

impl Stales {
    pub(super) fn new() -> (Self, mpsc::Receiver<Stale>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { sender, swept: Mutex::new(false) }, receiver)
    }

    pub(super) fn tell(&self, stale: Stale) {
        let mut swept = self.swept.lock();
        let free = self.sender.capacity();
        if *swept && free < self.sender.max_capacity() {
            return;
        }
        *swept = stale == Stale::Everything || free <= 1;
        // There is room: the last place is only ever taken by `Everything`, after which nothing follows until it is taken. Nobody listening is no error.
        let _ = self.sender.try_send(if *swept { Stale::Everything } else { stale });
    }
}

#[cfg(test)]
mod tests {
    use kith_proto::id::AccountId;

    use super::*;

    fn account(n: usize) -> Stale {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_le_bytes());
        Stale::Account(AccountId(id))
    }

    #[test]
    fn what_does_not_fit_becomes_everything() {
        let (stales, mut receiver) = Stales::new();
        (0..2 * WAITING).for_each(|n| stales.tell(account(n)));
        for n in 0..WAITING - 1 {
            assert_eq!(receiver.try_recv(), Ok(account(n)));
        }
        assert_eq!(receiver.try_recv(), Ok(Stale::Everything));
        assert!(receiver.try_recv().is_err());
        stales.tell(account(1));
        assert_eq!(receiver.try_recv(), Ok(account(1)));
    }

    #[test]
    fn everything_that_waits_says_all_that_follows() {
        let (stales, mut receiver) = Stales::new();
        for stale in [account(1), Stale::Everything, account(2), Stale::Everything] {
            stales.tell(stale);
        }
        assert_eq!((receiver.try_recv(), receiver.try_recv()), (Ok(account(1)), Ok(Stale::Everything)));
        assert!(receiver.try_recv().is_err());
    }
}
