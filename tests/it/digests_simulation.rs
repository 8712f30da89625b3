//! A thousand days with three schedulers, each a process of its own, that are killed in the middle of their work, whose
//! clocks are set, and whose Redis is killed and restarted: each recipient gets each occurrence once.
//!
//! Nothing waits for the days: a replica's clock stands where the test puts it before each look. Jobs go to a file, each by
//! one write that appends: what was written survives the kill of its writer, as a message does that the broker has, and it
//! costs microseconds where thousands of confirms would cost minutes. What a broker does is asked of a real one elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentkit_worker::clock::ManualClock;
use agentkit_worker::digest_store::DigestStore;
use agentkit_worker::digest_store::redis::RedisDigestStore;
use agentkit_worker::queue::{Destination, Message, Published, Publisher, QueueError};
use agentkit_worker::redis_client::{Config, RedisClient};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::digests::{Chance, daily, digest, instant, oracle, scheduler};
use crate::support::redis::Redis;
use crate::support::soon;

const MORNING: &str = r#"
name = "morning"
cron = "0 9 * * *"
timezone = "UTC"
missed = "all"
overlap = "queue"
missed_window = "48h"
prompt = "since {{since}}"
connections = ["gmail"]
[recipients]
list = [
    { identifier = "utc" },
    { identifier = "berlin", timezone = "Europe/Berlin", time = "02:30" },
    { identifier = "new_york", timezone = "America/New_York", time = "01:30" },
    { identifier = "lord_howe", timezone = "Australia/Lord_Howe", time = "02:15" },
    { identifier = "santiago", timezone = "America/Santiago", time = "00:00" },
    { identifier = "kathmandu", timezone = "Asia/Kathmandu", time = "05:45" },
]
"#;
const NIGHT: &str = r#"
name = "night"
cron = "*/30 1-3 * * *"
timezone = "Europe/Berlin"
missed = "all"
overlap = "queue"
missed_window = "48h"
prompt = "p"
connections = ["gmail"]
[recipients]
list = [{ identifier = "a" }, { identifier = "b" }]
"#;
const EVENING: &str = r#"
name = "evening"
cron = "0 18 * * *"
timezone = "America/New_York"
spread = "6h"
missed = "all"
overlap = "queue"
missed_window = "48h"
prompt = "p"
connections = ["gmail"]
[recipients]
list = [{ identifier = "c" }, { identifier = "d" }, { identifier = "e" }]
"#;
const RECIPIENTS: [(&str, &str, &str, &[i64]); 11] = [
    ("morning", "utc", "UTC", &[540]),
    ("morning", "berlin", "Europe/Berlin", &[150]),
    ("morning", "new_york", "America/New_York", &[90]),
    ("morning", "lord_howe", "Australia/Lord_Howe", &[135]),
    ("morning", "santiago", "America/Santiago", &[0]),
    ("morning", "kathmandu", "Asia/Kathmandu", &[345]),
    ("night", "a", "Europe/Berlin", &[60, 90, 120, 150, 180, 210]),
    ("night", "b", "Europe/Berlin", &[60, 90, 120, 150, 180, 210]),
    ("evening", "c", "America/New_York", &[1080]),
    ("evening", "d", "America/New_York", &[1080]),
    ("evening", "e", "America/New_York", &[1080]),
];
/// Clocks are at most so wrong.
const WRONG: i64 = 3 * 3600;
/// What a killed replica held is free again after this time, by Redis's clock. Days pass in milliseconds here, so the test
/// lets the clocks stand still meanwhile.
const LEASE: Duration = Duration::from_millis(60);
/// A replica that wants to look again within this time (in seconds, by its clock) has unfinished work before it.
const AT_ONCE: i64 = 6;

/// What a replica is told at its start, as one line.
#[derive(Serialize, Deserialize)]
struct Orders {
    owner: String,
    redis: String,
    jobs: PathBuf,
}

/// Takes jobs for good: a line in a file for each, its id and who published it.
struct Appending {
    owner: String,
    file: File,
}

#[async_trait::async_trait]
impl Publisher for Appending {
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
#[ignore = "run by the test below, three at a time, each in a process of its own"]
async fn a_replica() {
    let mut lines = std::io::stdin().lines().map(Result::unwrap);
    let orders: Orders = serde_json::from_str(&lines.next().unwrap()).unwrap();
    // A breaker that waits for seconds would hide weeks from the scheduler.
    let impatient = Config { url: orders.redis.into(), breaker_open_milliseconds: 1, ..Config::default() };
    let store: Arc<dyn DigestStore> = Arc::new(RedisDigestStore::new(RedisClient::new(&impatient).unwrap()));
    let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
    let digests = vec![digest(MORNING), digest(NIGHT), digest(EVENING)];
    let mut scheduler = scheduler(&store, &Arc::default(), &clock, &orders.owner, digests);
    let file = File::options().append(true).open(orders.jobs).unwrap();
    scheduler.publisher = Arc::new(Appending { owner: orders.owner, file });
    scheduler.rules.lease = LEASE;
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
struct Process {
    owner: String,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    async fn start(orders: &Orders) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "digests_simulation::a_replica", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let output = BufReader::new(output).lines();
        let mut process = Self { owner: orders.owner.clone(), child, input, output };
        process.tell(&serde_json::to_string(orders).unwrap()).await;
        process.hear("ready").await;
        process
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
    async fn look(&mut self, time: i64, death: impl Future<Output = ()>) -> Option<i64> {
        self.tell(&time.to_string()).await;
        let next = tokio::select! {
            biased;
            next = self.hear("next ") => next,
            () = death => return None,
        };
        Some(next.parse::<i64>().unwrap().saturating_sub(time))
    }
}

struct Replica {
    process: Process,
    wrong_by: i64,
    asleep_until: i64,
}

struct World {
    redis: Redis,
    folder: TempDir,
    replicas: Vec<Replica>,
    chance: Chance,
    starts: u32,
    restarts: u32,
    /// Who was killed in the middle of a look, and how long the file was when the look began.
    killed: BTreeMap<String, u64>,
    /// Parts of the file that were written while Redis was killed, or by a look that outlasted its lease.
    disturbed: Vec<Range<u64>>,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("jobs")).unwrap();
        // Written before it is answered, without a flush that a write may have to wait for: a killed server (unlike a
        // machine without power) then knows all that it answered. With `everysec` it may lose two seconds, months here.
        let redis = Redis::start_with(&["--appendfsync", "no"]).await;
        let chance = Chance(0x5eed_0000_0000_0001);
        let (killed, disturbed) = (BTreeMap::new(), Vec::new());
        let replicas = Vec::new();
        let mut world = Self { redis, folder, replicas, chance, starts: 0, restarts: 0, killed, disturbed };
        for _ in 0..3 {
            let process = world.start().await;
            world.replicas.push(Replica { process, wrong_by: 0, asleep_until: 0 });
        }
        world
    }

    fn jobs(&self) -> PathBuf {
        self.folder.path().join("jobs")
    }

    async fn start(&mut self) -> Process {
        self.starts += 1;
        let owner = format!("start-{}", self.starts);
        Process::start(&Orders { owner, redis: self.redis.url(), jobs: self.jobs() }).await
    }

    /// What befalls the replicas between two looks.
    fn disturb(&mut self, now: i64) {
        for replica in &mut self.replicas {
            match self.chance.below(70) {
                0 | 1 => replica.wrong_by = i64::try_from(self.chance.below(2 * WRONG.unsigned_abs())).unwrap() - WRONG,
                2..=4 => replica.wrong_by = 0,
                5 => replica.asleep_until = now + i64::try_from(self.chance.below(20 * 3600)).unwrap(),
                _ => {}
            }
        }
    }

    /// Everybody who is awake looks, at the same time; now and then one of them is killed at some moment of its look, or
    /// Redis is. Answers whether somebody has unfinished work.
    async fn go(&mut self, now: i64) -> bool {
        let moments = Moment::choose(&mut self.chance);
        let outage = (self.chance.below(200) == 0).then(|| Duration::from_micros(self.chance.below(6000)));
        let before = length(&self.jobs());
        let (jobs, began) = (self.jobs(), Instant::now());
        let looks = self.replicas.iter_mut().zip(moments).map(|(replica, moment)| {
            let death = moment.comes(&jobs, before, began, replica.process.owner.clone());
            async move {
                if replica.asleep_until > now {
                    return Some(i64::MAX);
                }
                replica.process.look(now + replica.wrong_by, death).await
            }
        });
        let looks = futures_util::future::join_all(looks);
        let redis = &mut self.redis;
        let outages = async {
            if let Some(wait) = outage {
                until(began + wait).await;
                redis.kill();
                redis.restart().await;
            }
        };
        let (nexts, ()) = tokio::join!(looks, outages);
        self.restarts += u32::from(outage.is_some());
        if outage.is_some() || began.elapsed() > LEASE {
            self.disturbed.push(before..length(&self.jobs()));
        }
        for (index, _) in nexts.iter().enumerate().filter(|(_, next)| next.is_none()) {
            let process = &mut self.replicas[index].process;
            process.child.kill().await.unwrap();
            self.killed.insert(process.owner.clone(), before);
            self.replicas[index].process = self.start().await;
        }
        nexts.iter().any(|next| next.is_none_or(|next| next <= AT_ONCE))
    }

    /// Exactly the occurrences of the oracle, and each job published once, but for those whose publisher was killed, or
    /// lost its Redis, before it could note them.
    fn judge(&self, from: Timestamp, until: Timestamp) {
        let horizon = until + SignedDuration::from_secs(8 * 3600 + WRONG);
        let mut expected: BTreeMap<String, Timestamp> = BTreeMap::new();
        for (digest, recipient, zone, minutes) in RECIPIENTS {
            for (at, wall) in oracle(zone, from, horizon, daily(minutes)) {
                assert!(expected.insert(format!("digest:{digest}:{recipient}:{wall}"), at).is_none());
            }
        }
        let text = std::fs::read_to_string(self.jobs()).unwrap();
        let mut jobs: BTreeMap<&str, Vec<(u64, &str)>> = BTreeMap::new();
        let mut place = 0;
        for line in text.lines() {
            let (id, owner) = line.split_once(' ').unwrap();
            jobs.entry(id).or_default().push((place, owner));
            place += line.len() as u64 + 1;
        }
        let due: BTreeSet<&String> = expected.iter().filter(|(_, at)| **at <= until).map(|(id, _)| id).collect();
        let missing: Vec<_> = due.iter().filter(|id| !jobs.contains_key(id.as_str())).collect();
        assert!(missing.is_empty(), "{} never came: {:?}", missing.len(), &missing[..missing.len().min(5)]);
        let wrong: Vec<_> = jobs.keys().filter(|id| !expected.contains_key(**id)).collect();
        assert!(wrong.is_empty(), "{} were never due: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
        let (mut by_kills, mut by_outages) = (0, 0);
        for (id, copies) in &jobs {
            for (place, owner) in &copies[..copies.len() - 1] {
                if self.killed.get(*owner).is_some_and(|begin| begin <= place) {
                    by_kills += 1;
                } else {
                    let disturbed = self.disturbed.iter().any(|part| part.contains(place));
                    assert!(disturbed, "{id} was published again without a reason: {copies:?}");
                    by_outages += 1;
                }
            }
        }
        let (kills, restarts) = (self.killed.len(), self.restarts);
        println!(
            "{} occurrences; {kills} kills in mid-look, {restarts} restarts of redis; published again under the same id: \
             {by_kills} after kills, {by_outages} after outages or outlasted leases",
            due.len()
        );
        assert!(kills > 60 && restarts > 10 && by_kills > 0, "too little happened");
    }
}

/// When a replica dies.
#[derive(Clone, Copy)]
enum Moment {
    Never,
    /// So long after the beginning of its look.
    After(Duration),
    /// As soon as it has published so many jobs in this look.
    Published(usize),
}

impl Moment {
    /// For each replica.
    fn choose(chance: &mut Chance) -> [Self; 3] {
        let mut moments = [Self::Never; 3];
        match chance.below(70) {
            0 => {
                let victim = usize::try_from(chance.below(3)).unwrap();
                moments[victim] = Self::After(Duration::from_micros(chance.below(8000)));
            }
            1 | 2 => moments = [Self::Published(1 + usize::try_from(chance.below(3)).unwrap()); 3],
            _ => {}
        }
        moments
    }

    async fn comes(self, jobs: &Path, before: u64, began: Instant, owner: String) {
        match self {
            Self::Never => std::future::pending().await,
            Self::After(wait) => until(began + wait).await,
            Self::Published(count) => {
                let mut seen = before;
                loop {
                    let now = length(jobs);
                    if now > seen {
                        let text = std::fs::read_to_string(jobs).unwrap();
                        let new = text.get(usize::try_from(before).unwrap()..).unwrap();
                        if new.lines().filter(|line| line.ends_with(&format!(" {owner}"))).count() >= count {
                            return;
                        }
                    }
                    seen = now;
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

/// To the microsecond, which timers are not.
async fn until(moment: Instant) {
    while Instant::now() < moment {
        tokio::task::yield_now().await;
    }
}

fn length(file: &Path) -> u64 {
    std::fs::metadata(file).unwrap().len()
}

#[tokio::test]
async fn each_recipient_gets_each_of_a_thousand_days_once() {
    let began = Instant::now();
    // They begin before Redis's own clock and end after it (while that shows 2026 or 2027), as marks are aged by both.
    let start = instant("2025-09-01T12:00:00Z");
    let end = start + SignedDuration::from_hours(24 * 1000);
    let mut world = World::new().await;
    let mut now = start.as_second();
    let mut looks = 0_u32;
    while now < end.as_second() {
        let unfinished = world.go(now).await;
        looks += 1;
        now += match unfinished {
            true => 1,
            false => {
                world.disturb(now);
                1200 + i64::try_from(world.chance.below(48_000)).unwrap()
            }
        };
    }
    // Clocks are right again, the last window is over, and everybody looks until nobody finds anything.
    for replica in &mut world.replicas {
        (replica.wrong_by, replica.asleep_until) = (0, 0);
    }
    let mut now = end.as_second() + 8 * 3600;
    soon("nothing is left to do", async {
        while world.go(now).await {
            now += 1;
        }
    })
    .await;
    println!("{looks} looks of three in {:?}", began.elapsed());
    world.judge(start, end);
}
