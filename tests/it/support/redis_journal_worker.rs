//! A worker in this process with a queue in memory and its journal in a Redis of its own; either can die.

use std::sync::{Arc, Mutex};

use agentkit_worker::App;
use agentkit_worker::Config;
use agentkit_worker::Shutdown;
use agentkit_worker::internals::app::Backends;
use agentkit_worker::internals::clock::{SharedClock, SystemClock};
use agentkit_worker::internals::journal::redis::RedisJournal;
use agentkit_worker::internals::metrics::Metrics;
use agentkit_worker::internals::queue::memory::{MemoryInbox, MemoryQueue};
use agentkit_worker::internals::queue::{Destination, Message, Publisher};
use agentkit_worker::internals::redis_client::RedisClient;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use super::redis::Redis;
use super::sandbox_peer::{SandboxPeer, config_of};
use super::scripted_model::ScriptedModel;
use super::{eventually, soon};

/// A server that more than one has in hand.
pub(crate) type SharedRedis = Arc<Mutex<Redis>>;

/// A worker whose journal is in a Redis of its own.
pub(crate) struct RedisJournalWorker {
    pub(crate) peer: SandboxPeer,
    pub(crate) redis: SharedRedis,
    publisher: Arc<dyn Publisher>,
    pub(crate) queue: MemoryQueue,
    pub(crate) inbox: MemoryInbox,
    pub(crate) metrics: Arc<Metrics>,
    config: Config,
    /// Of the worker, which dies with it.
    process: Option<Runtime>,
}

impl RedisJournalWorker {
    pub(crate) async fn start(model: &ScriptedModel, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_with(model, change, |publisher, _| publisher).await
    }

    pub(crate) async fn start_with(
        model: &ScriptedModel,
        change: impl FnOnce(&mut Config),
        publisher: impl FnOnce(Arc<dyn Publisher>, SharedRedis) -> Arc<dyn Publisher>,
    ) -> Self {
        let redis = Redis::start().await;
        let peer = SandboxPeer::with_active_accounts().await;
        let mut config = config_of(&peer.sandbox);
        config.model.base_url = model.base_url();
        config.redis = redis.config();
        change(&mut config);
        let (queue, redis) = (MemoryQueue::new(100), Arc::new(Mutex::new(redis)));
        let publisher = publisher(queue.publisher(), redis.clone());
        let (inbox, metrics) = (queue.reply_inbox("answers"), Arc::default());
        let mut worker = Self { peer, redis, publisher, queue, inbox, metrics, config, process: None };
        worker.start_worker();
        worker
    }

    pub(crate) fn start_worker(&mut self) {
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

    /// The worker dies, and its message goes back to the queue, where as many wait then.
    pub(crate) async fn kill_worker(&mut self, waiting: usize) {
        self.process.take().unwrap().shutdown_background();
        eventually("the message is back", || async { (self.queue.waiting() == waiting).then_some(()) }).await;
    }

    pub(crate) async fn publish(&self, headers: &[(&str, &str)]) {
        let job = json!({
            "id": "job-1", "identifier": "user_123", "connections": ["gmail"], "prompt": "go", "reply_to": "answers"
        });
        let mut message = Message { body: job.to_string().into(), ..Message::default() };
        message.properties.headers = headers.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
        self.queue.publisher().publish(&Destination::Jobs, message).await.unwrap();
    }

    /// The data of the next reply.
    pub(crate) async fn reply(&mut self, kind: &str) -> Value {
        let message = soon("the reply", self.inbox.next()).await.unwrap();
        let reply: Value = serde_json::from_slice(&message.body).unwrap();
        assert_eq!(reply["type"], kind, "{reply:#}");
        reply["data"].clone()
    }

    pub(crate) async fn mails(&self) -> usize {
        self.peer.effects().await
    }

    /// Sends a command to Redis and gives its answer.
    pub(crate) fn redis_command(&self, arguments: &[&str]) -> String {
        self.redis.lock().unwrap().command(arguments)
    }

    /// Redis loses what stands in the journal of `job-1` after its first event of this name.
    pub(crate) fn lose_what_follows(&self, event: &str) {
        let key = "agentkit:run:{job-1}";
        let length: usize = self.redis_command(&["HGET", key, "length"]).parse().unwrap();
        let line = |index: usize| self.redis_command(&["HGET", key, &index.to_string()]);
        let last = (0..length).find(|index| line(*index).contains(event)).unwrap();
        self.redis_command(&["HSET", key, "length", &(last + 1).to_string()]);
    }

    /// Redis comes back; without the data that it had, where so.
    pub(crate) async fn restart_redis(&self, with_data: bool) {
        let mut redis = std::mem::replace(&mut *self.redis.lock().unwrap(), Redis::stopped(&[]));
        redis.kill();
        if !with_data {
            redis.forget();
        }
        redis.restart().await;
        *self.redis.lock().unwrap() = redis;
    }

    /// Starts a replica of the worker's Redis.
    pub(crate) async fn start_replica(&self) -> Redis {
        let master = self.redis.lock().unwrap().port();
        Redis::start_replica_of(master).await
    }

    /// Another server takes the place of the worker's Redis, for workers that start from now on.
    pub(crate) fn move_to(&mut self, redis: Redis) {
        self.config.redis.url = redis.url().into();
        *self.redis.lock().unwrap() = redis;
    }

    /// Redis goes away while the model thinks, which is told by `gate` to answer then; the worker gives the run back, and
    /// Redis is there again.
    pub(crate) async fn without_redis(&self, gate: &Notify, with_data: bool) {
        self.kill_redis();
        gate.notify_one();
        self.idle().await;
        self.restart_redis(with_data).await;
    }

    pub(crate) fn kill_redis(&self) {
        self.redis.lock().unwrap().kill();
    }

    /// No worker has a job in its hands.
    pub(crate) async fn idle(&self) {
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

/// The codes of a reply's notices.
pub(crate) fn notices(data: &Value) -> Vec<&str> {
    let notices = data["notices"].as_array().map(Vec::as_slice).unwrap_or_default();
    notices.iter().filter_map(|notice| notice["code"].as_str()).collect()
}
