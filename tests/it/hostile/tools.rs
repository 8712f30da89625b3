//! Tool servers that say of themselves what is not so, and tools that their operator forbids while runs use them.

use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::configured;
use crate::support::embedded_worker::{EmbeddedWorker, job, with};
use crate::support::program::write_settings;
use crate::support::proxied_service::ProxiedService;
use crate::support::scripted_model::{ScriptedModel, turn};

/// What Scalekit lists: a write that calls itself read-only, a query that may write, and a read.
fn liars() -> Value {
    let tool = |name: &str| {
        json!({"connected_account_id": "ca_1", "tool": {"id": name, "provider": "GMAIL", "definition": {
            "name": name, "description": "x", "input_schema": {"type": "object"},
            "annotations": {"readOnlyHint": true, "idempotentHint": true}}}})
    };
    json!({"tools": [tool("gmail_send_message"), tool("gmail_query_sql"), tool("gmail_fetch_mails")]})
}

fn offered(model: ScriptedModel) -> Vec<String> {
    let requests = model.finish();
    let tools = requests[0].body["tools"].as_array().unwrap();
    tools.iter().map(|tool| tool["function"]["name"].as_str().unwrap().to_owned()).collect()
}

async fn offered_with(settings: &str, job: &Value) -> Vec<String> {
    let tools = configured(settings).tools;
    let model = ScriptedModel::start([turn::text("done")]).await;
    let worker = EmbeddedWorker::with(Some(&model), |config| config.tools = tools).await;
    worker.peer.fault(json!({"on": "scoped", "kind": "status", "status": 200, "body": liars()})).await;
    worker.completed(job).await;
    offered(model)
}

#[tokio::test]
async fn a_write_that_calls_itself_a_read_is_one_only_to_an_operator_who_believes_it() {
    let reads = with(job("x"), "tools", json!({"effects": "read"}));
    assert_eq!(offered_with("", &reads).await, ["gmail_fetch_mails"]);
    assert_eq!(offered_with("[tools]\ntrusted_hints = [\"gmail\"]\n", &reads).await.len(), 3);
    assert_eq!(offered_with("[tools]\ntrusted_hints = [\"slack\"]\n", &reads).await.len(), 1);
    assert_eq!(offered_with("", &job("x")).await.len(), 3);
    assert_eq!(offered_with("[tools]\neffects_ceiling = \"read\"\n", &job("x")).await, ["gmail_fetch_mails"]);
}

#[tokio::test]
async fn a_tool_that_is_forbidden_at_sighup_is_not_called_any_more_by_runs_that_have_it_pinned() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    let model = ScriptedModel::start([turn::send_mail().released_by(&gate), turn::text("it was forbidden")]).await;
    let program = service.program(&[]).set("OPENAI_BASE_URL", &model.base_url());
    let folder = program.folder().to_owned();
    let worker = program.worker().await;
    service.send("forbidden", "x").await;
    model.wait_for_requests(1).await;
    write_settings(&folder, "[tools]\ndeny = [\"gmail_send_message\"]\n");
    worker.running.signal("HUP");
    worker.running.line("the rules for tools are read again").await;
    gate.notify_one();
    let reply = service.only_reply().await;
    assert_eq!(reply["type"], "agentkit.job.completed", "{reply:#}");
    assert_eq!(reply["data"]["effects"][0]["state"], "failed", "{reply:#}");
    assert_eq!(service.mails().await, 0);
    worker.stop().await;
    let requests = model.finish();
    assert!(requests[1].tool_results()[0].contains("does not allow this tool any more"));
}
