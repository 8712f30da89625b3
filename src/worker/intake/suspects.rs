//! Suspects of killing their workers: one at a time in a process, so that a death has one cause and costs no neighbour its
//! place. A run is suspected for what its journal tells of it, a message that came again and again until its run says more.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::worker::message::fresh::deliveries;
use crate::worker::message::in_flight_delivery::InFlightDelivery;

/// Deliveries before this one that make a message suspect: one may be a worker's that stopped.
const SUSPECT_DELIVERIES: u32 = 2;
/// A suspect waits for its turn so long in place: what others need before their runs are known is over in a moment.
const TURN_WAIT: Duration = Duration::from_secs(1);

/// The one place for suspects.
pub(crate) struct Suspects(Arc<Semaphore>);

/// No other suspect is under way in this process while it lasts.
pub(super) struct Alone(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Default for Suspects {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Suspects {
    /// The place, unless another suspect keeps it.
    pub(super) async fn alone(&self) -> Option<Alone> {
        let place = tokio::time::timeout(TURN_WAIT, self.0.clone().acquire_owned()).await;
        place.ok()?.ok().map(Alone)
    }
}

/// Whether workers may have died with the message before they said anything in its run's journal.
pub(super) fn is_suspect(delivery: &InFlightDelivery) -> bool {
    deliveries(delivery.message()) >= SUSPECT_DELIVERIES
}
