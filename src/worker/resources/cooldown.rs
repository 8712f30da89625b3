//! Providers that asked to be left alone for a while: what one run was told holds for all runs of the process, and by the
//! shared cache of the fleet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::cache::Cache;
use crate::clock::{SharedClock, after, milliseconds_between};
use crate::key::Key;

/// What others were told is asked for at most so often: one question of the whole process.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Shorter waits are slept through where they arise.
pub(crate) const SHORTEST: Duration = Duration::from_secs(2);

/// No provider is left alone for longer at a time, whatever it says.
const LONGEST: Duration = Duration::from_hours(1);

/// Until when which provider wants no request.
pub(crate) struct Cooldowns {
    cache: Arc<dyn Cache>,
    clock: SharedClock,
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    until: Option<Timestamp>,
    asked: Option<Instant>,
}

impl Cooldowns {
    /// Nobody was told anything.
    pub(crate) fn new(cache: Arc<dyn Cache>, clock: SharedClock) -> Self {
        Self { cache, clock, known: Mutex::default() }
    }

    /// How long `provider` still wants no request, if it does.
    pub(crate) async fn remaining(&self, provider: &str) -> Option<Duration> {
        let present = self.known().get(provider).copied().unwrap_or_default();
        if let Some(remaining) = self.left(present.until) {
            return Some(remaining);
        }
        if present.asked.is_some_and(|asked| asked.elapsed() < ASK_EVERY) {
            return None;
        }
        self.known().entry(provider.to_owned()).or_default().asked = Some(Instant::now());
        let until = match self.cache.get(&key(provider)).await {
            Ok(told) => told.and_then(|told| str::from_utf8(&told).ok()?.parse().ok()),
            Err(error) => {
                debug!(%error, "what other workers were told is not known at present");
                None
            }
        };
        self.known().entry(provider.to_owned()).or_default().until = until;
        self.left(until)
    }

    /// `provider` was asked too often and wants no request for `wait`.
    pub(crate) async fn begin(&self, provider: &str, wait: Duration) {
        if wait < SHORTEST {
            return;
        }
        let wait = wait.min(LONGEST);
        let until = after(self.clock.now(), wait);
        let known = self.known().get(provider).and_then(|known| known.until);
        if known.is_some_and(|known| known >= until) {
            return;
        }
        self.known().entry(provider.to_owned()).or_default().until = Some(until);
        if let Err(error) = self.cache.put(&key(provider), until.to_string().into(), wait).await {
            debug!(%error, "other workers are not told");
        }
        info!(provider, %until, "the provider asked to come later; no run asks it before");
    }

    fn left(&self, until: Option<Timestamp>) -> Option<Duration> {
        let left = Duration::from_millis(milliseconds_between(self.clock.now(), until?));
        (!left.is_zero()).then_some(left)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(provider: &str) -> Key {
    Key::new(&["cooldown", provider])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::memory::MemoryCache;
    use crate::clock::ManualClock;

    const MODEL: &str = "gpt-4o";

    #[tokio::test(start_paused = true)]
    async fn what_one_worker_was_told_holds_for_the_others_until_it_is_over() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
        let cache: Arc<dyn Cache> = Arc::new(MemoryCache::new(clock.clone(), 1 << 20));
        let [one, other] = [(); 2].map(|()| Cooldowns::new(cache.clone(), clock.clone()));
        assert_eq!((one.remaining(MODEL).await, other.remaining(MODEL).await), (None, None));
        one.begin(MODEL, Duration::from_secs(20)).await;
        assert_eq!(one.remaining(MODEL).await, Some(Duration::from_secs(20)));
        assert_eq!(other.remaining(MODEL).await, None, "it has asked within the last second");
        tokio::time::advance(ASK_EVERY).await;
        assert_eq!(other.remaining(MODEL).await, Some(Duration::from_secs(20)));
        assert_eq!(other.remaining("gpt-5").await, None, "another model has limits of its own");
        one.begin("gpt-5", Duration::MAX).await;
        assert_eq!(one.remaining("gpt-5").await, Some(LONGEST), "no provider stops the fleet for good");
        one.begin(MODEL, Duration::from_secs(5)).await;
        assert_eq!(one.remaining(MODEL).await, Some(Duration::from_secs(20)), "a shorter wait shortens nothing");
        clock.advance(jiff::SignedDuration::from_millis(19_700));
        let rest = Some(Duration::from_millis(300));
        assert_eq!((one.remaining(MODEL).await, other.remaining(MODEL).await), (rest, rest));
        clock.advance(jiff::SignedDuration::from_millis(300));
        tokio::time::advance(ASK_EVERY).await;
        assert_eq!((one.remaining(MODEL).await, other.remaining(MODEL).await), (None, None));
    }
}
