//! Time as something that is passed in: the system's clock in production, a manual one in tests.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Tells the time. Everything that needs "now" takes one of these, so a test can stand still or jump.
pub trait Clock: std::fmt::Debug + Send + Sync {
    /// The current instant, in UTC.
    fn now(&self) -> Timestamp;
}

/// The day in UTC.
pub fn utc_day(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

/// A clock that can be shared by every task of a process.
pub type SharedClock = Arc<dyn Clock>;

/// The operating system's wall clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where ambient time enters")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that moves only when it is told to.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn new(start: Timestamp) -> Self {
        Self(Mutex::new(start))
    }

    /// Moves the clock by `by`, which may be negative: clocks are stepped backwards in real life too.
    pub fn advance(&self, by: SignedDuration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now = now.saturating_add(by).unwrap_or(*now);
    }

    /// Sets the clock to `to`.
    pub fn set(&self, to: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clock of this machine, put right by one that the whole fleet shares: when something is due, and when a wait is over,
/// must not depend on which machine looks.
#[derive(Debug)]
pub struct ReferenceClock {
    own: SharedClock,
    /// How far our own clock is ahead of the reference.
    ahead_milliseconds: AtomicI64,
}

impl ReferenceClock {
    /// Nothing is known of the reference yet.
    pub fn new(own: SharedClock) -> Self {
        Self { own, ahead_milliseconds: AtomicI64::new(0) }
    }

    /// Takes in that the reference said `reference` when our own clock said `own`; returns how far ahead ours is. Less than
    /// [`ReferenceClock::TOLERATED_MILLISECONDS`] is taken for the way of the answer, and changes nothing.
    pub fn compare(&self, own: Timestamp, reference: Timestamp) -> SignedDuration {
        let ahead = own.duration_since(reference);
        let milliseconds = i64::try_from(ahead.as_millis()).unwrap_or(0);
        let tolerated = milliseconds.abs() < Self::TOLERATED_MILLISECONDS;
        self.ahead_milliseconds.store(if tolerated { 0 } else { milliseconds }, Ordering::Relaxed);
        ahead
    }

    /// Our own clock as it is.
    pub fn own(&self) -> Timestamp {
        self.own.now()
    }

    /// Clocks that are kept by NTP differ by less.
    pub const TOLERATED_MILLISECONDS: i64 = 1000;
}

impl Clock for ReferenceClock {
    fn now(&self) -> Timestamp {
        let ahead = SignedDuration::from_millis(self.ahead_milliseconds.load(Ordering::Relaxed));
        let own = self.own.now();
        own.saturating_sub(ahead).unwrap_or(own)
    }
}

/// Milliseconds from `earlier` to `later`, 0 where the clock went backwards.
pub fn milliseconds_between(earlier: Timestamp, later: Timestamp) -> u64 {
    u64::try_from(later.duration_since(earlier).as_millis()).unwrap_or(0)
}

/// The instant `wait` after `now`, at most the last one that there is.
pub fn after(now: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    now.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_hours_off_is_put_right_and_one_that_is_a_moment_off_is_left_alone() {
        let own = Arc::new(ManualClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
        let clock = ReferenceClock::new(own.clone());
        assert_eq!(clock.now(), own.now());
        for hours in [3, -5] {
            let right = own.now() - SignedDuration::from_hours(hours);
            assert_eq!(clock.compare(own.now(), right), SignedDuration::from_hours(hours));
            assert_eq!((clock.now(), clock.own()), (right, own.now()));
            own.advance(SignedDuration::from_secs(60));
            assert_eq!(clock.now(), right + SignedDuration::from_secs(60));
        }
        clock.compare(own.now(), own.now() - SignedDuration::from_millis(999));
        assert_eq!(clock.now(), own.now());
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        assert_eq!(clock.now(), Timestamp::UNIX_EPOCH);
        clock.advance(SignedDuration::from_secs(5));
        assert_eq!(milliseconds_between(Timestamp::UNIX_EPOCH, clock.now()), 5000);
        clock.advance(SignedDuration::from_secs(-6));
        assert_eq!(milliseconds_between(Timestamp::UNIX_EPOCH, clock.now()), 0);
    }
}
