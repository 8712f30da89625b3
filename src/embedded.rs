//! The worker inside another program: the very same worker, with queue, cache and journal in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinHandle;

use crate::app::{App, Backends};
use crate::clock::SharedClock;
use crate::config::Config;
use crate::job::{Envelope, InvalidJob, Job};
use crate::metrics::Metrics;
use crate::producers::ProducersConfig;
use crate::queue::memory::{MemoryInbox, MemoryQueue};
use crate::queue::{Destination, Message, Publisher};
use crate::reply::Reply;
use crate::schedule::{Digest, Digests, Scheduler};
use crate::shutdown::{Ended, Shutdown};
use crate::worker::resources::tool_catalog::ToolCatalog;

/// Jobs that may wait at the same time.
const CAPACITY: usize = 10_000;

/// A worker in this process.
///
/// ```
/// use std::sync::Arc;
///
/// # use agentkit_worker::{Sandbox, SandboxOptions};
/// use agentkit_worker::{Config, Embedded, Job, ReplyEvent, SystemClock};
///
/// # #[tokio::main]
/// # async fn main() -> anyhow::Result<()> {
/// # let active = Some("ACTIVE".to_owned());
/// # let options = SandboxOptions { initial_status: active, ..SandboxOptions::new(Arc::new(SystemClock)) };
/// # let sandbox = Sandbox::start(options).await?;
/// let mut config = Config::built_in();
/// // Here the sandbox's; addresses and keys of your own come with `Config::load`.
/// config.scalekit.environment_url = sandbox.scalekit_url().to_owned();
/// config.scalekit.client_id = sandbox.client_id().to_owned();
/// config.scalekit.client_secret = sandbox.client_secret().into();
/// config.model.base_url = sandbox.model_url();
/// config.model.api_key = sandbox.api_key().into();
///
/// let worker = Embedded::start(config, Arc::new(SystemClock))?;
/// let job: Job = serde_json::from_str(
///     r#"{"identifier": "user_123", "connections": ["gmail"], "prompt": "Fetch my last 3 unread emails"}"#,
/// )?;
/// let reply = worker.submit(&job).await?.terminal().await.expect("the worker runs");
/// let ReplyEvent::Completed(completed) = &reply.event else { anyhow::bail!("no answer: {reply:?}") };
/// assert!(completed.text.contains("3 emails"));
/// worker.stop().await;
/// # Ok(())
/// # }
/// ```
pub struct Embedded {
    queue: MemoryQueue,
    clock: SharedClock,
    max_job_bytes: usize,
    submitted: AtomicU64,
    shutdown: Shutdown,
    running: JoinHandle<Ended>,
    metrics: Arc<Metrics>,
    tool_catalog: Arc<ToolCatalog>,
    scheduler: Scheduler,
}

/// Replies of one job, in order, up to the terminal one.
pub struct Replies(MemoryInbox);

/// Why a job was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// It is not a job.
    #[error(transparent)]
    Invalid(#[from] Box<InvalidJob>),
    /// The queue is full.
    #[error(transparent)]
    Queue(#[from] crate::queue::QueueError),
}

impl Embedded {
    /// Starts a worker. It stops when told to, or with the runtime.
    pub fn start(config: Config, clock: SharedClock) -> anyhow::Result<Self> {
        // The program around it is the only producer.
        let config = Config { producers: ProducersConfig::default(), ..config };
        let (queue, shutdown) = (MemoryQueue::new(CAPACITY), Shutdown::new());
        let max_job_bytes = config.worker.max_job_bytes;
        let app = App::build(config, Backends::memory(&queue, &clock), clock.clone(), shutdown.clone())?;
        Ok(Self::running(app, queue, clock, shutdown, max_job_bytes))
    }

    /// The same, which fires these digests, and has the HTTP port of `config.http` with its pages, at the address that is
    /// returned, until the process ends.
    pub async fn start_with_http(
        config: Config,
        digests: Vec<Digest>,
        clock: SharedClock,
    ) -> anyhow::Result<(Self, SocketAddr)> {
        let config = Config { producers: ProducersConfig::default(), ..config };
        let (queue, shutdown) = (MemoryQueue::new(CAPACITY), Shutdown::new());
        let max_job_bytes = config.worker.max_job_bytes;
        let app = App::build(config, Backends::memory(&queue, &clock), clock.clone(), shutdown.clone())?;
        let app = app.with_digests(Arc::new(Digests::new(digests)));
        let address = app.serve_http().await?;
        Ok((Self::running(app, queue, clock, shutdown, max_job_bytes), address))
    }

    fn running(app: App, queue: MemoryQueue, clock: SharedClock, shutdown: Shutdown, max_job_bytes: usize) -> Self {
        let (metrics, tool_catalog) = (app.metrics(), app.tool_catalog());
        let scheduler = app.scheduler(Arc::default(), clock.clone());
        let running = tokio::spawn(app.run());
        Self {
            queue,
            clock,
            max_job_bytes,
            submitted: AtomicU64::new(0),
            shutdown,
            running,
            metrics,
            tool_catalog,
            scheduler,
        }
    }

    /// Hands a job over and returns its replies as they come. A `reply_to` of the job is not used: the replies come here.
    pub async fn submit(&self, job: &Job) -> Result<Replies, SubmitError> {
        let mut job = job.clone();
        let body = serde_json::to_vec(&job).expect("a job is JSON types only");
        job = Job::from_slice(&body, &Envelope::default(), self.max_job_bytes)?;
        // Of its own, as the same job may be handed over twice at the same time.
        let name = format!("embedded.{}", self.submitted.fetch_add(1, Ordering::Relaxed));
        job.reply_to = Some(name.clone());
        let inbox = self.queue.reply_inbox(name);
        let message = Message::of_job(&job, Some(self.clock.now()));
        self.queue.publisher().publish(&Destination::Jobs, message).await?;
        Ok(Replies(inbox))
    }

    /// Says what becomes of a call that waits for approval, in the form of a message in `agentkit.decisions`. A decision that
    /// changes nothing is answered at `replies_to(name)`, where that is given.
    pub async fn decide(&self, decision: &serde_json::Value, name: Option<&str>) -> Result<(), SubmitError> {
        let mut message = Message { body: decision.to_string().into(), ..Message::default() };
        message.properties.reply_to = name.map(str::to_owned);
        self.queue.publisher().publish(&Destination::Decisions, message).await?;
        Ok(())
    }

    /// A scheduler of these digests for this worker, by a clock of its own: a test or a demonstration may let it jump.
    pub fn scheduler(&self, digests: Vec<Digest>, clock: SharedClock) -> Scheduler {
        Scheduler { digests: Arc::new(Digests::new(digests)), clock, ..self.scheduler.clone() }
    }

    /// The replies of all jobs whose `reply_to` is `name`.
    pub fn replies_to(&self, name: &str) -> Replies {
        Replies(self.queue.reply_inbox(name))
    }

    /// The counters that the worker's own server would print under `/metrics`.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The worker's tool lists.
    pub fn tool_catalog(&self) -> &ToolCatalog {
        &self.tool_catalog
    }

    /// Stops in good order.
    pub async fn stop(self) {
        self.shutdown.stop();
        // A panic of the worker was reported by its own task.
        let _ = self.running.await;
    }
}

impl Replies {
    /// The next reply; `None` when the worker is gone.
    pub async fn next(&mut self) -> Option<Reply> {
        loop {
            let message = self.0.next().await?;
            if let Ok(reply) = serde_json::from_slice(&message.body) {
                return Some(reply);
            }
        }
    }

    /// The terminal reply; `None` when the worker is gone.
    pub async fn terminal(&mut self) -> Option<Reply> {
        loop {
            let reply = self.next().await?;
            if reply.event.is_terminal() {
                return Some(reply);
            }
        }
    }
}
