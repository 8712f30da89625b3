//! Retrying a call: the one place that repeats anything, and the only one that knows the `backoff` crate.
//!
//! A caller gives a [`Policy`] and says for each failure whether it may be tried again ([`RetryDecision`]). Waits have full
//! jitter (uniform between zero and the nominal wait), so a fleet that failed together does not come back together.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::key::digest;

/// What a failure means for the call that met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// Trying again cannot help, or must not happen.
    Stop,
    /// Try again after the policy's own wait.
    Again,
    /// Try again, not sooner than the peer asked for (`Retry-After`).
    AgainAfter(Duration),
}

/// How often and how long a call is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Attempts in all, the first included; at least 1: a policy of none is refused where it is read.
    #[serde(deserialize_with = "at_least_one")]
    pub attempts: u32,
    /// Nominal wait before the second attempt, in milliseconds; doubled for each further one.
    pub initial_milliseconds: u64,
    /// Longest nominal wait, in milliseconds.
    pub max_milliseconds: u64,
    /// Longest wait a peer may ask for in milliseconds; a longer `Retry-After` ends the retries, as the job should
    /// rather give its place to others than sleep.
    pub max_retry_after_milliseconds: u64,
}

fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        0 => Err(D::Error::custom("must be at least 1")),
        attempts => Ok(attempts),
    }
}

impl Policy {
    /// A policy that tries once.
    pub const ONCE: Self =
        Self { attempts: 1, initial_milliseconds: 0, max_milliseconds: 0, max_retry_after_milliseconds: 0 };
}

/// The waits of one call under a [`Policy`].
#[derive(Debug)]
pub struct Backoff {
    policy: Policy,
    made: u32,
    inner: ExponentialBackoff,
}

impl Backoff {
    /// The first attempt counts as made.
    pub fn new(policy: Policy) -> Self {
        // `backoff` draws from [interval × (1 − factor), interval × (1 + factor)]: half the nominal wait with a factor
        // of 1 is full jitter over the nominal wait.
        let inner = ExponentialBackoffBuilder::new()
            .with_initial_interval(Duration::from_millis(policy.initial_milliseconds / 2))
            .with_max_interval(Duration::from_millis(policy.max_milliseconds / 2))
            .with_multiplier(2.0)
            .with_randomization_factor(1.0)
            .with_max_elapsed_time(None)
            .build();
        Self { policy, made: 1, inner }
    }

    /// The same where so many attempts were made.
    pub fn after(policy: Policy, made: u32) -> Self {
        let mut backoff = Self::new(policy);
        for _ in 1..made.min(policy.attempts) {
            let _ = backoff.inner.next_backoff();
        }
        Self { made: made.max(1), ..backoff }
    }

    /// Attempts made so far.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// The wait before the next attempt, or `None` where the attempts are used up, the verdict says stop, or the peer
    /// asks for a longer wait than the policy allows.
    pub fn next(&mut self, verdict: RetryDecision) -> Option<Duration> {
        let asked = match verdict {
            RetryDecision::Stop => return None,
            RetryDecision::Again => Duration::ZERO,
            RetryDecision::AgainAfter(wait) => wait,
        };
        if self.made >= self.policy.attempts
            || asked > Duration::from_millis(self.policy.max_retry_after_milliseconds) && !asked.is_zero()
        {
            return None;
        }
        self.made += 1;
        let own = self.inner.next_backoff().unwrap_or_default();
        Some(own.max(asked))
    }
}

/// Runs `operation` until it succeeds, its failure says stop, or the policy is used up; then the last failure is
/// returned. `notice` hears of every repeat, its attempt and its wait beforehand: a retry is never silent.
pub async fn retry<T, E, F>(
    policy: Policy,
    decide: impl Fn(&E) -> RetryDecision,
    notice: impl FnMut(&E, u32, Duration),
    operation: impl FnMut() -> F,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    retry_until(std::future::pending(), policy, decide, notice, operation).await
}

/// The same, but no repeat begins once `end` is there. An operation that is under way then is not cut off.
pub async fn retry_until<T, E, F>(
    end: impl Future<Output = ()>,
    policy: Policy,
    decide: impl Fn(&E) -> RetryDecision,
    mut notice: impl FnMut(&E, u32, Duration),
    mut operation: impl FnMut() -> F,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut end = std::pin::pin!(end);
    let mut backoff = Backoff::new(policy);
    loop {
        let error = match operation().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let Some(wait) = backoff.next(decide(&error)) else {
            return Err(error);
        };
        notice(&error, backoff.made(), wait);
        tokio::select! {
            biased;
            () = &mut end => return Err(error),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// The numbers below `count` in a random order: a fleet that looks for one of several servers does not begin at one.
pub fn in_random_order(count: usize) -> Vec<usize> {
    let random = RandomState::new();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_cached_key(|number| random.hash_one(number));
    order
}

/// `wait`, and up to a tenth more or less by `name`: what begins together does not end together.
pub fn spread(wait: Duration, name: &str) -> Duration {
    let place = u32::from_str_radix(&digest(name, 2), 16).unwrap_or(0);
    wait.mul_f64(0.9 + 0.2 * f64::from(place) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn waits_of_many_names_do_not_end_together() {
        let wait = Duration::from_secs(600);
        let all: BTreeSet<Duration> = (0..100).map(|index| spread(wait, &index.to_string())).collect();
        assert!(all.len() > 90);
        assert!(*all.first().unwrap() >= Duration::from_secs(540) && *all.last().unwrap() <= Duration::from_secs(660));
    }

    const POLICY: Policy =
        Policy { attempts: 4, initial_milliseconds: 100, max_milliseconds: 250, max_retry_after_milliseconds: 60_000 };

    #[test]
    fn waits_have_full_jitter_under_a_cap() {
        for _ in 0..200 {
            let mut backoff = Backoff::new(Policy { attempts: 10, ..POLICY });
            for nominal in [100, 200, 250, 250, 250] {
                let wait = backoff.next(RetryDecision::Again).unwrap();
                assert!(wait <= Duration::from_millis(nominal), "{wait:?} over {nominal} ms");
            }
        }
    }

    #[test]
    fn waits_are_drawn_from_the_whole_range() {
        let nominal = Duration::from_millis(1000);
        let policy = Policy { attempts: 2, initial_milliseconds: 1000, max_milliseconds: 60_000, ..POLICY };
        let backoff: Vec<Duration> =
            (0..200).map(|_| Backoff::new(policy).next(RetryDecision::Again).expect("a second attempt")).collect();
        let (shortest, longest) = (backoff.iter().min().unwrap(), backoff.iter().max().unwrap());
        assert!(*shortest < nominal / 10 && *longest > nominal * 9 / 10, "{shortest:?} to {longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_repeated_until_the_attempts_are_used_up_and_each_repeat_is_noticed() {
        let calls = Cell::new(0);
        let mut noticed = Vec::new();
        let result: Result<(), &str> = retry(
            POLICY,
            |_| RetryDecision::Again,
            |error, attempt, _| noticed.push((*error, attempt)),
            || {
                calls.set(calls.get() + 1);
                async { Err("down") }
            },
        )
        .await;
        assert_eq!(result, Err("down"));
        assert_eq!(calls.get(), 4);
        assert_eq!(noticed, [("down", 2), ("down", 3), ("down", 4)]);
    }

    #[test]
    fn a_peers_wait_is_honoured_up_to_the_limit() {
        let mut backoff = Backoff::new(POLICY);
        assert!(backoff.next(RetryDecision::AgainAfter(Duration::from_secs(40))).unwrap() >= Duration::from_secs(40));
        assert_eq!(backoff.next(RetryDecision::AgainAfter(Duration::from_secs(61))), None);
    }

    #[test]
    fn a_stop_verdict_ends_at_once() {
        assert_eq!(Backoff::new(POLICY).next(RetryDecision::Stop), None);
    }

    #[test]
    fn a_policy_without_an_attempt_is_refused() {
        let read = |attempts: u32| {
            serde_json::from_value::<Policy>(serde_json::json!({
                "attempts": attempts, "initial_milliseconds": 0, "max_milliseconds": 0, "max_retry_after_milliseconds": 0,
            }))
        };
        assert!(read(0).unwrap_err().to_string().contains("must be at least 1"));
        assert_eq!(read(1).unwrap(), Policy::ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn no_repeat_begins_after_the_end_and_what_is_under_way_is_not_cut_off() {
        let policy = Policy { attempts: u32::MAX, initial_milliseconds: 1000, max_milliseconds: 1000, ..Policy::ONCE };
        let made = Cell::new(0);
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            made.set(made.get() + 1);
            Err::<(), _>("down")
        };
        let end = tokio::time::sleep(Duration::from_secs(90));
        let result = retry_until(end, policy, |_| RetryDecision::Again, |_, _, _| {}, slow).await;
        assert_eq!((result, made.get()), (Err("down"), 2));
    }
}
