//! Workers of two versions side by side, replaced under load, there and back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use agentkit_worker::internals::queue::amqp::{Config as Amqp, ReplyInbox, Tier, TopologyMode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::surroundings::{EarlierBuild, Surroundings, USER};
use crate::support::broker::Broker;
use crate::support::eventually;
use crate::support::program::{Program, WorkerProcess};

/// So many jobs are without an answer at a time, and so many are answered between two replacements.
const BACKLOG: usize = 40;
const BETWEEN: usize = 40;
/// What waits for its user meanwhile.
const PARKED: [&str; 3] = ["parked-1", "parked-2", "parked-3"];
const NEWCOMER: &str = "user_456";

/// Surroundings whose queues are the workers' business, the earlier program, and this one.
async fn both_versions() -> (Surroundings<'static>, Program, Program) {
    let broker = Broker::shared().await;
    let amqp = Amqp { topology: TopologyMode::None, ..broker.config() };
    let surroundings = Surroundings::new(broker, amqp).await;
    let program = || {
        let short = surroundings.program().set("AGENTKIT_WORKER__WORKER__CONCURRENCY", "5");
        let short = short.set("AGENTKIT_WORKER__AUTHORIZATION__POLL_SECONDS", "2");
        short.set("AGENTKIT_WORKER__AUTHORIZATION__POLL_SECONDS_AT_MOST", "2")
    };
    let earlier = program().built_as(EarlierBuild::of_environment().file);
    let present = program();
    (surroundings, earlier, present)
}

/// As deploy/README.md tells whoever goes back to 0.1.0.
fn in_a_rollback(earlier: Program) -> Program {
    earlier.set("AGENTKIT_WORKER__AMQP__TOPOLOGY", "verify")
}

/// Jobs without an end, one write each, and their replies.
struct Load<'a> {
    surroundings: &'a Surroundings<'static>,
    reply_to: String,
    sent: AtomicUsize,
    stop: CancellationToken,
    replies: Arc<Mutex<Vec<Value>>>,
}

impl<'a> Load<'a> {
    async fn on(surroundings: &'a Surroundings<'static>) -> Self {
        let slow = json!({"on": "execute", "kind": "delay", "delay_ms": 200, "times": 1_000_000});
        surroundings.peer.fault(slow).await;
        let mut inbox = ReplyInbox::open(&surroundings.amqp).await.unwrap();
        let (reply_to, replies) = (inbox.name().to_owned(), Arc::<Mutex<Vec<Value>>>::default());
        let kept = replies.clone();
        tokio::spawn(async move {
            while let Ok(message) = inbox.next().await {
                kept.lock().unwrap().push(serde_json::from_slice(&message.body).unwrap());
            }
        });
        let load = Self { surroundings, reply_to, sent: AtomicUsize::new(0), stop: CancellationToken::new(), replies };
        for id in PARKED {
            load.send(id, NEWCOMER, "hello").await;
        }
        load
    }

    async fn send(&self, id: &str, identifier: &str, prompt: &str) {
        let job = json!({"id": id, "identifier": identifier, "connections": ["gmail"], "prompt": prompt});
        self.surroundings.send_bytes(id, job.to_string(), Some(&self.reply_to)).await;
    }

    /// The replies that end each job.
    fn ends(&self) -> BTreeMap<String, Vec<Value>> {
        let mut ends = BTreeMap::<String, Vec<Value>>::new();
        for reply in self.replies.lock().unwrap().iter() {
            if reply["type"] != "agentkit.job.authorization_required" {
                ends.entry(reply["subject"].as_str().unwrap().to_owned()).or_default().push(reply.clone());
            }
        }
        ends
    }

    /// Hands jobs over until it is told to stop.
    async fn go_on(&self) {
        while !self.stop.is_cancelled() {
            let sent = self.sent.load(Ordering::Relaxed);
            eventually("answers", || async { (sent < self.ends().len() + BACKLOG).then_some(()) }).await;
            let id = format!("job-{sent:04}");
            self.send(&id, USER, &format!("mail {id}")).await;
            self.sent.store(sent + 1, Ordering::Relaxed);
        }
    }

    /// Waits for further answers.
    async fn answers(&self, further: usize) {
        let wanted = self.ends().len() + further;
        eventually("further answers", || async { (self.ends().len() >= wanted).then_some(()) }).await;
    }

    /// Ends a worker, starts one of another program in its place, and waits for further answers.
    async fn replace(&self, worker: &mut WorkerProcess, signal: &str, by: &Program) {
        let ended = std::mem::replace(worker, by.worker().await);
        ended.running.signal(signal);
        let (status, log) = ended.running.end().await;
        assert_eq!(status.success(), signal == "TERM", "{log:#?}");
        self.answers(BETWEEN).await;
    }

    /// Every job has one answer, was written once, and nothing is left.
    async fn finish(&self) {
        let sent = self.sent.load(Ordering::Relaxed);
        let jobs: BTreeSet<String> =
            (0..sent).map(|number| format!("job-{number:04}")).chain(PARKED.map(str::to_owned)).collect();
        eventually("all answers", || async { (self.ends().len() >= jobs.len()).then_some(()) }).await;
        let ends = self.ends();
        assert_eq!(ends.keys().cloned().collect::<BTreeSet<_>>(), jobs);
        let mut written = BTreeMap::<String, usize>::new();
        for subject in self.surroundings.mails().await {
            *written.entry(subject).or_default() += 1;
        }
        let mut unknown = 0;
        for (job, ends) in &ends {
            assert!(ends.iter().all(|end| *end == ends[0]), "a second reply that differs: {ends:#?}");
            assert_eq!(ends[0]["type"], "agentkit.job.completed", "{:#}", ends[0]);
            let times = written.get(job).copied().unwrap_or(0);
            let is_known = ends[0]["data"]["status"] == "completed";
            unknown += usize::from(!is_known);
            match PARKED.contains(&job.as_str()) {
                true => {}
                false if is_known => assert_eq!(times, 1, "{job}"),
                false => assert!(times <= 1, "{job} was written {times} times"),
            }
        }
        let names = self.surroundings.amqp.names();
        let queues =
            [names.jobs(), names.urgent(), names.replies()].into_iter().chain(Tier::ALL.map(|tier| names.wait(tier)));
        for queue in queues {
            eventually(&format!("{queue} is empty"), || async {
                (self.surroundings.broker.ready(&queue).await == 0).then_some(())
            })
            .await;
        }
        assert_eq!(self.surroundings.broker.ready(&names.dead()).await, 0, "nothing became a dead letter");
        let copies: usize = ends.values().map(|ends| ends.len() - 1).sum();
        println!(
            "{} jobs: lost 0, written twice 0, outcome unknown {unknown}, replies sent again {copies}",
            jobs.len()
        );
    }
}

#[tokio::test]
#[ignore = "needs an earlier version: `tests/run --upgrade-from COMMIT`"]
async fn an_upgrade_a_rollback_and_another_upgrade_under_load_lose_nothing_and_repeat_nothing() {
    let (surroundings, earlier, present) = both_versions().await;
    let (mut one, mut two) = (earlier.worker().await, earlier.worker().await);
    let load = Load::on(&surroundings).await;
    let story = async {
        load.answers(BETWEEN).await;
        load.replace(&mut one, "TERM", &present).await;
        load.replace(&mut two, "KILL", &present).await;

        // The first to start alone makes the reply queue anew.
        assert!(one.stop().await.0.success() && two.stop().await.0.success());
        let (mut one, mut two) = (present.worker().await, present.worker().await);
        one.running.line("was made anew").await;
        load.answers(BETWEEN).await;

        let earlier = in_a_rollback(earlier);
        load.replace(&mut one, "TERM", &earlier).await;
        load.replace(&mut two, "KILL", &earlier).await;

        surroundings.peer.activate("gmail", NEWCOMER).await;
        load.replace(&mut one, "KILL", &present).await;
        load.replace(&mut two, "TERM", &present).await;
        load.stop.cancel();
        (one, two)
    };
    let ((one, two), ()) = tokio::join!(story, load.go_on());
    load.finish().await;
    assert!(one.stop().await.0.success() && two.stop().await.0.success());
}

#[tokio::test]
#[ignore = "needs an earlier version: `tests/run --upgrade-from COMMIT`"]
async fn what_an_earlier_version_cannot_read_waits_for_the_present_one_in_a_rollback() {
    let (surroundings, earlier, present) = both_versions().await;
    let worker = present.worker().await;
    surroundings.peer.fault(json!({"on": "execute", "kind": "commit_then_timeout"})).await;
    surroundings.send("ahead", USER, "mail ahead").await;
    eventually("it is written", || async { (surroundings.mails().await == ["ahead"]).then_some(()) }).await;
    worker.running.signal("KILL");
    worker.running.end().await;

    // Redis forgets that the write had started: the run's next worker says so in an entry that 0.1.0 does not know.
    let run = "agentkit:run:{ahead}";
    let entry = |index: &usize| surroundings.redis.command(&["HGET", run, &index.to_string()]);
    let started = (0..10).find(|index| entry(index).contains("tool_started")).unwrap();
    surroundings.redis.command(&["HSET", run, "length", &started.to_string()]);
    surroundings.silence("mail ahead", 1);
    let worker = present.worker().await;
    surroundings.asked("mail ahead", 1).await;
    assert!(worker.stop().await.0.success());
    let journal = surroundings.redis.command(&["HVALS", run]);
    assert!(journal.contains("end_lost"), "{journal}");

    let worker = in_a_rollback(earlier).worker().await;
    let waits = surroundings.amqp.names().wait(Tier::ThirtySeconds);
    eventually("it waits", || async { (surroundings.broker.ready(&waits).await == 1).then_some(()) }).await;
    assert_eq!(surroundings.broker.ready(&surroundings.amqp.names().dead()).await, 0);
    assert!(worker.stop().await.0.success());

    surroundings.speak();
    let worker = present.worker().await;
    let end = surroundings.end("ahead").await;
    assert_eq!(end["data"]["status"], "completed_with_unknown_effects", "{end:#}");
    assert_eq!(surroundings.mails().await, ["ahead"]);
    assert!(worker.stop().await.0.success());
}
