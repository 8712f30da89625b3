//! One clock for the whole fleet: the time of the store that all workers share.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::clock::{Clock, ReferenceClock, milliseconds_between};
use crate::journal::Journal;
use crate::metrics::Metrics;

/// A machine's clock drifts by milliseconds in this time; somebody who sets it wrong is noticed.
const COMPARE_CLOCKS_EVERY: Duration = Duration::from_secs(30);
/// A worker does not wait for longer than this to learn the time.
const COMPARE_WITHIN: Duration = Duration::from_secs(5);

/// Puts the clock of this process right by the time of the journal's store.
pub(crate) struct FleetClock {
    clock: Arc<ReferenceClock>,
    journal: Arc<dyn Journal>,
    metrics: Arc<Metrics>,
}

impl FleetClock {
    /// Nothing was compared yet.
    pub(crate) fn new(clock: Arc<ReferenceClock>, journal: Arc<dyn Journal>, metrics: Arc<Metrics>) -> Self {
        Self { clock, journal, metrics }
    }

    /// Compares for the first time, if the store answers soon.
    pub(crate) async fn begin(&self) {
        let _ = tokio::time::timeout(COMPARE_WITHIN, self.compare()).await;
    }

    /// Compares our own clock with the store's; without the store the last comparison holds.
    async fn compare(&self) {
        let asked = self.clock.own();
        let Ok(reference) = self.journal.now().await else { return };
        let answered = self.clock.own();
        // Halfway between question and answer.
        let own = asked.saturating_add(answered.duration_since(asked) / 2).unwrap_or(answered);
        let (before, ahead) = (self.clock.now(), self.clock.compare(own, reference));
        self.metrics.clock_ahead(ahead.as_secs_f64());
        if milliseconds_between(before, self.clock.now()).max(milliseconds_between(self.clock.now(), before)) > 1000 {
            warn!(ahead_seconds = ahead.as_secs_f64(), "this machine's clock is wrong; the time of Redis is used");
        }
    }

    /// Goes on comparing; never ends.
    pub(crate) async fn keep(&self) {
        loop {
            tokio::time::sleep(COMPARE_CLOCKS_EVERY).await;
            self.compare().await;
        }
    }
}
