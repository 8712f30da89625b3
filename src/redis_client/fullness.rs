//! Whether Redis has reached its `maxmemory` and refuses what needs more.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::{Unavailable, lock};

/// Redis counts as full for so long after it refused something: longer than whoever waits for room waits between two tries.
const REMEMBERED: Duration = Duration::from_secs(20);

#[derive(Default)]
pub(super) struct Fullness {
    refused: Mutex<Option<Instant>>,
}

impl Fullness {
    pub(super) fn is_full(&self) -> bool {
        lock(&self.refused).is_some_and(|at| at.elapsed() < REMEMBERED)
    }

    /// Something was refused for want of memory. Said once, until that has not happened for a while.
    pub(super) fn refused(&self, failure: &Unavailable) {
        if !self.is_full() {
            warn!(error = %failure, "redis is full: new jobs wait until it has room; runs under way go on where they can");
        }
        *lock(&self.refused) = Some(Instant::now());
    }

    /// There is room again.
    pub(super) fn passed(&self) {
        *lock(&self.refused) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_redis_is_full_for_as_long_as_it_refuses_and_a_little_longer() {
        let fullness = Fullness::default();
        assert!(!fullness.is_full());
        for _ in 0..3 {
            fullness.refused(&Unavailable("OOM".to_owned()));
            tokio::time::advance(REMEMBERED * 9 / 10).await;
            assert!(fullness.is_full());
        }
        tokio::time::advance(REMEMBERED / 10).await;
        assert!(!fullness.is_full());
        fullness.refused(&Unavailable("OOM".to_owned()));
        fullness.passed();
        assert!(!fullness.is_full());
    }
}
