//! Whose run a job is, where producers are named: its producer's own, but for one that began before they were.

use tracing::warn;

use super::Intake;
use crate::agent::run::Run;
use crate::job::Job;
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::sender::SentBy;
use crate::worker::settle::disposition::{Deferral, Disposition, JOURNAL_WAIT};

impl Intake {
    /// `job`, or the very same job under the id of nobody, where its run began before producers were named: then nobody
    /// knew whose it was, and it is not run twice.
    pub(super) async fn owned(&self, job: Job, delivery: &mut InFlightDelivery) -> Result<Job, Box<Disposition>> {
        // What is under way says itself whose it is.
        if job.id().producer().is_none() || delivery.is_under_way() {
            return Ok(job);
        }
        let nobodys = job.id().of_nobody();
        let lines = match self.journal.read(&nobodys).await {
            Ok(lines) => lines,
            Err(error) => {
                warn!(job.id = %nobodys, %error, "the job waits for the journal");
                return Err(Box::new(Disposition::Defer(Deferral::same(JOURNAL_WAIT))));
            }
        };
        // One that cannot be read may be anybody's.
        let Ok(Some(run)) = Run::replay(&lines) else { return Ok(job) };
        if run.is_operators() || run.digest() != job.digest() {
            return Ok(job);
        }
        delivery.belongs_to_nobody();
        Ok(Job { id: Some(nobodys), ..job })
    }

    /// Whether `job`, which is no producer's, is the operator's own.
    pub(super) fn is_operators(&self, job: &Job, delivery: &InFlightDelivery) -> bool {
        let senders = &self.rules.senders;
        senders.producers.is_on()
            && job.id().producer().is_none()
            // Without the broker's word it is only known that a worker had it in its hands before.
            && senders.is_own(delivery.message())
            && matches!(senders.of(delivery.message()), SentBy::Operator)
    }
}
