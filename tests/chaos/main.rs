//! Hundreds of jobs while workers, broker, Redis and the connections between them are killed, stopped, frozen and cut, and
//! Scalekit and the model misbehave. Afterwards every job has one answer, no mail was sent twice, nothing is left behind.
//!
//! Part of `cargo test` in a short form (every accident at least once). For hours, with another order of accidents:
//!
//! ```sh
//! CHAOS_SECONDS=7200 CHAOS_SEED=42 cargo test --test chaos -- --nocapture
//! ```
//!
//! The seed decides jobs and accidents and is printed first, each accident as it happens; what a race makes of them differs
//! from run to run.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

mod audit;
mod deployment;
mod forgetting;
mod jobs;
mod random;
mod replies;
#[expect(dead_code, reason = "shared with the integration tests, which need more of it")]
#[path = "../it/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentkit_worker::internals::agent::run::{Run, Step};
use agentkit_worker::internals::clock::{Clock, SystemClock};
use agentkit_worker::internals::journal::Journal;
use agentkit_worker::job::JobId;
use futures_util::FutureExt;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use audit::{Audit, Sent};
use deployment::{Deployment, World};
use jobs::{Accepted, Sender};
use random::Random;

/// So many jobs at most are without an answer at a time.
const UNDER_WAY: usize = 40;
/// New jobs have their answers within this time once the accidents are over.
const PROMPT: Duration = Duration::from_secs(30);
/// Everything has come to its end within this time.
const END: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_nothing_done_twice_nobody_held() {
    survive(World::Faithful).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_nothing_done_twice_nobody_held_where_redis_forgets_and_clocks_are_wrong() {
    survive(World::Forgetful).await;
}

async fn survive(world: World) {
    // One after the other: both at once would be more than a small machine has time for.
    static ALONE: Mutex<()> = Mutex::const_new(());
    let _alone = ALONE.lock().await;
    let number = |name: &str| support::setting(name).map(|text| text.parse::<u64>().unwrap());
    let seed = number("CHAOS_SEED").unwrap_or(1);
    let time = Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(0));
    println!("chaos: CHAOS_SEED={seed} CHAOS_SECONDS={} {world:?}", time.as_secs());
    let mut deployment = Deployment::start(world).await;
    let outcome = AssertUnwindSafe(play(&mut deployment, world, seed, time)).catch_unwind().await;
    if let Err(failure) = outcome {
        deployment.keep_logs();
        std::panic::resume_unwind(failure);
    }
}

async fn play(deployment: &mut Deployment, world: World, seed: u64, time: Duration) {
    let sender = Arc::new(deployment.sender().await);
    let over = Arc::new(AtomicBool::new(false));
    let answered = deployment.replies.counter();
    let sending = tokio::spawn(send_jobs(Arc::clone(&sender), seed, answered, Arc::clone(&over)));
    let mut random = Random::new(seed);
    let began = Instant::now();
    loop {
        let mut deck = world.deck();
        random.shuffle(&mut deck);
        for accident in deck {
            deployment.trouble_upstream(&mut random).await;
            sleep(Duration::from_millis(500 + random.below(1500))).await;
            deployment.suffer(accident, &mut random).await;
        }
        if began.elapsed() >= time {
            break;
        }
    }
    over.store(true, Ordering::Relaxed);
    let mut jobs = sending.await.unwrap();
    deployment.order_faults(&[]).await;
    deployment.say(&format!("no more accidents; {} jobs sent, {} answered", jobs.len(), deployment.replies.answered()));
    jobs.extend(fresh_jobs(deployment, &sender, jobs.len() as u64).await);

    let began = Instant::now();
    while deployment.replies.answered() < jobs.len() + deployment.poisonous.len() && began.elapsed() < END {
        sleep(Duration::from_millis(100)).await;
    }
    let left = left_behind(deployment).await;
    let mut audit = Audit::of(&jobs, &accepted_replies(deployment, world), &mails(deployment, &jobs).await);
    audit.stuck = [left, unfinished(deployment, world, &jobs).await].concat();
    audit.failed.extend(not_given_up(deployment));
    let (messages, interim) = deployment.replies.counts();
    deployment.say(&format!("{messages} replies, {interim} of them interim"));
    audit.conclude(jobs.len());
    assert_eq!(deployment.deserters, 0, "workers ended by themselves");
}

/// The terminal replies as callers take them. Where Redis forgets that a reply is out, and the ack of its message was lost
/// as well, another reply follows under the same event id: callers drop it by that.
fn accepted_replies(deployment: &Deployment, world: World) -> BTreeMap<String, Vec<Value>> {
    let mut terminal = deployment.replies.terminal();
    if world == World::Forgetful {
        for replies in terminal.values_mut() {
            let mut known = BTreeSet::new();
            replies.retain(|reply| known.insert(reply["id"].to_string()));
        }
    }
    terminal
}

/// Sends jobs until the accidents are over, as fast as they are answered.
async fn send_jobs(
    sender: Arc<Sender>,
    seed: u64,
    answered: impl Fn() -> usize,
    over: Arc<AtomicBool>,
) -> Vec<Accepted> {
    let mut random = Random::new(!seed);
    let mut jobs = Vec::new();
    while !over.load(Ordering::Relaxed) {
        if jobs.len() < answered() + UNDER_WAY {
            jobs.push(sender.send_any(jobs.len() as u64, &mut random).await);
        }
        sleep(Duration::from_millis(50 + random.below(150))).await;
    }
    jobs
}

/// New jobs after the last accident finish promptly.
async fn fresh_jobs(deployment: &Deployment, sender: &Sender, first: u64) -> Vec<Accepted> {
    let began = Instant::now();
    let mut jobs = Vec::new();
    for number in first..first + 10 {
        jobs.push(sender.send_simple(number).await);
    }
    loop {
        let terminal = deployment.replies.terminal();
        if jobs.iter().all(|job| terminal.contains_key(&job.id)) {
            deployment.say(&format!("{} new jobs were answered within {:?}", jobs.len(), began.elapsed()));
            return jobs;
        }
        assert!(began.elapsed() < PROMPT, "new jobs were not answered within {PROMPT:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Messages that stay in the worker's queues.
async fn left_behind(deployment: &Deployment) -> Vec<String> {
    let began = Instant::now();
    let letters = format!("{}.dead\t{}", deployment.amqp.prefix, deployment.poisonous.len());
    loop {
        let listed = deployment.broker.control(&["list_queues", "--silent", "name", "messages"]).await;
        let left: Vec<String> = listed
            .lines()
            .filter(|line| line.starts_with(&deployment.amqp.prefix) && !line.ends_with("\t0") && *line != letters)
            .map(str::to_owned)
            .collect();
        // Copies of wake-ups come to their end in the wait queues.
        if left.is_empty() || began.elapsed() > END {
            return left;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Runs that are not delivered. Where Redis forgets, a journal without its end proves nothing; the replies do.
async fn unfinished(deployment: &Deployment, world: World, jobs: &[Accepted]) -> Vec<String> {
    if world == World::Forgetful {
        return Vec::new();
    }
    let journal = deployment.journal();
    let mut unfinished = Vec::new();
    for job in jobs {
        let lines = journal.read(&JobId::new(&job.id).unwrap()).await.unwrap();
        let run = Run::replay(&lines).unwrap();
        if !run.is_some_and(|run| matches!(run.next(SystemClock.now()), Step::Done)) {
            unfinished.push(format!("run of {}", job.id));
        }
    }
    unfinished
}

/// Jobs that three workers died with, and that did not end for that: by the third death, and with a dead letter.
fn not_given_up(deployment: &Deployment) -> Vec<String> {
    let replies = deployment.replies.terminal();
    let code = |job: &Accepted| replies[&job.id][0]["data"]["error"]["code"].clone();
    let wrong = deployment.poisonous.iter().filter(|(job, deaths)| *deaths != 3 || code(job) != "attempts_exhausted");
    wrong.map(|(job, deaths)| format!("{}: {} after {deaths} deaths", job.id, code(job))).collect()
}

/// What the stand-in for Gmail really sent.
async fn mails(deployment: &Deployment, jobs: &[Accepted]) -> Sent {
    let mut sent = Sent::new();
    let identifiers: BTreeSet<&String> = jobs.iter().map(|job| &job.identifier).collect();
    for identifier in identifiers {
        let (_, world) = deployment.peer.get(&format!("/_sandbox/world/{identifier}")).await;
        for effect in world["effects"].as_array().unwrap() {
            *sent.entry(effect["params"]["subject"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    sent
}
