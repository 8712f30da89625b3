//! A thousand days with three schedulers, each a process of its own, that are killed in the middle of their work, whose
//! clocks are set, and whose Redis is killed and restarted: each recipient gets each occurrence once. Nothing waits for the
//! days.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use crate::support::redis::Redis;
use crate::support::replica::{Replica, ReplicaOrders, at, length};
use crate::support::schedulers::{Chance, daily, instant, oracle};
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
/// What a killed scheduler held is free again after this time, by Redis's clock. Days pass in milliseconds here, so the test
/// lets the clocks stand still meanwhile.
const LEASE: Duration = Duration::from_millis(60);
/// One that wants to look again within this time (in seconds, by its clock) has unfinished work before it.
const AT_ONCE: i64 = 6;

struct ScheduledReplica {
    process: Replica,
    wrong_by: i64,
    asleep_until: i64,
    /// Whether it wants to look again at once.
    unfinished: bool,
}

struct ReplicaSimulation {
    redis: Redis,
    folder: TempDir,
    schedulers: Vec<ScheduledReplica>,
    chance: Chance,
    starts: u32,
    restarts: u32,
    /// Who was killed in the middle of a look, and how long the file was when the look began.
    killed: BTreeMap<String, u64>,
    /// Parts of the file that were written while Redis was killed, or by a look that outlasted its lease.
    disturbed: Vec<Range<u64>>,
}

impl ReplicaSimulation {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("jobs")).unwrap();
        for (name, text) in [("morning", MORNING), ("night", NIGHT), ("evening", EVENING)] {
            std::fs::write(folder.path().join(format!("{name}.toml")), text).unwrap();
        }
        let redis = Redis::start().await;
        let chance = Chance(0x5eed_0000_0000_0001);
        let (killed, disturbed) = (BTreeMap::new(), Vec::new());
        let schedulers = Vec::new();
        let mut simulation = Self { redis, folder, schedulers, chance, starts: 0, restarts: 0, killed, disturbed };
        for _ in 0..3 {
            let process = simulation.start().await;
            simulation.schedulers.push(ScheduledReplica { process, wrong_by: 0, asleep_until: 0, unfinished: false });
        }
        simulation
    }

    fn jobs(&self) -> PathBuf {
        self.folder.path().join("jobs")
    }

    async fn start(&mut self) -> Replica {
        self.starts += 1;
        let owner = format!("start-{}", self.starts);
        let digests = self.folder.path().to_owned();
        Replica::start(&ReplicaOrders { owner, redis: self.redis.url(), digests, jobs: self.jobs(), lease: LEASE })
            .await
    }

    /// What befalls the schedulers between two looks.
    fn disturb(&mut self, now: i64) {
        for scheduler in &mut self.schedulers {
            match self.chance.below(70) {
                0 | 1 => {
                    scheduler.wrong_by = i64::try_from(self.chance.below(2 * WRONG.unsigned_abs())).unwrap() - WRONG;
                }
                2..=4 => scheduler.wrong_by = 0,
                5 => scheduler.asleep_until = now + i64::try_from(self.chance.below(16 * 3600)).unwrap(),
                _ => {}
            }
        }
    }

    /// Everybody who is awake looks, at the same time, or (unless `all`) who has unfinished work; now and then one of them is
    /// killed at some moment of its look, or Redis is. Answers whether somebody has unfinished work.
    async fn go(&mut self, now: i64, all: bool) -> bool {
        let moments = Moment::choose(&mut self.chance);
        let outage = (self.chance.below(150) == 0).then(|| Duration::from_micros(self.chance.below(6000)));
        let before = length(&self.jobs());
        let (jobs, began) = (self.jobs(), Instant::now());
        let looks = self.schedulers.iter_mut().zip(moments).map(|(scheduler, moment)| {
            let death = moment.comes(&jobs, before, began, scheduler.process.owner.clone());
            async move {
                if scheduler.asleep_until > now || !(all || scheduler.unfinished) {
                    return Some(i64::MAX);
                }
                scheduler.process.look(now + scheduler.wrong_by, death).await
            }
        });
        let looks = futures_util::future::join_all(looks);
        let redis = &mut self.redis;
        let outages = async {
            if let Some(wait) = outage {
                at(began + wait).await;
                redis.kill();
                redis.restart().await;
            }
        };
        let (nexts, ()) = tokio::join!(looks, outages);
        self.restarts += u32::from(outage.is_some());
        if outage.is_some() || began.elapsed() > LEASE {
            self.disturbed.push(before..length(&self.jobs()));
        }
        for (index, next) in nexts.into_iter().enumerate() {
            self.schedulers[index].unfinished = next.is_none_or(|next| next <= AT_ONCE);
            if next.is_none() {
                let process = &mut self.schedulers[index].process;
                process.kill().await;
                self.killed.insert(process.owner.clone(), before);
                self.schedulers[index].process = self.start().await;
            }
        }
        self.schedulers.iter().any(|scheduler| scheduler.unfinished)
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

/// When a scheduler dies.
#[derive(Clone, Copy)]
enum Moment {
    Never,
    /// So long after the beginning of its look.
    After(Duration),
    /// As soon as it has published so many jobs in this look.
    Published(usize),
}

impl Moment {
    /// For each scheduler.
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
            Self::After(wait) => at(began + wait).await,
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

#[tokio::test]
async fn each_recipient_gets_each_of_a_thousand_days_once() {
    let began = Instant::now();
    // They begin before Redis's own clock and end after it (while that shows 2026 or 2027), as marks are aged by both.
    let start = instant("2025-09-01T12:00:00Z");
    let end = start + SignedDuration::from_hours(24 * 1000);
    let mut simulation = ReplicaSimulation::new().await;
    let mut now = start.as_second();
    let (mut looks, mut unfinished) = (0_u32, false);
    while now < end.as_second() {
        unfinished = simulation.go(now, !unfinished).await;
        looks += 1;
        now += match unfinished {
            true => 1,
            false => {
                simulation.disturb(now);
                1200 + i64::try_from(simulation.chance.below(60_000)).unwrap()
            }
        };
    }
    // Clocks are right again, the last window is over, and everybody looks until nobody finds anything.
    for scheduler in &mut simulation.schedulers {
        (scheduler.wrong_by, scheduler.asleep_until) = (0, 0);
    }
    let mut now = end.as_second() + 8 * 3600;
    soon("nothing is left to do", async {
        while simulation.go(now, true).await {
            now += 1;
        }
    })
    .await;
    println!("{looks} looks of three in {:?}", began.elapsed());
    simulation.judge(start, end);
}
