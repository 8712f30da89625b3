//! Everything that is deployed, broker, Redis, stand-ins, proxies and workers, and what can happen to it.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::internals::agent::event::{Entry, Event};
use agentkit_worker::internals::journal::Journal;
use agentkit_worker::internals::journal::redis::RedisJournal;
use agentkit_worker::internals::queue::amqp::{AmqpQueue, Config as Amqp};
use agentkit_worker::internals::redis_client::{Config as RedisConfig, RedisClient};
use agentkit_worker::job::JobId;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::forgetting;
use crate::jobs::{Accepted, Sender};
use crate::random::Random;
use crate::replies::ReplyCollector;
use crate::support::broker::Broker;
use crate::support::program::{Program, RunningProgram};
use crate::support::proxy::Proxy;
use crate::support::redis::Redis;
use crate::support::sandbox_peer::SandboxPeer;

const WORKERS: usize = 3;
/// Of the workers' leases.
const LEASE: Duration = Duration::from_secs(3);

/// Waits and bounds are short, so that much happens; a job may meet more accidents than it would in years.
const SETTINGS: [(&str, &str); 25] = [
    ("WORKER__CONCURRENCY", "8"),
    ("WORKER__LEASE_SECONDS", "3"),
    ("WORKER__GRACE_SECONDS", "8"),
    ("WORKER__DRAIN_TOOL_SECONDS", "2"),
    ("WORKER__TRANSIENT__ATTEMPTS", "100"),
    ("WORKER__TRANSIENT__INITIAL_MILLISECONDS", "200"),
    ("WORKER__TRANSIENT__MAX_MILLISECONDS", "2000"),
    ("AUTHORIZATION__POLL_SECONDS", "1"),
    ("AUTHORIZATION__POLL_SECONDS_AT_MOST", "2"),
    ("AMQP__HEARTBEAT_SECONDS", "2"),
    ("AMQP__CONNECT_ATTEMPTS", "1000"),
    ("AMQP__CONNECT_TIMEOUT_MILLISECONDS", "2000"),
    ("AMQP__RECONNECT_MAX_MILLISECONDS", "1000"),
    ("AMQP__PUBLISH_TIMEOUT_MILLISECONDS", "3000"),
    ("REDIS__BREAKER_OPEN_MILLISECONDS", "1000"),
    ("SCALEKIT__CONTROL_TIMEOUT_MILLISECONDS", "2000"),
    ("SCALEKIT__TOOL_TIMEOUT_MILLISECONDS", "2000"),
    ("SCALEKIT__CONTROL_RETRY__INITIAL_MILLISECONDS", "100"),
    ("SCALEKIT__CONTROL_RETRY__MAX_MILLISECONDS", "500"),
    ("SCALEKIT__TOOL_RETRY__INITIAL_MILLISECONDS", "100"),
    ("SCALEKIT__TOOL_RETRY__MAX_MILLISECONDS", "500"),
    ("MODEL__TIMEOUT_SECONDS", "3"),
    ("MODEL__RETRY__INITIAL_MILLISECONDS", "100"),
    ("MODEL__RETRY__MAX_MILLISECONDS", "500"),
    ("JOB__AUTHORIZATION_WAIT_SECONDS", "600"),
];

/// What can happen.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Accident {
    WorkerKilled,
    /// For longer than its lease.
    WorkerPaused,
    WorkerStopped,
    BrokerKilled,
    BrokerRestarted,
    BrokerCut,
    BrokerFrozen,
    /// Short of memory: it takes no messages.
    BrokerBlocked,
    RedisKilled,
    RedisCut,
    RedisFrozen,
    /// Loses the last of what it had acknowledged, as in a power cut.
    RedisTailLost,
    /// Goes on with what a lagging replica had.
    RedisFailedOver,
    /// Loses everything.
    RedisEmptied,
    /// A job that its workers die with, while the others are in long model calls.
    Poison,
}

/// What the world may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum World {
    /// Things die, hang and come back with all that they had acknowledged.
    Faithful,
    /// Redis loses acknowledged writes, and two of three workers have clocks that are hours off.
    Forgetful,
}

impl World {
    /// One of each; workers are the most likely to suffer.
    pub(crate) fn deck(self) -> Vec<Accident> {
        match self {
            Self::Faithful => Accident::DECK.to_vec(),
            Self::Forgetful => Accident::FORGETFUL_DECK.to_vec(),
        }
    }
}

impl Accident {
    const FORGETFUL_DECK: [Self; 12] = [
        Self::WorkerKilled,
        Self::WorkerKilled,
        Self::WorkerPaused,
        Self::WorkerStopped,
        Self::BrokerKilled,
        Self::BrokerCut,
        Self::RedisTailLost,
        Self::RedisTailLost,
        Self::RedisFailedOver,
        Self::RedisFailedOver,
        Self::RedisEmptied,
        Self::Poison,
    ];
    const DECK: [Self; 15] = [
        Self::WorkerKilled,
        Self::WorkerKilled,
        Self::WorkerKilled,
        Self::WorkerPaused,
        Self::WorkerStopped,
        Self::WorkerStopped,
        Self::BrokerKilled,
        Self::BrokerRestarted,
        Self::BrokerCut,
        Self::BrokerCut,
        Self::BrokerFrozen,
        Self::BrokerBlocked,
        Self::RedisKilled,
        Self::RedisCut,
        Self::RedisFrozen,
    ];
}

/// All of it; workers reach broker and Redis through proxies, so that their connections can be cut.
pub(crate) struct Deployment {
    pub(crate) broker: Broker,
    pub(crate) redis: Redis,
    pub(crate) peer: Arc<SandboxPeer>,
    pub(crate) amqp: Amqp,
    pub(crate) replies: ReplyCollector,
    broker_proxy: Proxy,
    redis_proxy: Proxy,
    program: Program,
    world: World,
    workers: Vec<RunningProgram>,
    /// Jobs that workers died with, and how many.
    pub(crate) poisonous: Vec<(Accepted, u32)>,
    /// Workers that ended without having been told to.
    pub(crate) deserters: u64,
    logs: TempDir,
    began: Instant,
}

impl Deployment {
    pub(crate) async fn start(world: World) -> Self {
        let (broker, redis) = (Broker::start_own().await, Redis::start().await);
        let peer = SandboxPeer::with_active_accounts_in_real_time().await;
        let amqp = broker.config();
        let broker_proxy = Proxy::to(broker.address()).await;
        let redis_url = redis.config().url;
        let redis_proxy = Proxy::to(redis_url.expose_secret().trim_start_matches("redis://")).await;
        let proxied = Amqp { url: format!("amqp://guest:guest@{}", broker_proxy.address()).into(), ..amqp.clone() };
        let mut program = Program::of_service(&peer.sandbox, &proxied, &format!("redis://{}", redis_proxy.address()));
        for (name, value) in SETTINGS {
            program = program.set(&format!("AGENTKIT_WORKER__{name}"), value);
        }
        let replies = ReplyCollector::start(broker.url(), &format!("{}.caller", amqp.prefix)).await;
        let mut deployment = Self {
            workers: Vec::new(),
            poisonous: Vec::new(),
            world,
            peer: Arc::new(peer),
            deserters: 0,
            logs: tempfile::tempdir().unwrap(),
            began: Instant::now(),
            broker,
            redis,
            amqp,
            replies,
            broker_proxy,
            redis_proxy,
            program,
        };
        deployment.workers = (0..WORKERS).map(|number| deployment.start_worker(number)).collect();
        deployment.order_faults(&[]).await;
        // A queue younger than a second does not survive the death of its only node (measured on 3.10 and 4.0).
        sleep(Duration::from_secs(3)).await;
        deployment.began = Instant::now();
        deployment
    }

    /// Hands jobs over on a connection that no accident but the broker's own touches.
    pub(crate) async fn sender(&self) -> Sender {
        let config = Amqp { publish_timeout_milliseconds: 3000, reconnect_max_milliseconds: 1000, ..self.amqp.clone() };
        Sender {
            publisher: AmqpQueue::connect(config).await.unwrap().publisher(),
            peer: Arc::clone(&self.peer),
            reply_to: format!("{}.caller", self.amqp.prefix),
        }
    }

    /// Makes something happen, and undoes it as the world would.
    pub(crate) async fn suffer(&mut self, accident: Accident, random: &mut Random) {
        let number = usize::try_from(random.below(WORKERS as u64)).unwrap();
        let long = Duration::from_millis(2000 + random.below(2000));
        match accident {
            Accident::WorkerKilled => {
                self.say(&format!("worker {number} is killed"));
                self.workers[number].signal("KILL");
                self.replace(number);
            }
            Accident::WorkerPaused => {
                let pause = LEASE + long;
                self.say(&format!("worker {number} is paused for {pause:?}"));
                self.workers[number].signal("STOP");
                sleep(pause).await;
                self.workers[number].signal("CONT");
            }
            Accident::WorkerStopped => {
                self.say(&format!("worker {number} is told to stop"));
                self.workers[number].signal("TERM");
                let asked = Instant::now();
                while !self.workers[number].has_ended() {
                    assert!(asked.elapsed() < Duration::from_secs(12), "worker {number} does not stop");
                    sleep(Duration::from_millis(20)).await;
                }
                self.say(&format!("worker {number} has stopped after {:?}", asked.elapsed()));
                self.replace(number);
            }
            Accident::BrokerKilled => {
                self.say("the broker is killed");
                self.broker.kill();
                self.broker.start().await;
                self.say("the broker is back");
            }
            Accident::BrokerRestarted => {
                self.say("the broker is restarted");
                self.broker.stop().await;
                self.broker.start().await;
                self.say("the broker is back");
            }
            Accident::BrokerCut => {
                self.say("all connections to the broker are cut");
                self.broker_proxy.cut();
            }
            Accident::BrokerFrozen => {
                self.say(&format!("the way to the broker is blocked for {long:?}"));
                self.broker_proxy.freeze(true);
                sleep(long).await;
                self.broker_proxy.freeze(false);
            }
            Accident::BrokerBlocked => {
                self.say(&format!("the broker takes no messages for {long:?}"));
                self.broker.control(&["set_vm_memory_high_watermark", "absolute", "1MB"]).await;
                sleep(long).await;
                self.broker.control(&["set_vm_memory_high_watermark", "absolute", "1GB"]).await;
            }
            Accident::RedisKilled => {
                self.say(&format!("Redis is killed, for {long:?}"));
                self.redis.kill();
                sleep(long).await;
                self.redis.restart().await;
            }
            Accident::RedisTailLost => {
                let bytes = 500 + random.below(20_000);
                self.say(&format!("Redis is killed and has lost its last {bytes} bytes"));
                self.redis.kill();
                self.redis.in_folder(|folder| forgetting::lose_the_end(folder, bytes));
                self.redis.restart().await;
            }
            Accident::RedisFailedOver => {
                let (replica, lag) =
                    (self.redis.in_folder(forgetting::replica), Duration::from_millis(300 + random.below(1500)));
                sleep(lag).await;
                self.say(&format!("Redis is killed, and a replica that lags by {lag:?} takes its place"));
                self.redis.kill();
                self.redis.forget();
                forgetting::become_replica(&replica);
                self.redis.restart().await;
            }
            Accident::RedisEmptied => {
                self.say("Redis is emptied");
                self.redis.command(&["FLUSHALL"]);
            }
            Accident::Poison => self.poison().await,
            Accident::RedisCut => {
                self.say("all connections to Redis are cut");
                self.redis_proxy.cut();
            }
            Accident::RedisFrozen => {
                self.say(&format!("the way to Redis is blocked for {long:?}"));
                self.redis_proxy.freeze(true);
                sleep(long).await;
                self.redis_proxy.freeze(false);
            }
        }
        for number in 0..WORKERS {
            if self.workers[number].has_ended() {
                self.say(&format!("worker {number} ended by itself"));
                self.deserters += 1;
                self.replace(number);
            }
        }
    }

    /// A job is sent that every worker dies with at the same step, until it has its reply.
    async fn poison(&mut self) {
        let long_calls = json!({"on": "model", "kind": "delay", "delay_ms": 2000, "times": u32::MAX});
        self.order_faults(&[long_calls]).await;
        let job = self.sender().await.send_poison(self.poisonous.len()).await;
        self.say(&format!("{} is sent: every worker dies with it", job.id));
        let (mut deaths, began) = (0, Instant::now());
        while !self.replies.terminal().contains_key(&job.id) {
            assert!(began.elapsed() < Duration::from_secs(120), "{} is not given up after {deaths} deaths", job.id);
            if let Some(number) = self.asks_the_model(&job).await {
                self.workers[number].signal("KILL");
                self.replace(number);
                deaths += 1;
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.say(&format!("{} was given up after {deaths} deaths", job.id));
        self.order_faults(&[]).await;
        self.poisonous.push((job, deaths));
    }

    /// The worker that waits for the model for this job.
    async fn asks_the_model(&self, job: &Accepted) -> Option<usize> {
        let lines = self.journal().read(&JobId::new(&job.id).unwrap()).await.ok()?;
        let mut entries = lines.iter().map(|line| serde_json::from_str::<Entry>(line).unwrap().event);
        let worker = entries.clone().rev().find_map(|event| match event {
            Event::AttemptStarted { worker, .. } => Some(worker),
            _ => None,
        })?;
        let process: u32 = worker.split('-').nth(1)?.parse().ok()?;
        let asks = entries.next_back() == Some(Event::ModelAsked);
        self.workers.iter().position(|worker| worker.process() == process).filter(|_| asks)
    }

    /// The workers' journal.
    pub(crate) fn journal(&self) -> RedisJournal {
        let config = RedisConfig {
            key_prefix: format!("{}:", self.amqp.prefix),
            response_timeout_milliseconds: 10_000,
            connection_timeout_milliseconds: 10_000,
            ..self.redis.config()
        };
        RedisJournal::new(RedisClient::new(&config).unwrap())
    }

    /// Something goes wrong at Scalekit or at the model.
    pub(crate) async fn trouble_upstream(&self, random: &mut Random) {
        let faults = [
            json!({"on": "model", "kind": "status", "status": 500, "times": 5}),
            json!({"on": "model", "kind": "status", "status": 429, "headers": {"retry-after": "1"}, "times": 3}),
            json!({"on": "model", "kind": "reset", "times": 3}),
            json!({"on": "model", "kind": "commit_then_timeout", "times": 2}),
            json!({"on": "model", "kind": "half_answer", "times": 2}),
            json!({"on": "execute", "kind": "status", "status": 429, "times": 3}),
            json!({"on": "execute", "kind": "reset", "times": 2}),
            json!({"on": "execute", "kind": "commit_then_reset", "times": 2}),
            json!({"on": "execute", "kind": "commit_then_timeout", "times": 2}),
            json!({"on": "execute", "kind": "half_answer", "times": 2}),
            json!({"on": "details", "kind": "status", "status": 503, "times": 4}),
            json!({"on": "scoped", "kind": "status", "status": 502, "html": true, "times": 4}),
        ];
        let fault = random.pick(&faults);
        self.say(&format!("upstream: {fault}"));
        self.order_faults(std::slice::from_ref(fault)).await;
    }

    /// These faults, and always a wait, so that most accidents find runs in the middle of a call.
    pub(crate) async fn order_faults(&self, faults: &[Value]) {
        let wait = |on: &str, wait: u32| json!({"on": on, "kind": "delay", "delay_ms": wait, "times": u32::MAX});
        let faults = [faults, &[wait("model", 300), wait("execute", 300)]].concat();
        let client = &self.peer.client;
        client.delete(format!("{}/faults", self.peer.sandbox.control_url())).send().await.unwrap();
        self.peer.fault(json!(faults)).await;
    }

    /// A line of the story, with the time.
    pub(crate) fn say(&self, text: &str) {
        println!("chaos: {:7.1} s  {text}", self.began.elapsed().as_secs_f64());
    }

    /// A new process in a worker's place; the lines of the old one are kept for the post-mortem.
    fn replace(&mut self, number: usize) {
        let new = self.start_worker(number);
        let old = std::mem::replace(&mut self.workers[number], new);
        keep_log(&self.logs, number, &old);
    }

    fn start_worker(&self, number: usize) -> RunningProgram {
        let wrong = ["+0", "+3h", "-3h"][number];
        match self.world {
            World::Faithful => self.program.start(&["worker"]),
            World::Forgetful => self.program.start_with(&["worker"], &wrong_clock(wrong)),
        }
    }

    /// Keeps the workers' logs where a person can read them.
    pub(crate) fn keep_logs(mut self) {
        for (number, worker) in self.workers.iter().enumerate() {
            keep_log(&self.logs, number, worker);
        }
        self.logs.disable_cleanup(true);
        println!("chaos: the workers' logs are in {}", self.logs.path().display());
    }
}

/// The environment of a process whose wall clock is that much off; `tests/run` installs the library.
fn wrong_clock(by: &str) -> [(&str, String); 3] {
    let libraries = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let library = libraries.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|library| library.exists());
    let library = library.expect("libfaketime").to_string_lossy().into_owned();
    [("LD_PRELOAD", library), ("FAKETIME", by.to_owned()), ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned())]
}

fn keep_log(folder: &TempDir, number: usize, worker: &RunningProgram) {
    let path = folder.path().join(format!("worker-{number}.log"));
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    for line in worker.log() {
        writeln!(file, "{line}").unwrap();
    }
}
