//! Whether a job is taken: by its form, and by what the operator allows to its producer and to everybody. All doors ask here.

use std::sync::Arc;

use bytes::Bytes;

use crate::job::{Envelope, InvalidJob, Job};
use crate::llm::Llm;
use crate::queue::Publisher;
use crate::worker::message::sender::{Senders, SentBy};
use crate::worker::resources::poster::Poster;

/// A larger body is read on a thread of its own: its schema alone may take some ten milliseconds to compile.
const READ_AT_ONCE: usize = 16 << 10;

/// Knows what the operator allows.
pub(crate) struct Admission {
    pub(crate) senders: Senders,
    /// Knows the queues that take no replies.
    pub(crate) publisher: Arc<dyn Publisher>,
    /// Knows the models that jobs may name.
    pub(crate) llm: Arc<Llm>,
    /// Knows where replies may be POSTed.
    pub(crate) poster: Arc<Poster>,
}

/// Why a job is not taken, each as `field: problem`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unwelcome {
    /// Its producer may not send it, or whoever sent it is none.
    NotAllowed(Vec<String>),
    /// Nobody may.
    Invalid(Vec<String>),
}

impl Admission {
    /// Whether this job is taken from that sender.
    pub(crate) fn examine(&self, sent_by: &SentBy<'_>, job: &Job) -> Result<(), Unwelcome> {
        let objections = self.objections(sent_by, job);
        if !objections.is_empty() {
            return Err(Unwelcome::NotAllowed(objections));
        }
        let problems = self.problems(job);
        if problems.is_empty() { Ok(()) } else { Err(Unwelcome::Invalid(problems)) }
    }

    /// What this sender may not ask for.
    fn objections(&self, sent_by: &SentBy<'_>, job: &Job) -> Vec<String> {
        if !self.senders.producers.is_on() {
            return Vec::new();
        }
        match (self.senders.producer(sent_by), sent_by) {
            (_, SentBy::Operator) => Vec::new(),
            (Some((name, producer)), _) => {
                producer.objections(job).iter().map(|objection| format!("producer {name}: {objection}")).collect()
            }
            (None, SentBy::User(_)) => {
                vec!["the broker vouches for no producer of this message (`user_id`)".to_owned()]
            }
            (None, SentBy::Token(_)) => vec!["the token by which it came is no producer's (`tokens`)".to_owned()],
        }
    }

    /// What nobody's job may ask for.
    fn problems(&self, job: &Job) -> Vec<String> {
        // Its reply goes to the common queue.
        let reserved = job.reply_to.as_ref().filter(|queue| self.publisher.is_reserved(queue));
        let reserved =
            reserved.map(|queue| format!("reply_to: `{queue}` is a queue of the worker's own, which takes no replies"));
        let model = job.model.as_ref().filter(|model| !self.llm.allows(model));
        let model = model.map(|model| format!("model: `{model}` is none that the operator allows (`model.allow`)"));
        let address = job.reply_url.as_ref().and_then(|url| self.poster.objection(url));
        let address = address.map(|objection| format!("reply_url: {objection}"));
        reserved.into_iter().chain(model).chain(address).collect()
    }
}

/// Reads a job of at most `max_bytes`.
pub(crate) async fn read_job(body: &Bytes, envelope: Envelope, max_bytes: usize) -> Result<Job, Box<InvalidJob>> {
    if body.len() <= READ_AT_ONCE {
        return Job::from_slice(body, &envelope, max_bytes);
    }
    let body = body.clone();
    match tokio::task::spawn_blocking(move || Job::from_slice(&body, &envelope, max_bytes)).await {
        Ok(read) => read,
        // As where it is read here: a message goes back, and its deliveries are counted.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
