//! A broker, a Redis and stand-ins of their own, and how jobs are handed over.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::internals::clock::SystemClock;
use agentkit_worker::internals::queue::amqp::{AmqpPublisher, AmqpQueue, Config as Amqp};
use agentkit_worker::internals::queue::{Destination, Message, Properties, Publisher};
use agentkit_worker::internals::sandbox::SandboxOptions;
use futures_util::StreamExt;
use serde_json::Value;

use crate::replies::ReplyCollector;
use crate::support::broker::Broker;
use crate::support::program::{Program, WorkerProcess};
use crate::support::redis::Redis;
use crate::support::sandbox_peer::SandboxPeer;

/// Callers that publish at the same time.
pub(crate) const CALLERS: usize = 64;
const LONGEST: Duration = Duration::from_secs(1200);

/// All that a worker needs.
pub(crate) struct Surroundings {
    pub(crate) broker: Broker,
    pub(crate) broker_process: u32,
    /// Where the broker keeps its data.
    pub(crate) broker_data: PathBuf,
    pub(crate) redis: Redis,
    pub(crate) peer: SandboxPeer,
    pub(crate) amqp: Amqp,
    pub(crate) replies: ReplyCollector,
    pub(crate) publisher: Arc<AmqpPublisher>,
    reply_to: String,
}

impl Surroundings {
    /// Users' accounts are active, or do not exist yet.
    pub(crate) async fn start(active: bool) -> Self {
        let (broker, redis) = (Broker::start_own().await, Redis::start().await);
        let broker_process = asked(&broker, "os:getpid()").await.parse().unwrap();
        let broker_data = PathBuf::from(asked(&broker, "os:getenv(\"RABBITMQ_MNESIA_BASE\")").await);
        let peer = SandboxPeer::start_with(|options: &mut SandboxOptions| {
            options.initial_status = active.then(|| "ACTIVE".to_owned());
            options.clock = Arc::new(SystemClock);
        })
        .await;
        let amqp = Amqp { publish_channels: 64, ..broker.config() };
        let reply_to = format!("{}.caller", amqp.prefix);
        let replies = ReplyCollector::start(broker.url(), &reply_to).await;
        let publisher = AmqpQueue::connect(amqp.clone()).await.unwrap().publisher();
        Self { broker, broker_process, broker_data, redis, peer, amqp, replies, publisher, reply_to }
    }

    /// The program with these settings, `SECTION__KEY` and value.
    pub(crate) fn program(&self, settings: &[(&str, &str)]) -> Program {
        // All else as it is by default, the lines of the log too.
        let program = Program::of_service(&self.peer.sandbox, &self.amqp, &self.redis.url());
        settings.iter().fold(program, |program, (name, value)| program.set(&format!("AGENTKIT_WORKER__{name}"), value))
    }

    /// Hands over all jobs, each confirmed.
    pub(crate) async fn publish(&self, jobs: impl Iterator<Item = Value>) {
        let publish = async |job: Value| {
            let properties = Properties {
                message_id: job["id"].as_str().map(str::to_owned),
                reply_to: Some(self.reply_to.clone()),
                ..Properties::default()
            };
            let message = Message { body: job.to_string().into(), properties };
            self.publisher.publish(&Destination::Jobs, message).await.unwrap();
        };
        futures_util::stream::iter(jobs).for_each_concurrent(CALLERS, publish).await;
    }

    /// A number of Redis' own `INFO`.
    pub(crate) fn redis_figure(&self, name: &str) -> f64 {
        let info = self.redis.command(&["INFO", "everything"]);
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.trim().parse().unwrap()
    }
}

/// The text that an Erlang expression gives in the broker.
async fn asked(broker: &Broker, expression: &str) -> String {
    broker.control(&["eval", &format!("{expression}.")]).await.trim().trim_matches('"').to_owned()
}

/// Waits for what a slow machine may need long for.
pub(crate) async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !reached().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONGEST, wait).await.unwrap_or_else(|_| panic!("{what}: not within {LONGEST:?}"));
}

/// Processes of workers.
pub(crate) fn processes(workers: &[WorkerProcess]) -> Vec<u32> {
    workers.iter().map(|worker| worker.running.process()).collect()
}
