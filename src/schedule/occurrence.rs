//! When a digest is due, in local time. Pure: time comes in as an argument.
//!
//! The cron expression is evaluated on the calendar and the clock on the wall, without any zone; the instant comes
//! afterwards, by two rules of our own: a wall time that the clock skips is due when it has skipped it, and a wall
//! time that the clock shows twice is due the first time. Wall times that become due at one instant are one occurrence,
//! named after what the clock shows then.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::{DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

use crate::key::digest;

/// Names for expressions, as in cron's own manual page.
const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
/// Looking for an occurrence gives up after so many wall times. The most that can be passed over are those of an hour
/// that comes twice (3600 for an expression of every second); zones that repeat a whole day are a thing of the past.
const MOST_STEPS: usize = 100_000;

/// One time at which a digest is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Occurrence {
    /// The instant, in whole seconds.
    pub at: Timestamp,
    /// What the clock on the wall shows then.
    pub local: DateTime,
}

/// An expression in a zone.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
    key: String,
}

impl Schedule {
    /// The schedule of `expression` (five fields, six with seconds first, or a nickname like `@daily`) in `zone` (an
    /// IANA name). With `time` it is due at that time on each day of the expression instead.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn new(expression: &str, zone: &str, time: Option<Time>) -> Result<Self, String> {
        let fields = fields(expression)?;
        let pattern = match time {
            None => fields.join(" "),
            Some(time) => {
                let days = fields[fields.len() - 3..].join(" ");
                format!("{} {} {} {days}", time.second(), time.minute(), time.hour())
            }
        };
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(&pattern).map_err(|error| format!("`{expression}`: {error}"))?;
        let zone_name = zone;
        let zone = time_zone(zone)?;
        let key = digest(format!("{pattern}\n{zone_name}"), 8);
        Ok(Self { cron, zone, key })
    }

    /// The zone that local times are judged in, daylight saving included.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Short name of what is due when: equal for equal expressions, zones and times.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The first occurrence after `instant`; `None` where there is none (30 February).
    pub fn next_after(&self, instant: Timestamp) -> Option<Occurrence> {
        let instant = whole_seconds(instant);
        let mut local = self.zone.to_datetime(instant);
        for _ in 0..MOST_STEPS {
            // No wall time up to that of `instant` becomes due after it, as the rules keep their order.
            local = self.cron.find_next_occurrence(&local, false).ok()?;
            let at = self.due(local)?;
            if at > instant {
                return Some(self.named(at));
            }
        }
        None
    }

    /// The last occurrence up to and including `instant`.
    pub fn latest_until(&self, instant: Timestamp) -> Option<Occurrence> {
        let instant = whole_seconds(instant);
        let (mut local, mut inclusive) = match self.end_of_first_pass(instant) {
            Some(end) => (end, false),
            None => (self.zone.to_datetime(instant), true),
        };
        for _ in 0..MOST_STEPS {
            local = self.cron.find_previous_occurrence(&local, inclusive).ok()?;
            let at = self.due(local)?;
            if at <= instant {
                return Some(self.named(at));
            }
            inclusive = false;
        }
        None
    }

    /// The last occurrence before `occurrence`.
    pub fn before(&self, occurrence: Occurrence) -> Option<Occurrence> {
        self.latest_until(occurrence.at.checked_sub(SignedDuration::from_secs(1)).ok()?)
    }

    /// The occurrences after `from` and up to `until`, oldest first; where there are more than `most`, the latest.
    pub fn between(&self, from: Timestamp, until: Timestamp, most: usize) -> Vec<Occurrence> {
        let mut all = Vec::new();
        let mut next = self.latest_until(until);
        while let Some(occurrence) = next
            && occurrence.at > from
            && all.len() < most
        {
            all.push(occurrence);
            next = self.before(occurrence);
        }
        all.reverse();
        all
    }

    /// When a wall time is due.
    fn due(&self, local: DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
                offset.to_timestamp(local).ok()
            }
            AmbiguousOffset::Gap { before, .. } => {
                let after_the_gap = before.to_timestamp(local).ok()?;
                let next = after_the_gap.checked_add(SignedDuration::from_secs(1)).ok()?;
                self.zone.preceding(next).next().map(|transition| transition.timestamp())
            }
        }
    }

    /// Where the wall clock shows at `instant` a time for the second time: when the first pass ended on it.
    fn end_of_first_pass(&self, instant: Timestamp) -> Option<DateTime> {
        let local = self.zone.to_datetime(instant);
        let AmbiguousOffset::Fold { before, after } = self.zone.to_ambiguous_timestamp(local).offset() else {
            return None;
        };
        if self.zone.to_offset(instant) != after {
            return None;
        }
        let next = instant.checked_add(SignedDuration::from_secs(1)).ok()?;
        self.zone.preceding(next).next().map(|transition| before.to_datetime(transition.timestamp()))
    }

    fn named(&self, at: Timestamp) -> Occurrence {
        Occurrence { at, local: self.zone.to_datetime(at) }
    }
}

/// The zone of an IANA name, from the database in the binary.
pub fn time_zone(name: &str) -> Result<TimeZone, String> {
    TimeZoneDatabase::bundled()
        .get(name)
        .map_err(|_| format!("`{name}` is no IANA time zone; they have names like `Europe/Berlin` or `UTC`"))
}

/// A time of the day: `8:30`, `08:30` or `08:30:00`.
pub fn time_of_day(text: &str) -> Result<Time, String> {
    let wrong = || format!("`{text}` is no time of the day; write it like `08:30`");
    let parts: Vec<&str> = text.split(':').collect();
    let part = |index: usize| match parts.get(index) {
        Some(part) if (1..=2).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit()) => {
            part.parse::<i8>().map_err(|_| wrong())
        }
        _ => Err(wrong()),
    };
    let second = match parts.len() {
        2 => 0,
        3 => part(2)?,
        _ => return Err(wrong()),
    };
    Time::new(part(0)?, part(1)?, second, 0).map_err(|_| wrong())
}

fn fields(expression: &str) -> Result<Vec<&str>, String> {
    let expression = expression.trim();
    let known = NICKNAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(expression));
    if expression.starts_with('@') && known.is_none() {
        let names: Vec<&str> = NICKNAMES.iter().map(|(name, _)| *name).collect();
        return Err(format!("`{expression}` is none of {}", names.join(", ")));
    }
    let fields: Vec<&str> = known.map_or(expression, |(_, fields)| fields).split_whitespace().collect();
    if !(5..=6).contains(&fields.len()) {
        return Err(format!("`{expression}` has {} fields; it takes 5, or 6 with seconds first", fields.len()));
    }
    Ok(fields)
}

fn whole_seconds(instant: Timestamp) -> Timestamp {
    let below = instant.as_nanosecond().div_euclid(1_000_000_000);
    i64::try_from(below).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(expression: &str, zone: &str) -> Schedule {
        Schedule::new(expression, zone, None).unwrap()
    }

    fn instant(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn locals(schedule: &Schedule, from: &str, count: usize) -> Vec<String> {
        let mut at = instant(from);
        (0..count)
            .map(|_| {
                let next = schedule.next_after(at).unwrap();
                at = next.at;
                next.local.to_string()
            })
            .collect()
    }

    #[test]
    fn nicknames_names_ranges_and_seconds_are_understood() {
        assert_eq!(
            locals(&schedule("@daily", "UTC"), "2026-02-27T12:00:00Z", 2),
            ["2026-02-28T00:00:00", "2026-03-01T00:00:00"]
        );
        let weekdays = schedule("30 8 * * mon-fri", "Europe/Berlin");
        assert_eq!(locals(&weekdays, "2026-05-01T12:00:00Z", 2), ["2026-05-04T08:30:00", "2026-05-05T08:30:00"]);
        let seconds = schedule("15 0 8 1 jan,JUL *", "UTC");
        assert_eq!(locals(&seconds, "2026-01-01T09:00:00Z", 1), ["2026-07-01T08:00:15"]);
    }

    #[test]
    fn month_ends_and_leap_days_are_found() {
        let last = schedule("0 9 L * *", "UTC");
        assert_eq!(locals(&last, "2028-01-31T10:00:00Z", 2), ["2028-02-29T09:00:00", "2028-03-31T09:00:00"]);
        let leap = schedule("0 9 29 2 *", "UTC");
        assert_eq!(locals(&leap, "2025-01-01T00:00:00Z", 1), ["2028-02-29T09:00:00"]);
        let short = schedule("0 9 31 * *", "UTC");
        assert_eq!(locals(&short, "2026-03-31T10:00:00Z", 1), ["2026-05-31T09:00:00"]);
        assert_eq!(schedule("0 9 30 2 *", "UTC").next_after(Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn an_own_time_takes_the_place_of_hour_and_minute() {
        let own = Schedule::new("0 8 * * 1-5", "UTC", Some(time_of_day("6:45").unwrap())).unwrap();
        assert_eq!(locals(&own, "2026-05-01T12:00:00Z", 1), ["2026-05-04T06:45:00"]);
        let own = Schedule::new("@hourly", "UTC", Some(time_of_day("06:45:30").unwrap())).unwrap();
        assert_eq!(locals(&own, "2026-05-01T12:00:00Z", 2), ["2026-05-02T06:45:30", "2026-05-03T06:45:30"]);
    }

    #[test]
    fn what_is_no_schedule_is_refused_in_words() {
        for (expression, zone) in [
            ("", "UTC"),
            ("* * * *", "UTC"),
            ("* * * * * * *", "UTC"),
            ("61 * * * *", "UTC"),
            ("a * * * *", "UTC"),
            ("@reboot", "UTC"),
            ("\u{0}", "UTC"),
            ("@daily", ""),
            ("@daily", "Europe/Berlinn"),
            ("@daily", "../../etc/passwd"),
        ] {
            let error = Schedule::new(expression, zone, None).unwrap_err();
            assert!(error.contains('`') || error.contains("field"), "{expression} {zone}: {error}");
        }
        for time in ["", "8", "24:00", "08:60", "8:30am", "-1:00", "08:30:00:00", "8 :30"] {
            assert!(time_of_day(time).is_err(), "{time}");
        }
    }

    #[test]
    fn forwards_and_backwards_agree_around_every_change_of_the_clock() {
        for zone in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Asia/Kathmandu"] {
            for expression in ["*/10 * * * *", "30 2 * * *", "0 0 * * *", "15 1,2 * * *"] {
                let schedule = schedule(expression, zone);
                for change in schedule.zone().following(instant("2026-01-01T00:00:00Z")).take(4) {
                    let from = change.timestamp() - SignedDuration::from_hours(26);
                    let until = change.timestamp() + SignedDuration::from_hours(26);
                    let mut forwards = Vec::new();
                    let mut at = from;
                    while let Some(next) = schedule.next_after(at).filter(|next| next.at <= until) {
                        assert_eq!(schedule.latest_until(next.at), Some(next));
                        forwards.push(next);
                        at = next.at;
                    }
                    assert_eq!(schedule.between(from, until, 10_000), forwards, "{zone} {expression}");
                }
            }
        }
    }
}
