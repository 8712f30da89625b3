//! Jobs with the id of a digest's occurrence: the scheduler's alone, as whoever took such an id before it comes due would
//! take the user's digest away.

use std::time::Duration;

use tracing::warn;

use super::Intake;
use super::admit::invalid;
use crate::digest_store::Fired;
use crate::job::Job;
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::scheduled::is_scheduled;
use crate::worker::settle::disposition::{Deferral, Disposition, JOURNAL_WAIT, Undeliverable};

/// Schedulers note what they have published a batch later.
const NOTED_WITHIN: Duration = Duration::from_secs(5);

impl Intake {
    /// What becomes of a job that has the id of an occurrence and that no scheduler has signed: schedulers of 0.1.0 did not
    /// sign, so one is taken where the store knows that the occurrence was fired.
    pub(super) async fn forged_occurrence(&self, delivery: &InFlightDelivery, job: &Job) -> Option<Disposition> {
        if !Fired::is_id(&job.id()) || is_scheduled(delivery.message()) || delivery.is_under_way() {
            return None;
        }
        let Some(fired) = Fired::of(job) else { return Some(refused(job)) };
        match self.executor.digests.recall(&fired.digest, &[&fired.recipient]).await {
            Ok(memories) if memories.iter().any(|memory| memory.fired >= Some(fired.occurrence)) => None,
            Ok(_) if delivery.wake_up().is_none() => Some(Disposition::Defer(Deferral::same(NOTED_WITHIN))),
            Ok(_) => Some(refused(job)),
            Err(error) => {
                warn!(job.id = %job.id(), %error, "a digest's job waits for the store");
                Some(Disposition::Defer(Deferral::same(JOURNAL_WAIT)))
            }
        }
    }
}

fn refused(job: &Job) -> Disposition {
    let id = job.id();
    let problem = format!(
        "id: `{id}` has the form of a digest's occurrence (digest:NAME:RECIPIENT:LOCAL TIME), which the scheduler alone gives; \
         send the job under another id, or have the digest run now with `agentkit-worker digests run`"
    );
    Disposition::DeadLetter(Undeliverable::NotAJob(Box::new(invalid(job, vec![problem]))))
}
