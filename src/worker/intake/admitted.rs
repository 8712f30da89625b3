//! Waiting for credentials that are refused, before a run is begun or gone on with.

use tokio::sync::OwnedSemaphorePermit;

use super::Intake;
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::wake_up::Reason;
use crate::worker::settle::disposition::{Deferral, Disposition, HELD_WAIT};

impl Intake {
    /// Waits until the run may go on. The delivery and its place are kept meanwhile, so that a credential that is refused slows
    /// the worker to a halt instead of sending every message round and round; what becomes of a delivery that was held for as
    /// long as it should be is the error. Whoever is let through to try keeps the permits.
    pub(super) async fn admitted(
        &self,
        delivery: &InFlightDelivery,
    ) -> Result<Vec<OwnedSemaphorePermit>, Box<Disposition>> {
        if !asks_others(delivery) {
            return Ok(Vec::new());
        }
        tokio::select! {
            biased;
            permits = self.executor.credentials.admitted() => Ok(permits),
            () = self.stop.cancelled() => Err(Box::new(Disposition::Requeue { end: None })),
            () = tokio::time::sleep_until(delivery.due()) => {
                Err(Box::new(Disposition::Defer(Deferral::same(HELD_WAIT))))
            }
        }
    }
}

/// Whether a run would begin, or go on to its next step. What is only looked at, ends or is cancelled waits for nobody.
fn asks_others(delivery: &InFlightDelivery) -> bool {
    let Some(wake_up) = delivery.wake_up() else { return true };
    match wake_up.reason {
        Reason::Unsaid
        | Reason::RateLimited
        | Reason::Transient
        | Reason::Continue
        | Reason::GivenBack
        | Reason::Other(_) => true,
        Reason::Authorization
        | Reason::Approval
        | Reason::Webhook
        | Reason::ReplyWaits
        | Reason::Seal
        | Reason::JournalLost
        | Reason::Orphaned
        | Reason::Operator
        | Reason::Poison
        | Reason::DeliveryLimit => false,
    }
}
