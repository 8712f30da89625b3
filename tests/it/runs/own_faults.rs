//! Faults of the worker's own: a panic costs its job an attempt and nobody else anything, and a part of the process that is
//! missing stops the rest in good order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agentkit_worker::internals::app::Backends;
use agentkit_worker::internals::clock::{SharedClock, SystemClock};
use agentkit_worker::internals::journal::index::{FoundRun, RunPage, RunQuery};
use agentkit_worker::internals::journal::memory::MemoryJournal;
use agentkit_worker::internals::journal::{Announced, Append, Claim, ClaimMode, FencingToken, Journal, JournalError};
use agentkit_worker::internals::queue::memory::{MemoryInbox, MemoryQueue};
use agentkit_worker::internals::queue::{Consumer, Delivery, Destination, Message, Publisher};
use agentkit_worker::job::JobId;
use agentkit_worker::{App, Ended, Shutdown};
use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::sandbox_peer::{SandboxPeer, config_of};
use crate::support::scripted_model::{ScriptedModel, turn};
use crate::support::{eventually, soon};

/// A journal in memory that panics so often at an operation or an event of that name.
struct PanickingJournal {
    inner: MemoryJournal,
    at: &'static str,
    left: AtomicUsize,
}

impl PanickingJournal {
    fn meet(&self, what: &str) {
        let meets = || self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        assert!(!(what.contains(self.at) && meets()), "a bug at {what}");
    }
}

#[async_trait]
impl Journal for PanickingJournal {
    async fn claim(&self, job: &JobId, owner: &str, lease: Duration, mode: ClaimMode) -> Result<Claim, JournalError> {
        if job.as_str() == "job-1" {
            self.meet("claim");
        }
        self.inner.claim(job, owner, lease, mode).await
    }

    async fn append(&self, job: &JobId, append: Append<'_>) -> Result<(), JournalError> {
        append.entries.iter().for_each(|line| self.meet(line));
        self.inner.append(job, append).await
    }

    async fn renew(&self, job: &JobId, token: FencingToken, lease: Duration) -> Result<(), JournalError> {
        self.inner.renew(job, token, lease).await
    }

    async fn secure(
        &self,
        job: &JobId,
        token: FencingToken,
        entries: u64,
        lease: Duration,
    ) -> Result<(), JournalError> {
        self.inner.secure(job, token, entries, lease).await
    }

    async fn read(&self, job: &JobId) -> Result<Vec<String>, JournalError> {
        self.inner.read(job).await
    }

    async fn length(&self, job: &JobId) -> Result<u64, JournalError> {
        self.inner.length(job).await
    }

    async fn announce(&self, job: &JobId, note: &str, retain: Duration) -> Result<Announced, JournalError> {
        self.inner.announce(job, note, retain).await
    }

    async fn announced(&self, job: &JobId) -> Result<Option<String>, JournalError> {
        self.inner.announced(job).await
    }

    async fn withdraw(&self, job: &JobId, note: &str, retain: Duration) -> Result<(), JournalError> {
        self.inner.withdraw(job, note, retain).await
    }

    async fn find(&self, job: &JobId) -> Result<Option<FoundRun>, JournalError> {
        self.inner.find(job).await
    }

    async fn list(&self, query: &RunQuery) -> Result<RunPage, JournalError> {
        self.inner.list(query).await
    }

    async fn now(&self) -> Result<Timestamp, JournalError> {
        self.inner.now().await
    }

    async fn stolen(&self) -> Result<HashMap<JobId, FencingToken>, JournalError> {
        self.inner.stolen().await
    }
}

struct FaultyWorker {
    queue: MemoryQueue,
    inbox: MemoryInbox,
    shutdown: Shutdown,
    running: JoinHandle<Ended>,
    _peer: SandboxPeer,
}

impl FaultyWorker {
    /// One that panics `times` at the operation or event `at`.
    async fn start(model: &ScriptedModel, at: &'static str, times: usize) -> Self {
        Self::start_with(model, |backends, clock| {
            let inner = MemoryJournal::new(clock.clone(), 100);
            Backends { journal: Arc::new(PanickingJournal { inner, at, left: AtomicUsize::new(times) }), ..backends }
        })
        .await
    }

    async fn start_with(model: &ScriptedModel, change: impl FnOnce(Backends, &SharedClock) -> Backends) -> Self {
        let peer = SandboxPeer::with_active_accounts().await;
        let mut config = config_of(&peer.sandbox);
        config.model.base_url = model.base_url();
        config.worker.lease_seconds = 2;
        let (queue, clock): (_, SharedClock) = (MemoryQueue::new(100), Arc::new(SystemClock));
        let backends = change(Backends::memory(&queue, &clock), &clock);
        let (inbox, shutdown) = (queue.reply_inbox("answers"), Shutdown::new());
        let app = App::build(config, backends, clock, shutdown.clone()).unwrap();
        Self { queue, inbox, shutdown, running: tokio::spawn(app.run()), _peer: peer }
    }

    async fn send(&self, id: &str) {
        let job = json!({
            "id": id, "identifier": "user_123", "connections": ["gmail"], "prompt": "go", "reply_to": "answers"
        });
        let message = Message { body: job.to_string().into(), ..Message::default() };
        self.queue.publisher().publish(&Destination::Jobs, message).await.unwrap();
    }

    async fn reply(&mut self) -> Value {
        let message = soon("the reply", self.inbox.next()).await.unwrap();
        serde_json::from_slice(&message.body).unwrap()
    }

    async fn end(self) -> Ended {
        self.shutdown.stop();
        soon("the worker's end", self.running).await.unwrap()
    }
}

#[tokio::test]
async fn an_attempt_that_panics_is_made_again() {
    let model = ScriptedModel::start([turn::text("done")]).await;
    let mut worker = FaultyWorker::start(&model, "accounts_ready", 1).await;
    worker.send("job-1").await;
    let reply = worker.reply().await;
    assert_eq!((reply["data"]["text"].as_str(), &reply["data"]["attempts"]), (Some("done"), &json!(2)), "{reply:#}");
    assert_eq!(worker.end().await, Ended::InOrder);
    model.finish();
}

#[tokio::test]
async fn a_message_whose_handling_panics_before_its_run_is_claimed_comes_again() {
    let model = ScriptedModel::start([turn::text("done")]).await;
    let mut worker = FaultyWorker::start(&model, "claim", 2).await;
    worker.send("job-1").await;
    assert_eq!(worker.reply().await["data"]["text"], "done");
    assert_eq!(worker.end().await, Ended::InOrder);
    model.finish();
}

#[tokio::test]
async fn a_job_that_panics_at_every_attempt_is_given_up_and_its_neighbour_is_served() {
    let model = ScriptedModel::start([turn::text("the neighbour's")]).await;
    let mut worker = FaultyWorker::start(&model, "accounts_ready", 3).await;
    worker.send("job-1").await;
    let reply = worker.reply().await;
    assert_eq!(reply["data"]["error"]["code"], "attempts_exhausted", "{reply:#}");
    eventually("a dead letter", || async { (worker.queue.dead_letters().len() == 1).then_some(()) }).await;
    worker.send("job-2").await;
    assert_eq!(worker.reply().await["data"]["text"], "the neighbour's");
    assert_eq!(worker.end().await, Ended::InOrder);
    model.finish();
}

/// A consumer with a bug.
struct PanickingConsumer;

#[async_trait]
impl Consumer for PanickingConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        panic!("a bug")
    }

    async fn stop(&mut self) {}
}

#[tokio::test]
async fn a_worker_whose_consumer_crashes_stops_instead_of_idling_for_ever() {
    let model = ScriptedModel::start([]).await;
    let faulty = |backends, _: &SharedClock| Backends { consumer: Box::new(PanickingConsumer), ..backends };
    let worker = FaultyWorker::start_with(&model, faulty).await;
    assert_eq!(soon("the worker's end", worker.running).await.unwrap(), Ended::Crashed);
    model.finish();
}
