//! Runs that wait for their users outlive everything: worker, broker and Redis stop and come back.

use agentkit_worker::Client;
use agentkit_worker::Config;
use agentkit_worker::internals::clock::SystemClock;
use agentkit_worker::internals::queue::amqp::Config as Amqp;
use agentkit_worker::job::Job;
use agentkit_worker::reply::{Reply, ReplyEvent};
use std::sync::Arc;
use std::time::Duration;

use crate::support::broker::Broker;
use crate::support::eventually;
use crate::support::webhooked_service::{WebhookedService, job, outcome};

/// The next reply, of the common queue: a queue of the test's own would be gone with the broker.
async fn reply(broker: &Broker, amqp: &Amqp) -> Reply {
    let queue = amqp.names().replies();
    let (body, _) = eventually("a reply", || broker.take(&queue)).await;
    serde_json::from_slice(&body).unwrap()
}

async fn waits_through_a_restart_of_everything(configure: impl Fn(&WebhookedService) -> Config) {
    let broker = Broker::exclusive().await;
    let mut service = WebhookedService::on(&broker, |_| {}).await;
    let config = configure(&service);
    let amqp = config.amqp.clone();
    let worker = service.worker(config.clone()).await;
    let job: Job = serde_json::from_value(job("j", "user_123")).unwrap();
    let client = Client::connect(amqp.clone(), Arc::new(SystemClock)).await.unwrap();
    client.enqueue(&job).await.unwrap();
    drop(client);
    let asked = reply(&broker, &amqp).await;
    let ReplyEvent::AuthorizationRequired(required) = &asked.event else { panic!("{asked:?}") };
    service.parked("j").await;
    worker.stop().await;
    // A queue younger than a second does not survive the death of its only node.
    tokio::time::sleep(Duration::from_secs(3)).await;
    broker.kill();
    service.redis.kill();
    service.redis.restart().await;
    broker.start().await;
    let worker = service.worker(config).await;
    service.consent(required.authorizations[0].link.as_ref().unwrap()).await;
    assert_eq!(outcome(&reply(&broker, &amqp).await), "completed");
    assert_eq!(service.count("magic_link").await, 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_run_survives_a_restart_of_everything_and_is_woken_by_a_webhook() {
    Box::pin(waits_through_a_restart_of_everything(WebhookedService::webhooks_alone)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_run_survives_a_restart_of_everything_and_is_woken_by_the_poll() {
    Box::pin(waits_through_a_restart_of_everything(WebhookedService::polling_alone)).await;
}
