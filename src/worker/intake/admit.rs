//! Whether a job that has not begun is taken.

use super::Intake;
use crate::job::{InvalidJob, Job};
use crate::queue::Message;
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::resources::admission::Unwelcome;
use crate::worker::settle::disposition::Undeliverable;

impl Intake {
    /// Why the job is not taken, if so.
    pub(super) fn refused(&self, delivery: &InFlightDelivery, job: &Job) -> Option<Undeliverable> {
        let message = delivery.message();
        // What is under way was taken when it came.
        if delivery.is_under_way() {
            return None;
        }
        match self.admission.examine(&self.rules.senders.of(message), job) {
            Ok(()) => None,
            Err(Unwelcome::NotAllowed(objections)) => {
                let invalid = self.answerable(message, invalid(job, objections));
                Some(Undeliverable::NotAllowed(Box::new(invalid)))
            }
            Err(Unwelcome::Invalid(problems)) => Some(Undeliverable::NotAJob(Box::new(invalid(job, problems)))),
        }
    }

    /// A refusal goes nowhere that its sender's replies may not go to.
    pub(super) fn answerable(&self, message: &Message, invalid: InvalidJob) -> InvalidJob {
        let sent_by = self.rules.senders.of(message);
        let allowed = |queue: &String| self.rules.senders.may_be_answered_at(&sent_by, queue);
        InvalidJob { reply_to: invalid.reply_to.filter(allowed), ..invalid }
    }
}

/// `job` is none that is taken.
pub(super) fn invalid(job: &Job, problems: Vec<String>) -> InvalidJob {
    let (reply_to, correlation_id) = (job.reply_to.clone(), job.correlation_id.clone());
    InvalidJob { problems, id: Some(job.id()), reply_to, correlation_id }
}
