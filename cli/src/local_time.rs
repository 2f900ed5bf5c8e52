//! Times as people read them, in the zone of this machine.

/// A moment broken into what a calendar and a clock show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalTime {
    year: i32,
    month: usize,
    day: u8,
    weekday: usize,
    hour: u8,
    minute: u8,
    second: u8,
}

const MONTHS: [&str; 12] = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl LocalTime {
    /// The local time of a Unix time in milliseconds.
    pub(crate) fn of(unix_ms: u64) -> Self {
        let seconds = libc::time_t::try_from(unix_ms / 1000).unwrap_or(libc::time_t::MAX);
        #[expect(unsafe_code, reason = "the C library alone knows the local time zone")]
        // SAFETY: an all-zero `tm` is a valid value; both pointers are valid for the call, which keeps neither.
        let broken = unsafe {
            let mut broken: libc::tm = std::mem::zeroed();
            libc::localtime_r(&raw const seconds, &raw mut broken);
            broken
        };
        let small = |value: libc::c_int| u8::try_from(value).unwrap_or(0);
        Self {
            year: broken.tm_year + 1900,
            month: usize::try_from(broken.tm_mon).unwrap_or(0) % 12,
            day: small(broken.tm_mday),
            weekday: usize::try_from(broken.tm_wday).unwrap_or(0) % 7,
            hour: small(broken.tm_hour),
            minute: small(broken.tm_min),
            second: small(broken.tm_sec),
        }
    }

    /// `14:03`.
    pub(crate) fn hours_minutes(self) -> String {
        format!("{:02}:{:02}", self.hour, self.minute)
    }

    /// `2026-11-21 14:03:59`.
    pub(crate) fn date_and_time(self) -> String {
        format!("{:04}-{:02}-{:02} {}", self.year, self.month + 1, self.day, self.hours_minutes_seconds())
    }

    /// `14:03:59`.
    pub(crate) fn hours_minutes_seconds(self) -> String {
        format!("{:02}:{:02}:{:02}", self.hour, self.minute, self.second)
    }

    /// `Saturday, 21 November 2026`.
    pub(crate) fn date(self) -> String {
        format!("{}, {} {} {}", WEEKDAYS[self.weekday], self.day, MONTHS[self.month], self.year)
    }

    /// Whether two moments lie on the same day.
    pub(crate) fn is_same_day(self, other: Self) -> bool {
        (self.year, self.month, self.day) == (other.year, other.month, other.day)
    }
}

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_told_apart_and_written_out() {
        let noon = LocalTime { year: 2026, month: 10, day: 21, weekday: 6, hour: 9, minute: 5, second: 7 };
        assert_eq!(noon.date(), "Saturday, 21 November 2026");
        assert_eq!((noon.hours_minutes(), noon.hours_minutes_seconds()), ("09:05".to_owned(), "09:05:07".to_owned()));
        let a_day = 24 * 60 * 60 * 1000;
        let now = 1_795_000_000_000;
        assert!(LocalTime::of(now).is_same_day(LocalTime::of(now)));
        assert!(!LocalTime::of(now).is_same_day(LocalTime::of(now + a_day)));
    }
}
