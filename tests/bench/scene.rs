//! A worker, the floor below it and a loop in Node, one after another on the same servers.

use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;
use tokio::process::Command;
use tokio::time::Instant;

use crate::floor::Orders;
use crate::load::Load;
use crate::meter::{Reading, number};
use crate::recording::{Listening, Recording};
use crate::role::Role;
use crate::stand_in::{StandIn, Upstream};
use crate::support::process_usage::ProcessUsage;
use crate::support::program::WorkerProcess;
use crate::surroundings::{Surroundings, until};

/// Where `tests/bench/run` puts what the loop in Node needs.
const LIBRARIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/examples");
const LOOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/loop.mjs");

/// Who does the jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Worker,
    Floor,
    Node,
}

impl Who {
    /// The loop in Node only where there is a Node.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self::Worker, Self::Floor];
        let node = std::process::Command::new("node").arg("--version").output().is_ok();
        if node && Path::new(LIBRARIES).join("node_modules/amqplib").exists() {
            all.push(Self::Node);
        }
        all
    }
}

/// All that they need.
pub(crate) struct Scene {
    /// Ends before its broker does.
    pub(crate) load: Load,
    pub(crate) surroundings: Surroundings,
    pub(crate) stand_in: StandIn,
    concurrency: u16,
    recording: Option<Recording>,
    folder: tempfile::TempDir,
}

/// One of them at work.
pub(crate) enum Contender {
    Worker(Box<WorkerProcess>),
    Other(Box<Role>),
}

impl Contender {
    pub(crate) fn process(&self) -> u32 {
        match self {
            Self::Worker(worker) => worker.running.process(),
            Self::Other(role) => role.process(),
        }
    }

    pub(crate) async fn stop(self) {
        match self {
            Self::Worker(worker) => drop(worker.stop().await),
            Self::Other(role) => role.stop().await,
        }
    }
}

/// What some jobs cost, each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Milliseconds of processor time of who did them.
    pub(crate) processor: f64,
    /// The same of Scalekit and the model.
    pub(crate) stand_in: f64,
    pub(crate) broker: f64,
    pub(crate) redis: f64,
    pub(crate) jobs_a_second: f64,
    /// Requests to Scalekit and the model.
    pub(crate) requests: f64,
    pub(crate) request_bytes: f64,
    pub(crate) redis_commands: f64,
    pub(crate) redis_input_bytes: f64,
    /// The most memory of the process so far, in MiB.
    pub(crate) peak: f64,
}

impl Scene {
    /// `users`: see [`Load`].
    pub(crate) async fn start(upstream: Upstream, users: Option<u64>, concurrency: u16) -> Self {
        let surroundings = Surroundings::start(true).await;
        let stand_in = StandIn::start(upstream).await;
        let load = Load::start(&surroundings, users).await;
        Self { surroundings, stand_in, load, concurrency, recording: None, folder: tempfile::tempdir().unwrap() }
    }

    /// Starts one of them. The worker comes first: it makes the queues, and what it does is what the floor repeats.
    pub(crate) async fn begin(&self, who: Who) -> Contender {
        match who {
            Who::Worker => Contender::Worker(Box::new(self.worker().await)),
            Who::Floor => Contender::Other(Box::new(self.floor().await)),
            Who::Node => Contender::Other(Box::new(self.node().await)),
        }
    }

    async fn worker(&self) -> WorkerProcess {
        // All else as it is by default, the lines of the log too.
        let program = self.surroundings.program(&[("WORKER__CONCURRENCY", &self.concurrency.to_string())]);
        let model = format!("{}/v1", self.stand_in.url);
        program.set("SCALEKIT_ENV_URL", &self.stand_in.url).set("OPENAI_BASE_URL", &model).worker().await
    }

    async fn floor(&self) -> Role {
        let surroundings = &self.surroundings;
        let orders = Orders {
            amqp_url: surroundings.amqp.url.expose_secret().to_owned(),
            queue: self.queue(),
            concurrency: self.concurrency,
            redis_url: surroundings.redis.url(),
            upstream_url: self.stand_in.url.clone(),
            recording: self.recording.clone().expect("the worker came first"),
        };
        let file = self.folder.path().join("floor.json");
        std::fs::write(&file, serde_json::to_vec(&orders).unwrap()).unwrap();
        Role::of_this_program(&["floor", file.to_str().unwrap()]).await
    }

    async fn node(&self) -> Role {
        // Node looks for libraries beside the program only.
        let copy = PathBuf::from(LIBRARIES).join("loop.mjs");
        std::fs::copy(LOOP, &copy).unwrap();
        let mut command = Command::new("node");
        command.arg(copy).env("AMQP_URL", self.surroundings.amqp.url.expose_secret()).env("QUEUE", self.queue());
        command.env("CONCURRENCY", self.concurrency.to_string()).env("UPSTREAM_URL", &self.stand_in.url);
        Role::start(&mut command).await
    }

    fn queue(&self) -> String {
        format!("{}.jobs", self.surroundings.amqp.prefix)
    }

    /// Keeps what the worker, which has done jobs before and has nothing to do now, sends for one more.
    pub(crate) async fn record(&mut self, worker: &Contender) -> &Recording {
        let Contender::Worker(worker) = worker else { panic!("only the worker is recorded") };
        // What it was told of an account counts for a second.
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let redis = &self.surroundings.redis;
        let listening = Listening::to(redis).await;
        self.stand_in.record().await;
        let ids = self.load.hand_over(&self.surroundings, 1).await;
        let reply = self.load.answered(&ids).await;
        let id = &ids[0];
        // The last thing that it does but the ack.
        let is_end = |line: &String| line.contains("\"job ended\"") && line.contains(id);
        until("the job ends", async || worker.running.log().iter().any(is_end)).await;
        let (redis, calls) = (listening.end(redis).await, self.stand_in.recorded().await);
        self.recording.insert(Recording::new(id, reply, redis, calls))
    }

    pub(crate) fn recording(&self) -> Option<&Recording> {
        self.recording.as_ref()
    }

    /// Has it do so many jobs, and gives what each cost.
    pub(crate) async fn measure(&self, contender: &Contender, jobs: u64) -> Cost {
        let before = self.reading(contender).await;
        let began = Instant::now();
        let ids = self.load.hand_over(&self.surroundings, jobs).await;
        self.load.answered(&ids).await;
        let seconds = began.elapsed().as_secs_f64();
        before.until(&self.reading(contender).await, jobs, seconds)
    }

    pub(crate) async fn reading(&self, contender: &Contender) -> Snapshot {
        let servers = Reading::of(&self.surroundings, &[contender.process()]);
        let figures = self.stand_in.figures().await;
        Snapshot {
            servers,
            stand_in: ProcessUsage::by(self.stand_in.process()).processor.as_secs_f64(),
            requests: number(figures.requests.values().sum()),
            request_bytes: number(figures.bytes),
            redis_input_bytes: self.surroundings.redis_figure("total_net_input_bytes"),
            peak: number(ProcessUsage::peak(contender.process())) / 1024.0,
        }
    }
}

/// What had been used at a moment.
pub(crate) struct Snapshot {
    servers: Reading,
    stand_in: f64,
    requests: f64,
    request_bytes: f64,
    redis_input_bytes: f64,
    peak: f64,
}

impl Snapshot {
    pub(crate) fn until(&self, later: &Self, jobs: u64, seconds: f64) -> Cost {
        let servers = self.servers.until(&later.servers, jobs);
        let each = |from: f64, to: f64| (to - from) / number(jobs);
        Cost {
            processor: servers.workers,
            stand_in: each(self.stand_in, later.stand_in) * 1000.0,
            broker: servers.broker,
            redis: servers.redis,
            jobs_a_second: number(jobs) / seconds,
            requests: each(self.requests, later.requests),
            request_bytes: each(self.request_bytes, later.request_bytes),
            redis_commands: servers.redis_commands,
            redis_input_bytes: each(self.redis_input_bytes, later.redis_input_bytes),
            peak: later.peak,
        }
    }
}

/// The middle one of several, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}
