//! Who has a place next, on real servers and in memory: counted by the order in which the model is asked.

use std::sync::Arc;

use agentkit_worker::internals::queue::amqp::{AmqpQueue, ReplyInbox};
use agentkit_worker::internals::queue::{Destination, Message, Properties, Publisher};
use agentkit_worker::internals::worker::SharedBy;
use agentkit_worker::{Job, Replies};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::broker::Broker;
use crate::support::embedded_worker::EmbeddedWorker;
use crate::support::program::Program;
use crate::support::redis::Redis;
use crate::support::sandbox_peer::SandboxPeer;
use crate::support::scripted_model::{Captured, ScriptedModel, Turn, turn};
use crate::support::{eventually, soon};

/// The prompts, in the order in which the model was given them.
fn order(requests: &[Captured]) -> Vec<String> {
    let prompt = |request: &Captured| {
        let messages = request.body["messages"].as_array().unwrap();
        let prompt = messages.iter().find(|message| message["role"] == "user").unwrap();
        prompt["content"].as_str().unwrap().to_owned()
    };
    requests.iter().map(prompt).collect()
}

/// `count` answers that wait for `gate`, and then `free` others.
fn turns(gate: &Arc<Notify>, count: usize, free: usize) -> impl Iterator<Item = Turn> + use<> {
    let held = std::iter::repeat_n(turn::text("done").released_by(gate), count);
    held.chain(std::iter::repeat_n(turn::text("done"), free))
}

fn job(prompt: &str, fields: &Value) -> Value {
    let mut job = json!({"id": prompt, "identifier": prompt, "connections": ["gmail"], "prompt": prompt});
    job.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    job
}

const FLOOD: usize = 200;
const OTHERS: usize = 20;

/// Of 200 jobs of a tenant with a hundred users, and 20 of others that come after them, two workers take the others first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_with_many_users_delays_others_by_little() {
    let order = flooded(false).await;
    let last = order.iter().rposition(|prompt| prompt.starts_with("other")).unwrap();
    let flood_before = order[2..last].iter().filter(|prompt| prompt.starts_with("flood")).count();
    // Those under way, their share of the windows, and a place each time.
    assert!(flood_before <= 2 + 4 + 2 * OTHERS, "{flood_before} of the flood before the last of the others: {order:?}");
}

/// The worker is killed with a window full of both; two more end all of it, each job once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_worker_that_is_killed_with_a_full_window_no_job_is_lost_or_run_twice() {
    flooded(true).await;
}

/// The prompts, in the order in which the model was asked. Nothing is asked that was not written down, and nothing is left.
async fn flooded(killed: bool) -> Vec<String> {
    let (broker, redis, gate) = (Broker::shared().await, Redis::start().await, Arc::default());
    let peer = SandboxPeer::with_active_accounts_in_real_time().await;
    // The two that are under way when the first worker dies are asked about once more.
    let free = if killed { FLOOD + OTHERS } else { FLOOD + OTHERS - 2 };
    let model = ScriptedModel::start(turns(&gate, 2, free)).await;
    let amqp = broker.config();
    let program = || {
        Program::of_service(&peer.sandbox, &amqp, &redis.url())
            .set("OPENAI_BASE_URL", &model.base_url())
            .set("AGENTKIT_WORKER__WORKER__CONCURRENCY", "2")
            .set("AGENTKIT_WORKER__WORKER__LEASE_SECONDS", "2")
            .set("AGENTKIT_WORKER__FAIRNESS__KEY", "tenant")
    };
    let publisher = AmqpQueue::connect(amqp.clone()).await.unwrap().publisher();
    let mut inbox = ReplyInbox::open(&amqp).await.unwrap();
    let reply_to = inbox.name().to_owned();
    let publish = async |job: Value| {
        let properties = Properties { reply_to: Some(reply_to.clone()), ..Properties::default() };
        let message = Message { body: job.to_string().into(), properties };
        publisher.publish(&Destination::Jobs, message).await.unwrap();
    };
    let first = program();
    let first = first.worker().await;
    for number in 0..FLOOD {
        let user = format!("user-{}", number % 100);
        publish(job(&format!("flood-{number}"), &json!({"tenant": "acme", "identifier": user}))).await;
    }
    eventually("the flood is put aside, but for those that it has a share of the window for", || async {
        let aside = first.metric("agentkit_jobs_put_aside_total{priority=\"normal\"}").await;
        (aside >= Some(194.0)).then_some(())
    })
    .await;
    for number in 0..OTHERS {
        publish(job(&format!("other-{number}"), &json!({}))).await;
    }
    eventually("the window is full", || async {
        (first.metric("agentkit_jobs_waiting{priority=\"normal\"}").await == Some(8.0)).then_some(())
    })
    .await;
    let third = program();
    let (second, third) = if killed {
        first.running.signal("KILL");
        first.running.end().await;
        let second = program();
        tokio::join!(second.worker(), third.worker())
    } else {
        let third = third.worker().await;
        gate.notify_waiters();
        (first, third)
    };
    let mut replies = std::collections::BTreeSet::new();
    while replies.len() < FLOOD + OTHERS {
        let reply: Value = serde_json::from_slice(&soon("a reply", inbox.next()).await.unwrap().body).unwrap();
        assert_eq!(reply["type"], "agentkit.job.completed", "{reply:#}");
        replies.insert(reply["subject"].as_str().unwrap().to_owned());
    }
    for queue in ["jobs".to_owned(), "dead".to_owned()].into_iter().chain((0..5).map(|n| format!("backlog.normal.{n}")))
    {
        assert_eq!(broker.ready(&format!("{}.{queue}", amqp.prefix)).await, 0, "{queue}");
    }
    second.stop().await;
    third.stop().await;
    order(&model.finish())
}

/// In memory it is the same code: one place, and who comes while many wait.
#[tokio::test]
async fn one_user_s_many_jobs_and_those_of_low_priority_wait_behind_others_in_the_embedded_mode() {
    let gate = Arc::default();
    let model = ScriptedModel::start(turns(&gate, 1, 81)).await;
    let worker = EmbeddedWorker::with(Some(&model), |config| {
        config.worker.concurrency = 1;
        config.fairness.key = SharedBy::Identifier;
    })
    .await;
    let mut all: Vec<Replies> = Vec::new();
    let mut submit = async |name: &str, count: usize, fields: Value| {
        for number in 0..count {
            let job: Job = serde_json::from_value(job(&format!("{name}-{number}"), &fields)).unwrap();
            all.push(worker.embedded().submit(&job).await.unwrap());
        }
    };
    submit("flood", 60, json!({"identifier": "ada"})).await;
    model.wait_for_requests(1).await;
    submit("low", 4, json!({"priority": "low"})).await;
    submit("other", 10, json!({})).await;
    submit("high", 8, json!({"identifier": "ada", "priority": "high"})).await;
    eventually("nothing is left to be looked at", || async {
        let waiting = worker.metrics();
        let waiting = waiting.lines().find_map(|line| line.strip_prefix("agentkit_jobs_waiting{priority=\"high\"} "));
        waiting.is_some_and(|count| count != "0").then_some(())
    })
    .await;
    gate.notify_one();
    for mut replies in all {
        while !soon("a reply", replies.next()).await.unwrap().event.is_terminal() {}
    }
    let order = order(&model.finish());
    let last = |name: &str| order.iter().rposition(|prompt| prompt.starts_with(name)).unwrap();
    assert!(last("high") < 20, "{order:?}");
    assert!(last("other") < 45, "{order:?}");
    let before_the_others = order[..last("other")].iter().filter(|prompt| prompt.starts_with("flood")).count();
    assert!(before_the_others <= 12, "{order:?}");
}
