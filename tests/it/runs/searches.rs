//! More tools than a model takes: it searches for the others, and what it finds is offered from the next step on.

use serde_json::{Value, json};

use crate::support::embedded_worker::{EmbeddedWorker, job, with};
use crate::support::scripted_model::{Captured, ScriptedModel, turn};

const WANTED: &str = "github_webhook_create";

fn offered(request: &Captured) -> Vec<String> {
    let tools = request.body["tools"].as_array().unwrap().iter();
    tools.map(|tool| tool["function"]["name"].as_str().unwrap().to_owned()).collect()
}

fn search(query: &str) -> (&'static str, Value) {
    ("search_tools", json!({"query": query, "limit": 3}))
}

#[tokio::test]
async fn a_model_finds_what_it_was_not_offered_and_nothing_that_it_may_not_use() {
    let webhook = json!({"owner": "northwind", "repo": "shop", "title": "on push"});
    let model = ScriptedModel::start([
        turn::calls([search("create a webhook")]),
        turn::calls([(WANTED, webhook)]),
        turn::text("it is set up"),
        turn::calls([search("create a webhook")]),
        turn::text("there is none"),
        turn::calls([search("create a webhook")]),
        turn::text("there is none"),
        turn::calls([
            search(""),
            search(&"webhook ".repeat(20_000)),
            search("\u{0}\u{1b}[2J"),
            ("search_tools", json!([])),
            ("search_tools", json!({"query": {"$ne": null}})),
        ]),
        turn::text("so be it"),
        turn::calls([search("webhook"), search("gist")]),
    ])
    .await;
    let worker = EmbeddedWorker::scripted(&model).await;
    let all = json!(["github", "gmail", "slack", "googlecalendar", "notes-chAb8Lfz"]);
    let job = |id: &str| with(with(job("Set it up"), "connections", all.clone()), "id", json!(id));
    let completed = worker.completed(&job("found")).await;
    assert_eq!((&completed["tool_calls"], &completed["steps"]), (&json!(2), &json!(3)), "{completed:#}");
    assert_eq!((&completed["effects"][0]["tool"], &completed["effects"][0]["state"]), (&json!(WANTED), &json!("done")));
    assert!(completed["notices"].to_string().contains("search_tools"), "{completed:#}");
    assert_eq!(worker.peer.effects().await, 1);
    worker.completed(&with(job("denied"), "tools", json!({"deny": [WANTED]}))).await;
    worker.completed(&with(job("reading"), "tools", json!({"effects": "read"}))).await;
    worker.completed(&job("hostile")).await;
    let limited = worker.failed(&with(job("limited"), "limits", json!({"tool_calls": 1}))).await;
    assert_eq!(limited["error"]["code"], "tool_call_limit", "{limited:#}");

    let requests = model.finish();
    let has = |index: usize, name: &str| offered(&requests[index]).iter().any(|offered| offered == name);
    assert_eq!(offered(&requests[0]).len(), 96);
    assert!(has(0, "search_tools") && !has(0, WANTED));
    assert!(has(1, "search_tools") && has(1, WANTED) && has(2, WANTED));
    assert!(offered(&requests[0])[..95] == offered(&requests[1])[..95], "what was on offer stays as it was");
    assert!(requests[1].tool_results()[0].contains(&format!("{WANTED}: ")), "{:?}", requests[1].tool_results());
    assert!(!has(4, WANTED) && has(4, "github_webhook_delete"), "{:?}", offered(&requests[4]));
    assert!(!has(5, "search_tools") && !has(6, WANTED), "a job that may only read has no more tools than fit");
    let told = requests[8].tool_results();
    assert_eq!(told.len(), 5);
    assert!(told.iter().all(|told| told.starts_with("This call was not executed: ") && told.len() < 300), "{told:?}");
    assert_eq!(offered(&requests[7]), offered(&requests[8]));
    assert!(worker.metrics().contains(r#"tool="search_tools""#));
}
