//! A store that loses everything in the middle of an occurrence: whoever lives tells it what was done, and the rest is
//! fired.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agentkit_worker::internals::clock::{Clock, ManualClock};
use agentkit_worker::internals::digest_store::memory::MemoryDigestStore;
use agentkit_worker::internals::digest_store::redis::RedisDigestStore;
use agentkit_worker::internals::digest_store::{DigestStore, Hold};
use agentkit_worker::internals::queue::{Destination, Message, Published, Publisher, QueueError};
use agentkit_worker::internals::schedule::{Digests, Scheduler};
use jiff::SignedDuration;
use tempfile::TempDir;

use crate::support::redis::Redis;
use crate::support::schedulers::{CountingPublisher, instant, scheduler};

const MANY: usize = 320;
const EARLY: usize = 10;

/// `EARLY` recipients at 08:00, `MANY` from 09:00 on, spread as `options` say.
fn definition(options: &str) -> String {
    let many = (0..MANY).map(|number| format!("{{ identifier = \"user_{number}\" }}"));
    let early = (0..EARLY).map(|number| format!("{{ identifier = \"early_{number}\", time = \"08:00\" }}"));
    let list: Vec<String> = many.chain(early).collect();
    format!(
        "name = \"morning\"\ncron = \"0 9 * * *\"\ntimezone = \"UTC\"\nmissed = \"all\"\noverlap = \"queue\"\nprompt = \"p\"\nconnections = [\"gmail\"]\n{options}\n[recipients]\nlist = [{}]\n",
        list.join(",")
    )
}

/// Two schedulers, each with a memory of its own, and the store that they share.
struct LossyClockwork {
    clock: Arc<ManualClock>,
    publisher: Arc<CountingPublisher>,
    schedulers: [Scheduler; 2],
    /// `None` for the store in memory.
    redis: Option<Arc<Redis>>,
    folder: TempDir,
}

impl LossyClockwork {
    /// It is shortly before eight.
    async fn new(redis: Option<Arc<Redis>>, options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("morning.toml"), definition(options)).unwrap();
        let clock = Arc::new(ManualClock::new(instant("2040-05-01T07:59:00Z")));
        let store: Arc<dyn DigestStore> = match &redis {
            Some(redis) => Arc::new(RedisDigestStore::new(redis.client())),
            None => Arc::new(MemoryDigestStore::new(clock.clone())),
        };
        let publisher = Arc::new(CountingPublisher::default());
        let schedulers = ["one", "two"].map(|name| {
            let digests = Arc::new(Digests::of_directory(folder.path().to_owned()).unwrap());
            Scheduler { digests, ..scheduler(&store, &publisher, &clock, name, Vec::new()) }
        });
        for scheduler in &schedulers {
            scheduler.step().await;
        }
        Self { clock, publisher, schedulers, redis, folder }
    }

    /// Nothing is left in the store.
    fn lose(&mut self) {
        if let Some(redis) = &self.redis {
            assert_eq!(redis.command(&["FLUSHALL"]), "OK");
            return;
        }
        let empty = Arc::new(MemoryDigestStore::new(self.clock.clone()));
        for scheduler in &mut self.schedulers {
            scheduler.store = empty.clone();
        }
    }

    /// A minute passes; both look.
    async fn minute(&self) {
        self.clock.advance(SignedDuration::from_mins(1));
        for scheduler in &self.schedulers {
            scheduler.step().await;
        }
    }

    async fn until(&self, time: &str) {
        while self.clock.now() < instant(&format!("2040-05-01T{time}:00Z")) {
            self.minute().await;
        }
    }

    /// How often each job was published.
    fn counts(&self) -> BTreeMap<String, u32> {
        self.publisher.jobs.lock().unwrap().iter().map(|(id, (count, _))| (id.clone(), *count)).collect()
    }

    fn everybody_got_one(&self) {
        let counts = self.counts();
        let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "{} twice: {:?}", twice.len(), &twice[..twice.len().min(5)]);
        assert_eq!(counts.len(), MANY + EARLY);
    }
}

async fn the_rest_is_fired(redis: Option<Arc<Redis>>) {
    let mut clockwork = LossyClockwork::new(redis, "spread = \"64m\"").await;
    clockwork.until("09:32").await;
    clockwork.clock.advance(SignedDuration::from_mins(1));
    clockwork.schedulers[0].step().await;
    let before = clockwork.publisher.ids().len();
    assert!((EARLY + MANY / 3..EARLY + MANY * 2 / 3).contains(&before), "{before} in the middle");
    clockwork.lose();
    // Read again, as at SIGHUP: what is remembered stays. A third process starts; it remembers nothing and does no harm.
    for scheduler in &clockwork.schedulers {
        assert_eq!(scheduler.digests.reload().unwrap(), 1);
    }
    let digests = Arc::new(Digests::of_directory(clockwork.folder.path().to_owned()).unwrap());
    let mut third = Scheduler { digests, ..clockwork.schedulers[0].clone() };
    "three".clone_into(&mut third.rules.owner);
    third.step().await;
    clockwork.schedulers[1].step().await;
    assert_eq!(clockwork.publisher.ids().len(), before, "nothing is fired before all have told what they know");
    for _ in 0..40 {
        clockwork.minute().await;
        third.step().await;
    }
    clockwork.everybody_got_one();
    // And the next day, from the new store alone.
    clockwork.clock.set(instant("2040-05-02T10:30:00Z"));
    clockwork.schedulers[0].step().await;
    assert_eq!(clockwork.counts().len(), 2 * (MANY + EARLY));
}

#[tokio::test]
async fn of_a_half_done_window_the_rest_is_fired_though_the_store_in_memory_is_a_new_one() {
    the_rest_is_fired(None).await;
}

#[tokio::test]
async fn of_a_half_done_window_the_rest_is_fired_though_redis_was_flushed() {
    the_rest_is_fired(Some(Arc::new(Redis::start().await))).await;
}

async fn one_is_enough(redis: Option<Arc<Redis>>) {
    let mut clockwork = LossyClockwork::new(redis, "spread = \"64m\"").await;
    clockwork.until("09:20").await;
    clockwork.clock.advance(SignedDuration::from_mins(1));
    let before = clockwork.counts();
    // Its last work is known to nobody else.
    clockwork.schedulers[0].step().await;
    let last: Vec<String> = clockwork.counts().into_keys().filter(|id| !before.contains_key(id)).collect();
    assert!((1..20).contains(&last.len()), "{last:?}");
    clockwork.lose();
    let survivor = &clockwork.schedulers[1];
    for _ in 0..60 {
        survivor.step().await;
        clockwork.clock.advance(SignedDuration::from_mins(1));
    }
    let counts = clockwork.counts();
    assert_eq!(counts.len(), MANY + EARLY);
    let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).map(|(id, _)| id).collect();
    assert_eq!(twice, last.iter().collect::<Vec<_>>(), "only what the dead did after the survivor's last look");
}

#[tokio::test]
async fn one_scheduler_that_lives_knows_enough_for_a_new_store_in_memory() {
    one_is_enough(None).await;
}

#[tokio::test]
async fn one_scheduler_that_lives_knows_enough_for_a_flushed_redis() {
    one_is_enough(Some(Arc::new(Redis::start().await))).await;
}

async fn a_pause_is_remembered(redis: Option<Arc<Redis>>) {
    let mut clockwork = LossyClockwork::new(redis, "").await;
    clockwork.until("08:30").await;
    assert_eq!(clockwork.counts().len(), EARLY);
    let store = clockwork.schedulers[0].store.clone();
    store.hold("morning", Hold::Pause, clockwork.clock.now()).await.unwrap();
    clockwork.minute().await;
    clockwork.lose();
    clockwork.until("09:30").await;
    assert_eq!(clockwork.counts().len(), EARLY, "still paused");
    let store = clockwork.schedulers[0].store.clone();
    store.hold("morning", Hold::Resume, clockwork.clock.now()).await.unwrap();
    clockwork.minute().await;
    assert_eq!(clockwork.counts().len(), EARLY, "what was due meanwhile stays away");
    clockwork.clock.set(instant("2040-05-02T09:00:00Z"));
    clockwork.minute().await;
    assert_eq!(clockwork.counts().len(), 2 * EARLY + MANY);
}

#[tokio::test]
async fn a_pause_is_remembered_though_the_store_in_memory_is_a_new_one() {
    a_pause_is_remembered(None).await;
}

#[tokio::test]
async fn a_pause_is_remembered_though_redis_was_flushed() {
    a_pause_is_remembered(Some(Arc::new(Redis::start().await))).await;
}

/// Flushes Redis when so many jobs are out.
struct FlushingPublisher {
    to: Arc<CountingPublisher>,
    redis: Arc<Redis>,
    at: u64,
    flushed: AtomicBool,
}

#[async_trait::async_trait]
impl Publisher for FlushingPublisher {
    async fn publish(&self, destination: &Destination, message: Message) -> Result<Published, QueueError> {
        let published = self.to.publish(destination, message).await;
        if self.to.total.load(Ordering::Relaxed) >= self.at && !self.flushed.swap(true, Ordering::Relaxed) {
            assert_eq!(self.redis.command(&["FLUSHALL"]), "OK");
        }
        published
    }
}

#[tokio::test]
async fn a_look_that_loses_redis_under_its_hands_stops_and_the_rest_comes_without_repetition() {
    let redis = Arc::new(Redis::start().await);
    let mut clockwork = LossyClockwork::new(Some(redis.clone()), "").await;
    clockwork.until("08:59").await;
    let at = (EARLY + MANY / 3) as u64;
    let publisher =
        Arc::new(FlushingPublisher { to: clockwork.publisher.clone(), redis, at, flushed: AtomicBool::new(false) });
    for scheduler in &mut clockwork.schedulers {
        scheduler.publisher = publisher.clone();
    }
    clockwork.clock.advance(SignedDuration::from_mins(1));
    let again = clockwork.schedulers[0].step().await;
    assert_eq!(again, clockwork.clock.now(), "it looks again at once");
    let out = clockwork.counts().len();
    assert!(
        (EARLY + MANY / 3..EARLY + MANY / 2).contains(&out),
        "{out}: no more than what was claimed before the loss"
    );
    for _ in 0..3 {
        clockwork.minute().await;
    }
    clockwork.everybody_got_one();
}
