//! A thousand days with three schedulers that are killed, whose clocks are set, and whose store is restarted: each
//! recipient gets each occurrence once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::clock::ManualClock;
use agentkit_worker::digest_store::DigestStore;
use agentkit_worker::digest_store::memory::MemoryDigestStore;
use agentkit_worker::digest_store::redis::RedisDigestStore;
use agentkit_worker::redis_client::{Config, RedisClient};
use agentkit_worker::schedule::Scheduler;
use jiff::{SignedDuration, Timestamp};

use crate::support::digests::{Chance, Counting, Killed, daily, digest, instant, oracle, scheduler};
use crate::support::redis::Redis;

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
const RECIPIENTS: [(&str, &str, &str, &[i64]); 8] = [
    ("morning", "utc", "UTC", &[540]),
    ("morning", "berlin", "Europe/Berlin", &[150]),
    ("morning", "new_york", "America/New_York", &[90]),
    ("morning", "lord_howe", "Australia/Lord_Howe", &[135]),
    ("morning", "santiago", "America/Santiago", &[0]),
    ("morning", "kathmandu", "Asia/Kathmandu", &[345]),
    ("night", "a", "Europe/Berlin", &[60, 90, 120, 150, 180, 210]),
    ("night", "b", "Europe/Berlin", &[60, 90, 120, 150, 180, 210]),
];
/// Clocks are at most so wrong.
const WRONG: i64 = 3 * 3600;

struct Replica {
    clock: Arc<ManualClock>,
    scheduler: Scheduler,
    wrong_by: i64,
    asleep_until: i64,
}

struct World {
    store: Arc<dyn DigestStore>,
    publisher: Arc<Counting>,
    lease: Duration,
    replicas: Vec<Replica>,
    starts: u32,
    kills: u32,
    chance: Chance,
}

impl World {
    fn new(store: Arc<dyn DigestStore>, lease: Duration, start: Timestamp) -> Self {
        let publisher = Arc::new(Counting::default());
        let chance = Chance(0x5eed_0000_0000_0001);
        let mut world = Self { store, publisher, lease, replicas: Vec::new(), starts: 0, kills: 0, chance };
        for _ in 0..3 {
            let clock = Arc::new(ManualClock::new(start));
            let scheduler = world.scheduler(&clock);
            world.replicas.push(Replica { clock, scheduler, wrong_by: 0, asleep_until: 0 });
        }
        world
    }

    /// A process that has just started.
    fn scheduler(&mut self, clock: &Arc<ManualClock>) -> Scheduler {
        self.starts += 1;
        let owner = format!("start {}", self.starts);
        let digests = vec![digest(MORNING), digest(NIGHT)];
        let mut scheduler = scheduler(&self.store, &self.publisher, clock, &owner, digests);
        scheduler.rules.lease = self.lease;
        scheduler
    }

    /// What befalls the replicas between two looks, then their looks.
    async fn go(&mut self, now: i64) {
        for index in 0..self.replicas.len() {
            match self.chance.below(200) {
                0..=3 => {
                    self.replicas[index].wrong_by =
                        i64::try_from(self.chance.below(2 * WRONG.unsigned_abs())).unwrap() - WRONG;
                }
                4..=9 => self.replicas[index].wrong_by = 0,
                10 | 11 => {
                    self.replicas[index].asleep_until = now + i64::try_from(self.chance.below(20 * 3600)).unwrap();
                }
                _ => {}
            }
            let polls =
                if self.chance.below(4) == 0 { u32::try_from(self.chance.below(40)).unwrap() } else { u32::MAX };
            let replica = &self.replicas[index];
            if replica.asleep_until > now {
                continue;
            }
            replica.clock.set(Timestamp::from_second(now + replica.wrong_by).unwrap());
            let step = Killed { future: Box::pin(replica.scheduler.step()), polls };
            if step.await.is_none() {
                self.kills += 1;
                let clock = replica.clock.clone();
                self.replicas[index].scheduler = self.scheduler(&clock);
            }
        }
    }

    /// Exactly the occurrences of the oracle, and each job published once, but for those whose publisher was killed before
    /// it could note them.
    fn judge(&self, from: Timestamp, until: Timestamp) {
        let horizon = until + SignedDuration::from_secs(WRONG + 60);
        let mut expected: BTreeMap<String, Timestamp> = BTreeMap::new();
        for (digest, recipient, zone, minutes) in RECIPIENTS {
            for (at, wall) in oracle(zone, from, horizon, daily(minutes)) {
                assert!(expected.insert(format!("digest:{digest}:{recipient}:{wall}"), at).is_none());
            }
        }
        let jobs = self.publisher.jobs.lock().unwrap();
        let due: BTreeSet<&String> = expected.iter().filter(|(_, at)| **at <= until).map(|(id, _)| id).collect();
        let missing: Vec<_> = due.iter().filter(|id| !jobs.contains_key(**id)).collect();
        assert!(missing.is_empty(), "{} never came: {:?}", missing.len(), &missing[..missing.len().min(5)]);
        let wrong: Vec<_> = jobs.keys().filter(|id| !expected.contains_key(*id)).collect();
        assert!(wrong.is_empty(), "{} were never due: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
        let twice: u32 = jobs.values().map(|(count, _)| count - 1).sum();
        println!("{} occurrences, {} kills, {twice} published again under the same id", due.len(), self.kills);
        // A kill leaves at most one batch without a note: two recipients at most here.
        assert!(twice <= 2 * self.kills, "{twice} of {} kills", self.kills);
        assert!(self.kills > 50, "only {} kills", self.kills);
    }
}

#[tokio::test]
async fn each_recipient_gets_each_of_a_thousand_days_once() {
    let start = instant("2026-01-01T12:00:00Z");
    let until = start + SignedDuration::from_hours(24 * 1000);
    let truth = Arc::new(ManualClock::new(start));
    let store = Arc::new(MemoryDigestStore::new(truth.clone()));
    let mut world = World::new(store, Duration::from_secs(60), start);
    let mut now = start.as_second();
    while now < until.as_second() {
        truth.set(Timestamp::from_second(now).unwrap());
        world.go(now).await;
        now += 300 + i64::try_from(world.chance.below(5400)).unwrap();
    }
    settle(&world, &truth, until.as_second()).await;
    world.judge(start, until);
}

/// Lets everybody look a few times with the right clock, until all leases of the killed are over.
async fn settle(world: &World, truth: &ManualClock, until: i64) {
    for second in 0..5 {
        truth.set(Timestamp::from_second(until + second * 61).unwrap());
        for replica in &world.replicas {
            replica.clock.set(Timestamp::from_second(until).unwrap());
            replica.scheduler.step().await;
        }
    }
}

#[tokio::test]
async fn a_real_store_that_is_killed_and_restarted_loses_and_repeats_nothing() {
    let mut redis = Redis::start().await;
    // Later than the server's own clock, which ages marks.
    let start = instant("2040-01-01T12:00:00Z");
    let until = start + SignedDuration::from_hours(24 * 150);
    // Days pass within milliseconds here: a breaker that waits for seconds would hide weeks from the schedulers.
    let impatient = Config { breaker_open_milliseconds: 1, ..redis.config() };
    let store = Arc::new(RedisDigestStore::new(RedisClient::new(&impatient).unwrap()));
    let mut world = World::new(store, Duration::from_millis(50), start);
    let mut now = start.as_second();
    let mut restarts = 0;
    while now < until.as_second() {
        match world.chance.below(400) {
            0 => {
                // Nobody reaches it for a while; a look fails and does no harm.
                redis.kill();
                world.go(now).await;
                redis.restart().await;
                restarts += 1;
            }
            1..=3 => {
                redis.kill();
                redis.restart().await;
                restarts += 1;
            }
            _ => world.go(now).await,
        }
        now += 300 + i64::try_from(world.chance.below(5400)).unwrap();
    }
    let now = until.as_second();
    let past_all_leases = Duration::from_millis(60);
    for _ in 0..50 {
        for replica in &world.replicas {
            replica.clock.set(Timestamp::from_second(now).unwrap());
            replica.scheduler.step().await;
        }
        tokio::time::sleep(past_all_leases).await;
        let finished = world.publisher.ids().len();
        world.replicas[0].scheduler.step().await;
        if world.publisher.ids().len() == finished && restarts > 0 {
            break;
        }
    }
    println!("{restarts} restarts of redis");
    assert!(restarts > 3, "{restarts}");
    world.judge(start, until);
}
