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
    pub(super) async fn read(&self, delivery: &InFlightDelivery) -> Result<Job, Box<Disposition>> {
        let message = delivery.message();
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
            Ok(job) => {
                let problems = if delivery.wake_up().is_none() { self.refusals(&job) } else { Vec::new() };
                if problems.is_empty() {
                    return Ok(job);
                }
                let Job { id, reply_to, correlation_id, .. } = job;
                Box::new(InvalidJob { problems, id, reply_to, correlation_id })
            }
            Err(invalid) => invalid,
        };
        Err(Box::new(Disposition::DeadLetter(Undeliverable::NotAJob(invalid))))
    }

    /// What the operator does not allow in a job that has not begun.
    fn refusals(&self, job: &Job) -> Vec<String> {
        let reserved = job.reply_to.as_ref().filter(|queue| self.settler.publisher.is_reserved(queue));
        // Its reply goes to the common queue.
        let reserved =
            reserved.map(|queue| format!("reply_to: `{queue}` is a queue of the worker's own, which takes no replies"));
        let model = job.model.as_ref().filter(|model| !self.executor.llm.allows(model));
        let model = model.map(|model| format!("model: `{model}` is none that the operator allows (`model.allow`)"));
        reserved.into_iter().chain(model).collect()
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
