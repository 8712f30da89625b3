//! Whole runs in one process: what they cost, and their limits.

use agentkit_worker::Config;
use agentkit_worker::money::Amount;
use serde_json::{Value, json};

use crate::support::embedded_worker::{EmbeddedWorker, job, with};
use crate::support::scripted_model::{ScriptedModel, turn};

/// What one answer of the scripted model costs at the price of gpt-4o: 50 tokens of its input come from the cache.
const A_CALL: f64 = (50.0 * 2.50 + 50.0 * 1.25 + 10.0 * 10.00) / 1e6;

fn cost(data: &Value) -> f64 {
    assert_eq!(data["usage"]["cost"]["currency"], "USD", "{data:#}");
    data["usage"]["cost"]["amount"].as_f64().unwrap()
}

fn is_near(found: f64, expected: f64) -> bool {
    (found - expected).abs() < 1e-10
}

fn notices(data: &Value) -> Vec<&str> {
    let notices = data["notices"].as_array().map(Vec::as_slice).unwrap_or_default();
    notices.iter().map(|notice| notice["code"].as_str().unwrap()).collect()
}

fn limited(usd: f64) -> Value {
    with(job("mail sam"), "limits", json!({"cost": {"amount": usd, "currency": "USD"}}))
}

#[tokio::test]
async fn a_reply_says_what_its_run_cost_or_that_nobody_knows_and_a_limit_ends_it_with_what_was_done() {
    let model = ScriptedModel::start([
        turn::fetch_mails(),
        turn::text("one mail"),
        turn::text("hello"),
        turn::text("hello"),
        turn::status(400),
        turn::send_mail(),
        turn::fetch_mails(),
    ])
    .await;
    let price = "[{\"input\": 1, \"output\": 2}]";
    let worker = EmbeddedWorker::with(Some(&model), |config: &mut Config| {
        config.model.prices.insert("house".to_owned(), serde_json::from_str(price).unwrap());
    })
    .await;
    assert!(worker.metrics().contains("agentkit_model_cost_usd_total{model=\"gpt-4o\"} 0"), "{}", worker.metrics());

    let data = worker.completed(&job("fetch a mail")).await;
    assert!(is_near(cost(&data), 2.0 * A_CALL) && !notices(&data).contains(&"cost_unknown"), "{data:#}");

    let data = worker.completed(&with(job("greet"), "model", json!("no-such-model"))).await;
    assert_eq!(data["usage"].get("cost"), Some(&Value::Null), "{data:#}");
    assert!(notices(&data).contains(&"cost_unknown"), "{data:#}");

    let data = worker.completed(&with(job("greet"), "model", json!("house"))).await;
    assert!(is_near(cost(&data), 0.00012), "100 tokens in, 10 out: {data:#}");

    let data = worker.failed(&job("be refused")).await;
    assert_eq!((data["error"]["code"].as_str(), cost(&data)), (Some("model_rejected"), 0.0));

    let data = worker.failed(&limited(1.5 * A_CALL)).await;
    assert_eq!(data["error"]["code"], "budget_exceeded", "{data:#}");
    assert!(is_near(cost(&data), 2.0 * A_CALL), "{data:#}");
    assert_eq!(data["effects"].as_array().unwrap().len(), 1, "what was done is said: {data:#}");

    let metrics = worker.metrics();
    let line = metrics.lines().find_map(|line| line.strip_prefix("agentkit_model_cost_usd_total{model=\"gpt-4o\"} "));
    assert!(is_near(line.unwrap().parse().unwrap(), 4.0 * A_CALL), "{metrics}");
    assert!(metrics.contains("agentkit_model_cost_unknown_total{model=\"other\"} 1"), "{metrics}");
    model.finish();
}

#[tokio::test]
async fn a_users_budget_ends_runs_of_that_user_alone_and_says_whose_it_is() {
    let model = ScriptedModel::start([
        turn::fetch_mails(),
        turn::text("one mail"),
        turn::fetch_mails(),
        turn::text("one mail"),
        turn::text("of unknown cost"),
    ])
    .await;
    // The most that a call may cost is what it costs: ten tokens of output for a cent.
    let worker = EmbeddedWorker::with(Some(&model), |config: &mut Config| {
        config
            .model
            .prices
            .insert("gpt-4o".to_owned(), serde_json::from_str("[{\"input\": 0, \"output\": 1000}]").unwrap());
        config.model.max_output_tokens = Some(10);
        config.budget.identifier_day = Amount::of_usd(0.025).unwrap();
        config.budget.day = Amount::of_usd(10.0).unwrap();
    })
    .await;
    let data = worker.completed(&job("fetch a mail")).await;
    assert!(is_near(cost(&data), 0.02), "{data:#}");
    let data = worker.failed(&job("and again")).await;
    assert_eq!((data["error"]["code"].as_str(), cost(&data)), (Some("budget_exceeded"), 0.0), "{data:#}");
    let said = data["error"]["message"].as_str().unwrap();
    assert!(said.contains("budget.identifier_day") && !said.contains("0.02"), "{said}");
    let other = with(job("fetch a mail"), "identifier", json!("user_456"));
    assert!(is_near(cost(&worker.completed(&other).await), 0.02));
    // Nothing is known to be set aside: the call is made, and said to count nowhere.
    let data = worker.completed(&with(job("greet"), "model", json!("no-such-model"))).await;
    assert!(data["usage"]["cost"].is_null() && notices(&data).contains(&"cost_unknown"), "{data:#}");
    let metrics = worker.metrics();
    assert!(metrics.contains("agentkit_budget_exceeded_total{budget=\"identifier_day\"} 1"), "{metrics}");
    assert!(metrics.contains("agentkit_budget_exceeded_total{budget=\"month\"} 0"), "{metrics}");
    model.finish();
}
