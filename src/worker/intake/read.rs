//! Whether a message is a job.

use tracing::warn;

use super::Intake;
use crate::job::{InvalidJob, Job};
use crate::queue::Message;
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::version::{is_newer, times_left};
use crate::worker::settle::disposition::{Deferral, Disposition, LEFT_AT_MOST, Undeliverable};

/// A larger body is read on a thread of its own: its schema alone may take some ten milliseconds to compile.
const READ_AT_ONCE: usize = 16 << 10;

impl Intake {
    /// The job in a message, or what becomes of one that is none to us. A wake-up is one to the worker that made it.
    pub(super) async fn read(&self, delivery: &mut InFlightDelivery) -> Result<Job, Box<Disposition>> {
        let message = &delivery.message().clone();
        let read = read_job(message, self.rules.max_job_bytes).await;
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
                None => return self.owned(job, delivery).await,
                Some(undeliverable) => return Err(Box::new(Disposition::DeadLetter(undeliverable))),
            },
            Err(invalid) => invalid,
        };
        let invalid = self.answerable(message, *invalid);
        Err(Box::new(Disposition::DeadLetter(Undeliverable::NotAJob(Box::new(invalid)))))
    }
}

async fn read_job(message: &Message, max_bytes: usize) -> Result<Job, Box<InvalidJob>> {
    if message.body.len() <= READ_AT_ONCE {
        return Job::from_slice(&message.body, &message.envelope(), max_bytes);
    }
    let (body, envelope) = (message.body.clone(), message.envelope());
    match tokio::task::spawn_blocking(move || Job::from_slice(&body, &envelope, max_bytes)).await {
        Ok(read) => read,
        // As where it is read here: the message goes back, and its deliveries are counted.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
