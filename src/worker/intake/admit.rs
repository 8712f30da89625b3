//! Whether a job that has not begun is taken: by what the operator allows to its producer and to everybody.

use super::Intake;
use crate::job::{InvalidJob, Job};
use crate::queue::Message;
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::version::without_our_headers;
use crate::worker::message::wake_up::Trust;
use crate::worker::settle::disposition::Undeliverable;

impl Intake {
    /// A message as it is to be read: what only the worker says of a message counts where the broker vouches that the worker
    /// has published it, once it is asked to.
    pub(super) fn believed(&self, message: Message) -> Message {
        if !self.rules.producers.is_on() || self.is_own(&message) { message } else { without_our_headers(message) }
    }

    /// Why the job is not taken, if so.
    pub(super) fn refused(&self, delivery: &InFlightDelivery, job: &Job) -> Option<Undeliverable> {
        let (producers, message) = (&self.rules.producers, delivery.message());
        // What is under way was taken when it came.
        let is_under_way = delivery.wake_up().is_some_and(|wake_up| wake_up.trust == Trust::Ours);
        if producers.is_on() && !(is_under_way && self.is_own(message)) {
            let producer = message.properties.user_id.as_deref().and_then(|user| producers.of_user(user));
            let objections = match producer {
                Some((name, producer)) => {
                    producer.objections(job).iter().map(|objection| format!("producer {name}: {objection}")).collect()
                }
                None if self.is_own(message) => Vec::new(),
                None => vec!["the broker vouches for no producer of this message (`user_id`)".to_owned()],
            };
            if !objections.is_empty() {
                let answered_at = |queue: &String| producer.is_none_or(|(_, own)| own.may_be_answered_at(queue));
                let reply_to = job.reply_to.clone().filter(answered_at);
                return Some(Undeliverable::NotAllowed(Box::new(InvalidJob { reply_to, ..invalid(job, objections) })));
            }
        }
        let problems = if is_under_way { Vec::new() } else { self.problems(job) };
        (!problems.is_empty()).then(|| Undeliverable::NotAJob(Box::new(invalid(job, problems))))
    }

    fn is_own(&self, message: &Message) -> bool {
        self.rules.user.is_some() && self.rules.user == message.properties.user_id
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
