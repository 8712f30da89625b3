//! A worker that is cut off at one of the points where it touches the outside. It "dies" by never getting any further in
//! its own runtime, which is then thrown away with its connections.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentkit_worker::App;
use agentkit_worker::Config;
use agentkit_worker::Shutdown;
use agentkit_worker::internals::app::Backends;
use agentkit_worker::internals::clock::SystemClock;
use agentkit_worker::internals::journal::index::{FoundRun, RunPage, RunQuery};
use agentkit_worker::internals::journal::{Announced, Append, Claim, ClaimMode, FencingToken, Journal, JournalError};
use agentkit_worker::internals::queue::{
    Consumer, Delivery, Destination, Holder, Message, Published, Publisher, QueueError, Settle,
};
use agentkit_worker::job::JobId;
use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Failure {
    /// The worker dies before the operation is done.
    Before,
    /// The worker dies after it was done, before it hears of it.
    After,
    /// The operation is done, and the worker hears that it failed.
    DoneButFailed,
}

/// Which operation fails.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Point {
    /// By its number.
    Number(usize),
    /// The first of that name.
    Named(&'static str),
}

/// Where and how a worker is cut off, if it is.
pub(crate) type Cut = Option<(Point, Failure)>;

/// Counts operations and fails one of them.
#[derive(Debug)]
pub(crate) struct Fuse {
    cut: Mutex<Cut>,
    count: AtomicUsize,
    pub(crate) labels: Mutex<Vec<String>>,
    dead: AtomicBool,
    pub(crate) died: Notify,
}

impl Fuse {
    pub(crate) fn new(cut: Cut) -> Arc<Self> {
        let (cut, labels) = (Mutex::new(cut), Mutex::default());
        Arc::new(Self { cut, count: AtomicUsize::new(0), labels, dead: AtomicBool::new(false), died: Notify::new() })
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
        let here = self.cut.lock().unwrap().take_if(|(point, _)| match point {
            Point::Number(number) => *number == index,
            Point::Named(name) => *name == label,
        });
        self.labels.lock().unwrap().push(label);
        match here.map(|(_, failure)| failure) {
            Some(Failure::Before) => self.die().await,
            Some(Failure::After) => {
                let _ = operation.await;
                self.die().await
            }
            Some(Failure::DoneButFailed) => operation.await.and_then(|_| Err(failed())),
            None => operation.await,
        }
    }

    async fn die<T>(&self) -> T {
        self.dead.store(true, Ordering::SeqCst);
        self.died.notify_one();
        std::future::pending().await
    }
}

pub(crate) struct FusedJournal(pub(crate) Arc<dyn Journal>, pub(crate) Arc<Fuse>);

#[async_trait]
impl Journal for FusedJournal {
    async fn claim(&self, job: &JobId, owner: &str, lease: Duration, mode: ClaimMode) -> Result<Claim, JournalError> {
        let operation = self.0.claim(job, owner, lease, mode);
        self.1.guard("claim".into(), operation, || JournalError::Unavailable("fuse".into())).await
    }

    async fn append(&self, job: &JobId, append: Append<'_>) -> Result<(), JournalError> {
        let names = append.entries.iter().map(|line| event_name(line)).collect::<Vec<_>>().join("+");
        let operation = self.0.append(job, append);
        self.1.guard(format!("append {names}"), operation, || JournalError::Unavailable("fuse".into())).await
    }

    async fn renew(&self, job: &JobId, token: FencingToken, lease: Duration) -> Result<(), JournalError> {
        // Renewals come by the clock; only giving the lease back has its place in the run.
        if !lease.is_zero() {
            return self.0.renew(job, token, lease).await;
        }
        let operation = self.0.renew(job, token, lease);
        self.1.guard("release".into(), operation, || JournalError::Unavailable("fuse".into())).await
    }

    async fn secure(
        &self,
        job: &JobId,
        token: FencingToken,
        entries: u64,
        lease: Duration,
    ) -> Result<(), JournalError> {
        self.0.secure(job, token, entries, lease).await
    }

    async fn read(&self, job: &JobId) -> Result<Vec<String>, JournalError> {
        self.0.read(job).await
    }

    async fn length(&self, job: &JobId) -> Result<u64, JournalError> {
        self.0.length(job).await
    }

    async fn announce(&self, job: &JobId, note: &str, retain: Duration) -> Result<Announced, JournalError> {
        self.0.announce(job, note, retain).await
    }

    async fn announced(&self, job: &JobId) -> Result<Option<String>, JournalError> {
        self.0.announced(job).await
    }

    async fn withdraw(&self, job: &JobId, note: &str, retain: Duration) -> Result<(), JournalError> {
        self.0.withdraw(job, note, retain).await
    }

    async fn find(&self, job: &JobId) -> Result<Option<FoundRun>, JournalError> {
        self.0.find(job).await
    }

    async fn list(&self, query: &RunQuery) -> Result<RunPage, JournalError> {
        self.0.list(query).await
    }

    async fn now(&self) -> Result<Timestamp, JournalError> {
        self.0.now().await
    }

    async fn stolen(&self) -> Result<HashMap<JobId, FencingToken>, JournalError> {
        self.0.stolen().await
    }
}

pub(crate) struct FusedPublisher(pub(crate) Arc<dyn Publisher>, pub(crate) Arc<Fuse>);

#[async_trait]
impl Publisher for FusedPublisher {
    async fn publish(&self, destination: &Destination, message: Message) -> Result<Published, QueueError> {
        let kind = match destination {
            Destination::Dead => "dead letter".to_owned(),
            _ => message.properties.kind.clone().unwrap_or_else(|| "wake-up".into()),
        };
        let operation = self.0.publish(destination, message);
        self.1.guard(format!("publish {kind}"), operation, || QueueError::TimedOut(Duration::ZERO)).await
    }
}

struct FusedHolder(Arc<dyn Holder>, Arc<Fuse>);

#[async_trait]
impl Holder for FusedHolder {
    async fn hold(&self, message: Message) -> Result<Delivery, QueueError> {
        let operation = self.0.hold(message);
        let delivery = self.1.guard("hold".into(), operation, || QueueError::TimedOut(Duration::ZERO)).await?;
        Ok(fused(delivery, &self.1))
    }
}

struct FusedConsumer(Box<dyn Consumer>, Arc<Fuse>);

#[async_trait]
impl Consumer for FusedConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        Some(fused(self.0.next().await?, &self.1))
    }

    async fn stop(&mut self) {
        self.0.stop().await;
    }
}

fn fused(delivery: Delivery, fuse: &Arc<Fuse>) -> Delivery {
    let (message, redelivered) = (delivery.message.clone(), delivery.redelivered);
    let settle = FusedSettle { delivery: Mutex::new(Some(delivery)), fuse: fuse.clone() };
    Delivery::new(message, redelivered, Box::new(settle))
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

    async fn reject(&self) -> Result<(), QueueError> {
        let delivery = self.delivery.lock().unwrap().take().unwrap();
        self.fuse.guard("reject".into(), delivery.reject(), || QueueError::Unavailable("fuse".into())).await
    }
}

/// A worker with a runtime of its own, which ends as a process ends when this is dropped.
pub(crate) struct FusedWorker {
    runtime: Option<Runtime>,
    pub(crate) fuse: Arc<Fuse>,
}

impl FusedWorker {
    pub(crate) fn start(config: &Config, cut: Cut) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let fuse = Fuse::new(cut);
        let (config, fused) = (config.clone(), fuse.clone());
        runtime.spawn(async move {
            let backends = Backends::service(&config).await.unwrap();
            let backends = Backends {
                consumer: Box::new(FusedConsumer(backends.consumer, fused.clone())),
                publisher: Arc::new(FusedPublisher(backends.publisher, fused.clone())),
                holder: Arc::new(FusedHolder(backends.holder, fused.clone())),
                journal: Arc::new(FusedJournal(backends.journal, fused)),
                ..backends
            };
            let app = App::build(config, backends, Arc::new(SystemClock), Shutdown::new()).unwrap();
            app.run().await;
        });
        Self { runtime: Some(runtime), fuse }
    }
}

impl Drop for FusedWorker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What happened, by a line of a journal.
pub(crate) fn event_name(line: &str) -> String {
    let entry: Value = serde_json::from_str(line).unwrap();
    match &entry["event"] {
        Value::String(name) => name.clone(),
        Value::Object(event) => event.keys().next().unwrap().clone(),
        _ => "mark".into(),
    }
}
