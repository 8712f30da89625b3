//! Where jobs come from and their state is kept: RabbitMQ and Redis, or their stand-ins in memory.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::peers::{service_peers, warn_of_plain};
use super::rules::places;
use crate::budget::BudgetCounters;
use crate::budget::memory::MemoryBudgets;
use crate::budget::redis::RedisBudgets;
use crate::cache::Cache;
use crate::cache::memory::MemoryCache;
use crate::cache::redis::RedisCache;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::digest_store::DigestStore;
use crate::digest_store::memory::MemoryDigestStore;
use crate::digest_store::redis::RedisDigestStore;
use crate::http_server::Check;
use crate::journal::Journal;
use crate::journal::memory::MemoryJournal;
use crate::journal::redis::RedisJournal;
use crate::parking::Parking;
use crate::parking::memory::MemoryParking;
use crate::parking::redis::RedisParking;
use crate::queue::amqp::{AmqpPublisher, AmqpQueue};
use crate::queue::memory::MemoryQueue;
use crate::queue::{Backlog, Consumer, DeadLetterQueue, Holder, Publisher};
use crate::redis_client::RedisClient;
use crate::worker::control::decisions::AT_ONCE;
use crate::worker::urgent_places;

/// Runs kept by the journal in memory, and bytes kept by the cache in memory.
const MEMORY_RUNS: usize = 100_000;
const MEMORY_CACHE_BYTES: usize = 64 << 20;

/// Where jobs come from, and where their state is kept.
pub struct Backends {
    /// This process, unique at every start: owner of leases.
    pub process: String,
    /// The queue of fresh jobs and of what waited; runs are taken from here while there are free places.
    pub consumer: Box<dyn Consumer>,
    /// Wake-ups that somebody waits for.
    pub urgent: Option<Box<dyn Consumer>>,
    /// What people say to calls that wait for approval.
    pub decisions: Option<Box<dyn Consumer>>,
    /// Replies, wake-ups, dead letters out.
    pub publisher: Arc<dyn Publisher>,
    /// Messages that stand for runs under way.
    pub holder: Arc<dyn Holder>,
    /// Jobs that were put aside.
    pub backlog: Arc<dyn Backlog>,
    /// What was given up.
    pub dead_letters: Arc<dyn DeadLetterQueue>,
    /// How far runs are.
    pub journal: Arc<dyn Journal>,
    /// Tool lists and links.
    pub cache: Arc<dyn Cache>,
    /// What was spent of budgets.
    pub budgets: Arc<dyn BudgetCounters>,
    /// What schedulers and workers share about digests.
    pub digests: Arc<dyn DigestStore>,
    /// Which runs wait for which user.
    pub parking: Arc<dyn Parking>,
    /// Whether jobs are consumed.
    pub alive: Check,
    /// The services behind it, by name: whether each takes what the worker needs of it.
    pub services: Vec<(&'static str, Check)>,
    /// Keeps looking at them; never ends.
    pub watch: BoxFuture<'static, ()>,
    /// The queues, where there is a broker: how full they are can be asked.
    pub queues: Option<Arc<AmqpPublisher>>,
    /// Whether the worker's credentials are looked at before the first job shows them: nobody else would tell of a service.
    pub looks_first: bool,
    /// Cancelled when a task that keeps the connections has crashed.
    pub broken: CancellationToken,
}

impl Backends {
    /// RabbitMQ and Redis. The broker must answer; Redis may come later.
    pub async fn service(config: &Config) -> anyhow::Result<Self> {
        let encryption = config.journal.encryption().map_err(|problem| anyhow!("journal.{problem}"))?;
        warn_of_plain(&service_peers(config));
        let queue = AmqpQueue::connect(config.amqp.clone()).await.context("RabbitMQ cannot be used")?;
        let redis = RedisClient::new(&config.redis).context("Redis cannot be used")?;
        if let Err(error) = redis.ping().await {
            warn!(%error, "Redis does not answer yet; jobs wait for it");
        }
        let (places, window) = places(config);
        if places < config.worker.concurrency {
            warn!(
                concurrency = config.worker.concurrency,
                places, window, "fewer jobs run at a time: more may not fit worker.prefetch_bytes"
            );
        }
        let prefetch = u16::try_from(places + window).unwrap_or(u16::MAX);
        let urgent = queue.urgent_consumer(config.worker.prefetch(urgent_places(places))).await;
        let urgent = urgent.context("RabbitMQ cannot be used")?;
        let decisions = queue.decision_consumer(AT_ONCE).await.context("RabbitMQ cannot be used")?;
        let (process, status) = (process_name(), queue.status());
        let broken = status.broken();
        let consuming = status.clone();
        let alive: Check =
            Arc::new(move || if consuming.consuming() { Ok(()) } else { Err("not consuming jobs".to_owned()) });
        let broker: Check = Arc::new(move || {
            if !status.connected() || !status.consuming() {
                return Err("not connected to RabbitMQ".to_owned());
            }
            if status.blocked() {
                return Err("RabbitMQ does not take messages (memory or disk alarm)".to_owned());
            }
            Ok(())
        });
        let redis_status = redis.clone();
        let store: Check = Arc::new(move || {
            if let Some(problem) = redis_status.problem() {
                return Err(problem);
            }
            if !redis_status.status().available {
                return Err("Redis does not answer".to_owned());
            }
            if redis_status.is_full() {
                return Err("Redis is full (maxmemory): new jobs wait".to_owned());
            }
            Ok(())
        });
        let watched = redis.clone();
        Ok(Self {
            consumer: Box::new(queue.consumer(prefetch)),
            urgent: urgent.map(|urgent| Box::new(urgent) as Box<dyn Consumer>),
            decisions: decisions.map(|decisions| Box::new(decisions) as Box<dyn Consumer>),
            publisher: queue.publisher(),
            backlog: Arc::new(queue.backlog()),
            dead_letters: Arc::new(queue.dead_letter_queue()),
            holder: Arc::new(queue.holder(&process).await.context("RabbitMQ cannot be used")?),
            process,
            journal: Arc::new(
                RedisJournal::with_index_of(redis.clone(), config.journal.index_runs).encrypted(encryption.clone()),
            ),
            cache: Arc::new(RedisCache::new(redis.clone())),
            budgets: Arc::new(RedisBudgets::new(redis.clone())),
            digests: Arc::new(RedisDigestStore::new(redis.clone())),
            parking: Arc::new(RedisParking::new(redis).encrypted(encryption)),
            alive,
            queues: Some(queue.publisher()),
            services: vec![("broker", broker), ("redis", store)],
            watch: async move { watched.keep_watch().await }.boxed(),
            looks_first: true,
            broken,
        })
    }

    /// Everything in this process.
    pub fn memory(queue: &MemoryQueue, clock: &SharedClock) -> Self {
        let fine: Check = Arc::new(|| Ok(()));
        Self {
            process: process_name(),
            consumer: Box::new(queue.consumer()),
            urgent: Some(Box::new(queue.urgent_consumer())),
            decisions: Some(Box::new(queue.decision_consumer())),
            publisher: queue.publisher(),
            holder: Arc::new(queue.clone()),
            backlog: Arc::new(queue.clone()),
            dead_letters: Arc::new(queue.clone()),
            journal: Arc::new(MemoryJournal::new(clock.clone(), MEMORY_RUNS)),
            cache: Arc::new(MemoryCache::new(clock.clone(), MEMORY_CACHE_BYTES)),
            budgets: Arc::new(MemoryBudgets::new(clock.clone())),
            digests: Arc::new(MemoryDigestStore::new(clock.clone())),
            parking: Arc::new(MemoryParking::new(clock.clone())),
            alive: fine,
            queues: None,
            services: Vec::new(),
            watch: std::future::pending().boxed(),
            looks_first: false,
            broken: CancellationToken::new(),
        }
    }
}

/// Unique at every start: two starts of one host must not take each other's leases for their own.
#[expect(clippy::disallowed_methods, reason = "the process floor is where randomness enters")]
pub(crate) fn process_name() -> String {
    format!("worker-{}-{}", std::process::id(), &uuid::Uuid::new_v4().simple().to_string()[..8])
}
