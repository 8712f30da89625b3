//! Budgets of a real service, whose workers are killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentkit_worker::Client;
use agentkit_worker::internals::budget::redis::RedisBudgets;
use agentkit_worker::internals::budget::{Balance, Budget, BudgetCounters};
use agentkit_worker::internals::clock::SystemClock;
use agentkit_worker::internals::key::Key;
use agentkit_worker::internals::queue::amqp::ReplyInbox;
use agentkit_worker::job::Job;
use agentkit_worker::money::Amount;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::chat_model::says;
use crate::support::http_peer::{Answer, HttpPeer};
use crate::support::program::Program;
use crate::support::redis::Redis;
use crate::support::sandbox_peer::SandboxPeer;
use crate::support::{eventually, soon};

/// Ten tokens in and one out, at the price of gpt-4o.
const A_CALL: u64 = 10 * 2_500 + 10_000;

async fn reply(inbox: &mut ReplyInbox) -> Value {
    serde_json::from_slice(&soon("a reply", inbox.next()).await.unwrap().body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "the worker's own day")]
async fn a_worker_killed_in_a_model_call_leaves_what_it_may_have_cost_and_every_call_counts_once() {
    let (broker, redis, peer) =
        (Broker::shared().await, Redis::start().await, SandboxPeer::with_active_accounts_in_real_time().await);
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let model = HttpPeer::start(move |request| {
        if !request.path().ends_with("/chat/completions") {
            return Answer::json(200, &json!({"id": "gpt-4o", "object": "model"}));
        }
        if counted.fetch_add(1, Ordering::Relaxed) == 0 { Answer::Hang } else { says("done") }
    })
    .await;
    let (amqp, clock) = (broker.config(), Arc::new(SystemClock));
    let program = Program::of_service(&peer.sandbox, &amqp, &redis.url())
        .set("OPENAI_BASE_URL", &format!("{}/v1", model.url))
        .set("AGENTKIT_WORKER__REDIS__KEY_PREFIX", &redis.config().key_prefix)
        .set("AGENTKIT_WORKER__WORKER__LEASE_SECONDS", "2")
        .set("AGENTKIT_WORKER__MODEL__MAX_OUTPUT_TOKENS", "1")
        .set("AGENTKIT_WORKER__BUDGET__MONTH", "1");
    let client = Client::connect(amqp.clone(), clock).await.unwrap();
    let mut inbox = ReplyInbox::open(&amqp).await.unwrap();
    let send = async |id: &str, reply_to: String| {
        let job = json!({"id": id, "identifier": "user_123", "connections": ["gmail"], "prompt": "hello", "reply_to": reply_to});
        client.enqueue(&serde_json::from_value::<Job>(job).unwrap()).await.unwrap();
    };
    let month = Timestamp::now().strftime("%Y-%m").to_string();
    let budget = Budget { key: Key::new(&["month", &month]), limit: Amount::ZERO, keep: std::time::Duration::ZERO };
    let counters = RedisBudgets::new(redis.client());
    let balance = async || counters.balance(&budget).await.unwrap();

    let first = program.worker().await;
    send("killed", inbox.name().to_owned()).await;
    eventually("the model is asked", || async { (asked.load(Ordering::Relaxed) == 1).then_some(()) }).await;
    let Balance { spent, reserved } = balance().await;
    assert!(spent == Amount::ZERO && reserved > Amount::of_nano_usd(A_CALL), "the most is set aside: {reserved}");
    first.running.signal("KILL");
    first.running.end().await;

    let second = program.worker().await;
    let answered = reply(&mut inbox).await;
    assert_eq!(answered["type"], "agentkit.job.completed", "{answered:#}");
    assert_eq!(answered["data"]["usage"].get("cost"), Some(&Value::Null), "a call was cut off: {answered:#}");
    let both = Balance { spent: Amount::of_nano_usd(A_CALL), reserved };
    assert_eq!(balance().await, both, "what was cut off stays set aside, what was answered is spent");

    send("whole", inbox.name().to_owned()).await;
    let answered = reply(&mut inbox).await;
    assert_eq!(answered["data"]["usage"]["cost"], json!({"amount": 0.000_035, "currency": "USD"}), "{answered:#}");
    let shown = program.run(&["jobs", "show", "whole"]).await;
    assert!(shown.stdout.contains("cost 0.000035 USD"), "{shown:?}");
    assert_eq!(balance().await, Balance { spent: Amount::of_nano_usd(2 * A_CALL), reserved });
    assert_eq!(asked.load(Ordering::Relaxed), 3, "each is counted once");
    second.stop().await;

    let narrow = program.set("AGENTKIT_WORKER__BUDGET__MONTH", "0.0001");
    let third = narrow.worker().await;
    send("refused", inbox.name().to_owned()).await;
    let refused = reply(&mut inbox).await;
    assert_eq!(refused["data"]["error"]["code"], "budget_exceeded", "{refused:#}");
    assert_eq!(asked.load(Ordering::Relaxed), 3, "the model was not asked");
    assert_eq!(third.lines("the budget has no room"), 1, "its operator is told");
    third.stop().await;
}
