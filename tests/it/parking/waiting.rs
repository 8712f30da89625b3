//! Runs wait for their users without costing anything, wake by webhook and by poll, and go on where they stopped.

use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::internals::agent::event::NOT_WITNESSED;
use agentkit_worker::internals::app::{App, Backends};
use agentkit_worker::internals::cache::memory::MemoryCache;
use agentkit_worker::internals::cache::{Cache, CacheError};
use agentkit_worker::internals::clock::SharedClock;
use agentkit_worker::internals::key::Key;
use agentkit_worker::internals::queue::memory::{MemoryInbox, MemoryQueue};
use agentkit_worker::internals::queue::{Destination, Message, Publisher};
use agentkit_worker::reply::{Reply, ReplyEvent};
use agentkit_worker::{Ended, Shutdown};
use bytes::Bytes;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::still_clock_worker::{StillClockWorker, every_second, links};
use crate::support::webhooked_service::{A_SECOND, WebhookedService, job, outcome};
use crate::support::{shortly, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_alone_wakes_the_run_within_a_second_at_the_very_place() {
    let service = WebhookedService::start(|_| {}).await;
    let worker = service.worker(service.webhooks_alone()).await;
    let mut asked = service.ask(job("j", "user_123")).await;
    let (reply, required) = asked.authorization().await;
    assert_eq!(reply.id, "j:authorization:1");
    assert_eq!(required.authorizations[0].status, "MISSING");
    service.parked("j").await;
    assert_eq!(worker.metric("agentkit_parked_jobs{reason=\"authorization\"}").await.as_deref(), Some("1"));
    assert_eq!(worker.metric("agentkit_jobs_in_flight").await.as_deref(), Some("0"), "its place is free");

    let clicked = Instant::now();
    service.consent(required.authorizations[0].link.as_ref().unwrap()).await;
    shortly("the run goes on", async || {
        service.journal("j").await.iter().any(|entry| entry.contains("accounts_ready")).then_some(())
    })
    .await;
    assert!(clicked.elapsed() < A_SECOND, "{:?}", clicked.elapsed());
    let rest = asked.rest().await;
    assert_eq!(rest.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    assert_eq!(worker.metric("agentkit_parked_jobs{reason=\"authorization\"}").await.as_deref(), Some("0"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_alone_wakes_the_run_and_writes_nothing_while_it_waits() {
    let service = WebhookedService::start(|_| {}).await;
    let worker = service.worker(service.polling_alone()).await;
    let mut asked = service.ask(job("j", "user_123")).await;
    asked.authorization().await;
    service.parked("j").await;
    let (entries, looks) = (service.journal("j").await, service.count("details").await);
    shortly("three more looks", async || (service.count("details").await >= looks + 3).then_some(())).await;
    assert_eq!(service.journal("j").await, entries);
    service.set_status("gmail", "user_123", "ACTIVE").await;
    assert_eq!(asked.rest().await.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_both_the_run_goes_on_once() {
    let service = WebhookedService::start(|_| {}).await;
    let worker = service.worker(service.both()).await;
    let mut asked = service.ask(job("j", "user_123")).await;
    let (_, required) = asked.authorization().await;
    service.consent(required.authorizations[0].link.as_ref().unwrap()).await;
    assert_eq!(asked.rest().await.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    let ready = service.journal("j").await.iter().filter(|entry| entry.contains("accounts_ready")).count();
    assert_eq!(ready, 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_run_survives_every_worker_and_is_found_by_the_next_ones_webhooks() {
    let service = WebhookedService::start(|_| {}).await;
    let first = service.worker(service.webhooks_alone()).await;
    let mut asked = service.ask(job("j", "user_123")).await;
    let (_, required) = asked.authorization().await;
    service.parked("j").await;
    first.stop().await;
    let second = service.worker(service.webhooks_alone()).await;
    service.consent(required.authorizations[0].link.as_ref().unwrap()).await;
    assert_eq!(asked.rest().await.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_click_while_no_worker_runs_is_found_by_the_next_ones_poll() {
    let service = WebhookedService::start(|options| options.webhook = None).await;
    let first = service.worker(service.polling_alone()).await;
    let mut asked = service.ask(job("j", "user_123")).await;
    let (_, required) = asked.authorization().await;
    service.parked("j").await;
    first.stop().await;
    service.consent(required.authorizations[0].link.as_ref().unwrap()).await;
    let second = service.worker(service.polling_alone()).await;
    assert_eq!(asked.rest().await.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_jobs_of_one_user_on_two_workers_give_one_link_and_wake_together() {
    let service = WebhookedService::start(|_| {}).await;
    // Slow enough that all ten ask while the first link is made.
    service.order("faults", json!({"on": "magic_link", "kind": "delay", "delay_ms": 500, "times": 10})).await;
    let workers = [service.worker(service.webhooks_alone()).await, service.worker(service.webhooks_alone()).await];
    let mut all = Vec::new();
    for number in 0..10 {
        all.push(service.ask(job(&format!("j{number}"), "user_123")).await);
    }
    let mut links = std::collections::BTreeSet::new();
    for asked in &mut all {
        links.insert(asked.authorization().await.1.authorizations[0].link.clone().unwrap());
    }
    assert_eq!(links.len(), 1, "one link");
    assert_eq!(service.count("magic_link").await, 1);
    for number in 0..10 {
        service.parked(&format!("j{number}")).await;
    }
    service.consent(links.first().unwrap()).await;
    for asked in all {
        assert_eq!(asked.rest().await.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    }
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_lost_in_mid_run_parks_it_and_the_very_call_then_runs_once() {
    let service = WebhookedService::start(|options| options.initial_status = Some("ACTIVE".into())).await;
    let lost = json!({"on": "execute", "kind": "status", "status": 401, "error_code": "REAUTHENTICATION_NEEDED"});
    service.order("faults", lost).await;
    let worker = service.worker(service.both()).await;
    let mut ask = job("j", "user_123");
    ask["prompt"] =
        r#"call gmail_send_message with {"to": "ann@example.com", "subject": "Hi", "body": "hello"}"#.into();
    let mut asked = service.ask(ask).await;
    let (_, required) = asked.authorization().await;
    assert_eq!(required.authorizations[0].status, "EXPIRED");
    assert!(required.authorizations[0].link.is_some());
    let rest = asked.rest().await;
    assert_eq!(rest.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    let ReplyEvent::Completed(completed) = &rest[0].event else { panic!("{rest:?}") };
    assert_eq!(completed.account.effects.len(), 1, "{:?}", completed.account.effects);
    let world = service.control("world/user_123").await;
    assert_eq!(world["effects"].as_array().unwrap().len(), 1, "{}", world["effects"]);
    assert_eq!(service.count("execute").await, 2, "refused once, run once");
    let journal = service.journal("j").await;
    // On a busy machine a call waits for the broker as well.
    let count =
        |name: &str| journal.iter().filter(|entry| entry.contains(name) && !entry.contains(NOT_WITNESSED)).count();
    assert_eq!((count("\"model_replied\""), count("\"tool_not_run\"")), (2, 1), "no model turn was paid twice");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_never_comes_fails_the_job_once_at_the_deadline() {
    let service = WebhookedService::start(|_| {}).await;
    let worker = service.worker(service.webhooks_alone()).await;
    let mut ask = job("j", "user_123");
    ask["authorization"]["wait_seconds"] = 2.into();
    let mut asked = service.ask(ask).await;
    asked.authorization().await;
    assert_eq!(asked.rest().await.iter().map(outcome).collect::<Vec<_>>(), ["authorization_expired"]);
    let failed = worker.metric("agentkit_replies_total{type=\"agentkit.job.failed\"}").await;
    assert_eq!(failed.as_deref(), Some("1"));
    assert_eq!(worker.metric("agentkit_parked_jobs{reason=\"authorization\"}").await.as_deref(), Some("0"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_forgets_the_index_costs_the_polls_delay_only() {
    let service = WebhookedService::start(|_| {}).await;
    let worker = service.worker(service.both()).await;
    let mut asked = service.ask(job("j", "user_123")).await;
    let (_, required) = asked.authorization().await;
    service.parked("j").await;
    assert_eq!(service.redis.command(&["DEL", "agentkit:parked:user_123", "agentkit:parked"]), "2");
    service.consent(required.authorizations[0].link.as_ref().unwrap()).await;
    assert_eq!(asked.rest().await.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_right_after_the_consent_asks_nobody() {
    let service = WebhookedService::start(|options| options.webhook = None).await;
    let worker = service.worker(service.webhooks_alone()).await;
    service.ask(job("early", "user_123")).await.authorization().await;
    service.set_status("gmail", "user_123", "ACTIVE").await;
    let replies = service.ask(job("late", "user_123")).await.rest().await;
    assert_eq!(replies.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    worker.stop().await;
}

/// A worker with a queue of its own, beside the one of `StillClockWorker`.
struct WorkerBeside {
    queue: MemoryQueue,
    replies: MemoryInbox,
    shutdown: Shutdown,
    running: JoinHandle<Ended>,
}

impl WorkerBeside {
    fn start(still: &StillClockWorker, cache: Arc<dyn Cache>) -> Self {
        let (queue, shutdown) = (MemoryQueue::new(100), Shutdown::new());
        let clock: SharedClock = still.clock.clone();
        let backends = Backends { cache, ..Backends::memory(&queue, &clock) };
        let app = App::build(every_second(&still.sandbox), backends, clock, shutdown.clone()).unwrap();
        let replies = queue.reply_inbox("replies");
        Self { queue, replies, shutdown, running: tokio::spawn(app.run()) }
    }

    /// Publishes a job; the replies of all of them come to one inbox.
    async fn ask(&self, mut job: Value) {
        job["reply_to"] = "replies".into();
        let message = Message { body: job.to_string().into(), ..Message::default() };
        self.queue.publisher().publish(&Destination::Jobs, message).await.unwrap();
    }

    async fn reply(&mut self) -> Reply {
        let message = soon("a reply", self.replies.next()).await.unwrap();
        serde_json::from_slice(&message.body).unwrap()
    }

    async fn stop(self) {
        self.shutdown.stop();
        soon("the end", self.running).await.unwrap();
    }
}

#[tokio::test]
async fn a_link_that_runs_out_is_followed_by_a_fresh_one_and_the_wait_gets_no_longer() {
    let still = StillClockWorker::start(|options| options.link_lifetime = Duration::from_mins(5)).await;
    let mut replies = still.ask(job("j", "user_123")).await;
    let first = soon("the first link", replies.next()).await.unwrap();
    let mut seen = vec![links(&first)];
    // More often than a run may lose its account: fresh links are no losses.
    for ordinal in 2..=8 {
        still.clock.advance(SignedDuration::from_mins(6));
        let early = tokio::time::timeout(Duration::from_millis(1200), replies.next()).await;
        assert!(early.is_err(), "not within ten minutes: {early:?}");
        still.clock.advance(SignedDuration::from_mins(4));
        let next = soon("a fresh link", replies.next()).await.unwrap();
        assert_eq!(next.id, format!("j:authorization:{ordinal}"));
        let (link, until) = links(&next);
        assert_eq!(until, seen[0].1);
        assert!(seen.iter().all(|(known, _)| *known != link), "{link} was given out before");
        seen.push((link, until));
    }
    still.set_account("user_123", "ACTIVE").await;
    still.clock.advance(SignedDuration::from_secs(2));
    assert_eq!(outcome(&soon("the end", replies.next()).await.unwrap()), "completed");
}

/// As if Redis were down.
struct NoCache;

#[async_trait::async_trait]
impl Cache for NoCache {
    async fn get(&self, _: &Key) -> Result<Option<Bytes>, CacheError> {
        Err(CacheError("down".into()))
    }

    async fn put(&self, _: &Key, _: Bytes, _: Duration) -> Result<(), CacheError> {
        Err(CacheError("down".into()))
    }

    async fn put_if_absent(&self, _: &Key, _: Bytes, _: Duration) -> Result<bool, CacheError> {
        Err(CacheError("down".into()))
    }

    async fn remove(&self, _: &Key) -> Result<(), CacheError> {
        Err(CacheError("down".into()))
    }
}

#[tokio::test]
async fn ten_jobs_at_once_give_one_link_even_without_a_cache() {
    let still = StillClockWorker::start(|_| {}).await;
    still.order("faults", json!({"on": "magic_link", "kind": "delay", "delay_ms": 300, "times": 10})).await;
    let mut worker = WorkerBeside::start(&still, Arc::new(NoCache));
    for number in 0..10 {
        worker.ask(job(&format!("j{number}"), "user_123")).await;
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..10 {
        seen.insert(links(&worker.reply().await).0);
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    worker.stop().await;
}

#[tokio::test]
async fn a_link_that_was_used_is_handed_out_by_no_other_worker_either() {
    let still = StillClockWorker::start(|_| {}).await;
    let cache = Arc::new(MemoryCache::new(still.clock.clone(), 1 << 20));
    let mut workers = [WorkerBeside::start(&still, cache.clone()), WorkerBeside::start(&still, cache)];
    let impatient = |id: &str| {
        let mut job = job(id, "user_123");
        job["authorization"]["wait_seconds"] = 0.into();
        job
    };
    let link = |reply: &Reply| match &reply.event {
        ReplyEvent::AuthorizationRequired(required) => required.authorizations[0].link.clone().unwrap(),
        other => panic!("{other:?}"),
    };
    workers[0].ask(job("j1", "user_123")).await;
    let first = link(&workers[0].reply().await);
    workers[1].ask(impatient("j2")).await;
    assert_eq!(link(&workers[1].reply().await), first);
    // Used by the run of the one worker, and known to the other one.
    still.set_account("user_123", "ACTIVE").await;
    still.clock.advance(SignedDuration::from_secs(2));
    assert_eq!(outcome(&workers[0].reply().await), "completed");
    still.set_account("user_123", "EXPIRED").await;
    workers[1].ask(impatient("j3")).await;
    assert_ne!(link(&workers[1].reply().await), first);
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test]
async fn who_does_not_want_to_wait_is_told_once_and_finally() {
    let still = StillClockWorker::start(|_| {}).await;
    let mut ask = job("j", "user_123");
    ask["authorization"]["wait_seconds"] = 0.into();
    let mut replies = still.ask(ask).await;
    let reply = soon("the event", replies.next()).await.unwrap();
    let ReplyEvent::AuthorizationRequired(required) = &reply.event else { panic!("{reply:?}") };
    assert!(required.is_final && required.waiting_until.is_none() && required.authorizations[0].link.is_some());
    assert!(reply.event.is_terminal());
    let again = tokio::time::timeout(Duration::from_millis(1500), replies.next()).await;
    assert!(again.is_err(), "{again:?}");
}

#[tokio::test]
async fn each_status_ends_in_its_own_way() {
    let still = StillClockWorker::start(|_| {}).await;
    for (status, code) in [
        ("PENDING_AUTH", "authorization_expired"),
        ("EXPIRED", "authorization_expired"),
        ("INACTIVE", "authorization_expired"),
        ("PENDING_VERIFICATION", "verification_pending"),
        ("DISCONNECTED", "account_disconnected"),
    ] {
        still.set_account(status, status).await;
        let mut replies = still.ask(job(status, status)).await;
        let mut reply = soon("a reply", replies.next()).await.unwrap();
        if let ReplyEvent::AuthorizationRequired(required) = &reply.event {
            assert_eq!(required.authorizations[0].status, status);
            assert_eq!(required.authorizations[0].link.is_some(), status != "PENDING_VERIFICATION", "{status}");
            still.clock.advance(SignedDuration::from_hours(24));
            reply = soon("the end", replies.next()).await.unwrap();
        } else {
            assert_eq!(status, "DISCONNECTED");
        }
        assert_eq!(outcome(&reply), code, "{status}");
    }
}

#[tokio::test]
async fn an_account_that_is_disconnected_while_its_run_waits_ends_it() {
    let still = StillClockWorker::start(|_| {}).await;
    let mut replies = still.ask(job("j", "user_123")).await;
    soon("the link", replies.next()).await.unwrap();
    let account = json!({"connector": "gmail", "identifier": "user_123", "status": "DISCONNECTED"});
    still.order("accounts", account).await;
    still.clock.advance(SignedDuration::from_secs(2));
    assert_eq!(outcome(&soon("the end", replies.next()).await.unwrap()), "account_disconnected");
}

#[tokio::test]
async fn one_event_carries_the_links_of_all_accounts_that_are_missing() {
    let still = StillClockWorker::start(|_| {}).await;
    let mut ask = job("j", "user_123");
    ask["connections"] = json!(["gmail", "slack"]);
    let mut replies = still.ask(ask).await;
    let reply = soon("the event", replies.next()).await.unwrap();
    let ReplyEvent::AuthorizationRequired(required) = &reply.event else { panic!("{reply:?}") };
    let names: Vec<&str> = required.authorizations.iter().map(|entry| entry.connection.as_str()).collect();
    assert_eq!(names, ["gmail", "slack"]);
    let links: std::collections::BTreeSet<_> =
        required.authorizations.iter().map(|entry| entry.link.clone().unwrap()).collect();
    assert_eq!(links.len(), 2, "a link for each");
    // One of them is not enough, and no reason to tell the caller again.
    for connection in ["gmail", "slack"] {
        let early = tokio::time::timeout(Duration::from_millis(1500), replies.next()).await;
        assert!(early.is_err(), "before {connection}: {early:?}");
        still.order("accounts", json!({"connector": connection, "identifier": "user_123", "status": "ACTIVE"})).await;
        still.clock.advance(SignedDuration::from_secs(2));
    }
    assert_eq!(outcome(&soon("the end", replies.next()).await.unwrap()), "completed");
}

#[tokio::test]
async fn an_account_that_is_lost_while_another_one_is_awaited_is_told_of_in_the_same_wait() {
    let still = StillClockWorker::start(|_| {}).await;
    let account = |name: &str, status: &str| json!({"connector": name, "identifier": "user_123", "status": status});
    still.order("accounts", account("slack", "ACTIVE")).await;
    let mut ask = job("j", "user_123");
    ask["connections"] = json!(["gmail", "slack"]);
    let mut replies = still.ask(ask).await;
    let first = soon("the first event", replies.next()).await.unwrap();
    let of = |reply: &Reply| match &reply.event {
        ReplyEvent::AuthorizationRequired(required) => required.authorizations[0].connection.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(of(&first), "gmail");
    still.order("accounts", account("slack", "EXPIRED")).await;
    still.order("accounts", account("gmail", "ACTIVE")).await;
    still.clock.advance(SignedDuration::from_secs(2));
    let second = soon("the second event", replies.next()).await.unwrap();
    assert_eq!((of(&second).as_str(), links(&second).1), ("slack", links(&first).1));
    still.order("accounts", account("slack", "ACTIVE")).await;
    still.clock.advance(SignedDuration::from_secs(2));
    assert_eq!(outcome(&soon("the end", replies.next()).await.unwrap()), "completed");
}

#[tokio::test]
async fn an_account_that_was_disconnected_gets_a_link_where_the_operator_wants_that() {
    let still = StillClockWorker::with(|_| {}, |config| config.authorization.relink_disconnected = true).await;
    let account = |status: &str| json!({"connector": "gmail", "identifier": "user_123", "status": status});
    still.order("accounts", account("DISCONNECTED")).await;
    let mut replies = still.ask(job("j", "user_123")).await;
    let reply = soon("the event", replies.next()).await.unwrap();
    let ReplyEvent::AuthorizationRequired(required) = &reply.event else { panic!("{reply:?}") };
    let entry = &required.authorizations[0];
    assert_eq!((entry.status.as_str(), entry.link.is_some()), ("DISCONNECTED", true));
    assert!(entry.hint.contains("if it is still wanted"), "{}", entry.hint);
    // StillClockWorker disconnected is no end of the wait.
    still.clock.advance(SignedDuration::from_secs(2));
    let early = tokio::time::timeout(Duration::from_millis(1500), replies.next()).await;
    assert!(early.is_err(), "{early:?}");
    still.set_account("user_123", "ACTIVE").await;
    still.clock.advance(SignedDuration::from_secs(2));
    assert_eq!(outcome(&soon("the end", replies.next()).await.unwrap()), "completed");
}
