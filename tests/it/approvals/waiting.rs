//! Runs while they wait for a person: counted, woken with their caller's trace, and ended although the broker was away.

use std::sync::Arc;

use agentkit_worker::internals::app::lifetimes;
use agentkit_worker::internals::approval::Writes;
use agentkit_worker::internals::audit::Audit;
use agentkit_worker::internals::clock::{Clock, SystemClock};
use agentkit_worker::internals::journal::redis::RedisJournal;
use agentkit_worker::internals::parking::redis::RedisParking;
use agentkit_worker::internals::queue::amqp::{AmqpQueue, QueueState, ReplyInbox, inspect};
use agentkit_worker::internals::queue::{Destination, Message, Properties, Publisher};
use agentkit_worker::internals::redis_client::RedisClient;
use agentkit_worker::internals::worker::{HeaderKey, Operator, Runs};
use agentkit_worker::job::JobId;
use agentkit_worker::{Client, Config};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::webhooked_service::{WebhookedService, outcome};
use crate::support::{eventually, soon};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const WAITING: &str = "agentkit_parked_jobs{reason=\"approval\"}";
const UNAUTHORIZED: &str = "agentkit_parked_jobs{reason=\"authorization\"}";

async fn service_on(broker: &Broker) -> WebhookedService {
    WebhookedService::on(broker, |options| options.initial_status = Some("ACTIVE".into())).await
}

/// No poll will come: who waits is woken, or its time is over.
fn careful(service: &WebhookedService) -> Config {
    let mut config = service.webhooks_alone();
    config.approval.writes = Writes::All;
    config
}

fn job(id: &str, approval: &Value) -> Value {
    let mail = json!({"to": "sam@example.com", "subject": "Hi", "body": "hello"});
    json!({
        "id": id, "identifier": "user_123", "connections": ["gmail"], "approval": approval,
        "prompt": format!("call gmail_send_message with {mail}")
    })
}

fn decision(id: &str, asked: &Value, says: &str) -> Value {
    let call = &asked["data"]["approvals"][0];
    json!({"job": id, "approval": call["id"], "arguments_digest": call["arguments_digest"], "decision": says})
}

/// Who acts on the runs of the service.
async fn operator(config: &Config) -> Operator {
    let queue = AmqpQueue::connect(config.amqp.clone()).await.unwrap();
    let redis = RedisClient::new(&config.redis).unwrap();
    Operator::new(Runs {
        journal: Arc::new(RedisJournal::new(redis.clone())),
        publisher: queue.publisher(),
        parking: Arc::new(RedisParking::new(redis)),
        clock: Arc::new(SystemClock),
        lifetimes: lifetimes(config),
        header_key: HeaderKey::of(&config.scalekit.client_secret),
        audit: Audit::default(),
        name: "operator".into(),
    })
}

async fn sent(service: &WebhookedService) -> usize {
    service.control("world/user_123").await["effects"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_run_is_counted_among_those_that_wait_for_a_person_until_somebody_decides_or_nobody_does() {
    let service = service_on(Broker::shared().await).await;
    let config = careful(&service);
    let (worker, operator) = (service.worker(config.clone()).await, operator(&config).await);
    let count = async |name: &str| worker.metric(name).await.unwrap();
    for (id, approval) in [("decided", json!({})), ("expired", json!({"wait_seconds": 1}))] {
        let mut replies = service.ask(job(id, &approval)).await;
        let asked = serde_json::to_value(replies.next().await).unwrap();
        // The run goes on, and does not end by itself.
        service.order("faults", json!({"on": "model", "kind": "delay", "delay_ms": 120_000})).await;
        if id == "decided" {
            service.parked(id).await;
            assert_eq!((count(WAITING).await, count(UNAUTHORIZED).await), ("1".into(), "0".into()));
            let client = Client::connect(config.amqp.clone(), Arc::new(SystemClock)).await.unwrap();
            client.decide(&decision(id, &asked, "approve"), None).await.unwrap();
        }
        eventually("the run goes on", async || {
            service.journal(id).await.last().is_some_and(|line| line.contains("model_asked")).then_some(())
        })
        .await;
        eventually("nothing waits", async || (count(WAITING).await == "0").then_some(())).await;
        operator.cancel(&JobId::new(id).unwrap()).await.unwrap();
        assert_eq!(replies.rest().await.iter().map(outcome).collect::<Vec<_>>(), ["cancelled"]);
    }
    worker.stop().await;
}

#[tokio::test]
async fn what_is_answered_after_a_decision_or_a_command_belongs_to_the_callers_trace() {
    let service = service_on(Broker::shared().await).await;
    let config = careful(&service);
    let worker = service.worker(config.clone()).await;
    let queue = AmqpQueue::connect(config.amqp.clone()).await.unwrap();
    let operator = operator(&config).await;
    let mut inbox = ReplyInbox::open(&config.amqp).await.unwrap();
    for (id, end) in [("decided", "agentkit.job.completed"), ("cancelled", "agentkit.job.failed")] {
        let properties = Properties {
            message_id: Some(id.to_owned()),
            reply_to: Some(inbox.name().to_owned()),
            headers: [("traceparent".to_owned(), TRACE.to_owned())].into(),
            ..Properties::default()
        };
        let body = job(id, &json!({})).to_string().into();
        queue.publisher().publish(&Destination::Jobs, Message { body, properties }).await.unwrap();
        let asked = soon("the question", inbox.next()).await.unwrap();
        service.parked(id).await;
        if id == "decided" {
            let asked: Value = serde_json::from_slice(&asked.body).unwrap();
            let decision = decision(id, &asked, "approve").to_string().into();
            let message = Message { body: decision, properties: Properties::default() };
            queue.publisher().publish(&Destination::Decisions, message).await.unwrap();
        } else {
            operator.cancel(&JobId::new(id).unwrap()).await.unwrap();
        }
        let ended = soon("the end", inbox.next()).await.unwrap();
        assert_eq!(ended.properties.kind.as_deref(), Some(end));
        for message in [asked, ended] {
            assert_eq!(message.properties.headers.get("traceparent").map(String::as_str), Some(TRACE), "{message:?}");
        }
    }
    worker.stop().await;
}

/// Jobs, wake-ups and replies that are left.
async fn left(config: &Config) -> u64 {
    let facts = inspect(&config.amqp).await.unwrap();
    let counted = facts.queues.iter().map(|queue| match queue.state {
        QueueState::Present { messages, .. } => u64::from(messages),
        _ => 1,
    });
    counted.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_runs_out_while_the_broker_is_down_ends_as_the_job_says_with_one_reply() {
    let broker = Broker::exclusive().await;
    let service = service_on(&broker).await;
    let config = careful(&service);
    let worker = service.worker(config.clone()).await;
    // The common queue: one of the test's own would be gone with the broker.
    let queue = config.amqp.names().replies();
    let next_reply = async || -> Value {
        let (body, _) = eventually("a reply", || broker.take(&queue)).await;
        serde_json::from_slice(&body).unwrap()
    };
    let approval = |on_expiry: &str| json!({"wait_seconds": 10, "on_expiry": on_expiry});
    service.enqueue(["deny", "fail"].map(|on_expiry| job(on_expiry, &approval(on_expiry)))).await;
    let mut until = Timestamp::MIN;
    for _ in 0..2 {
        let asked = next_reply().await;
        assert_eq!(asked["type"], "agentkit.job.approval_required");
        until = until.max(asked["data"]["waiting_until"].as_str().unwrap().parse().unwrap());
    }
    for id in ["deny", "fail"] {
        service.parked(id).await;
    }
    // Queues younger than a second do not survive the death of their only node.
    let old_enough = until - SignedDuration::from_secs(7);
    eventually("queues that are old enough", async || (SystemClock.now() > old_enough).then_some(())).await;
    broker.kill();
    eventually("the end of the wait", async || (SystemClock.now() > until).then_some(())).await;
    for id in ["deny", "fail"] {
        let decided = service.journal(id).await.iter().any(|line| line.contains("approval_decided"));
        assert!(!decided, "the broker went away too late for {id}");
    }
    broker.start().await;
    let mut ends = [next_reply().await, next_reply().await];
    ends.sort_by_key(|end| end["subject"].to_string());
    let [denied, failed] = ends;
    assert_eq!((&denied["subject"], &denied["type"]), (&json!("deny"), &json!("agentkit.job.completed")));
    assert_eq!((&failed["subject"], &failed["data"]["error"]["code"]), (&json!("fail"), &json!("approval_expired")));
    for end in [denied, failed] {
        let approvals = end["data"]["approvals"].as_array().unwrap();
        assert_eq!((approvals.len(), &approvals[0]["decision"]), (1, &json!("expired")), "{end:#}");
        assert_eq!(end["data"]["effects"][0]["state"], "denied");
    }
    for id in ["deny", "fail"] {
        eventually("its journal is sealed", async || {
            service.journal(id).await.last().is_some_and(|line| line.contains("delivered")).then_some(())
        })
        .await;
    }
    eventually("no message is left", async || (left(&config).await == 0).then_some(())).await;
    assert_eq!(sent(&service).await, 0);
    worker.stop().await;
}
