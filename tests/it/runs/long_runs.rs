//! Runs that take longer than the broker waits for an ack.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::support::broker::Broker;
use crate::support::proxied_service::ProxiedService;
use crate::support::scripted_model::{ScriptedModel, turn};

/// RabbitMQ up to 4.2 looks for late acks once a minute only (measured).
const MODEL_TAKES: Duration = Duration::from_secs(75);

/// A run whose model takes longer than the broker's consumer timeout; whether the broker closed the worker's channel.
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
    let broker = Broker::start_with("consumer_timeout = 10000\n").await;
    let right = [("WORKER__HOLD_DELIVERY_SECONDS", "2"), ("WORKER__CONSUMER_TIMEOUT_SECONDS", "10")];
    // The second worker does not know the broker's limit: its channel is closed under the run's hands.
    let (knowing, unknowing) = tokio::join!(is_cut_off(&broker, &right), is_cut_off(&broker, &[]));
    assert!(!knowing, "no delivery was held for too long");
    assert!(unknowing, "the broker closes the channel of a delivery that is held for too long");
}
