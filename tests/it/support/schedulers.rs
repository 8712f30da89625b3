//! Digests under test: schedulers with clocks of their own, a publisher that counts, an oracle that knows nothing of the
//! product's own arithmetic.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentkit_worker::internals::audit::Audit;
use agentkit_worker::internals::clock::ManualClock;
use agentkit_worker::internals::digest_store::DigestStore;
use agentkit_worker::internals::metrics::Metrics;
use agentkit_worker::internals::queue::{Destination, Message, Published, Publisher, QueueError};
use agentkit_worker::internals::schedule::{Digest, Digests, Rules, Scheduler};
use agentkit_worker::job::Job;
use async_trait::async_trait;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use tokio_util::sync::CancellationToken;

/// A broker that takes jobs while it is there.
#[derive(Debug, Default)]
pub(crate) struct CountingPublisher {
    pub(crate) jobs: Mutex<BTreeMap<String, (u32, Job)>>,
    pub(crate) total: AtomicU64,
    pub(crate) away: AtomicBool,
}

#[async_trait]
impl Publisher for CountingPublisher {
    async fn publish(&self, destination: &Destination, message: Message) -> Result<Published, QueueError> {
        assert_eq!(*destination, Destination::Jobs);
        // Two places at which a scheduler may be killed: before the broker has the job, and before it hears so.
        tokio::task::yield_now().await;
        if self.away.load(Ordering::Relaxed) {
            return Err(QueueError::Unavailable("away".into()));
        }
        let job: Job = serde_json::from_slice(&message.body).unwrap();
        assert_eq!(message.properties.message_id.as_deref(), Some(job.id().as_str()));
        self.total.fetch_add(1, Ordering::Relaxed);
        self.jobs.lock().unwrap().entry(job.id().to_string()).or_insert((0, job)).0 += 1;
        tokio::task::yield_now().await;
        Ok(Published::Routed)
    }
}

impl CountingPublisher {
    pub(crate) fn ids(&self) -> Vec<String> {
        self.jobs.lock().unwrap().keys().cloned().collect()
    }

    pub(crate) fn job(&self, id: &str) -> Job {
        self.jobs.lock().unwrap()[id].1.clone()
    }
}

pub(crate) fn instant(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(crate) fn digest(text: &str) -> Digest {
    Digest::parse(text, Path::new("test.toml")).unwrap()
}

/// A scheduler with a clock of its own.
pub(crate) fn scheduler(
    store: &Arc<dyn DigestStore>,
    publisher: &Arc<CountingPublisher>,
    clock: &Arc<ManualClock>,
    owner: &str,
    digests: Vec<Digest>,
) -> Scheduler {
    Scheduler {
        audit: Audit::default(),
        store: store.clone(),
        publisher: publisher.clone(),
        clock: clock.clone(),
        metrics: Arc::new(Metrics::default()),
        rules: Rules {
            owner: owner.to_owned(),
            lease: Duration::from_secs(60),
            authorization_wait: Duration::from_hours(24),
        },
        stop: CancellationToken::new(),
        digests: Arc::new(Digests::new(digests)),
    }
}

/// Numbers that are the same in every run (xorshift64*).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// What is due in `(from, until]`, by walking through every minute with the zone's own transitions in hand: a wall time
/// is reached when the clock on the wall first shows it or has jumped over it.
pub(crate) fn oracle(
    zone: &str,
    from: Timestamp,
    until: Timestamp,
    due: impl Fn(i64) -> bool,
) -> Vec<(Timestamp, DateTime)> {
    // The database in the binary: the machine's own may know other rules.
    let zone = TimeZoneDatabase::bundled().get(zone).unwrap();
    // A day earlier, so that the highest wall time shown so far is known.
    let start = from.as_second() / 60 - 1440;
    let end = until.as_second().div_euclid(60);
    let mut changes = zone.following(Timestamp::from_second(start * 60).unwrap()).peekable();
    let mut offset = i64::from(zone.to_offset(Timestamp::from_second(start * 60).unwrap()).seconds());
    let mut shown = (start * 60 + offset) / 60 - 1;
    let mut found = Vec::new();
    for minute in start..=end {
        while let Some(change) = changes.next_if(|change| change.timestamp().as_second() <= minute * 60) {
            offset = i64::from(change.offset().seconds());
        }
        let wall = (minute * 60 + offset) / 60;
        let reached = (shown + 1..=wall).any(&due);
        shown = shown.max(wall);
        if reached && minute * 60 > from.as_second() {
            let wall = Timestamp::from_second(wall * 60).unwrap();
            found.push((Timestamp::from_second(minute * 60).unwrap(), TimeZone::UTC.to_datetime(wall)));
        }
    }
    found
}

/// Whether a wall time (minutes since 1970 on the wall) is one of `minutes` of the day.
pub(crate) fn daily(minutes: &[i64]) -> impl Fn(i64) -> bool + use<'_> {
    move |wall| minutes.contains(&wall.rem_euclid(1440))
}
