//! Which occurrences are to be fired now, and how much of each. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::occurrence::Occurrence;

/// An occurrence of which nothing was fired is missed this long after its window. Longer than a scheduler sleeps, and
/// than a restart takes.
const TOLERANCE: Duration = Duration::from_mins(5);

/// What is done about occurrences that passed while nothing could be fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// None is fired, except the last while its spread is not over.
    Skip,
    /// The last one is fired.
    Once,
    /// All are fired, one after another.
    All,
}

/// What an occurrence is known to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Nothing was fired yet.
    Untouched,
    /// A job of it was published; the rest is, too, however late.
    Begun,
    /// All of its jobs were published, or it is given up.
    Done,
}

/// Which of `occurrences` (all of the time looked at, oldest first) are to be fired at `now`. What was begun is finished.
pub fn to_fire(
    missed: Missed,
    spread: Duration,
    occurrences: &[Occurrence],
    mark: impl Fn(&Occurrence) -> Mark,
    now: Timestamp,
) -> Vec<Occurrence> {
    let last = occurrences.last();
    let wanted = |occurrence: &&Occurrence| match mark(occurrence) {
        Mark::Done => false,
        Mark::Begun => true,
        Mark::Untouched => match missed {
            Missed::All => true,
            Missed::Once => Some(*occurrence) == last,
            Missed::Skip => Some(*occurrence) == last && since(occurrence.at, now) <= spread + TOLERANCE,
        },
    };
    occurrences.iter().filter(wanted).copied().collect()
}

/// How many of `portions` parts, spread evenly, are due at `now`; and when the next one is.
pub fn due_portions(at: Timestamp, spread: Duration, portions: u32, now: Timestamp) -> (u32, Option<Timestamp>) {
    let due = |portion: u32| at + SignedDuration::try_from(spread * portion / portions).unwrap_or(SignedDuration::ZERO);
    let count = (0..portions).take_while(|portion| due(*portion) <= now).count();
    let count = u32::try_from(count).unwrap_or(portions);
    (count, (count < portions).then(|| due(count)))
}

/// The part that a recipient belongs to: always the same one. Stable over releases, as replicas may differ in theirs.
pub fn portion_of(identifier: &str, portions: u32) -> u32 {
    let hash = identifier
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // FNV-1a alone keeps neighbours like `user_1` and `user_2` together; MurmurHash3's last step parts them.
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    u32::try_from((mixed >> 33) % u64::from(portions.max(1))).unwrap_or(0)
}

fn since(at: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(crate::clock::milliseconds_between(at, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daily(days: i64) -> Vec<Occurrence> {
        let at = |day| Timestamp::from_second(day * 86_400).unwrap();
        let occurrence = |day| Occurrence { at: at(day), local: jiff::tz::TimeZone::UTC.to_datetime(at(day)) };
        (0..days).map(occurrence).collect()
    }

    fn fired(missed: Missed, done: usize, begun: Option<usize>, late: u64) -> Vec<usize> {
        let all = daily(4);
        let now = all[3].at + SignedDuration::from_secs(i64::try_from(late).unwrap());
        let mark = |occurrence: &Occurrence| match all.iter().position(|one| one == occurrence).unwrap() {
            index if begun == Some(index) => Mark::Begun,
            index if index < done => Mark::Done,
            _ => Mark::Untouched,
        };
        let fired = to_fire(missed, Duration::from_mins(15), &all, mark, now);
        fired.iter().map(|one| all.iter().position(|other| other == one).unwrap()).collect()
    }

    #[test]
    fn each_policy_does_what_its_name_says_after_two_days_of_downtime() {
        assert_eq!(fired(Missed::All, 1, None, 7200), [1, 2, 3]);
        assert_eq!(fired(Missed::Once, 1, None, 7200), [3]);
        assert_eq!(fired(Missed::Skip, 1, None, 7200), [0; 0]);
        assert_eq!(fired(Missed::Skip, 1, None, 1100), [3], "within its window and the tolerance it is not missed");
    }

    #[test]
    fn what_was_begun_is_finished_under_every_policy_and_what_is_done_is_done() {
        for missed in [Missed::Skip, Missed::Once, Missed::All] {
            assert!(fired(missed, 1, Some(1), 7200).contains(&1));
            assert_eq!(fired(missed, 4, None, 0), [0; 0]);
        }
    }

    #[test]
    fn portions_come_due_evenly_over_the_window() {
        let at = Timestamp::UNIX_EPOCH;
        let after = |seconds| at + SignedDuration::from_secs(seconds);
        let spread = Duration::from_mins(15);
        assert_eq!(due_portions(at, spread, 60, after(-1)), (0, Some(at)));
        assert_eq!(due_portions(at, spread, 60, at), (1, Some(after(15))));
        assert_eq!(due_portions(at, spread, 60, after(449)), (30, Some(after(450))));
        assert_eq!(due_portions(at, spread, 60, after(885)), (60, None));
        assert_eq!(due_portions(at, Duration::ZERO, 64, at), (64, None));
    }

    #[test]
    fn recipients_fall_into_all_portions_alike() {
        let mut counts = [0; 64];
        for number in 0..64_000 {
            counts[portion_of(&format!("user_{number}"), 64) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        let first_half = (0..640).filter(|number| portion_of(&format!("user_{number}"), 64) < 32).count();
        assert!((250..390).contains(&first_half), "{first_half} of 640 neighbours");
        assert_eq!(portion_of("user_123", 64), portion_of("user_123", 64));
    }
}
