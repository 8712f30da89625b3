//! Whether a job that has not begun is taken: by what the operator allows to its producer and to everybody.

use super::Intake;
use crate::job::{InvalidJob, Job};
use crate::queue::Message;
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::sender::SentBy;
use crate::worker::message::wake_up::Trust;
use crate::worker::settle::disposition::Undeliverable;

impl Intake {
    /// Why the job is not taken, if so.
    pub(super) fn refused(&self, delivery: &InFlightDelivery, job: &Job) -> Option<Undeliverable> {
        let (producers, message) = (&self.rules.senders.producers, delivery.message());
        // What is under way was taken when it came.
        if delivery.wake_up().is_some_and(|wake_up| wake_up.trust == Trust::Ours && wake_up.generation > 0) {
            return None;
        }
        if producers.is_on()
            && let SentBy::User(user) = self.rules.senders.of(message)
        {
            let objections = match user.and_then(|user| producers.of_user(user)) {
                Some((name, producer)) => {
                    producer.objections(job).iter().map(|objection| format!("producer {name}: {objection}")).collect()
                }
                None => vec!["the broker vouches for no producer of this message (`user_id`)".to_owned()],
            };
            if !objections.is_empty() {
                let invalid = self.answerable(message, invalid(job, objections));
                return Some(Undeliverable::NotAllowed(Box::new(invalid)));
            }
        }
        let problems = self.problems(job);
        (!problems.is_empty()).then(|| Undeliverable::NotAJob(Box::new(invalid(job, problems))))
    }

    /// A refusal goes nowhere that its sender's replies may not go to.
    pub(super) fn answerable(&self, message: &Message, invalid: InvalidJob) -> InvalidJob {
        let allowed = |queue: &String| match self.rules.senders.of(message) {
            SentBy::Operator => true,
            SentBy::User(user) => self.rules.senders.producers.may_be_answered_at(user, queue),
        };
        InvalidJob { reply_to: invalid.reply_to.filter(allowed), ..invalid }
    }

    /// What nobody's job may ask for.
    fn problems(&self, job: &Job) -> Vec<String> {
        // Its reply goes to the common queue.
        let reserved = job.reply_to.as_ref().filter(|queue| self.settler.publisher.is_reserved(queue));
        let reserved =
            reserved.map(|queue| format!("reply_to: `{queue}` is a queue of the worker's own, which takes no replies"));
        let model = job.model.as_ref().filter(|model| !self.executor.llm.allows(model));
        let model = model.map(|model| format!("model: `{model}` is none that the operator allows (`model.allow`)"));
        reserved.into_iter().chain(model).collect()
    }
}

fn invalid(job: &Job, problems: Vec<String>) -> InvalidJob {
    let (reply_to, correlation_id) = (job.reply_to.clone(), job.correlation_id.clone());
    InvalidJob { problems, id: Some(job.id()), reply_to, correlation_id }
}
