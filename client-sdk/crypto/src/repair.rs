//! How often a broken session with a device may be repaired (§3): at most once an hour and five times a day.

const HOUR_MS: u64 = 60 * 60 * 1000;
const DAY_MS: u64 = 24 * HOUR_MS;
const PER_DAY: usize = 5;

/// The times of the last repairs with one device, in Unix milliseconds, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairBudget(Vec<u64>);

impl RepairBudget {
    /// A budget that was used at these times; only the last five matter.
    #[must_use]
    pub fn from_times(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let excess = times.len().saturating_sub(PER_DAY);
        times.drain(..excess);
        Self(times)
    }

    /// The times to store.
    #[must_use]
    pub fn times(&self) -> &[u64] {
        &self.0
    }

    /// The budget after a repair now, or `None` if it is too early for one.
    #[must_use]
    pub fn spend(&self, now_ms: u64) -> Option<Self> {
        let within = |span: u64| self.0.iter().filter(|time| now_ms.saturating_sub(**time) < span).count();
        if within(HOUR_MS) > 0 || within(DAY_MS) >= PER_DAY {
            return None;
        }
        let mut times = self.0.clone();
        times.push(now_ms);
        Some(Self::from_times(times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_an_hour_and_five_times_a_day() {
        let mut budget = RepairBudget::default();
        for i in 0..5 {
            let now = DAY_MS + i * HOUR_MS;
            budget = budget.spend(now).unwrap();
            assert_eq!(budget.spend(now + HOUR_MS - 1), None);
        }
        assert_eq!(budget.spend(DAY_MS + 5 * HOUR_MS), None);
        let next_day = budget.spend(2 * DAY_MS).unwrap();
        assert_eq!(next_day.times().len(), 5);
        assert_eq!(RepairBudget::from_times(next_day.times().to_vec()), next_day);
    }
}
