//! Accounts that are lost in the middle of a run, in all the ways in which Scalekit and the providers say so.

use std::time::Duration;

use agentkit_worker::internals::agent::event::NOT_WITNESSED;
use agentkit_worker::reply::ReplyEvent;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::sandbox_peer::plain_client;
use crate::support::still_clock_worker::{StillClockWorker, links};
use crate::support::webhooked_service::{A_SECOND, WebhookedService, job, outcome};
use crate::support::webhooks::{event, tell};
use crate::support::{shortly, soon};

/// A job that sends one mail.
fn mail(id: &str) -> Value {
    let mut job = job(id, "user_123");
    job["prompt"] =
        r#"call gmail_send_message with {"to": "ann@example.com", "subject": "Hi", "body": "hello"}"#.into();
    job
}

/// The provider takes the account no longer, so many times.
fn refused(times: u32) -> Value {
    let code = "REAUTHENTICATION_NEEDED";
    json!({"on": "execute", "kind": "status", "status": 401, "error_code": code, "times": times})
}

/// Every account is active, and what becomes of one is not announced.
async fn service_without_webhooks() -> WebhookedService {
    WebhookedService::start(|options| {
        options.initial_status = Some("ACTIVE".into());
        options.webhook = None;
    })
    .await
}

/// Entries of such an event; calls that waited for the broker on a busy machine were not refused.
async fn count(service: &WebhookedService, event: &str) -> usize {
    let name = format!("\"{event}\"");
    let journal = service.journal("j").await;
    journal.iter().filter(|entry| entry.contains(&name) && !entry.contains(NOT_WITNESSED)).count()
}

async fn sent_mails(service: &WebhookedService) -> usize {
    service.control("world/user_123").await["effects"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_refused_although_scalekit_says_active_is_tried_by_the_poll_under_the_one_link() {
    let service = service_without_webhooks().await;
    // More often than a run may lose its account.
    service.order("faults", refused(7)).await;
    let worker = service.worker(service.both()).await;
    let mut asked = service.ask(mail("j")).await;
    let (reply, required) = asked.authorization().await;
    assert_eq!((reply.id.as_str(), required.authorizations[0].status.as_str()), ("j:authorization:1", "EXPIRED"));
    assert!(required.authorizations[0].link.is_some());
    assert_eq!(asked.rest().await.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    assert_eq!((service.count("execute").await, service.count("magic_link").await), (8, 1));
    assert_eq!((count(&service, "authorization_requested").await, count(&service, "tool_not_run").await), (1, 7));
    assert_eq!((count(&service, "model_replied").await, sent_mails(&service).await), (2, 1));
    assert_eq!(service.redis.command(&["EXISTS", "agentkit:link:user_123:gmail"]), "0", "a used link is forgotten");
    assert_eq!(worker.metric("agentkit_parked_jobs{reason=\"authorization\"}").await.as_deref(), Some("0"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_tries_a_refused_call_at_once_and_webhooks_do_not_chase_the_tries() {
    let service = service_without_webhooks().await;
    service.order("faults", refused(2)).await;
    let worker = service.worker(service.webhooks_alone()).await;
    let mut asked = service.ask(mail("j")).await;
    asked.authorization().await;
    service.parked("j").await;
    let told = Instant::now();
    assert_eq!(tell(&worker, &event("user_123", Some("gmail"))).await, 204);
    shortly("the call is tried", async || (service.count("execute").await == 2).then_some(())).await;
    assert!(told.elapsed() < A_SECOND, "{:?}", told.elapsed());
    service.parked("j").await;
    let told = Instant::now();
    assert_eq!(tell(&worker, &event("user_123", Some("gmail"))).await, 204);
    assert_eq!(asked.rest().await.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    assert!(told.elapsed() > Duration::from_secs(7), "{:?}", told.elapsed());
    assert_eq!((service.count("execute").await, sent_mails(&service).await), (3, 1));
    assert_eq!((count(&service, "authorization_requested").await, service.count("magic_link").await), (1, 1));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_refused_to_the_end_fails_the_job_once_at_the_deadline_that_was_promised() {
    let service = service_without_webhooks().await;
    service.order("faults", refused(1000)).await;
    let worker = service.worker(service.both()).await;
    let mut ask = mail("j");
    ask["authorization"]["wait_seconds"] = 5.into();
    let mut asked = service.ask(ask).await;
    let (_, required) = asked.authorization().await;
    let rest = asked.rest().await;
    assert_eq!(rest.iter().map(outcome).collect::<Vec<_>>(), ["authorization_expired"]);
    assert!(rest[0].time >= required.waiting_until.unwrap(), "{rest:?}");
    assert!(service.count("execute").await > 2);
    assert_eq!(worker.metric("agentkit_parked_jobs{reason=\"authorization\"}").await.as_deref(), Some("0"));
    worker.stop().await;
}

#[tokio::test]
async fn a_call_refused_for_longer_than_a_link_lasts_gets_fresh_ones_within_the_same_wait() {
    let still = StillClockWorker::start(|options| {
        options.initial_status = Some("ACTIVE".into());
        options.link_lifetime = Duration::from_mins(5);
    })
    .await;
    still.order("faults", refused(100_000)).await;
    let mut replies = still.ask(mail("j")).await;
    let mut seen = vec![links(&soon("the first link", replies.next()).await.unwrap())];
    for _ in 2..=7 {
        still.clock.advance(SignedDuration::from_mins(6));
        let early = tokio::time::timeout(Duration::from_millis(1200), replies.next()).await;
        assert!(early.is_err(), "not within ten minutes: {early:?}");
        still.clock.advance(SignedDuration::from_mins(4));
        let (link, until) = links(&soon("a fresh link", replies.next()).await.unwrap());
        assert_eq!(until, seen[0].1);
        assert!(seen.iter().all(|(known, _)| *known != link), "{link} was given out before");
        seen.push((link, until));
    }
    let url = format!("{}/faults", still.sandbox.control_url());
    assert!(plain_client().delete(url).send().await.unwrap().status().is_success());
    still.clock.advance(SignedDuration::from_secs(2));
    assert_eq!(outcome(&soon("the end", replies.next()).await.unwrap()), "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forbidden_on_an_account_that_is_lost_parks_the_run() {
    let service = service_without_webhooks().await;
    let expired = json!({"connected_account": {"id": "ca_1", "status": "EXPIRED"}});
    service
        .order(
            "faults",
            json!([
                {"on": "execute", "kind": "status", "status": 403, "error_code": "TOOL_ERROR", "message": "revoked"},
                // Active when the run begins; then expired, which is read twice each time.
                {"on": "details", "kind": "status", "status": 200, "body": expired, "skip": 1, "times": 4},
            ]),
        )
        .await;
    let worker = service.worker(service.both()).await;
    let mut asked = service.ask(mail("j")).await;
    let (_, required) = asked.authorization().await;
    assert_eq!(required.authorizations[0].status, "EXPIRED");
    let rest = asked.rest().await;
    assert_eq!(rest.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    let ReplyEvent::Completed(completed) = &rest[0].event else { panic!("{rest:?}") };
    assert_eq!(completed.account.effects.len(), 1, "{:?}", completed.account.effects);
    assert_eq!((service.count("execute").await, sent_mails(&service).await), (2, 1));
    worker.stop().await;
}
