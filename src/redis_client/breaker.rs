//! Refuses calls to a server for a while after several failures in a row, then lets one through to see.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::{Status, Unavailable, lock};

/// The breaker of one server.
pub(super) struct Breaker {
    /// As log lines name the server.
    server: String,
    threshold: u32,
    open_time: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failures: u32,
    failure: Option<Unavailable>,
    /// Set while calls are refused: when the next one may try.
    next_try: Option<Instant>,
}

impl Breaker {
    pub(super) fn new(server: String, threshold: u32, open_time: Duration) -> Self {
        Self { server, threshold, open_time, state: Mutex::default() }
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
            tracing::info!(server = %self.server, "redis is available again");
        }
        *state = State::default();
    }

    pub(super) fn failed(&self, failure: &Unavailable) {
        let mut state = lock(&self.state);
        state.failures = state.failures.saturating_add(1);
        state.failure = Some(failure.clone());
        if state.failures < self.threshold {
            return;
        }
        if state.next_try.is_none() {
            let (server, failures) = (&self.server, state.failures);
            tracing::warn!(%server, error = %failure, failures, "redis is unavailable, skipping it");
        }
        state.next_try = Some(Instant::now() + self.open_time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(threshold: u32) -> Breaker {
        Breaker::new("a:1".to_owned(), threshold, Duration::from_secs(5))
    }

    fn down() -> Unavailable {
        Unavailable("down".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn the_breaker_opens_after_failures_in_a_row_and_lets_one_call_try_at_a_time() {
        let breaker = breaker(3);
        breaker.failed(&down());
        breaker.failed(&down());
        breaker.succeeded();
        breaker.failed(&down());
        breaker.failed(&down());
        assert_eq!(breaker.admit(), Ok(()), "failures are counted in a row only");
        breaker.failed(&down());
        assert!(breaker.admit().is_err());
        assert_eq!(breaker.status(), Status { available: false, failure: Some("down".to_owned()) });

        tokio::time::advance(Duration::from_millis(4999)).await;
        assert!(breaker.admit().is_err());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(breaker.admit(), Ok(()), "one tries");
        assert!(breaker.admit().is_err(), "others wait for what it finds");
        breaker.failed(&down());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(breaker.admit(), Ok(()));
        breaker.succeeded();
        assert_eq!(breaker.admit(), Ok(()));
        assert_eq!(breaker.status(), Status { available: true, failure: None });
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_is_given_up_does_not_keep_the_breaker_open_for_ever() {
        let breaker = breaker(1);
        breaker.failed(&down());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(breaker.admit(), Ok(()));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(breaker.admit(), Ok(()));
    }
}
