//! Waiting for credentials that are refused, before a run is begun or gone on with.

use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Intake;
use crate::job::Job;
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::wake_up::Reason;
use crate::worker::resources::credentials::Service;
use crate::worker::settle::disposition::{Deferral, Disposition, HELD_WAIT};

/// Jobs that ask another provider than the default model's keep no place for it while it refuses the worker: they would keep
/// all of them from jobs that do not.
const ELSEWHERE: Duration = Duration::from_secs(1);

impl Intake {
    /// Waits until the run may go on. The delivery and its place are kept meanwhile, so that a credential that is refused slows
    /// the worker to a halt instead of sending every message round and round; what becomes of a delivery that was held for as
    /// long as it should be is the error. Whoever is let through to try keeps the permits.
    pub(super) async fn admitted(
        &self,
        job: &Job,
        delivery: &InFlightDelivery,
    ) -> Result<Vec<OwnedSemaphorePermit>, Box<Disposition>> {
        if !asks_others(delivery) {
            return Ok(Vec::new());
        }
        let (llm, credentials) = (&self.executor.llm, &self.executor.credentials);
        let own = &llm.config().model;
        let provider = llm.provider(job.model.as_ref().unwrap_or(own));
        let elsewhere = provider != llm.provider(own) && credentials.is_refused(Service::Provider(provider));
        let until = if elsewhere { delivery.due().min(Instant::now() + ELSEWHERE) } else { delivery.due() };
        tokio::select! {
            biased;
            permits = credentials.admitted(provider) => Ok(permits),
            () = self.stop.cancelled() => Err(Box::new(Disposition::Requeue { end: None })),
            () = tokio::time::sleep_until(until) => {
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
