//! The crash table: a run with an authorization, a retried read and a write is cut off at every point where it touches
//! the outside, in every way that a machine can fail there, and another worker goes on.
//!
//! A worker "dies" by never getting any further in its own runtime, which is then thrown away with its connections.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentkit_worker::app::Backends;
use agentkit_worker::clock::SystemClock;
use agentkit_worker::config::Config;
use agentkit_worker::job::{Job, JobId};
use agentkit_worker::journal::redis::RedisJournal;
use agentkit_worker::journal::{Append, Epoch, Journal, JournalError, Take, TakeMode};
use agentkit_worker::queue::amqp::{QueueState, ReplyInbox, inspect};
use agentkit_worker::queue::{Consumer, Delivery, Destination, Message, Published, Publisher, QueueError, Settle};
use agentkit_worker::reply::{EffectState, Reply, ReplyEvent, Status};
use agentkit_worker::shutdown::Shutdown;
use agentkit_worker::{App, client};
use async_trait::async_trait;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use super::support::broker::Broker;
use super::support::redis::Redis;
use super::support::sandbox_client::Peer;
use super::support::{soon, unique};

/// So many cases at the same time.
const AT_ONCE: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Failure {
    /// The worker dies before the operation is done.
    Before,
    /// The worker dies after it was done, before it hears of it.
    After,
    /// The operation is done, and the worker hears that it failed.
    DoneButFailed,
}

/// Counts operations and fails one of them.
#[derive(Debug)]
struct Fuse {
    at: Option<(usize, Failure)>,
    count: AtomicUsize,
    labels: Mutex<Vec<String>>,
    dead: AtomicBool,
    died: Notify,
}

impl Fuse {
    fn new(at: Option<(usize, Failure)>) -> Arc<Self> {
        let labels = Mutex::default();
        Arc::new(Self { at, count: AtomicUsize::new(0), labels, dead: AtomicBool::new(false), died: Notify::new() })
    }

    async fn guard<T, E>(
        &self,
        label: String,
        operation: impl Future<Output = Result<T, E>> + Send,
        failed: impl FnOnce() -> E + Send,
    ) -> Result<T, E> {
        if self.dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let index = self.count.fetch_add(1, Ordering::SeqCst);
        self.labels.lock().unwrap().push(label);
        match self.at {
            Some((at, Failure::Before)) if at == index => self.die().await,
            Some((at, Failure::After)) if at == index => {
                let _ = operation.await;
                self.die().await
            }
            Some((at, Failure::DoneButFailed)) if at == index => operation.await.and_then(|_| Err(failed())),
            _ => operation.await,
        }
    }

    async fn die<T>(&self) -> T {
        self.dead.store(true, Ordering::SeqCst);
        self.died.notify_one();
        std::future::pending().await
    }
}

struct FusedJournal(Arc<dyn Journal>, Arc<Fuse>);

#[async_trait]
impl Journal for FusedJournal {
    async fn take(&self, job: &JobId, owner: &str, lease: Duration, mode: TakeMode) -> Result<Take, JournalError> {
        let operation = self.0.take(job, owner, lease, mode);
        self.1.guard("take".into(), operation, || JournalError::Unavailable("fuse".into())).await
    }

    async fn append(&self, job: &JobId, append: Append<'_>) -> Result<(), JournalError> {
        let names = append.entries.iter().map(|line| event_name(line)).collect::<Vec<_>>().join("+");
        let operation = self.0.append(job, append);
        self.1.guard(format!("append {names}"), operation, || JournalError::Unavailable("fuse".into())).await
    }

    async fn renew(&self, job: &JobId, epoch: Epoch, lease: Duration) -> Result<(), JournalError> {
        // Renewals come by the clock; only giving the lease back has its place in the run.
        if !lease.is_zero() {
            return self.0.renew(job, epoch, lease).await;
        }
        let operation = self.0.renew(job, epoch, lease);
        self.1.guard("release".into(), operation, || JournalError::Unavailable("fuse".into())).await
    }

    async fn read(&self, job: &JobId) -> Result<Vec<String>, JournalError> {
        self.0.read(job).await
    }

    async fn taken_by_force(&self) -> Result<HashMap<JobId, Epoch>, JournalError> {
        self.0.taken_by_force().await
    }
}

struct FusedPublisher(Arc<dyn Publisher>, Arc<Fuse>);

#[async_trait]
impl Publisher for FusedPublisher {
    async fn publish(&self, destination: &Destination, message: Message) -> Result<Published, QueueError> {
        let kind = message.properties.kind.clone().unwrap_or_else(|| "wake-up".into());
        let operation = self.0.publish(destination, message);
        self.1.guard(format!("publish {kind}"), operation, || QueueError::TimedOut(Duration::ZERO)).await
    }
}

struct FusedConsumer(Box<dyn Consumer>, Arc<Fuse>);

#[async_trait]
impl Consumer for FusedConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        let delivery = self.0.next().await?;
        let (message, redelivered) = (delivery.message.clone(), delivery.redelivered);
        let settle = FusedSettle { delivery: Mutex::new(Some(delivery)), fuse: self.1.clone() };
        Some(Delivery::new(message, redelivered, Box::new(settle)))
    }

    async fn stop(&mut self) {
        self.0.stop().await;
    }
}

#[derive(Debug)]
struct FusedSettle {
    delivery: Mutex<Option<Delivery>>,
    fuse: Arc<Fuse>,
}

#[async_trait]
impl Settle for FusedSettle {
    async fn ack(&self) -> Result<(), QueueError> {
        let delivery = self.delivery.lock().unwrap().take().unwrap();
        self.fuse.guard("ack".into(), delivery.ack(), || QueueError::Unavailable("fuse".into())).await
    }

    async fn requeue(&self) -> Result<(), QueueError> {
        let delivery = self.delivery.lock().unwrap().take().unwrap();
        self.fuse.guard("requeue".into(), delivery.requeue(), || QueueError::Unavailable("fuse".into())).await
    }
}

/// A worker with a runtime of its own, which ends as a process ends.
struct Process {
    runtime: Option<Runtime>,
    fuse: Arc<Fuse>,
}

impl Process {
    fn start(config: &Config, at: Option<(usize, Failure)>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let fuse = Fuse::new(at);
        let (config, fused) = (config.clone(), fuse.clone());
        runtime.spawn(async move {
            let backends = Backends::service(&config).await.unwrap();
            let backends = Backends {
                consumer: Box::new(FusedConsumer(backends.consumer, fused.clone())),
                publisher: Arc::new(FusedPublisher(backends.publisher, fused.clone())),
                journal: Arc::new(FusedJournal(backends.journal, fused)),
                ..backends
            };
            let app = App::build(config, backends, Arc::new(SystemClock), Shutdown::new()).unwrap();
            app.run().await;
        });
        Self { runtime: Some(runtime), fuse }
    }

    fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn event_name(line: &str) -> String {
    let entry: Value = serde_json::from_str(line).unwrap();
    match &entry["event"] {
        Value::String(name) => name.clone(),
        Value::Object(event) => event.keys().next().unwrap().clone(),
        _ => "mark".into(),
    }
}

/// What is left of a case when the run has ended.
struct Aftermath {
    labels: Vec<String>,
    replies: Vec<Reply>,
    journal: Vec<String>,
    sent: usize,
    model_requests: u64,
}

/// One run to its end; the first worker fails as told, a second one comes when the first has died.
async fn play(redis: &Redis, at: Option<(usize, Failure)>) -> Aftermath {
    let peer = Peer::start_with(|options| {
        options.clock = Arc::new(SystemClock);
        options.consent_after = Some(Duration::from_millis(300));
    })
    .await;
    peer.fault(json!({"on": "execute", "tool": "gmail_fetch_mails", "kind": "status", "status": 503})).await;
    let config = config(&peer, redis).await;
    let client = client::Client::connect(config.amqp.clone(), Arc::new(SystemClock)).await.unwrap();
    let mut inbox = ReplyInbox::open(&config.amqp).await.unwrap();
    let (id, subject) = (unique("job"), unique("subject"));
    let prompt = format!(
        "call gmail_fetch_mails with {{\"max_results\": 2}} then call gmail_send_message with \
         {{\"to\": \"a@example.com\", \"subject\": \"{subject}\", \"body\": \"hello\"}}"
    );
    let job: Job = serde_json::from_value(json!({
        "id": id, "identifier": "user_123", "connections": ["gmail"], "prompt": prompt, "reply_to": inbox.name()
    }))
    .unwrap();
    client.enqueue(&job).await.unwrap();

    let first = Process::start(&config, at);
    let fuse = first.fuse.clone();
    let mut replies: Vec<Reply> = Vec::new();
    let mut processes = vec![first];
    let journal = RedisJournal::new(agentkit_worker::redis_client::RedisClient::new(&config.redis).unwrap());
    let job_id = JobId::new(id).unwrap();
    soon(&format!("the end of the run cut off at {at:?} ({:?})", fuse.labels.lock().unwrap().last()), async {
        loop {
            tokio::select! {
                message = inbox.next() => replies.extend(terminal(&message.unwrap())),
                () = fuse.died.notified() => {
                    processes.remove(0).kill();
                    processes.push(Process::start(&config, None));
                }
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
            let lines = journal.read(&job_id).await.unwrap();
            if !replies.is_empty()
                && lines.last().is_some_and(|line| event_name(line) == "delivered")
                && is_empty(&config).await
            {
                break;
            }
        }
    })
    .await;
    // Whatever was published is confirmed, so a second reply would be in the inbox by now.
    while let Ok(message) = tokio::time::timeout(Duration::from_millis(200), inbox.next()).await {
        replies.extend(terminal(&message.unwrap()));
    }
    let world = peer.world().await;
    let sent = world["effects"].as_array().unwrap();
    let sent = sent.iter().filter(|effect| effect["params"]["subject"] == subject.as_str()).count();
    let requests = peer.get("/_sandbox/requests").await.1;
    let labels = fuse.labels.lock().unwrap().clone();
    let lines = journal.read(&job_id).await.unwrap();
    Aftermath { labels, replies, journal: lines, sent, model_requests: requests["counts"]["model"].as_u64().unwrap() }
}

async fn config(peer: &Peer, redis: &Redis) -> Config {
    let mut config = Config::built_in();
    config.amqp = Broker::shared().await.config();
    config.redis = redis.config();
    config.redis.key_prefix = format!("{}:", unique("crash"));
    config.scalekit.environment_url = peer.sandbox.scalekit_url().to_owned();
    config.scalekit.client_id = peer.sandbox.client_id().to_owned();
    config.scalekit.client_secret = peer.sandbox.client_secret().into();
    config.scalekit.tool_retry.initial_milliseconds = 20;
    config.model.base_url = peer.sandbox.model_url();
    config.model.api_key = peer.sandbox.api_key().into();
    config.authorization.poll_seconds = 1;
    config.worker.lease_seconds = 1;
    config.worker.concurrency = 4;
    config
}

fn terminal(message: &Message) -> Option<Reply> {
    let reply: Reply = serde_json::from_slice(&message.body).unwrap();
    reply.event.is_terminal().then_some(reply)
}

/// Neither a job nor a wake-up nor a dead letter is left.
async fn is_empty(config: &Config) -> bool {
    let facts = inspect(&config.amqp).await.unwrap();
    facts.queues.iter().all(|queue| match queue.state {
        QueueState::Present { messages, .. } => messages == 0,
        _ => false,
    })
}

fn check(case: &str, at: Option<(usize, Failure)>, aftermath: &Aftermath) {
    let Aftermath { labels, replies, journal, sent, model_requests } = aftermath;
    let first = &replies[0];
    assert!(replies.iter().all(|reply| reply == first), "{case}: two different terminal replies: {replies:#?}");
    let ReplyEvent::Completed(completed) = &first.event else { panic!("{case}: {first:#?}") };
    assert!(*sent <= 1, "{case}: the mail was sent {sent} times");
    let state = completed.account.effects.iter().find(|effect| effect.tool == "gmail_send_message").unwrap().state;
    match state {
        EffectState::Done => assert_eq!(*sent, 1, "{case}: reported as done"),
        EffectState::Unknown => assert_eq!(completed.status, Status::CompletedWithUnknownEffects, "{case}"),
        EffectState::Failed => panic!("{case}: nothing failed: {completed:#?}"),
    }
    let cut = at.map(|(index, failure)| (labels[index].as_str(), failure));
    let in_doubt = matches!(cut, Some((label, failure)) if
        label == "append tool_started" && failure == Failure::After || label == "append tool_finished" && failure == Failure::Before);
    assert!(in_doubt || state == EffectState::Done, "{case}: there is no reason for doubt");
    let turns = journal.iter().filter(|line| event_name(line) == "model_replied").count();
    assert_eq!(turns, completed.account.steps as usize, "{case}");
    let asked_again = matches!(cut, Some(("append model_replied", Failure::Before)));
    // A worker that dies right after it journalled the question may or may not have asked it.
    let asked_perhaps = matches!(cut, Some(("append model_asked", Failure::After)));
    let extra = *model_requests - turns as u64;
    assert!(
        extra == u64::from(asked_again) || asked_perhaps && extra <= 1,
        "{case}: {model_requests} requests for {turns} turns"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_cut_off_anywhere_ends_with_one_reply_and_at_most_one_write() {
    let redis = Redis::start().await;
    let undisturbed = play(&redis, None).await;
    check("undisturbed", None, &undisturbed);
    for point in [
        "append started",
        "append accounts_ready",
        "append authorization_requested",
        "append model_replied",
        "append tool_started",
        "append finished",
        "append delivered",
        "publish wake-up",
        "publish agentkit.job.completed",
        "ack",
    ] {
        assert!(undisturbed.labels.iter().any(|label| label == point), "{point} is missing: {:#?}", undisturbed.labels);
    }
    let count = undisturbed.labels.len();
    let failures = [Failure::Before, Failure::After, Failure::DoneButFailed];
    let cases = (0..count).flat_map(|index| failures.map(|failure| (index, failure)));
    let played = futures_util::stream::iter(cases).map(|at| {
        let redis = &redis;
        async move { (at, play(redis, Some(at)).await) }
    });
    let mut played = played.buffer_unordered(AT_ONCE);
    let mut done = 0;
    while let Some((at, aftermath)) = played.next().await {
        let case = format!("{:?} `{}` (operation {})", at.1, aftermath.labels[at.0], at.0);
        check(&case, Some(at), &aftermath);
        done += 1;
    }
    println!("{done} cases at {count} points");
    assert_eq!(done, count * 3);
}
