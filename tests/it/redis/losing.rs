//! Redis loses what it had, all of it or the end, at the worst moments: nothing is done twice, and the loss is said.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentkit_worker::App;
use agentkit_worker::app::Backends;
use agentkit_worker::cli::run::point_to;
use agentkit_worker::clock::{SharedClock, SystemClock};
use agentkit_worker::config::Config;
use agentkit_worker::journal::redis::RedisJournal;
use agentkit_worker::metrics::Metrics;
use agentkit_worker::queue::memory::{MemoryInbox, MemoryQueue};
use agentkit_worker::queue::{Destination, Message, Published, Publisher, QueueError};
use agentkit_worker::redis_client::RedisClient;
use agentkit_worker::shutdown::Shutdown;
use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use crate::support::redis::Redis;
use crate::support::sandbox_peer::SandboxPeer;
use crate::support::scripted_model::{ScriptedModel, Turn, turn};
use crate::support::{eventually, soon};

type SharedRedis = Arc<Mutex<Redis>>;

/// A worker whose journal is in a Redis of its own.
struct RedisJournalWorker {
    peer: SandboxPeer,
    redis: SharedRedis,
    publisher: Arc<dyn Publisher>,
    queue: MemoryQueue,
    inbox: MemoryInbox,
    metrics: Arc<Metrics>,
    config: Config,
    /// Of the worker, which dies with it.
    process: Option<Runtime>,
}

/// Kills Redis when the terminal reply is out.
struct RedisKiller(Arc<dyn Publisher>, SharedRedis);

#[async_trait]
impl Publisher for RedisKiller {
    async fn publish(&self, destination: &Destination, message: Message) -> Result<Published, QueueError> {
        let is_reply = message.properties.kind.is_some();
        let published = self.0.publish(destination, message).await;
        if is_reply {
            self.1.lock().unwrap().kill();
        }
        published
    }
}

impl RedisJournalWorker {
    async fn start(model: &ScriptedModel, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_with(model, change, |publisher, _| publisher).await
    }

    async fn start_with(
        model: &ScriptedModel,
        change: impl FnOnce(&mut Config),
        publisher: impl FnOnce(Arc<dyn Publisher>, SharedRedis) -> Arc<dyn Publisher>,
    ) -> Self {
        let redis = Redis::start().await;
        let peer = SandboxPeer::start_with(|options| options.initial_status = Some("ACTIVE".to_owned())).await;
        let mut config = Config::built_in();
        point_to(&peer.sandbox, &mut config);
        config.model.base_url = model.base_url();
        config.redis = redis.config();
        config.redis.breaker_open_milliseconds = 100;
        config.worker.lease_seconds = 3;
        change(&mut config);
        let (queue, redis) = (MemoryQueue::new(100), Arc::new(Mutex::new(redis)));
        let publisher = publisher(queue.publisher(), redis.clone());
        let (inbox, metrics) = (queue.reply_inbox("answers"), Arc::default());
        let mut worker = Self { peer, redis, publisher, queue, inbox, metrics, config, process: None };
        worker.start_worker();
        worker
    }

    fn start_worker(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let clock: SharedClock = Arc::new(SystemClock);
        let journal = Arc::new(RedisJournal::new(RedisClient::new(&self.config.redis).unwrap()));
        let publisher = self.publisher.clone();
        let backends = Backends { journal, publisher, ..Backends::memory(&self.queue, &clock) };
        let app = App::build(self.config.clone(), backends, clock, Shutdown::new()).unwrap();
        self.metrics = app.metrics();
        runtime.spawn(app.run());
        self.process = Some(runtime);
    }

    /// The worker dies, and its message goes back to the queue.
    async fn kill_worker(&mut self) {
        self.process.take().unwrap().shutdown_background();
        eventually("the message is back", || async { (self.queue.waiting() == 1).then_some(()) }).await;
    }

    async fn publish(&self, headers: &[(&str, &str)]) {
        let job = json!({
            "id": "job-1", "identifier": "user_123", "connections": ["gmail"], "prompt": "go", "reply_to": "answers"
        });
        let mut message = Message { body: job.to_string().into(), ..Message::default() };
        message.properties.headers = headers.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
        self.queue.publisher().publish(&Destination::Jobs, message).await.unwrap();
    }

    /// The data of the next reply.
    async fn reply(&mut self, kind: &str) -> Value {
        let message = soon("the reply", self.inbox.next()).await.unwrap();
        let reply: Value = serde_json::from_slice(&message.body).unwrap();
        assert_eq!(reply["type"], kind, "{reply:#}");
        reply["data"].clone()
    }

    async fn mails(&self) -> usize {
        self.peer.world().await["effects"].as_array().unwrap().len()
    }

    /// Redis comes back; without the data that it had, where so.
    async fn restart_redis(&self, with_data: bool) {
        let mut redis = std::mem::replace(&mut *self.redis.lock().unwrap(), Redis::stopped(&[]));
        redis.kill();
        if !with_data {
            redis.forget();
        }
        redis.restart().await;
        *self.redis.lock().unwrap() = redis;
    }

    /// Redis goes away while the model thinks, which is told by `gate` to answer then; the worker gives the run back, and
    /// Redis is there again.
    async fn without_redis(&self, gate: &Notify, with_data: bool) {
        self.kill_redis();
        gate.notify_one();
        self.idle().await;
        self.restart_redis(with_data).await;
    }

    fn kill_redis(&self) {
        self.redis.lock().unwrap().kill();
    }

    /// No worker has a job in its hands.
    async fn idle(&self) {
        eventually("the job is out of the worker's hands", || async {
            self.metrics.render().contains("agentkit_jobs_in_flight 0").then_some(())
        })
        .await;
    }
}

impl Drop for RedisJournalWorker {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            process.shutdown_background();
        }
    }
}

fn notices(data: &Value) -> Vec<&str> {
    let notices = data["notices"].as_array().map(Vec::as_slice).unwrap_or_default();
    notices.iter().filter_map(|notice| notice["code"].as_str()).collect()
}

fn mail() -> Turn {
    turn::calls([("gmail_send_message", json!({"to": "a@example.com", "subject": "once", "body": "x"}))])
}

#[tokio::test]
async fn a_mail_is_not_sent_again_by_a_run_whose_redis_went_away_and_came_back_empty() {
    let gate = Arc::new(Notify::new());
    let model = ScriptedModel::start([mail(), turn::text("never heard").released_by(&gate)]).await;
    let mut worker = RedisJournalWorker::start(&model, |_| {}).await;
    worker.publish(&[]).await;
    model.wait_for_requests(2).await;
    worker.without_redis(&gate, false).await;
    let data = worker.reply("agentkit.job.failed").await;
    assert_eq!((data["error"]["code"].as_str(), notices(&data)), (Some("internal"), vec!["journal_lost"]));
    assert_eq!(worker.mails().await, 1);
    assert!(worker.metrics.render().contains("agentkit_journals_lost_total 1"));
    model.finish();
}

#[tokio::test]
async fn a_run_that_only_read_starts_again_when_redis_comes_back_empty_and_says_so() {
    let gate = Arc::new(Notify::new());
    let script = [turn::text("never heard").released_by(&gate), turn::text("started again")];
    let model = ScriptedModel::start(script).await;
    let mut worker = RedisJournalWorker::start(&model, |_| {}).await;
    worker.publish(&[]).await;
    model.wait_for_requests(1).await;
    worker.without_redis(&gate, false).await;
    let data = worker.reply("agentkit.job.completed").await;
    assert_eq!(data["text"], "started again");
    assert!(notices(&data).contains(&"journal_lost"), "{data:#}");
    model.finish();
}

#[tokio::test]
async fn a_run_whose_reply_is_out_is_not_run_again_though_nothing_is_left_of_its_journal() {
    let model = ScriptedModel::start([mail(), turn::text("sent")]).await;
    let killer = |publisher, redis| Arc::new(RedisKiller(publisher, redis)) as Arc<dyn Publisher>;
    let mut worker = RedisJournalWorker::start_with(&model, |_| {}, killer).await;
    worker.publish(&[]).await;
    assert_eq!(worker.reply("agentkit.job.completed").await["text"], "sent");
    worker.idle().await;
    worker.restart_redis(false).await;
    eventually("the message is gone", || async { (worker.queue.waiting() == 0).then_some(()) }).await;
    worker.idle().await;
    assert_eq!(worker.mails().await, 1);
    assert!(tokio::time::timeout(Duration::from_millis(300), worker.inbox.next()).await.is_err(), "one reply");
    model.finish();
}

#[tokio::test]
async fn a_write_whose_start_was_lost_with_the_end_of_the_journal_is_not_made_again() {
    let gate = Arc::new(Notify::new());
    let model = ScriptedModel::start([mail(), turn::text("never heard").released_by(&gate)]).await;
    let mut worker = RedisJournalWorker::start(&model, |_| {}).await;
    worker.publish(&[]).await;
    model.wait_for_requests(2).await;
    {
        // As after a fail-over to a replica that lagged: the model's turn is there, the call's start is not.
        let redis = worker.redis.lock().unwrap();
        let key = "agentkit:run:{job-1}";
        let length: usize = redis.command(&["HGET", key, "length"]).parse().unwrap();
        let line = |index: usize| redis.command(&["HGET", key, &index.to_string()]);
        let replied = (0..length).find(|index| line(*index).contains("model_replied")).unwrap();
        redis.command(&["HSET", key, "length", &(replied + 1).to_string()]);
    }
    gate.notify_one();
    let data = worker.reply("agentkit.job.failed").await;
    assert_eq!((data["error"]["code"].as_str(), notices(&data)), (Some("internal"), vec!["journal_lost"]));
    assert_eq!(worker.mails().await, 1);
    model.finish();
}

#[tokio::test]
async fn the_worker_that_has_a_run_is_asked_what_it_did_before_another_one_guesses() {
    let gate = Arc::new(Notify::new());
    let script = [turn::text("never heard").released_by(&gate), turn::text("started again")];
    let model = ScriptedModel::start(script).await;
    let mut worker = RedisJournalWorker::start(&model, |_| {}).await;
    worker.publish(&[]).await;
    model.wait_for_requests(1).await;
    // As it stands for the delivery of a run that might have written by now.
    let stand_in = [("x-agentkit-turn", "1"), ("x-agentkit-reason", "continue"), ("x-agentkit-effects", "1")];
    worker.restart_redis(false).await;
    worker.publish(&stand_in).await;
    let data = worker.reply("agentkit.job.completed").await;
    assert_eq!(data["text"], "started again", "its owner knew that it had only read");
    assert!(notices(&data).contains(&"journal_lost"), "{data:#}");
    gate.notify_one();
    model.finish();
}

#[tokio::test]
async fn a_worker_that_gives_a_run_back_as_redis_is_away_has_not_died_with_it() {
    let gate = Arc::new(Notify::new());
    let model = ScriptedModel::start([turn::text("never heard").released_by(&gate), turn::text("done")]).await;
    let mut worker = RedisJournalWorker::start(&model, |config| config.worker.strikes = 1).await;
    worker.publish(&[]).await;
    model.wait_for_requests(1).await;
    worker.without_redis(&gate, true).await;
    let data = worker.reply("agentkit.job.completed").await;
    assert_eq!((data["text"].as_str(), notices(&data)), (Some("done"), vec!["answered_without_tools"]));
    assert_eq!(worker.queue.dead_letters(), []);
    model.finish();
}

#[tokio::test]
async fn a_copy_of_a_message_that_comes_after_a_dead_letter_makes_no_second_one() {
    let gate = Arc::new(Notify::new());
    let model = ScriptedModel::start([turn::text("never heard").released_by(&gate)]).await;
    let mut worker = RedisJournalWorker::start(&model, |config| config.worker.strikes = 1).await;
    worker.publish(&[]).await;
    model.wait_for_requests(1).await;
    // Its journal looks as if its worker had died: another one has it now.
    let key = "agentkit:run:{job-1}";
    worker.redis.lock().unwrap().command(&["HSET", key, "owner", "nobody", "lease", "0", "token", "9999999999999"]);
    worker.publish(&[]).await;
    assert_eq!(worker.reply("agentkit.job.failed").await["error"]["code"], "attempts_exhausted");
    for turn in ["1", "2"] {
        worker.publish(&[("x-agentkit-turn", turn), ("x-agentkit-reason", "continue")]).await;
    }
    eventually("the copies are gone", || async { (worker.queue.waiting() == 0).then_some(()) }).await;
    worker.idle().await;
    assert_eq!(worker.queue.dead_letters().len(), 1);
    gate.notify_one();
    model.finish();
}

#[tokio::test]
async fn a_worker_that_dies_together_with_the_journals_data_is_noticed_by_the_datas_age() {
    let model = ScriptedModel::start([turn::hang(), turn::text("started again")]).await;
    let mut worker = RedisJournalWorker::start(&model, |_| {}).await;
    worker.publish(&[]).await;
    model.wait_for_requests(1).await;
    worker.kill_worker().await;
    worker.kill_redis();
    worker.restart_redis(false).await;
    worker.start_worker();
    let data = worker.reply("agentkit.job.completed").await;
    assert!(data["text"] == "started again" && notices(&data).contains(&"journal_lost"), "{data:#}");
    model.finish();
}
