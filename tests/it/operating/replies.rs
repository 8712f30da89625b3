//! Replies whose queue takes nothing, or no message of that size: none is lost, and nobody else waits for them.

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::eventually;
use crate::support::proxied_service::{ProxiedService, USER};
use crate::support::scripted_model::{ScriptedModel, turn};

const DEFERRED: &str = "agentkit_replies_deferred_total";

fn job(id: &str, reply_to: &str) -> Value {
    json!({"id": id, "identifier": USER, "connections": ["gmail"], "prompt": "say it", "reply_to": reply_to})
}

/// The next message of a queue.
async fn reply_in(broker: &Broker, queue: &str) -> Value {
    let (body, _) = eventually("a reply", || broker.take(queue)).await;
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn a_reply_queue_that_is_full_keeps_no_place_and_gets_its_reply_once_there_is_room() {
    let broker = Broker::shared().await;
    let service = ProxiedService::new(broker).await;
    let model = ScriptedModel::start([turn::text("first"), turn::text("second"), turn::text("other")]).await;
    let worker = service.worker(&model, &[("WORKER__CONCURRENCY", "1")]).await;
    let [full, other] = ["full", "other"].map(|name| format!("{}-{name}", service.amqp.prefix));
    let channel = broker.connect().await;
    let channel = channel.create_channel().await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    channel.queue_declare(full.as_str().into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
    let (options, none) = (QueueDeclareOptions::durable(), FieldTable::default());
    channel.queue_declare(other.as_str().into(), options, none).await.unwrap();

    service.send_job("job-1", job("job-1", &full)).await;
    eventually("the queue is full", || async { (broker.ready(&full).await == 1).then_some(()) }).await;
    service.send_job("job-2", job("job-2", &full)).await;
    service.send_job("job-3", job("job-3", &other)).await;
    assert_eq!(reply_in(broker, &other).await["subject"], "job-3");
    assert_eq!(worker.metric(DEFERRED).await, Some(1.0));
    assert_eq!(worker.lines("was not confirmed"), 1);

    // Asked again meanwhile, its caller is refused no less.
    service.send_job("job-1", job("job-1", &full)).await;
    eventually("the repeated reply waits", || async { (worker.metric(DEFERRED).await == Some(2.0)).then_some(()) })
        .await;
    let mut subjects = Vec::new();
    for _ in 0..3 {
        subjects.push(reply_in(broker, &full).await["subject"].as_str().unwrap().to_owned());
    }
    subjects.sort();
    assert_eq!(subjects, ["job-1", "job-1", "job-2"]);
    model.finish();
}

#[tokio::test]
async fn of_more_replies_than_the_common_queue_takes_none_is_lost() {
    let broker = Broker::exclusive().await;
    let service = ProxiedService::new(&broker).await;
    let policy = format!("limit-{}", service.amqp.prefix);
    let pattern = format!("^{}$", service.amqp.names().replies());
    broker.control(&["set_policy", "--apply-to", "queues", &policy, &pattern, r#"{"max-length": 5}"#]).await;
    let worker = service.program(&[]).worker().await;
    for number in 0..30 {
        service.send(&format!("job-{number:02}"), "Call gmail_fetch_mails with {\"max_results\": 1}").await;
    }
    // It may hold a few more than its limit.
    let held = eventually("all have ended", || async {
        let held = broker.ready(&service.amqp.names().replies()).await;
        let deferred = worker.metric(DEFERRED).await?;
        (f64::from(held) + deferred >= 30.0).then_some(held)
    })
    .await;
    assert!(held < 15, "{held} in a queue for 5");
    let mut subjects = Vec::new();
    for _ in 0..30 {
        subjects.push(service.reply().await["subject"].as_str().unwrap().to_owned());
    }
    subjects.sort();
    assert_eq!(subjects, (0..30).map(|number| format!("job-{number:02}")).collect::<Vec<_>>());
    broker.control(&["clear_policy", &policy]).await;
}

#[tokio::test]
async fn a_reply_that_is_too_large_for_a_message_is_cut_and_says_so_and_is_the_same_when_repeated() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start([turn::text(&"long ".repeat(10_000))]).await;
    let worker = service.worker(&model, &[("AMQP__MAX_MESSAGE_BYTES", "20000")]).await;
    service.send("job-1", "say it").await;
    let reply = service.only_reply().await;
    assert_eq!((reply["type"].as_str(), reply["id"].as_str()), (Some("agentkit.job.completed"), Some("job-1:result")));
    let text = reply["data"]["text"].as_str().unwrap();
    assert!(text.starts_with("long long ") && text.ends_with("The text had 50000 bytes.]"), "{text}");
    let size = reply.to_string().len();
    assert!((15_000..=20_000).contains(&size), "{size}");
    service.send("job-1", "say it").await;
    assert_eq!(service.only_reply().await, reply);
    assert_eq!(worker.lines("requeue"), 0);
    model.finish();
}
