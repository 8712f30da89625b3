//! Dates around now.

use jiff::{SignedDuration, Timestamp, ToSpan as _};

pub(super) fn minutes_before(now: Timestamp, minutes: i64) -> Timestamp {
    now.checked_sub(SignedDuration::from_mins(minutes)).unwrap_or(now)
}

/// Midnight in UTC of the day of `now`, plus whole days.
pub(super) fn midnight(now: Timestamp, days: i64) -> Timestamp {
    let day = now.to_zoned(jiff::tz::TimeZone::UTC).start_of_day();
    day.and_then(|day| day.checked_add(days.days())).map_or(now, |day| day.timestamp())
}
