//! For programs that hand jobs to a worker through RabbitMQ: publish a job, await its replies.

use std::time::Duration;

use tracing::debug;

use crate::clock::SharedClock;
use crate::job::{Envelope, InvalidJob, Job};
use crate::queue::amqp::{AmqpPublisher, AmqpQueue, Config, ReplyInbox};
use crate::queue::{Destination, Message, Publisher, QueueError};
use crate::reply::Reply;
use crate::retry::{Policy, RetryDecision, retry};

/// Publishes jobs.
///
/// ```no_run
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use agentkit_worker::{AmqpConfig, Client, Job, ReplyEvent, SystemClock};
///
/// # #[tokio::main]
/// # async fn main() -> anyhow::Result<()> {
/// let config = AmqpConfig { url: "amqp://guest:guest@127.0.0.1:5672".into(), ..AmqpConfig::default() };
/// let client = Client::connect(config, Arc::new(SystemClock)).await?;
/// let job: Job = serde_json::from_str(
///     r#"{"id": "order-4711", "identifier": "user_123", "connections": ["gmail"], "prompt": "Fetch my last 3 mails"}"#,
/// )?;
/// let reply = client.request(&job, Duration::from_secs(600), |reply| eprintln!("{}", reply.event.kind())).await?;
/// if let ReplyEvent::Completed(completed) = reply.event {
///     println!("{}", completed.text);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Client {
    config: Config,
    publisher: std::sync::Arc<AmqpPublisher>,
    clock: SharedClock,
}

/// A busy broker may refuse the first message for a queue that was just made as if it were full (seen on 3.10, three at once);
/// a queue that is full refuses it again.
const REFUSED: Policy =
    Policy { attempts: 3, initial_milliseconds: 250, max_milliseconds: 1000, max_retry_after_milliseconds: 0 };

/// Why a job was not handed over, or its reply not had.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It is not a job; the worker would refuse it.
    #[error(transparent)]
    Invalid(#[from] Box<InvalidJob>),
    /// The broker did not do it.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// No terminal reply came in time. The job goes on; send it again under the same id to get its reply.
    #[error("no reply within {0:?}; the job goes on, and the same job sent again gets the same reply")]
    TimedOut(Duration),
}

impl Client {
    /// Connects to the broker and makes sure that the queues are there.
    pub async fn connect(config: Config, clock: SharedClock) -> Result<Self, QueueError> {
        let queue = AmqpQueue::connect(config.clone()).await?;
        Ok(Self { config, publisher: queue.publisher(), clock })
    }

    /// How many workers consume the job queue at this moment.
    pub async fn workers(&self) -> Result<u32, QueueError> {
        Ok(self.publisher.consumers_of(self.config.names().jobs()).await?.unwrap_or(0))
    }

    /// Hands a job over; when this returns, the broker has it safely. Returns the job with its id.
    pub async fn enqueue(&self, job: &Job) -> Result<Job, ClientError> {
        let body = serde_json::to_vec(job).expect("a job is JSON types only");
        let job = Job::from_slice(&body, &Envelope::default(), self.config.max_message_bytes)?;
        self.publish(&Destination::Jobs, &Message::of_job(&job, Some(self.clock.now()))).await?;
        Ok(job)
    }

    async fn publish(&self, destination: &Destination, message: &Message) -> Result<(), QueueError> {
        let decide = |error: &QueueError| match error {
            QueueError::NotTaken { .. } => RetryDecision::Again,
            _ => RetryDecision::Stop,
        };
        let notice = |error: &QueueError, attempt, _: Duration| debug!(%error, attempt, "handed over once more");
        let publish = || self.publisher.publish(destination, message.clone());
        retry(REFUSED, decide, notice, publish).await.map(drop)
    }

    /// Says what becomes of a call that waits for approval, in the form of a message in `agentkit.decisions`; when this
    /// returns, the broker has it safely. A decision that changes nothing is answered to `reply_to`, where that is given.
    pub async fn decide(&self, decision: &serde_json::Value, reply_to: Option<&str>) -> Result<(), ClientError> {
        let mut message = Message { body: decision.to_string().into(), ..Message::default() };
        message.properties.content_type = Some("application/json".to_owned());
        message.properties.reply_to = reply_to.map(str::to_owned);
        Ok(self.publish(&Destination::Decisions, &message).await?)
    }

    /// Hands a job over and waits for its terminal reply; `seen` hears of every reply, that one included.
    pub async fn request(
        &self,
        job: &Job,
        patience: Duration,
        mut seen: impl FnMut(&Reply),
    ) -> Result<Reply, ClientError> {
        let mut inbox = ReplyInbox::open(&self.config).await?;
        let job = Job { reply_to: Some(inbox.name().to_owned()), ..job.clone() };
        self.enqueue(&job).await?;
        let terminal = async {
            loop {
                let message = inbox.next().await?;
                let Ok(reply) = serde_json::from_slice::<Reply>(&message.body) else { continue };
                seen(&reply);
                if reply.event.is_terminal() {
                    return Ok(reply);
                }
            }
        };
        tokio::time::timeout(patience, terminal).await.unwrap_or(Err(ClientError::TimedOut(patience)))
    }
}
