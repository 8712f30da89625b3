//! What becomes of a run whose journal is lost, newer than the worker, or no journal at all.

use std::sync::Arc;

use agentkit_worker::App;
use agentkit_worker::app::Backends;
use agentkit_worker::cli::run::point_to;
use agentkit_worker::clock::{SharedClock, SystemClock};
use agentkit_worker::config::Config;
use agentkit_worker::job::JobId;
use agentkit_worker::journal::redis::RedisJournal;
use agentkit_worker::journal::{Append, Claim, ClaimMode, Journal};
use agentkit_worker::metrics::Metrics;
use agentkit_worker::queue::memory::MemoryQueue;
use agentkit_worker::queue::{Destination, Message, Publisher};
use agentkit_worker::shutdown::Shutdown;
use agentkit_worker::worker::rules::AfterLoss;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::Notify;

use crate::support::redis::Redis;
use crate::support::sandbox_peer::SandboxPeer;
use crate::support::scripted_model::{ScriptedModel, turn};
use crate::support::{eventually, soon};

/// A worker whose journal is in a Redis of its own.
struct RedisJournalWorker {
    peer: SandboxPeer,
    redis: Redis,
    queue: MemoryQueue,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
}

impl RedisJournalWorker {
    async fn start(model: &ScriptedModel, after_loss: AfterLoss) -> Self {
        let redis = Redis::start().await;
        let peer = SandboxPeer::start_with(|options| options.initial_status = Some("ACTIVE".to_owned())).await;
        let mut config = Config::built_in();
        point_to(&peer.sandbox, &mut config);
        config.model.base_url = model.base_url();
        config.redis = redis.config();
        config.worker.after_journal_loss = after_loss;
        let (queue, shutdown) = (MemoryQueue::new(100), Shutdown::new());
        let clock: SharedClock = Arc::new(SystemClock);
        let journal = Arc::new(RedisJournal::new(redis.client()));
        let backends = Backends { journal, ..Backends::memory(&queue, &clock) };
        let app = App::build(config, backends, clock, shutdown.clone()).unwrap();
        let metrics = app.metrics();
        tokio::spawn(app.run());
        Self { peer, redis, queue, metrics, shutdown }
    }

    async fn publish(&self) {
        let job = json!({
            "id": "job-1", "identifier": "user_123", "connections": ["gmail"], "prompt": "go", "reply_to": "answers"
        });
        let message = Message { body: job.to_string().into(), ..Message::default() };
        self.queue.publisher().publish(&Destination::Jobs, message).await.unwrap();
    }

    /// The data of the one reply.
    async fn reply(&self, kind: &str) -> Value {
        let message = soon("the reply", self.queue.reply_inbox("answers").next()).await.unwrap();
        let reply: Value = serde_json::from_slice(&message.body).unwrap();
        assert_eq!(reply["type"], kind, "{reply:#}");
        reply["data"].clone()
    }

    fn journal(&self) -> RedisJournal {
        RedisJournal::new(self.redis.client())
    }
}

impl Drop for RedisJournalWorker {
    fn drop(&mut self) {
        self.shutdown.stop();
    }
}

fn notices(data: &Value) -> Vec<&str> {
    let notices = data["notices"].as_array().map(Vec::as_slice).unwrap_or_default();
    notices.iter().filter_map(|notice| notice["code"].as_str()).collect()
}

#[tokio::test]
async fn a_run_that_only_read_starts_again_when_its_journal_is_lost_and_says_so() {
    let gate = Arc::new(Notify::new());
    let model = ScriptedModel::start([
        turn::calls([("gmail_fetch_mails", json!({}))]),
        turn::text("never heard").released_by(&gate),
        turn::text("started again"),
    ])
    .await;
    let worker = RedisJournalWorker::start(&model, AfterLoss::Restart).await;
    worker.publish().await;
    model.wait_for_requests(2).await;
    worker.redis.command(&["FLUSHALL"]);
    gate.notify_one();
    let data = worker.reply("agentkit.job.completed").await;
    assert_eq!(data["text"], "started again");
    assert!(notices(&data).contains(&"journal_lost"), "{data:#}");
    assert!(worker.metrics.render().contains("agentkit_journals_lost_total 1"));
    model.finish();
}

#[tokio::test]
async fn a_run_that_is_known_to_have_written_fails_when_its_journal_is_lost() {
    let gate = Arc::new(Notify::new());
    let mail = json!({"to": "a@example.com", "subject": "once", "body": "x"});
    let model = ScriptedModel::start([
        turn::calls([("gmail_send_message", mail)]),
        turn::text("never heard").released_by(&gate),
    ])
    .await;
    let worker = RedisJournalWorker::start(&model, AfterLoss::Restart).await;
    worker.publish().await;
    model.wait_for_requests(2).await;
    worker.redis.command(&["FLUSHALL"]);
    gate.notify_one();
    let data = worker.reply("agentkit.job.failed").await;
    assert_eq!((data["error"]["code"].as_str(), notices(&data)), (Some("internal"), vec!["journal_lost"]));
    assert_eq!(worker.peer.world().await["effects"].as_array().unwrap().len(), 1, "the mail was not sent again");
    model.finish();
}

#[tokio::test]
async fn the_policy_fail_lets_no_run_start_again() {
    let gate = Arc::new(Notify::new());
    let model = ScriptedModel::start([turn::text("never heard").released_by(&gate)]).await;
    let worker = RedisJournalWorker::start(&model, AfterLoss::Fail).await;
    worker.publish().await;
    model.wait_for_requests(1).await;
    worker.redis.command(&["FLUSHALL"]);
    gate.notify_one();
    assert_eq!(worker.reply("agentkit.job.failed").await["error"]["code"], "internal");
    model.finish();
}

/// Writes `line` as the journal of `job-1`.
async fn write(journal: &RedisJournal, line: &str) {
    let (id, lease) = (JobId::new("job-1").unwrap(), Duration::from_secs(5));
    let Claim::Granted { token, .. } = journal.claim(&id, "before", lease, ClaimMode::IfFree).await.unwrap() else {
        panic!("nobody else has it")
    };
    let entries = [line.to_owned()];
    let append = Append { token, sequence: 0, entries: &entries, lease, retain: Duration::from_secs(600) };
    journal.append(&id, append).await.unwrap();
    journal.renew(&id, token, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_journal_of_a_newer_worker_is_left_untouched_and_the_job_waits() {
    let model = ScriptedModel::start([]).await;
    let worker = RedisJournalWorker::start(&model, AfterLoss::Restart).await;
    let line = r#"{"at":"2027-01-01T00:00:00Z","event":{"started":{"schema":99,"shape":"unknown"}}}"#;
    write(&worker.journal(), line).await;
    let untouched = worker.redis.command(&["DBSIZE"]);
    let token = || worker.redis.command(&["HGET", "agentkit:run:{job-1}", "token"]);
    let before = token();
    worker.publish().await;
    // The take leaves its mark in the token; the lease is given back afterwards.
    let id = JobId::new("job-1").unwrap();
    eventually("the job was looked at and put off", || async {
        (token() != before && worker.queue.waiting() == 1).then_some(())
    })
    .await;
    assert_eq!(worker.journal().read(&id).await.unwrap(), [line]);
    assert_eq!(worker.redis.command(&["DBSIZE"]), untouched);
    assert_eq!(worker.queue.dead_letters(), []);
    model.finish();
}

#[tokio::test]
async fn a_damaged_journal_becomes_a_dead_letter_with_its_reason() {
    let model = ScriptedModel::start([]).await;
    let worker = RedisJournalWorker::start(&model, AfterLoss::Restart).await;
    write(&worker.journal(), r#"{"at":"2026-11-22T00:00:00Z","event":"delivered"}"#).await;
    worker.publish().await;
    let data = worker.reply("agentkit.job.failed").await;
    assert_eq!(data["error"]["code"], "internal", "{data:#}");
    let letter = eventually("a dead letter", || async { worker.queue.dead_letters().pop() }).await;
    assert_eq!(letter.properties.headers["x-agentkit-dead-reason"], "damaged_journal");
    model.finish();
}
