//! The queue edge: where jobs come from, and where wake-ups, replies and dead letters go.
//!
//! Two implementations, [`amqp`] for RabbitMQ and [`memory`] for the embedded mode, pass one contract test suite.

pub mod amqp;
mod backlog;
pub mod memory;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

pub use self::backlog::{Backlog, Lane, Look};
use crate::job::{Envelope, Job, JobId, ProducerName};

/// How often the job queue delivers one message before it gives it up. Only the net for workers that crash on a job: runs
/// count their attempts in the journal. Generous, because all deliveries of a crashed worker count, innocents included.
pub const DELIVERY_LIMIT: u32 = 20;

/// A message, as it is published and as it is delivered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// The body; for jobs always the whole job, so that a lost journal costs work but no job.
    pub body: Bytes,
    /// What stands beside the body.
    pub properties: Properties,
}

/// Message properties, the subset of AMQP 0-9-1's `basic` class that this product uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// Names the message; consumers drop a second one with the same id.
    pub message_id: Option<String>,
    /// Echoed from the job to its replies.
    pub correlation_id: Option<String>,
    /// Queue for the replies.
    pub reply_to: Option<String>,
    /// Media type of the body.
    pub content_type: Option<String>,
    /// The event type of a reply.
    pub kind: Option<String>,
    /// The user of the broker who published it: the broker refuses a message that names another. Not published as it stands
    /// here; what the worker publishes has its own.
    pub user_id: Option<String>,
    /// When the message was first published, to the second.
    pub timestamp: Option<Timestamp>,
    /// Headers. Published as text; those that came in with values of other types are that value as JSON.
    pub headers: BTreeMap<String, String>,
}

/// The one header of a caller that is carried on, to replies and wake-ups (W3C Trace Context).
const TRACEPARENT: &str = "traceparent";
/// Bytes of it; those of the first version have 55.
const LONGEST_TRACEPARENT: usize = 256;

/// Header: the producer whose job the message brings, as a worker has found out. What a message itself says of it counts
/// only where a worker has said it.
pub const PRODUCER: &str = "x-agentkit-producer";

impl Properties {
    /// The caller's trace, as headers of a message that follows from this one.
    pub fn trace_headers(&self) -> BTreeMap<String, String> {
        self.traceparent().map(|trace| Self::trace_header(trace.to_owned())).into_iter().collect()
    }

    /// The caller's trace, as it came.
    pub fn traceparent(&self) -> Option<&str> {
        self.headers.get(TRACEPARENT).map(String::as_str).filter(|text| text.len() <= LONGEST_TRACEPARENT)
    }

    /// Whose job a message brings, as the header that says so.
    pub fn producer_header(producer: &str) -> (String, String) {
        (PRODUCER.to_owned(), producer.to_owned())
    }

    /// A caller's trace as the header that carries it.
    pub fn trace_header(traceparent: String) -> (String, String) {
        (TRACEPARENT.to_owned(), traceparent)
    }
}

impl Message {
    /// The message that brings `job` to the job queue. `published` is when that happens first, where it is known.
    pub fn of_job(job: &Job, published: Option<Timestamp>) -> Self {
        // Whose it is does not stand in the body.
        let caller_s = Job { id: job.id.as_ref().map(JobId::of_nobody), ..job.clone() };
        Self {
            body: Bytes::from(serde_json::to_vec(&caller_s).expect("a job is JSON types only")),
            properties: Properties {
                message_id: Some(job.id().to_string()),
                correlation_id: job.correlation_id.clone(),
                reply_to: job.reply_to.clone(),
                content_type: Some("application/json".to_owned()),
                timestamp: published,
                headers: job.id().producer().map(Properties::producer_header).into_iter().collect(),
                ..Properties::default()
            },
        }
    }

    /// What its properties say of the job in its body.
    pub fn envelope(&self) -> Envelope {
        Envelope {
            message_id: self.properties.message_id.clone(),
            correlation_id: self.properties.correlation_id.clone(),
            reply_to: self.properties.reply_to.clone(),
            producer: self.properties.headers.get(PRODUCER).cloned().and_then(ProducerName::new),
        }
    }
}

/// Where a message is published to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The job queue, at once.
    Jobs,
    /// The job queue of high priority: for copies of a message that somebody waits for now. Each must have another copy on its
    /// way, as workers of an earlier version do not look there.
    Urgent,
    /// Beside the job queue, for jobs of whoever has many waiting there. Where that lane does not exist, behind all others in the
    /// job queue.
    Backlog(Lane),
    /// The job queue, after a wait. The AMQP implementation has wait tiers (1 s to 1 h) and takes the longest tier that is not
    /// longer than the wait; the caller publishes again until the time has come (see [`Destination::wait`]).
    Wait(Duration),
    /// A caller's reply queue, by name; falls back to the common reply queue where it does not exist. Direct replies
    /// (`amq.rabbitmq.reply-to.*`) are best effort: nobody can tell whether the requester is still there.
    Reply(Option<String>),
    /// A caller's reply queue, by name, for what is best effort: nowhere else where it does not exist or takes nothing.
    Progress(String),
    /// The queue of decisions about calls that wait for approval.
    Decisions,
    /// The dead-letter queue.
    Dead,
}

/// What became of a published message. In both cases the broker has it safely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is in the queue it was meant for.
    Routed,
    /// The reply queue does not exist (any more): it is in the common reply queue.
    FellBack,
}

/// Why a message could not be published, or a queue not be read. What is known of the message: it may or may not have arrived.
#[derive(Debug, Clone, thiserror::Error, PartialEq)]
pub enum QueueError {
    /// The broker cannot be reached, or the connection broke. Try again after a reconnect; a publish may have arrived.
    #[error("broker unavailable: {0}")]
    Unavailable(String),
    /// The broker did not answer in time. A publish may have arrived.
    #[error("broker did not answer within {0:?}")]
    TimedOut(Duration),
    /// The broker takes no messages at all now, for lack of memory or disk. A publish may have arrived.
    #[error("the broker takes no messages now (memory or disk alarm)")]
    Blocked,
    /// The connection that the delivery came over is gone, so nothing was sent: the message comes again.
    #[error("the connection of this delivery is gone, it comes again")]
    DeliveryLost,
    /// This one queue takes nothing now: it is full, or does not confirm while others do. A publish may have arrived.
    #[error("queue {queue} takes nothing now: {reason}")]
    NotTaken {
        /// As it was addressed: one of the worker's, or a caller's reply queue.
        queue: String,
        /// What is known of why.
        reason: &'static str,
    },
    /// The broker refuses: bad credentials, no permission, queue arguments that differ. Trying again cannot help.
    #[error("broker refuses: {0}")]
    Refused(String),
    /// The message is larger than the broker takes.
    #[error("message of {size} bytes is larger than the {limit} allowed")]
    TooLarge {
        /// Size of the body.
        size: usize,
        /// The limit in force.
        limit: usize,
    },
}

/// Source of job deliveries. Reconnects by itself and for ever; while it cannot, [`Consumer::next`] waits.
#[async_trait]
pub trait Consumer: Send {
    /// The next delivery, or `None` after [`Consumer::stop`] once no delivery is left to hand out.
    async fn next(&mut self) -> Option<Delivery>;
    /// Takes no further deliveries; what was fetched ahead and not handed out goes back to the queue.
    async fn stop(&mut self);
}

/// Publishes messages and waits for the broker's confirm.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// Publishes `message` (persistent, mandatory) and returns once the broker confirmed it.
    async fn publish(&self, destination: &Destination, message: Message) -> Result<Published, QueueError>;

    /// Whether `queue` is one of the worker's own that takes no replies: in it a reply would be read as a job, a decision or
    /// a dead letter. A reply for it goes to the common reply queue.
    fn is_reserved(&self, _queue: &str) -> bool {
        false
    }
}

/// Holds messages for this process: each stands for a run under way, in a queue that nobody else consumes.
#[async_trait]
pub trait Holder: Send + Sync {
    /// Publishes `message` and takes it in hand at once; when this returns, the broker has it safely. Not acked, it goes to
    /// the job queue: at once where it is requeued or dropped, soon after the end of this process or its connection.
    async fn hold(&self, message: Message) -> Result<Delivery, QueueError>;
}

/// The dead-letter queue, to be looked through now and then; nobody consumes it.
#[async_trait]
pub trait DeadLetterQueue: Send + Sync {
    /// How many letters are in nobody's hands; may be wrong right after a broker's restart.
    async fn count(&self) -> Result<u32, QueueError>;
    /// The letters that are `wanted`. They and all others return to the queue, in their order, once all that were taken and not
    /// acked are dropped.
    async fn take(&self, wanted: Wanted<'_>) -> Result<Vec<Delivery>, QueueError>;
}

/// Which messages are wanted.
pub type Wanted<'a> = &'a (dyn for<'m> Fn(&'m Message) -> bool + Send + Sync);

/// One delivery of a job message. Dropped unsettled, a job is redelivered at once, a dead letter when its connection ends.
#[derive(Debug)]
pub struct Delivery {
    /// Headers and body, as untrusted as whoever may publish to the queue.
    pub message: Message,
    /// Whether the broker says that it was delivered before.
    pub redelivered: bool,
    settle: Option<Box<dyn Settle>>,
}

/// How an implementation settles a delivery; called at most once.
#[async_trait]
pub trait Settle: Send + Sync + std::fmt::Debug {
    /// Sends the ack; that it was sent does not say that it has arrived.
    async fn ack(&self) -> Result<(), QueueError>;
    /// Acknowledges, and makes sure that it has arrived.
    async fn ack_for_certain(&self) -> Result<(), QueueError> {
        self.ack().await
    }
    /// Gives the message back to the queue.
    async fn requeue(&self) -> Result<(), QueueError>;
    /// Has the broker put the message among the dead letters, as it is. A message that is held for a run has none but the jobs.
    async fn reject(&self) -> Result<(), QueueError>;
    /// Whether the delivery cannot be settled any more, as its connection is gone.
    fn is_lost(&self) -> bool {
        false
    }
}

impl Delivery {
    /// A delivery that is settled through `settle`.
    pub fn new(message: Message, redelivered: bool, settle: Box<dyn Settle>) -> Self {
        Self { message, redelivered, settle: Some(settle) }
    }

    /// Tells the broker that the message is dealt with. An error means that it will come again, which is harmless: the
    /// journal knows the run.
    pub async fn ack(mut self) -> Result<(), QueueError> {
        match self.settle.take() {
            Some(settle) => settle.ack().await,
            None => Ok(()),
        }
    }

    /// The same, and the broker has taken the message out of its queue at the return. With an error it may come again.
    pub async fn ack_for_certain(mut self) -> Result<(), QueueError> {
        match self.settle.take() {
            Some(settle) => settle.ack_for_certain().await,
            None => Ok(()),
        }
    }

    /// Whether its connection is known to be gone: nothing can be settled any more, and the message comes again by itself.
    pub fn is_lost(&self) -> bool {
        self.settle.as_ref().is_some_and(|settle| settle.is_lost())
    }

    /// Has the broker put the message among the dead letters: for what cannot be published anew.
    pub async fn reject(mut self) -> Result<(), QueueError> {
        match self.settle.take() {
            Some(settle) => settle.reject().await,
            None => Ok(()),
        }
    }

    /// Puts the message back on the queue, for another worker.
    pub async fn requeue(mut self) -> Result<(), QueueError> {
        match self.settle.take() {
            Some(settle) => settle.requeue().await,
            None => Ok(()),
        }
    }
}
