//! Whose the run is: a worker that was paused sends nothing more, one that died is noticed by its lease, and a copy of a
//! run that is alive elsewhere waits without costing anything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Notify;

use crate::support::broker::Broker;
use crate::support::eventually;
use crate::support::process_usage::ProcessUsage;
use crate::support::program::WorkerProcess;
use crate::support::proxied_service::ProxiedService;
use crate::support::scripted_model::{ScriptedModel, turn};

/// A paused worker's connection is given up by the broker after two of these, its lease runs out in the same time.
const PAUSED: [(&str, &str); 4] = [
    ("MODEL__RETRY__MAX_RETRY_AFTER_MILLISECONDS", "10000"),
    ("SCALEKIT__TOOL_RETRY__MAX_RETRY_AFTER_MILLISECONDS", "10000"),
    ("WORKER__LEASE_SECONDS", "2"),
    ("AMQP__HEARTBEAT_SECONDS", "1"),
];
const READ: &str = "Call gmail_fetch_mails with {\"max_results\": 1}";

/// Wakes the paused worker, and waits until it has found out that the run is not its own any more.
async fn wakes_up_too_late(paused: &WorkerProcess) {
    paused.running.signal("CONT");
    paused.running.line("run interrupted").await;
}

#[tokio::test]
async fn a_worker_that_was_paused_before_it_repeats_a_call_does_not_make_it() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start([turn::send_mail(), turn::text("perhaps sent")]).await;
    let later = json!({"on": "execute", "kind": "status", "status": 429, "headers": {"retry-after": "3"}});
    service.peer.fault(later).await;
    let paused = service.worker(&model, &PAUSED).await;
    service.send("job-1", "send it").await;
    paused.running.line("the tool call is repeated").await;
    paused.running.signal("STOP");

    let _heir = service.worker(&model, &PAUSED).await;
    let reply = service.reply().await;
    assert_eq!(reply["data"]["effects"][0]["state"], "unknown", "{reply:#}");
    wakes_up_too_late(&paused).await;
    assert_eq!(service.peer.count("execute").await, 1, "only the call that was told to come later");
    assert_eq!(service.only_reply_after(reply).await, 0, "nor did it answer");
    model.finish();
}

#[tokio::test]
async fn a_worker_that_was_paused_before_it_asks_the_model_again_does_not_ask() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start([turn::status(429).retry_after(3), turn::text("from the heir")]).await;
    let paused = service.worker(&model, &PAUSED).await;
    service.send("job-1", "say it").await;
    paused.running.line("the model call is repeated").await;
    paused.running.signal("STOP");

    let _heir = service.worker(&model, &PAUSED).await;
    let reply = service.reply().await;
    assert_eq!(reply["data"]["text"], "from the heir", "{reply:#}");
    wakes_up_too_late(&paused).await;
    assert_eq!(service.only_reply_after(reply).await, 0);
    // A request beyond the script would fail the test.
    model.finish();
}

#[tokio::test]
async fn a_dead_workers_run_goes_on_when_its_lease_is_over() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start([turn::hang(), turn::text("from the heir")]).await;
    let lease = [("WORKER__LEASE_SECONDS", "8"), ("LOG__FILTER", "agentkit_worker=debug")];
    let workers = [service.worker(&model, &lease).await, service.worker(&model, &lease).await];
    service.send("job-1", "say it").await;
    model.wait_for_requests(1).await;
    let died = Instant::now();
    workers.iter().find(|worker| worker.lines("accounts are active") > 0).unwrap().running.signal("KILL");
    model.wait_for_requests(2).await;
    let noticed = died.elapsed();
    assert!(noticed < Duration::from_secs(8 + 8), "{noticed:?}: a lease, and a second look at most");
    assert_eq!(service.only_reply().await["data"]["attempts"], 2);
    model.finish();
}

#[tokio::test]
async fn a_copy_of_a_run_that_is_alive_elsewhere_waits_without_a_place_and_without_spinning() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let go = Arc::new(Notify::new());
    let script = [turn::text("first").released_by(&go), turn::text("other"), turn::text("another")];
    let model = ScriptedModel::start(script).await;
    let settings = [("WORKER__CONCURRENCY", "2"), ("WORKER__LEASE_SECONDS", "30")];
    let worker = service.worker(&model, &settings).await;
    service.send("job-1", "take your time").await;
    model.wait_for_requests(1).await;
    // Two copies: with the run itself they would fill more than all places.
    service.send("job-1", "take your time").await;
    service.send("job-1", "take your time").await;
    worker.running.line("the run is alive elsewhere").await;
    let before = ProcessUsage::by(worker.running.process());
    for id in ["job-2", "job-3"] {
        service.send(id, "say it").await;
        assert_eq!(service.reply().await["subject"], id, "the copies stand in nobody's way");
    }
    // Each looked once at once and once after a second; then only when the lease would be over.
    eventually("the copies have looked twice", || async {
        (worker.lines("the run is alive elsewhere") == 4).then_some(())
    })
    .await;
    assert!(before.processor_since(worker.running.process()) < Duration::from_secs(1));
    go.notify_one();
    let reply = service.reply().await;
    assert_eq!((reply["subject"].as_str(), reply["data"]["text"].as_str()), (Some("job-1"), Some("first")));
    assert_eq!(worker.lines("the run is alive elsewhere"), 4, "no more than that");
    model.finish();
}

#[tokio::test]
async fn a_stopped_worker_gives_a_run_back_at_once_that_has_outlived_its_delivery() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start([turn::hang(), turn::text("from the heir")]).await;
    let first = service.worker(&model, &[("WORKER__HOLD_DELIVERY_SECONDS", "1")]).await;
    service.send("job-1", "take your time").await;
    first.running.line("a wake-up stands for it").await;
    first.running.signal("TERM");
    let (status, _) = first.running.end().await;
    assert!(status.success());
    let jobs = service.amqp.names().jobs();
    eventually("the run is back in the queue", || async { (service.broker.ready(&jobs).await == 1).then_some(()) })
        .await;
    let _heir = service.worker(&model, &[]).await;
    assert_eq!(service.reply().await["data"]["text"], "from the heir");
    model.finish();
}

#[tokio::test]
async fn a_worker_told_to_stop_does_not_wait_for_a_scalekit_that_hangs() {
    let service = ProxiedService::new(Broker::shared().await).await;
    service.peer.fault(json!({"on": "details", "kind": "delay", "delay_ms": 60_000})).await;
    let worker = service.program(&[("WORKER__DRAIN_TOOL_SECONDS", "1")]).worker().await;
    service.send("job-1", READ).await;
    eventually("it is asked", || async { (service.peer.count("details").await > 0).then_some(()) }).await;
    let told = Instant::now();
    worker.running.signal("TERM");
    let (status, log) = worker.running.end().await;
    assert!(status.success() && told.elapsed() < Duration::from_secs(10), "{:?}: {log:#?}", told.elapsed());
    let _heir = service.program(&[]).worker().await;
    assert_eq!(service.only_reply().await["data"]["status"], "completed");
}
