//! Told to stop: what is under way ends or goes back to the queue in seconds, and another worker finishes it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::broker::Broker;
use crate::support::eventually;
use crate::support::program::WorkerProcess;
use crate::support::proxied_service::ProxiedService;
use crate::support::scripted_model::{ScriptedModel, turn};

/// Waits for the end of a worker that was told to stop, and gives its exit code.
async fn ends_within(worker: WorkerProcess, limit: Duration) -> Option<i32> {
    let asked = Instant::now();
    let (status, log) = worker.running.end().await;
    assert!(asked.elapsed() < limit, "it took {:?}: {log:#?}", asked.elapsed());
    status.code()
}

#[tokio::test]
async fn a_model_call_of_minutes_is_given_up_at_once_and_asked_again_by_another_worker() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start([turn::hang(), turn::text("done")]).await;
    let first = service.worker(&model, &[]).await;
    service.send("job-1", "take your time").await;
    model.wait_for_requests(1).await;
    first.running.signal("TERM");
    assert_eq!(ends_within(first, Duration::from_secs(3)).await, Some(0));
    let jobs = service.amqp.names().jobs();
    eventually("the message is back", || async { (service.broker.ready(&jobs).await == 1).then_some(()) }).await;

    let _second = service.worker(&model, &[]).await;
    let reply = service.only_reply().await;
    assert_eq!(reply["data"]["status"], "completed", "{reply:#}");
    assert_eq!(reply["data"]["usage"]["unknown"], true, "what the first call cost is not known: {reply:#}");
    model.finish();
}

#[tokio::test]
async fn a_tool_call_that_has_started_may_end_and_is_not_repeated() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start([turn::send_mail(), turn::text("done")]).await;
    service.peer.fault(json!({"on": "execute", "kind": "delay", "delay_ms": 2000})).await;
    let first = service.worker(&model, &[]).await;
    service.send("job-1", "send it").await;
    eventually("the call is under way", || async { (service.peer.count("execute").await == 1).then_some(()) }).await;
    first.running.signal("TERM");
    assert_eq!(ends_within(first, Duration::from_secs(6)).await, Some(0));
    assert_eq!(service.mails().await, 1);

    let _second = service.worker(&model, &[]).await;
    let reply = service.only_reply().await;
    assert_eq!(reply["data"]["status"], "completed", "{reply:#}");
    assert_eq!(reply["data"]["effects"][0]["state"], "done", "{reply:#}");
    assert_eq!(service.mails().await, 1);
    assert_eq!(service.peer.count("execute").await, 1);
    model.finish();
}

#[tokio::test]
async fn a_tool_call_that_takes_too_long_is_cut_off_and_its_outcome_unknown() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start([turn::send_mail(), turn::text("done")]).await;
    service.peer.fault(json!({"on": "execute", "kind": "commit_then_timeout"})).await;
    let first = service.worker(&model, &[("WORKER__DRAIN_TOOL_SECONDS", "1")]).await;
    service.send("job-1", "send it").await;
    eventually("the call is under way", || async { (service.peer.count("execute").await == 1).then_some(()) }).await;
    first.running.signal("TERM");
    assert_eq!(ends_within(first, Duration::from_secs(5)).await, Some(0));

    let _second = service.worker(&model, &[]).await;
    let reply = service.only_reply().await;
    assert_eq!(reply["data"]["status"], "completed_with_unknown_effects", "{reply:#}");
    assert_eq!(service.mails().await, 1);
    model.finish();
}

#[tokio::test]
async fn a_second_signal_stops_hard_and_loses_nothing() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start([turn::send_mail(), turn::text("done")]).await;
    service.peer.fault(json!({"on": "execute", "kind": "commit_then_timeout"})).await;
    let mut first = service.worker(&model, &[]).await;
    service.send("job-1", "send it").await;
    eventually("the call is under way", || async { (service.peer.count("execute").await == 1).then_some(()) }).await;
    first.running.signal("TERM");
    first.running.line("the worker stops").await;
    assert!(!first.running.has_ended(), "the call has its time");
    first.running.signal("TERM");
    assert_eq!(ends_within(first, Duration::from_secs(3)).await, Some(1), "it was cut off");

    let _second = service.worker(&model, &[]).await;
    let reply = service.only_reply().await;
    assert_eq!(reply["data"]["status"], "completed_with_unknown_effects", "{reply:#}");
    assert_eq!(service.mails().await, 1);
    model.finish();
}
