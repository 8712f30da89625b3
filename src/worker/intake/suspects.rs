//! Suspects of killing their workers: one at a time in a process, so that a death has one cause and costs no neighbour its
//! place. A run is suspected for what its journal tells of it, a message that came again and again until its run says more.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::job::{InvalidJob, JobId};
use crate::queue::DELIVERY_LIMIT;
use crate::worker::message::in_flight_delivery::InFlightDelivery;

/// Deliveries before this one that make a message suspect: one may be a worker's that stopped.
const SUSPECT_DELIVERIES: u32 = 2;
/// After so many deliveries nobody reads the message any more: copies of it came back, too, and the broker counts each alone.
const MOST_DELIVERIES: u32 = 2 * DELIVERY_LIMIT;
/// A suspect waits for its turn so long in place: what others need before their runs are known is over in a moment.
const TURN_WAIT: Duration = Duration::from_secs(1);

/// The one place for suspects.
pub(crate) struct Suspects(Arc<Semaphore>);

/// No other suspect is under way in this process while it lasts.
pub(super) type Alone = OwnedSemaphorePermit;

impl Default for Suspects {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Suspects {
    /// The place, unless another suspect keeps it.
    pub(super) async fn alone(&self) -> Option<Alone> {
        let place = tokio::time::timeout(TURN_WAIT, self.0.clone().acquire_owned()).await;
        place.ok()?.ok()
    }
}

/// Whether workers died with the message again and again before they came so far as to begin its run.
pub(super) fn is_poison(delivery: &InFlightDelivery) -> bool {
    delivery.delivered_before() >= MOST_DELIVERIES
}

/// Whether workers may have died with the message before they said anything in its run's journal.
pub(super) fn is_suspect(delivery: &InFlightDelivery) -> bool {
    delivery.delivered_before() >= SUSPECT_DELIVERIES
}

/// A message that nobody reads any more: whom it names beside its body is told.
pub(super) fn unread(delivery: &InFlightDelivery) -> InvalidJob {
    let envelope = delivery.message().envelope();
    InvalidJob {
        problems: vec!["workers died with it again and again before its run began".to_owned()],
        id: envelope.message_id.as_deref().and_then(JobId::new).map(|id| envelope.owned(id)),
        reply_to: envelope.reply_to,
        correlation_id: envelope.correlation_id,
    }
}
