//! What a digest's firing does: policies, failures, large lists, users who must authorize.

use std::collections::BTreeSet;
use std::fs::File;
use std::future::pending;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use agentkit_worker::Embedded;
use agentkit_worker::internals::clock::{ManualClock, SystemClock};
use agentkit_worker::internals::digest_store::memory::MemoryDigestStore;
use agentkit_worker::internals::digest_store::redis::RedisDigestStore;
use agentkit_worker::internals::digest_store::{DigestStore, Fired, Hold};
use agentkit_worker::internals::queue::Consumer;
use agentkit_worker::internals::queue::amqp::AmqpQueue;
use agentkit_worker::internals::schedule::{Digests, Scheduler};
use agentkit_worker::reply::ReplyEvent;
use jiff::{SignedDuration, Timestamp};

use crate::support::broker::Broker;
use crate::support::process_usage::ProcessUsage;
use crate::support::redis::Redis;
use crate::support::replica::{Replica, ReplicaOrders, length};
use crate::support::sandbox_peer::{SandboxPeer, config_of};
use crate::support::schedulers::{CountingPublisher, digest, instant, scheduler};
use crate::support::{eventually, soon};

fn definition(options: &str) -> String {
    format!(
        "name = \"morning\"\ncron = \"0 9 * * *\"\ntimezone = \"UTC\"\nprompt = \"since {{{{since}}}}\"\nconnections = [\"gmail\"]\n{options}\n[recipients]\nlist = [{{ identifier = \"a\" }}, {{ identifier = \"b\" }}]\n"
    )
}

struct DigestClockwork {
    clock: Arc<ManualClock>,
    store: Arc<dyn DigestStore>,
    publisher: Arc<CountingPublisher>,
    scheduler: Scheduler,
}

impl DigestClockwork {
    /// It is 08:00 on the first day, and the digest is known.
    async fn new(options: &str) -> Self {
        let clock = Arc::new(ManualClock::new(instant("2026-05-01T08:00:00Z")));
        let store: Arc<dyn DigestStore> = Arc::new(MemoryDigestStore::new(clock.clone()));
        let publisher = Arc::new(CountingPublisher::default());
        let scheduler = scheduler(&store, &publisher, &clock, "one", vec![digest(&definition(options))]);
        scheduler.step().await;
        Self { clock, store, publisher, scheduler }
    }

    async fn at(&self, text: &str) -> Timestamp {
        self.clock.set(instant(text));
        self.scheduler.step().await
    }

    /// Days of the jobs of recipient `a` so far, and the same for `b`.
    fn days(&self) -> Vec<String> {
        let days = |recipient: &str| -> Vec<String> {
            let stem = format!("digest:morning:{recipient}:2026-05-");
            let ids = self.publisher.ids();
            ids.iter().filter_map(|id| id.strip_prefix(&stem)).map(|rest| rest[..2].to_owned()).collect()
        };
        let of_a = days("a");
        assert_eq!(of_a, days("b"));
        let jobs = self.publisher.jobs.lock().unwrap();
        assert!(jobs.values().all(|(count, _)| *count == 1), "something was published twice");
        of_a
    }

    async fn ended(&self, recipient: &str, day: &str, completed: bool) {
        let job = self.publisher.job(&format!("digest:morning:{recipient}:2026-05-{day}T09:00:00"));
        self.store.ended(&Fired::of(&job).unwrap(), completed).await.unwrap();
    }

    fn prompt(&self, recipient: &str, day: &str) -> String {
        self.publisher.job(&format!("digest:morning:{recipient}:2026-05-{day}T09:00:00")).prompt
    }
}

#[tokio::test]
async fn with_the_broker_away_at_the_due_time_digests_are_fired_when_it_is_back() {
    for policy in ["skip", "once", "all"] {
        let clockwork =
            DigestClockwork::new(&format!("missed = \"{policy}\"\noverlap = \"queue\"\nmissed_window = \"72h\"")).await;
        clockwork.publisher.away.store(true, Ordering::Relaxed);
        let again = clockwork.at("2026-05-01T09:00:01Z").await;
        assert!(again <= instant("2026-05-01T09:00:10Z"), "tried again soon, not at {again}");
        clockwork.publisher.away.store(false, Ordering::Relaxed);
        clockwork.at("2026-05-01T09:03:00Z").await;
        assert_eq!(clockwork.days(), ["01"], "{policy}: back within minutes, nothing was missed");

        clockwork.publisher.away.store(true, Ordering::Relaxed);
        for day in ["02T09:00:01Z", "02T18:00:00Z", "03T09:00:01Z"] {
            clockwork.at(&format!("2026-05-{day}")).await;
        }
        clockwork.publisher.away.store(false, Ordering::Relaxed);
        clockwork.at("2026-05-03T12:00:00Z").await;
        clockwork.at("2026-05-03T12:00:30Z").await;
        let expected: &[&str] = match policy {
            "skip" => &["01"],
            "once" => &["01", "03"],
            _ => &["01", "02", "03"],
        };
        assert_eq!(clockwork.days(), expected, "{policy}");
        clockwork.at("2026-05-04T09:00:00Z").await;
        assert_eq!(clockwork.days().last().unwrap(), "04", "{policy}");
    }
}

#[tokio::test]
async fn nothing_older_than_the_window_is_fired() {
    let clockwork = DigestClockwork::new("missed = \"all\"\noverlap = \"queue\"\nmissed_window = \"30h\"").await;
    clockwork.at("2026-05-05T10:00:00Z").await;
    assert_eq!(clockwork.days(), ["04", "05"]);
}

#[tokio::test]
async fn since_is_the_last_occurrence_whose_job_completed() {
    let clockwork = DigestClockwork::new("").await;
    clockwork.at("2026-05-04T09:00:00Z").await;
    assert_eq!(
        clockwork.prompt("a", "04"),
        "since 2026-05-03T09:00:00+00:00",
        "before any success: the occurrence before"
    );
    clockwork.ended("a", "04", true).await;
    clockwork.ended("b", "04", false).await;
    clockwork.at("2026-05-05T09:00:00Z").await;
    clockwork.ended("a", "05", false).await;
    clockwork.ended("b", "05", true).await;
    clockwork.at("2026-05-06T09:00:00Z").await;
    assert_eq!(clockwork.prompt("a", "06"), "since 2026-05-04T09:00:00+00:00", "two days, as the fifth failed");
    assert_eq!(clockwork.prompt("b", "06"), "since 2026-05-05T09:00:00+00:00");
}

#[tokio::test]
async fn where_the_last_job_still_runs_the_next_is_skipped_or_queued() {
    for (overlap, expected) in [("skip", 2), ("queue", 4)] {
        let clockwork = DigestClockwork::new(&format!("overlap = \"{overlap}\"")).await;
        clockwork.at("2026-05-01T09:00:00Z").await;
        clockwork.at("2026-05-02T09:00:00Z").await;
        assert_eq!(clockwork.publisher.ids().len(), expected, "{overlap}");
        clockwork.ended("a", "01", true).await;
        clockwork.at("2026-05-03T09:00:00Z").await;
        assert!(clockwork.publisher.ids().contains(&"digest:morning:a:2026-05-03T09:00:00".to_owned()), "{overlap}");
        let b = clockwork.publisher.ids().contains(&"digest:morning:b:2026-05-03T09:00:00".to_owned());
        assert_eq!(b, overlap == "queue", "{overlap}");
        clockwork.at("2026-05-04T09:00:00Z").await;
        let b = clockwork.publisher.ids().contains(&"digest:morning:b:2026-05-04T09:00:00".to_owned());
        assert!(b, "{overlap}: an end that was never noted does not stop a digest for ever");
    }
}

#[tokio::test]
async fn a_pause_is_seen_by_all_and_what_was_due_meanwhile_stays_away() {
    let clockwork = DigestClockwork::new("missed = \"all\"").await;
    clockwork.store.hold("morning", Hold::Pause, clockwork.clock_now()).await.unwrap();
    clockwork.at("2026-05-01T09:00:00Z").await;
    clockwork.clock.set(instant("2026-05-01T10:00:00Z"));
    clockwork.store.hold("morning", Hold::Resume, clockwork.clock_now()).await.unwrap();
    let fresh = scheduler(
        &clockwork.store,
        &clockwork.publisher,
        &clockwork.clock,
        "two",
        vec![digest(&definition("missed = \"all\""))],
    );
    fresh.step().await;
    clockwork.at("2026-05-01T10:01:00Z").await;
    assert_eq!(clockwork.days(), Vec::<String>::new());
    clockwork.at("2026-05-02T09:00:00Z").await;
    assert_eq!(clockwork.days(), ["02"]);
}

impl DigestClockwork {
    fn clock_now(&self) -> Timestamp {
        use agentkit_worker::internals::clock::Clock;
        self.clock.now()
    }
}

#[tokio::test]
async fn a_window_spreads_recipients_evenly_and_each_stays_at_its_place() {
    let list: Vec<String> = (0..640).map(|number| format!("{{ identifier = \"user_{number}\" }}")).collect();
    let text = definition("spread = \"64m\"\noverlap = \"queue\"").split("[recipients]").next().unwrap().to_owned();
    let text = format!("{text}[recipients]\nlist = [{}]", list.join(","));
    let clock = Arc::new(ManualClock::new(instant("2026-05-01T08:00:00Z")));
    let store: Arc<dyn DigestStore> = Arc::new(MemoryDigestStore::new(clock.clone()));
    let publisher = Arc::new(CountingPublisher::default());
    let scheduler = scheduler(&store, &publisher, &clock, "one", vec![digest(&text)]);
    scheduler.step().await;
    let mut halves = Vec::new();
    for day in 1..=2 {
        for minute in 0..64 {
            clock.set(instant(&format!("2026-05-0{day}T09:00:00Z")) + SignedDuration::from_mins(minute));
            scheduler.step().await;
            if minute == 31 {
                let today = format!("2026-05-0{day}");
                let of_today = publisher.ids().into_iter().filter(|id| id.contains(&today));
                halves.push(of_today.map(|id| id.split(':').nth(2).unwrap().to_owned()).collect::<BTreeSet<_>>());
            }
        }
    }
    assert!((250..390).contains(&halves[0].len()), "{} in the first half", halves[0].len());
    assert_eq!(halves[0], halves[1]);
    assert_eq!(publisher.total.load(Ordering::Relaxed), 1280);
}

#[tokio::test]
async fn a_recipient_who_joins_later_is_not_sent_what_was_due_before() {
    let clock = Arc::new(ManualClock::new(instant("2026-05-01T08:00:00Z")));
    let memory = Arc::new(MemoryDigestStore::new(clock.clone()));
    let store: Arc<dyn DigestStore> = memory.clone();
    let publisher = Arc::new(CountingPublisher::default());
    let text = definition("overlap = \"queue\"").split("[recipients]").next().unwrap().to_owned()
        + "[recipients]\nredis_set = \"users\"";
    let scheduler = scheduler(&store, &publisher, &clock, "one", vec![digest(&text)]);
    memory.set_members("users", vec![b"early".to_vec()]);
    scheduler.step().await;
    clock.set(instant("2026-05-01T09:00:00Z"));
    scheduler.step().await;
    let tokyo = br#"{"identifier": "tokyo", "timezone": "Asia/Tokyo"}"#;
    memory.set_members("users", vec![b"early".to_vec(), b"late".to_vec(), tokyo.to_vec()]);
    for minute in [1, 2, 30] {
        clock.set(instant("2026-05-01T09:00:00Z") + SignedDuration::from_mins(minute));
        scheduler.step().await;
    }
    assert_eq!(publisher.ids(), ["digest:morning:early:2026-05-01T09:00:00"]);
    clock.set(instant("2026-05-02T09:00:00Z"));
    scheduler.step().await;
    assert_eq!(
        publisher.ids(),
        [
            "digest:morning:early:2026-05-01T09:00:00",
            "digest:morning:early:2026-05-02T09:00:00",
            "digest:morning:late:2026-05-02T09:00:00",
            "digest:morning:tokyo:2026-05-02T09:00:00",
        ]
    );
}

#[tokio::test]
async fn a_bad_file_keeps_the_old_set_and_a_good_one_replaces_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("morning.toml");
    std::fs::write(&file, definition("")).unwrap();
    let digests = Digests::of_directory(folder.path().to_owned()).unwrap();
    std::fs::write(&file, "cron = 1").unwrap();
    let bad = digests.reload().unwrap_err();
    assert!(bad.to_string().contains("morning.toml:1"), "{bad}");
    assert_eq!(digests.names(), ["morning"]);
    std::fs::write(folder.path().join("evening.toml"), definition("").replace("\"morning\"", "\"evening\"")).unwrap();
    std::fs::write(&file, definition("")).unwrap();
    assert_eq!(digests.reload().unwrap(), 2);
    assert_eq!(digests.names(), ["evening", "morning"]);
}

#[tokio::test]
async fn the_running_scheduler_fires_at_the_time_and_takes_over_a_new_set() {
    let folder = tempfile::tempdir().unwrap();
    let every_second =
        |name: &str| definition("").replace("\"morning\"", &format!("\"{name}\"")).replace("0 9 * * *", "* * * * * *");
    std::fs::write(folder.path().join("a.toml"), every_second("first")).unwrap();
    let clock = Arc::new(SystemClock);
    let store: Arc<dyn DigestStore> = Arc::new(MemoryDigestStore::new(clock.clone()));
    let publisher = Arc::new(CountingPublisher::default());
    let manual = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
    let digests = Arc::new(Digests::of_directory(folder.path().to_owned()).unwrap());
    let mut scheduler = scheduler(&store, &publisher, &manual, "one", Vec::new());
    (scheduler.clock, scheduler.digests) = (clock, digests.clone());
    let stop = scheduler.stop.clone();
    let running = tokio::spawn(async move { scheduler.run().await });
    let fires = async |name: &str| {
        eventually("a firing", || async { publisher.ids().iter().any(|id| id.contains(name)).then_some(()) }).await;
    };
    fires(":first:").await;
    std::fs::write(folder.path().join("b.toml"), every_second("second")).unwrap();
    digests.reload().unwrap();
    fires(":second:").await;
    stop.cancel();
    soon("the scheduler's end", running).await.unwrap();
    let jobs = publisher.jobs.lock().unwrap();
    assert!(jobs.values().all(|(count, _)| *count == 1));
}

#[tokio::test]
async fn a_new_set_and_a_stop_in_mid_firing_cost_nobody_a_job_and_nobody_a_second_one() {
    const COUNT: u64 = 4000;
    let folder = tempfile::tempdir().unwrap();
    let list: Vec<String> = (0..COUNT).map(|number| format!("{{ identifier = \"user_{number}\" }}")).collect();
    let text = definition("").split("[recipients]").next().unwrap().to_owned();
    let text = format!("{text}[recipients]\nlist = [{}]", list.join(","));
    std::fs::write(folder.path().join("morning.toml"), text).unwrap();
    let clock = Arc::new(ManualClock::new(instant("2026-05-01T08:00:00Z")));
    let store: Arc<dyn DigestStore> = Arc::new(MemoryDigestStore::new(clock.clone()));
    let publisher = Arc::new(CountingPublisher::default());
    let replica = |owner: &str| {
        let digests = Arc::new(Digests::of_directory(folder.path().to_owned()).unwrap());
        Scheduler { digests, ..scheduler(&store, &publisher, &clock, owner, Vec::new()) }
    };
    let first = replica("first");
    first.step().await;
    clock.set(instant("2026-05-01T09:00:00Z"));
    let (stop, digests) = (first.stop.clone(), first.digests.clone());
    let running = tokio::spawn(async move { first.run().await });
    let out = async |count: u64| {
        soon("jobs", async {
            while publisher.total.load(Ordering::Relaxed) < count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    for part in 1..=5 {
        out(part * COUNT / 10).await;
        digests.reload().unwrap();
    }
    out(COUNT * 6 / 10).await;
    stop.cancel();
    soon("the scheduler's end", running).await.unwrap();
    let of_first = publisher.total.load(Ordering::Relaxed);
    assert!(of_first < COUNT * 9 / 10, "{of_first}: it stops after its batch");
    // No lease has to run out: the clock of the store stands still.
    replica("second").step().await;
    assert_eq!((publisher.ids().len() as u64, publisher.total.load(Ordering::Relaxed)), (COUNT, COUNT));
}

#[tokio::test]
async fn a_real_broker_that_is_away_at_the_due_time_gets_each_job_once() {
    let broker = Broker::exclusive().await;
    let config = agentkit_worker::internals::queue::amqp::Config {
        heartbeat_seconds: 1,
        connect_timeout_milliseconds: 1000,
        reconnect_max_milliseconds: 500,
        publish_timeout_milliseconds: 1000,
        ..broker.config()
    };
    let queue = AmqpQueue::connect(config).await.unwrap();
    let clockwork = DigestClockwork::new("").await;
    let mut scheduler = clockwork.scheduler.clone();
    scheduler.publisher = queue.publisher();
    // A queue younger than a second does not survive the death of its only node.
    tokio::time::sleep(Duration::from_secs(3)).await;
    broker.kill();
    clockwork.clock.set(instant("2026-05-01T09:00:00Z"));
    scheduler.step().await;
    broker.start().await;
    let mut consumer = queue.consumer(10);
    let mut ids = Vec::new();
    eventually("both jobs are there", || {
        clockwork.clock.advance(SignedDuration::from_secs(5));
        let scheduler = &scheduler;
        let store = &clockwork.store;
        async move {
            scheduler.step().await;
            let now = instant("2026-05-01T10:00:00Z");
            let standing = store.look("morning", &[], now, now - SignedDuration::from_hours(24)).await.unwrap();
            (!standing.done.is_empty()).then_some(())
        }
    })
    .await;
    scheduler.step().await;
    // A publish whose confirm was lost comes again under the same id; the worker runs an id once.
    while let Ok(Some(delivery)) = tokio::time::timeout(Duration::from_secs(3), consumer.next()).await {
        ids.push(delivery.message.properties.message_id.clone().unwrap());
        delivery.ack().await.unwrap();
    }
    let distinct: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    assert_eq!(distinct.len(), 2, "{ids:?}");
    assert!(ids.len() <= 3, "{ids:?}");
}

#[tokio::test]
async fn a_hundred_thousand_recipients_are_fired_with_flat_memory_and_a_kill_in_the_middle() {
    const COUNT: usize = 100_000;
    const LONG_FIELD: usize = 600;
    const LINE: u64 = "digest:morning:user_12345:2026-05-01T09:00:00 first\n".len() as u64;
    const LEASE: Duration = Duration::from_millis(300);
    let folder = tempfile::tempdir().unwrap();
    let mut file = std::io::BufWriter::new(File::create(folder.path().join("users.csv")).unwrap());
    writeln!(file, "identifier,note").unwrap();
    for number in 0..COUNT {
        writeln!(file, "user_{number},{}", "x".repeat(LONG_FIELD)).unwrap();
    }
    file.flush().unwrap();
    let text = definition("").split("[recipients]").next().unwrap().to_owned() + "[recipients]\nfile = \"users.csv\"";
    std::fs::write(folder.path().join("morning.toml"), text).unwrap();
    let jobs = folder.path().join("jobs");
    File::create(&jobs).unwrap();
    let redis = Redis::start().await;
    let orders = |owner: &str| ReplicaOrders {
        owner: owner.to_owned(),
        redis: redis.url(),
        digests: folder.path().to_owned(),
        jobs: jobs.clone(),
        lease: LEASE,
    };
    let eight = instant("2026-05-01T08:00:00Z").as_second();
    let nine = eight + 3600;
    let (mut first, mut second) = (Replica::start(&orders("first")).await, Replica::start(&orders("second")).await);
    for replica in [&mut first, &mut second] {
        assert!(replica.look(eight, pending()).await.is_some());
    }
    let before = [ProcessUsage::by(first.process()).memory, ProcessUsage::by(second.process()).memory];
    // Killed when about two fifths are out, wherever it is then.
    let began = Instant::now();
    let two_fifths = async {
        while length(&jobs) < LINE * COUNT as u64 * 2 / 5 {
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(first.look(nine, two_fifths).await, None, "it was to be killed");
    let peak_of_first = ProcessUsage::peak(first.process());
    first.kill().await;
    let text = std::fs::read_to_string(&jobs).unwrap();
    let of_first = text.lines().count();
    while second.look(nine, pending()).await.unwrap() < 60 {}
    let took = began.elapsed();
    let grown = [peak_of_first - before[0], ProcessUsage::peak(second.process()) - before[1]];
    let text = std::fs::read_to_string(&jobs).unwrap();
    let ids: BTreeSet<&str> = text.lines().map(|line| line.split_once(' ').unwrap().0).collect();
    let again = text.lines().count() - ids.len();
    println!(
        "{} jobs, {of_first} before the kill, {again} published again, {} jobs a second, {grown:?} KiB more memory",
        ids.len(),
        text.lines().count() * 1000 / usize::try_from(took.as_millis()).unwrap(),
    );
    assert_eq!(ids.len(), COUNT);
    assert!(of_first < COUNT * 3 / 4, "killed in the middle: {of_first}");
    assert!(again <= 256, "at most the batch that was under way: {again}");
    // The file alone has 60 MiB.
    assert!(grown.iter().all(|kibibytes| *kibibytes < 8 << 10), "{grown:?} KiB more");
}

#[tokio::test]
async fn ten_replicas_share_the_work_of_one_occurrence() {
    const COUNT: usize = 2000;
    let list: Vec<String> = (0..COUNT).map(|number| format!("{{ identifier = \"user_{number}\" }}")).collect();
    let text = definition("").split("[recipients]").next().unwrap().to_owned();
    let text = format!("{text}[recipients]\nlist = [{}]", list.join(","));
    let redis = Redis::start().await;
    let clock = Arc::new(ManualClock::new(instant("2026-05-01T08:00:00Z")));
    let replicas: Vec<(Scheduler, Arc<CountingPublisher>)> = (0..10)
        .map(|number| {
            let store: Arc<dyn DigestStore> = Arc::new(RedisDigestStore::new(redis.client()));
            let publisher = Arc::new(CountingPublisher::default());
            (scheduler(&store, &publisher, &clock, &number.to_string(), vec![digest(&text)]), publisher)
        })
        .collect();
    for time in ["2026-05-01T08:00:00Z", "2026-05-01T09:00:00Z"] {
        clock.set(instant(time));
        futures_util::future::join_all(replicas.iter().map(|(replica, _)| replica.step())).await;
    }
    let shares: Vec<usize> = replicas.iter().map(|(_, publisher)| publisher.ids().len()).collect();
    let all: BTreeSet<String> = replicas.iter().flat_map(|(_, publisher)| publisher.ids()).collect();
    println!("{shares:?}");
    assert_eq!((all.len(), shares.iter().sum::<usize>()), (COUNT, COUNT), "everybody once: {shares:?}");
    assert!(shares.iter().all(|share| *share < COUNT / 3), "{shares:?}");
    assert!(shares.iter().filter(|share| **share > 0).count() >= 5, "{shares:?}");
}

#[tokio::test]
async fn a_user_who_must_authorize_is_asked_once_a_day_and_stops_nobody_else() {
    let peer = SandboxPeer::start().await;
    peer.activate("gmail", "connected").await;
    let mut config = config_of(&peer.sandbox);
    config.authorization.poll_seconds = 1;
    config.authorization.poll_seconds_at_most = 1;
    let worker = Embedded::start(config, Arc::new(SystemClock)).unwrap();
    let text = r#"
cron = "0 * * * *"
timezone = "UTC"
overlap = "queue"
missed = "all"
prompt = "Fetch my last 5 unread emails and summarize them."
connections = ["gmail"]
reply_to = "digests"
[recipients]
list = [{ identifier = "connected" }, { identifier = "stranger" }]
"#;
    let clock = Arc::new(ManualClock::new(instant("2026-05-01T08:59:00Z")));
    let mut replies = worker.replies_to("digests");
    let scheduler = worker.scheduler(vec![digest(text)], clock.clone());
    scheduler.step().await;
    // Three occurrences of one day, and one of the next.
    for time in ["2026-05-01T11:00:00Z", "2026-05-02T00:00:00Z"] {
        clock.set(instant(time));
        scheduler.step().await;
    }
    let (mut completed, mut asked) = (BTreeSet::new(), Vec::new());
    while completed.len() < 16 || asked.len() < 2 {
        let reply = soon("a reply", replies.next()).await.unwrap();
        match reply.event {
            ReplyEvent::Completed(_) => drop(completed.insert(reply.subject)),
            ReplyEvent::AuthorizationRequired(event) => {
                assert_eq!(event.identifier, "stranger");
                asked.push(reply.subject.split(":2026-").nth(1).unwrap()[..5].to_owned());
            }
            other => panic!("{other:?}"),
        }
    }
    asked.sort_unstable();
    assert_eq!(asked, ["05-01", "05-02"]);
    assert!(completed.iter().all(|id| id.contains(":connected:")));
    // Nobody is asked again by the jobs that wait in silence; they have all been looked at by the time the last one is.
    // No job was published twice either: it would be answered twice.
    let more = tokio::time::timeout(Duration::from_secs(2), replies.next()).await;
    assert!(more.is_err(), "{more:?}");
    worker.stop().await;
}
