//! Runs that take longer than the broker waits for an ack.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::support::broker::Broker;
use crate::support::eventually;
use crate::support::proxied_service::ProxiedService;
use crate::support::scripted_model::{ScriptedModel, turn};

/// The broker waits so long for an ack.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than that, with time for the broker to notice.
const MODEL_TAKES: Duration = Duration::from_secs(20);

/// A run whose model takes longer than the broker's consumer timeout; whether the broker took the delivery away.
async fn is_cut_off(broker: &Broker, settings: &[(&str, &str)]) -> bool {
    let service = ProxiedService::new(broker).await;
    let go = Arc::new(Notify::new());
    let model = ScriptedModel::start([turn::text("at last").released_by(&go)]).await;
    let worker = service.worker(&model, settings).await;
    service.send("job-1", "take your time").await;
    model.wait_for_requests(1).await;
    tokio::time::sleep(MODEL_TAKES).await;
    go.notify_one();
    let reply = service.only_reply().await;
    assert_eq!(reply["data"]["text"], "at last", "{reply:#}");
    assert_eq!(reply["data"]["attempts"], 1, "{reply:#}");
    model.finish();
    worker.running.log().iter().any(|line| line.contains("consuming connection lost"))
}

#[tokio::test]
async fn a_model_call_longer_than_the_consumer_timeout_is_made_once() {
    let broker = Broker::start_impatient(CONSUMER_TIMEOUT).await;
    let right = [("WORKER__HOLD_DELIVERY_SECONDS", "2"), ("WORKER__CONSUMER_TIMEOUT_SECONDS", "10")];
    // The second worker does not know the broker's limit: its delivery is taken away under the run's hands.
    let (knowing, unknowing) = tokio::join!(is_cut_off(&broker, &right), is_cut_off(&broker, &[]));
    assert!(!knowing, "no delivery was held for too long");
    assert!(unknowing, "the broker takes away what is held for too long");
}

#[tokio::test]
async fn a_job_that_finds_no_place_goes_to_a_worker_that_has_one() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start([turn::hang(), turn::text("from the idle one")]).await;
    let narrow = [("WORKER__CONCURRENCY", "1"), ("WORKER__HOLD_DELIVERY_SECONDS", "1")];
    let busy = service.worker(&model, &narrow).await;
    service.send("job-1", "take your time").await;
    busy.running.line("a wake-up stands for it").await;
    // The broker gives the next job to the only worker, whose one place the first run still has.
    service.send("job-2", "be quick").await;
    eventually("the job was handed on", || async {
        (service.broker.ready(&service.amqp.names().jobs()).await == 0).then_some(())
    })
    .await;
    let _idle = service.worker(&model, &narrow).await;
    let reply = service.reply().await;
    assert_eq!((reply["subject"].as_str(), reply["data"]["text"].as_str()), (Some("job-2"), Some("from the idle one")));
    model.finish();
}
