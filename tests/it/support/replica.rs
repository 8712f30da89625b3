//! A scheduler that is a process of its own, so that it can be killed as the kernel kills: in the middle of anything.
//!
//! Its clock stands where the test puts it before each look. Its jobs go to a file, each by one write that appends: what was
//! written survives the kill of its writer, as a message does that the broker has, and it costs microseconds where
//! thousands of confirms would cost minutes. What a broker does is asked of a real one elsewhere.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentkit_worker::internals::clock::ManualClock;
use agentkit_worker::internals::digest_store::DigestStore;
use agentkit_worker::internals::digest_store::redis::RedisDigestStore;
use agentkit_worker::internals::queue::{Destination, Message, Published, Publisher, QueueError};
use agentkit_worker::internals::redis_client::{Config, RedisClient};
use agentkit_worker::internals::schedule::digest::load;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::schedulers::scheduler;
use super::soon;

/// What a replica is told at its start, as one line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReplicaOrders {
    pub(crate) owner: String,
    pub(crate) redis: String,
    /// A directory of definitions.
    pub(crate) digests: PathBuf,
    /// The file that jobs go to: a line for each, its id and who published it.
    pub(crate) jobs: PathBuf,
    pub(crate) lease: Duration,
}

struct AppendingPublisher {
    owner: String,
    file: File,
}

#[async_trait::async_trait]
impl Publisher for AppendingPublisher {
    async fn publish(&self, _: &Destination, message: Message) -> Result<Published, QueueError> {
        let line = format!("{} {}\n", message.properties.message_id.unwrap(), self.owner);
        assert_eq!(
            (&self.file).write(line.as_bytes()).unwrap(),
            line.len(),
            "one write, so that a kill leaves no half"
        );
        Ok(Published::Routed)
    }
}

#[tokio::test]
#[ignore = "run by other tests, in a process of its own"]
async fn process() {
    let mut lines = std::io::stdin().lines().map(Result::unwrap);
    let orders: ReplicaOrders = serde_json::from_str(&lines.next().unwrap()).unwrap();
    // A breaker that waits for seconds would hide weeks from the scheduler.
    let impatient = Config { url: orders.redis.into(), breaker_open_milliseconds: 1, ..Config::default() };
    let store: Arc<dyn DigestStore> = Arc::new(RedisDigestStore::new(RedisClient::new(&impatient).unwrap()));
    let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
    let digests = load(&orders.digests).unwrap();
    let mut scheduler = scheduler(&store, &Arc::default(), &clock, &orders.owner, digests);
    let file = File::options().append(true).open(orders.jobs).unwrap();
    scheduler.publisher = Arc::new(AppendingPublisher { owner: orders.owner, file });
    scheduler.rules.lease = orders.lease;
    // On a line of its own, behind what the test harness has begun.
    say("\nready");
    // Ends with its input, so also where the test that feeds it is killed.
    for line in lines {
        clock.set(Timestamp::from_second(line.parse().unwrap()).unwrap());
        let next = scheduler.step().await;
        say(&format!("next {}", next.as_second()));
    }
}

fn say(line: &str) {
    let mut output = std::io::stdout();
    writeln!(output, "{line}").unwrap();
    output.flush().unwrap();
}

/// A replica's process. It is killed with its handle.
pub(crate) struct Replica {
    pub(crate) owner: String,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Replica {
    pub(crate) async fn start(orders: &ReplicaOrders) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "support::replica::process", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut replica = Self { owner: orders.owner.clone(), child, input, output: BufReader::new(output).lines() };
        replica.tell(&serde_json::to_string(orders).unwrap()).await;
        replica.hear("ready").await;
        replica
    }

    async fn tell(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// The rest of the next line that begins like this.
    async fn hear(&mut self, start: &str) -> String {
        loop {
            let line = soon("a replica's answer", self.output.next_line()).await.unwrap();
            let line = line.unwrap_or_else(|| panic!("{} ended by itself", self.owner));
            if let Some(rest) = line.strip_prefix(start) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Lets it look at `time`; answers in how many seconds it wants to look again, `None` where the moment of its death came
    /// first.
    pub(crate) async fn look(&mut self, time: i64, death: impl Future<Output = ()>) -> Option<i64> {
        self.tell(&time.to_string()).await;
        let next = tokio::select! {
            biased;
            next = self.hear("next ") => next,
            () = death => return None,
        };
        Some(next.parse::<i64>().unwrap().saturating_sub(time))
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id().expect("it runs")
    }
}

/// The moment, to the microsecond, which timers are not.
pub(crate) async fn at(moment: Instant) {
    while Instant::now() < moment {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn length(file: &Path) -> u64 {
    std::fs::metadata(file).unwrap().len()
}
