//! Whether a message is a job.

use tracing::warn;

use super::Intake;
use crate::job::{InvalidJob, Job};
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::version::{is_newer, times_left};
use crate::worker::resources::admission::read_job;
use crate::worker::settle::disposition::{Deferral, Disposition, LEFT_AT_MOST, Undeliverable};

impl Intake {
    /// The job in a message, or what becomes of one that is none to us. A wake-up is one to the worker that made it.
    pub(super) async fn read(&self, delivery: &mut InFlightDelivery) -> Result<Job, Box<Disposition>> {
        let message = &delivery.message().clone();
        let read = read_job(&message.body, message.envelope(), self.rules.max_job_bytes).await;
        // To a newer worker it would be as large.
        let fits = message.body.len() <= self.rules.max_job_bytes;
        let newer = fits && (is_newer(message) || (read.is_err() && delivery.wake_up().is_some()));
        if newer && times_left(message) < LEFT_AT_MOST {
            warn!(message.id = message.properties.message_id, "the message is left to a newer worker");
            return Err(Box::new(Disposition::Defer(Deferral::Left)));
        }
        let invalid = match read {
            Ok(job) if newer => Box::new(InvalidJob {
                problems: vec!["needs a newer worker than those that have been at work for a day".to_owned()],
                id: Some(job.id()),
                reply_to: job.reply_to,
                correlation_id: job.correlation_id,
            }),
            Ok(job) => match self.refused(delivery, &job) {
                None => match self.forged_occurrence(delivery, &job).await {
                    None => return self.owned(job, delivery).await,
                    Some(disposition) => return Err(Box::new(disposition)),
                },
                Some(undeliverable) => return Err(Box::new(Disposition::DeadLetter(undeliverable))),
            },
            Err(invalid) => invalid,
        };
        let invalid = self.answerable(message, *invalid);
        Err(Box::new(Disposition::DeadLetter(Undeliverable::NotAJob(Box::new(invalid)))))
    }
}
