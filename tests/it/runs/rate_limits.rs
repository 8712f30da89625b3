//! Told to come later: the run gives its place to others, costs none of its attempts, and comes back when it was told to.

use std::time::{Duration, Instant};

use crate::support::broker::Broker;
use crate::support::process_usage::ProcessUsage;
use crate::support::proxied_service::{ProxiedService, USER};
use crate::support::scripted_model::{ScriptedModel, turn};
use serde_json::json;

/// A wait that does not fit into one tier, and is too long to be slept through in place.
const WAIT: u64 = 7;

#[tokio::test]
async fn a_rate_limit_with_a_known_time_frees_the_place_and_is_kept_by_the_tiers() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let script = [turn::status(429).retry_after(WAIT), turn::text("other"), turn::text("at last")];
    let model = ScriptedModel::start(script).await;
    let settings = [("WORKER__CONCURRENCY", "1"), ("WORKER__TRANSIENT__ATTEMPTS", "1")];
    let worker = service.worker(&model, &settings).await;
    let told = Instant::now();
    service.send("limited", "say it").await;
    worker.running.line("run interrupted").await;
    // Another model: the one that asked for it is left alone.
    let other = json!({
        "id": "other", "identifier": USER, "connections": ["gmail"], "prompt": "say it", "model": "gpt-4o-mini"
    });
    service.send_job("other", other).await;
    assert_eq!(service.reply().await["subject"], "other", "its place is free meanwhile");
    let reply = service.only_reply().await;
    let waited = told.elapsed();
    assert_eq!((reply["subject"].as_str(), reply["data"]["text"].as_str()), (Some("limited"), Some("at last")));
    // As told, and up to a second by chance; the rest is for a busy machine.
    assert!((WAIT..WAIT + 6).contains(&waited.as_secs()), "{waited:?}");
    model.finish();
}

#[tokio::test]
async fn a_rate_limit_that_asks_for_no_wait_at_all_is_no_busy_loop() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let limited =
        json!({"on": "details", "kind": "status", "status": 429, "headers": {"retry-after": "0"}, "times": 4});
    service.peer.fault(limited).await;
    let worker = service.program(&[("WORKER__TRANSIENT__ATTEMPTS", "1")]).worker().await;
    worker.running.line("worker takes jobs").await;
    let (began, before) = (Instant::now(), ProcessUsage::by(worker.running.process()));
    service.send("job-1", "Call gmail_fetch_mails with {\"max_results\": 1}").await;
    assert_eq!(service.only_reply().await["data"]["status"], "completed");
    assert!(began.elapsed() >= Duration::from_secs(4), "a second each time at least: {:?}", began.elapsed());
    assert!(before.processor_since(worker.running.process()) < Duration::from_secs(1));
}

#[tokio::test]
async fn a_wait_for_a_provider_is_no_working_time() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let script = [turn::status(429).retry_after(WAIT), turn::status(429).retry_after(WAIT), turn::text("at last")];
    let model = ScriptedModel::start(script).await;
    let _worker = service.worker(&model, &[("JOB__LIMITS__SECONDS", "5")]).await;
    service.send("job-1", "say it").await;
    let reply = service.only_reply().await;
    assert_eq!((&reply["data"]["text"], &reply["data"]["attempts"]), (&json!("at last"), &json!(3)), "{reply:#}");
    model.finish();
}

#[tokio::test]
async fn what_one_run_was_told_by_the_model_holds_for_all_runs_of_the_fleet() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let script = [turn::status(429).retry_after(WAIT), turn::text("at last"), turn::text("at last")];
    let model = ScriptedModel::start(script).await;
    let narrow = [("WORKER__CONCURRENCY", "1")];
    let first = service.worker(&model, &narrow).await;
    let told = Instant::now();
    service.send("job-1", "say it").await;
    first.running.line("asked to come later").await;
    first.running.signal("STOP");
    // Another process, which has not asked the model yet.
    let second = service.worker(&model, &narrow).await;
    service.send("job-2", "say it").await;
    second.running.line("asked to come later").await;
    assert_eq!(model.requests().len(), 1, "nobody asks the model meanwhile");
    first.running.signal("CONT");
    for _ in 0..2 {
        assert_eq!(service.reply().await["data"]["text"], "at last");
        assert!(told.elapsed() >= Duration::from_secs(WAIT), "{:?}", told.elapsed());
    }
    model.finish();
}
