//! Refuses calls for a while after several failures in a row, then lets one through to see.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::{Status, Unavailable, lock};

pub(super) struct Breaker {
    threshold: u32,
    open_time: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failures: u32,
    failure: Option<Unavailable>,
    success: Option<Instant>,
    /// Set while calls are refused: when the next one may try.
    next_try: Option<Instant>,
}

impl Breaker {
    pub(super) fn new(threshold: u32, open_time: Duration) -> Self {
        Self { threshold, open_time, state: Mutex::default() }
    }

    pub(super) fn status(&self) -> Status {
        let state = lock(&self.state);
        Status { available: state.next_try.is_none(), failure: state.failure.as_ref().map(ToString::to_string) }
    }

    pub(super) fn admit(&self) -> Result<(), Unavailable> {
        let mut state = lock(&self.state);
        let Some(next_try) = state.next_try else {
            return Ok(());
        };
        let now = Instant::now();
        if now < next_try {
            let failure = state.failure.as_ref().map(ToString::to_string).unwrap_or_default();
            return Err(Unavailable(format!(
                "skipped after {} failures in a row, the last: {failure}",
                state.failures
            )));
        }
        // Set before the try: all others are refused meanwhile, and a try that is given up needs no clean-up.
        state.next_try = Some(now + self.open_time);
        Ok(())
    }

    pub(super) fn succeeded(&self) {
        let mut state = lock(&self.state);
        if state.next_try.is_some() {
            tracing::info!("redis is available again");
        }
        *state = State { success: Some(Instant::now()), ..State::default() };
    }

    /// A call that began at `began` has failed. It counts where none has succeeded since then: those that waited for one
    /// node of a cluster give up in a row, though others answer all the time.
    pub(super) fn failed(&self, began: Instant, failure: &Unavailable) {
        let mut state = lock(&self.state);
        if state.success.is_some_and(|success| began < success) {
            return;
        }
        state.failures = state.failures.saturating_add(1);
        state.failure = Some(failure.clone());
        if state.failures < self.threshold {
            return;
        }
        if state.next_try.is_none() {
            tracing::warn!(error = %failure, failures = state.failures, "redis is unavailable, skipping it");
        }
        state.next_try = Some(Instant::now() + self.open_time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down() -> Unavailable {
        Unavailable("down".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn the_breaker_opens_after_failures_in_a_row_and_lets_one_call_try_at_a_time() {
        let breaker = Breaker::new(3, Duration::from_secs(5));
        breaker.failed(Instant::now(), &down());
        breaker.failed(Instant::now(), &down());
        breaker.succeeded();
        breaker.failed(Instant::now(), &down());
        breaker.failed(Instant::now(), &down());
        assert_eq!(breaker.admit(), Ok(()), "failures are counted in a row only");
        breaker.failed(Instant::now(), &down());
        assert!(breaker.admit().is_err());
        assert_eq!(breaker.status(), Status { available: false, failure: Some("down".to_owned()) });

        tokio::time::advance(Duration::from_millis(4999)).await;
        assert!(breaker.admit().is_err());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(breaker.admit(), Ok(()), "one tries");
        assert!(breaker.admit().is_err(), "others wait for what it finds");
        breaker.failed(Instant::now(), &down());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(breaker.admit(), Ok(()));
        breaker.succeeded();
        assert_eq!(breaker.admit(), Ok(()));
        assert_eq!(breaker.status(), Status { available: true, failure: None });
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_waited_while_others_succeeded_do_not_open_the_breaker() {
        let breaker = Breaker::new(2, Duration::from_secs(5));
        let began = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        breaker.succeeded();
        for _ in 0..10 {
            breaker.failed(began, &down());
        }
        assert_eq!(breaker.admit(), Ok(()));
        assert_eq!(breaker.status(), Status { available: true, failure: None });
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_is_given_up_does_not_keep_the_breaker_open_for_ever() {
        let breaker = Breaker::new(1, Duration::from_secs(5));
        breaker.failed(Instant::now(), &down());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(breaker.admit(), Ok(()));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(breaker.admit(), Ok(()));
    }
}
