//! Whole runs in which an answer got lost, or somebody said no: what is found out before it is believed.

use agentkit_worker::internals::agent::effect::Effect;
use serde_json::{Value, json};

use crate::support::configured;
use crate::support::embedded_worker::{EmbeddedWorker, job, with};
use crate::support::scripted_model::{ScriptedModel, turn};

/// The write is done and its answer lost; what the caller hears, and how often the logs were asked.
async fn lost_answer(kind: &str, settle_by_logs: bool, on_logs: Option<Value>) -> (Value, u64) {
    let model = ScriptedModel::start([turn::send_mail(), turn::text("sent, I think")]).await;
    let worker = EmbeddedWorker::with(Some(&model), |config| {
        config.scalekit.tool_timeout_milliseconds = 1000;
        config.tools.settle_by_logs = settle_by_logs;
    })
    .await;
    worker.peer.fault(json!({"on": "execute", "kind": kind})).await;
    if let Some(fault) = on_logs {
        worker.peer.fault(fault).await;
    }
    let completed = worker.completed(&job("x")).await;
    assert_eq!(worker.peer.count("execute").await, 1, "{kind}");
    assert_eq!(worker.peer.effects().await, 1, "{kind}");
    let told = &model.finish()[1].tool_results()[0];
    assert_eq!(told.contains("Do not repeat it"), completed["effects"][0]["state"] == "unknown", "{told}");
    (completed, worker.peer.count("logs").await)
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_settled_by_the_logs() {
    for kind in ["commit_then_timeout", "commit_then_reset", "half_answer"] {
        let (completed, asked) = lost_answer(kind, true, None).await;
        assert_eq!((&completed["status"], asked), (&json!("completed"), 1), "{kind}: {completed:#}");
        assert_eq!(completed["effects"][0]["state"], "done", "{kind}: {completed:#}");
        assert!(completed["effects"][0]["execution_id"].is_string(), "{kind}: {completed:#}");
    }
}

#[tokio::test]
async fn logs_that_are_not_there_or_not_wanted_leave_the_doubt() {
    let absent = json!({"on": "logs", "kind": "status", "status": 404, "body": "404 page not found"});
    let empty = json!({"on": "logs", "kind": "status", "status": 200, "body": {"tool_call_logs": []}});
    for (settle, on_logs, asks) in [(true, Some(absent), 1), (true, Some(empty), 1), (false, None, 0)] {
        let (completed, asked) = lost_answer("commit_then_timeout", settle, on_logs).await;
        assert_eq!((&completed["effects"][0]["state"], asked), (&json!("unknown"), asks), "{completed:#}");
        assert_eq!(completed["status"], "completed_with_unknown_effects");
    }
}

#[tokio::test]
async fn a_model_call_that_may_have_been_answered_makes_the_usage_unknown_also_where_the_next_one_succeeds() {
    for (fault, reason, unknown) in [
        (json!({"on": "model", "kind": "commit_then_timeout"}), "timed_out", true),
        (json!({"on": "model", "kind": "commit_then_reset"}), "interrupted", true),
        (json!({"on": "model", "kind": "half_answer"}), "interrupted", true),
        (json!({"on": "model", "kind": "status", "status": 200, "html": true}), "bad_answer", true),
        (json!({"on": "model", "kind": "status", "status": 503}), "unavailable", false),
    ] {
        let worker = EmbeddedWorker::with(None, |config| config.model.timeout_seconds = 2).await;
        worker.peer.fault(fault).await;
        let completed = worker.completed(&job("Fetch my last unread email")).await;
        assert_eq!(completed["usage"]["unknown"], unknown, "{reason}: {completed:#}");
        let retries = json!([{"call": "model", "reason": reason, "count": 1}]);
        assert_eq!(completed["retries"], retries, "{reason}: {completed:#}");
        assert_eq!(completed["usage"]["model_calls"], 2, "those that were answered, {reason}: {completed:#}");
    }
}

#[tokio::test]
async fn a_control_call_that_is_refused_ends_the_run_at_once_in_scalekits_words() {
    for route in ["details", "scoped", "magic_link"] {
        for (status, error_code) in [(400, "VALIDATION"), (403, "FORBIDDEN"), (403, "TOOL_ERROR"), (422, "VALIDATION")]
        {
            let worker = EmbeddedWorker::new().await;
            if route == "magic_link" {
                worker.peer.set_account("gmail", "user_123", "EXPIRED").await;
            }
            let fault = json!({"on": route, "kind": "status", "status": status, "error_code": error_code,
                "message": "identifier has a form that we do not take", "times": 100});
            worker.peer.fault(fault).await;
            let failed = worker.failed(&job("x")).await;
            assert_eq!(failed["error"]["code"], "internal", "{route} {status}: {failed:#}");
            let message = failed["error"]["message"].as_str().unwrap();
            assert!(message.contains("a form that we do not take") && message.contains("gmail"), "{message}");
            assert!(failed["error"]["hint"].as_str().unwrap().contains("identifier"), "{failed:#}");
            assert_eq!((&failed["attempts"], worker.peer.count(route).await), (&json!(1), 1), "{route} {status}");
        }
    }
}

#[tokio::test]
async fn a_control_call_that_met_a_passing_problem_is_made_again() {
    for status in [408, 409] {
        let worker = EmbeddedWorker::new().await;
        worker.peer.fault(json!({"on": "details", "kind": "status", "status": status})).await;
        worker.completed(&job("Fetch my last unread email")).await;
    }
}

#[tokio::test]
async fn what_is_forbidden_on_an_active_account_is_an_answer_for_the_model() {
    let model = ScriptedModel::start([turn::fetch_mails(), turn::text("I may not read your mails")]).await;
    let worker = EmbeddedWorker::scripted(&model).await;
    let forbidden = json!({"on": "execute", "kind": "status", "status": 403, "error_code": "TOOL_ERROR",
        "message": "the scope gmail.readonly is missing"});
    worker.peer.fault(forbidden).await;
    assert_eq!(worker.completed(&job("x")).await["text"], "I may not read your mails");
    assert_eq!((worker.peer.count("execute").await, worker.peer.count("details").await), (1, 2));
    let requests = model.finish();
    assert!(requests[1].tool_results()[0].contains("the scope gmail.readonly is missing"));
}

#[tokio::test]
async fn accounts_that_are_lost_at_the_same_time_stand_in_one_event() {
    let reads = [("gmail_fetch_mails", json!({"max_results": 1})), ("slack_list_channels", json!({}))];
    let model = ScriptedModel::start([turn::calls(reads)]).await;
    let worker = EmbeddedWorker::scripted(&model).await;
    let lost = json!({"on": "execute", "kind": "status", "status": 401, "error_code": "TOOL_ERROR", "times": 2});
    worker.peer.fault(lost).await;
    let asks =
        with(with(job("x"), "connections", json!(["gmail", "slack"])), "authorization", json!({"wait_seconds": 0}));
    let reply = worker.run(&asks).await;
    let mut entries: Vec<&str> = reply["data"]["authorizations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            assert!(entry["link"].is_string(), "{entry:#}");
            entry["connection"].as_str().unwrap()
        })
        .collect();
    entries.sort_unstable();
    assert_eq!(entries, ["gmail", "slack"]);
    model.finish();
}

#[tokio::test]
async fn an_operators_word_on_an_effect_counts_more_than_what_a_tool_looks_like() {
    let tools = configured("[tools.effects]\n\"gmail_send_message\" = \"read\"\n").tools;
    assert_eq!(tools.effects["gmail_send_message"], Effect::Read);
    let model = ScriptedModel::start([turn::send_mail(), turn::text("sent")]).await;
    let worker = EmbeddedWorker::with(Some(&model), |config| config.tools = tools).await;
    worker.peer.fault(json!({"on": "execute", "kind": "status", "status": 503})).await;
    let completed = worker.completed(&job("x")).await;
    assert_eq!((&completed["status"], &completed["effects"]), (&json!("completed"), &json!([])), "{completed:#}");
    assert_eq!(completed["retries"][0], json!({"call": "gmail_send_message", "reason": "unavailable", "count": 1}));
    assert_eq!(worker.peer.count("execute").await, 2);
    model.finish();
}

#[tokio::test]
async fn the_operators_deny_list_hides_tools_from_every_job_and_may_be_changed() {
    let definition = |name: &str| {
        json!({"tool": {"id": name, "definition": {"name": name, "input_schema": {"type": "object"}}},
            "identifier": "user_123", "connected_account_id": "ca_1"})
    };
    let built_in = configured("").tools;
    assert!(built_in.deny.len() >= 5, "{:?}", built_in.deny);
    let own = configured("[tools]\ndeny = [\"gmail_fetch_mails\"]\n").tools;
    for (tools, kept) in [(built_in.clone(), "gmail_fetch_mails"), (own, "gmail_create_filter")] {
        let listed: Vec<Value> =
            built_in.deny.iter().map(|name| definition(name)).chain([definition("gmail_fetch_mails")]).collect();
        let model = ScriptedModel::start([turn::text("seen")]).await;
        let worker = EmbeddedWorker::with(Some(&model), |config| config.tools = tools).await;
        let answer = json!({"tools": listed, "next_page_token": ""});
        worker.peer.fault(json!({"on": "scoped", "kind": "status", "status": 200, "body": answer})).await;
        // A job cannot have them by asking for them.
        let allow = json!({"allow": ["gmail_fetch_mails", "gmail_create_filter"]});
        worker.completed(&with(job("x"), "tools", allow)).await;
        let requests = model.finish();
        let offered = requests[0].body["tools"].as_array().unwrap().iter();
        let offered: Vec<&str> = offered.map(|tool| tool["function"]["name"].as_str().unwrap()).collect();
        assert_eq!(offered, [kept]);
    }
}
