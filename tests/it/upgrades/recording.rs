//! Makes a sample: brings workers of another build into every state, and keeps what they leave behind.

use std::collections::BTreeMap;

use agentkit_worker::internals::clock::{Clock, SystemClock};
use agentkit_worker::internals::queue::amqp::{Config as Amqp, Tier, TopologyMode};
use agentkit_worker::internals::schedule::plan::portion_of;
use jiff::{SignedDuration, Timestamp};
use lapin::options::BasicGetOptions;
use serde_json::json;

use super::sample::{Letter, Sample, kept, queue_names};
use super::surroundings::{EarlierBuild, Surroundings, USER};
use crate::support::broker::Broker;
use crate::support::eventually;
use crate::support::program::{Program, WorkerProcess};

/// The digest of which one recipient was fired, and the one that is paused.
pub(super) const HALF: &str = "half";
pub(super) const PAUSED: &str = "paused";
/// All of a digest comes due within this.
const SPREAD: SignedDuration = SignedDuration::from_hours(1);
const PORTIONS: u32 = 64;

/// Of the digests: the first is due at once, the others minutes later.
pub(super) fn recipients() -> Vec<String> {
    let named = |due: fn(u32) -> bool| {
        (0..).map(|number| format!("reader-{number}")).filter(move |name| due(portion_of(name, PORTIONS)))
    };
    named(|portion| portion == 0).take(1).chain(named(|portion| portion > 8).take(3)).collect()
}

/// Defines both digests, one of which is due every day at the time of `at`.
pub(super) fn define_digests(program: &Program, at: Timestamp) {
    let folder = program.folder().join("config/digests");
    std::fs::create_dir_all(&folder).unwrap();
    let recipients: Vec<String> = recipients().iter().map(|name| format!("{{ identifier = \"{name}\" }}")).collect();
    // A connection that nobody has: the jobs end without anybody's doing.
    let define = |name: &str, cron: &str, spread: SignedDuration| {
        let text = format!(
            "cron = \"{cron}\"\ntimezone = \"UTC\"\nspread = \"{}s\"\nmissed_window = \"72h\"\nprompt = \"hello\"\nconnections = [\"unheard-of\"]\n\
             [recipients]\nlist = [{}]\n",
            spread.as_secs(),
            recipients.join(", ")
        );
        std::fs::write(folder.join(format!("{name}.toml")), text).unwrap();
    };
    define(HALF, &at.strftime("%-S %-M %-H * * *").to_string(), SPREAD);
    define(PAUSED, "* * * * * *", SignedDuration::ZERO);
}

struct Recorder<'a> {
    surroundings: Surroundings<'a>,
    program: Program,
    waiting: BTreeMap<String, Vec<Letter>>,
}

impl Recorder<'_> {
    fn redis(&self, arguments: &[&str]) -> String {
        self.surroundings.redis.command(arguments)
    }

    /// Waits until the last entry of a run's journal contains `text`.
    async fn journalled(&self, job: &str, text: &str) {
        let key = format!("agentkit:run:{{{job}}}");
        eventually(&format!("{job} is {text}"), || async {
            let last = self.redis(&["HGET", &key, "length"]).parse::<u32>().ok()?.checked_sub(1)?;
            self.redis(&["HGET", &key, &last.to_string()]).contains(text).then_some(())
        })
        .await;
    }

    async fn ready(&self, queue: &str, count: u32) {
        eventually(&format!("{count} in {queue}"), || async {
            (self.surroundings.broker.ready(queue).await == count).then_some(())
        })
        .await;
    }

    /// Keeps the next message of this wait.
    async fn keep(&mut self, tier: Tier) {
        let queue = self.surroundings.amqp.names().wait(tier);
        let taken = eventually(&queue, || self.surroundings.broker.take(&queue)).await;
        let name = queue.trim_start_matches("agentkit.").to_owned();
        self.waiting.entry(name).or_default().push(Letter::of(taken));
    }

    /// A job that was told to come later is kept in the wait of this name.
    async fn put_off(&mut self, tier: Tier) {
        let name = self.surroundings.amqp.names().wait(tier).trim_start_matches("agentkit.").replace('.', "-");
        let later = json!({"retry-after": tier.wait().as_secs().to_string()});
        let limited = json!({"on": "execute", "kind": "status", "status": 429, "headers": later, "times": 1});
        self.surroundings.peer.fault(limited).await;
        self.surroundings.send(&name, USER, &format!("mail {name}")).await;
        self.keep(tier).await;
    }

    /// A run that its worker died with after its write, given up by the next one, and a message that is no job.
    async fn dead_letters(&self) {
        let worker = self.program.worker().await;
        self.surroundings.silence("mail poison", 1);
        self.surroundings.send("poison", USER, "mail poison").await;
        self.surroundings.asked("mail poison", 1).await;
        self.surroundings.send_bytes("no-job", "hello".to_owned(), None).await;
        let dead = self.surroundings.amqp.names().dead();
        self.ready(&dead, 1).await;
        kill(worker).await;
        let strict = [("AGENTKIT_WORKER__WORKER__STRIKES", "1".to_owned())];
        let worker = self.program.start_with(&["worker"], &strict);
        self.ready(&dead, 2).await;
        self.journalled("poison", "\"delivered\"").await;
        worker.signal("TERM");
        worker.end().await;
    }

    /// One recipient is fired, and answered.
    async fn digest(&self, due: Timestamp) {
        let first = format!("digest:{HALF}:{}:{}", recipients()[0], due.strftime("%Y-%m-%dT%H:%M:%S"));
        let first = first.replace(':', "%3A");
        self.journalled(&first, "\"delivered\"").await;
    }

    /// The user must authorize.
    async fn parked(&self, id: &str, identifier: &str) {
        self.surroundings.send(id, identifier, "hello").await;
        self.journalled(id, "wake_up_published").await;
        let index = format!("agentkit:parked:{identifier}");
        eventually("the index has it", || async { (self.redis(&["HKEYS", &index]) == id).then_some(()) }).await;
    }

    /// Runs under way before, during and after their write.
    async fn under_way(&self) {
        self.surroundings.silence("mail cut-asked", 0);
        self.surroundings.silence("mail cut-written", 1);
        self.surroundings.send("cut-asked", USER, "mail cut-asked").await;
        self.surroundings.asked("mail cut-asked", 0).await;
        self.surroundings.send("cut-written", USER, "mail cut-written").await;
        self.surroundings.asked("mail cut-written", 1).await;
        self.surroundings.peer.fault(json!({"on": "execute", "kind": "commit_then_timeout"})).await;
        self.surroundings.send("cut-writing", USER, "mail cut-writing").await;
        eventually("it is written", || async {
            self.surroundings.mails().await.contains(&"cut-writing".to_owned()).then_some(())
        })
        .await;
    }

    async fn finish(mut self, commit: String) -> Sample {
        let channel = self.surroundings.broker.connect().await;
        for name in queue_names() {
            // Not every version has every queue.
            let (queue, options) = (format!("agentkit.{name}"), BasicGetOptions { no_ack: true });
            let channel = channel.create_channel().await.unwrap();
            while let Ok(Some(taken)) = channel.basic_get(queue.as_str().into(), options).await {
                let letter = Letter::of((taken.delivery.data.clone(), taken.delivery.properties.clone()));
                self.waiting.entry(name.clone()).or_default().push(letter);
            }
        }
        let keys = kept(&self.surroundings.redis.url());
        Sample { commit, recorded_at: SystemClock.now(), queues: self.waiting, keys }
    }
}

async fn kill(worker: WorkerProcess) {
    worker.running.signal("KILL");
    worker.running.end().await;
}

#[tokio::test]
#[ignore = "makes a sample of another version: `tests/run --record COMMIT`"]
async fn what_another_version_leaves_behind_is_kept() {
    let build = EarlierBuild::of_environment();
    let broker = Broker::start_own().await;
    // The queues are the other version's.
    let amqp = Amqp { url: broker.url().into(), topology: TopologyMode::None, ..Amqp::default() };
    let surroundings = Surroundings::new(&broker, amqp).await;
    // Whoever is told to come later gives its place back, as 0.1.0 did for the longest waits alone.
    let in_place = "AGENTKIT_WORKER__SCALEKIT__TOOL_RETRY__MAX_RETRY_AFTER_MILLISECONDS";
    let program = surroundings.program().set(in_place, "2000").built_as(build.file);
    let mut recorder = Recorder { surroundings, program, waiting: BTreeMap::new() };
    recorder.dead_letters().await;

    let due = Timestamp::from_second(SystemClock.now().as_second() + 10).unwrap();
    define_digests(&recorder.program, due);
    assert_eq!(recorder.program.run(&["digests", "pause", PAUSED]).await.code, Some(0));
    let worker = recorder.program.worker().await;
    recorder.digest(due).await;
    recorder.surroundings.send("sealed", USER, "mail sealed").await;
    recorder.journalled("sealed", "\"delivered\"").await;
    recorder.parked("parked", "user_456").await;
    recorder.parked("woken", "user_789").await;
    for tier in Tier::ALL.into_iter().skip(1).rev() {
        recorder.put_off(tier).await;
    }
    recorder.under_way().await;
    // The same job again, while its run is under way.
    recorder.surroundings.send("cut-asked", USER, "mail cut-asked").await;
    recorder.keep(Tier::OneSecond).await;
    kill(worker).await;

    let jobs = recorder.surroundings.amqp.names().jobs();
    recorder.ready(&jobs, 3).await;
    assert_eq!(recorder.program.run(&["jobs", "resume", "woken"]).await.code, Some(0));
    recorder.surroundings.send("queued", USER, "mail queued").await;
    recorder.finish(build.commit).await.write();
}
