//! A model that is gone, away, limited or without budget: another one takes over, and the reply says so.

use agentkit_worker::Config;
use serde_json::{Value, json};

use crate::support::chat_model;
use crate::support::embedded_worker::{EmbeddedWorker, job, with};
use crate::support::http_peer::{Answer, HttpPeer, Received};

const GONE: &str = "gpt-4o";
const SUCCESSOR: &str = "gpt-6-luna";
/// A model that no table knows: chat completions, as of any compatible server.
const HOUSE: &str = "house-model";

/// What the API says of a model that it does not have any more.
fn shut_down(name: &str) -> Answer {
    let message = format!(
        "The model `{name}` has been deprecated, learn more here: https://platform.openai.com/docs/deprecations"
    );
    Answer::json(
        404,
        &json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": "model_not_found"}}),
    )
}

fn error(status: u16, code: &str) -> Answer {
    Answer::json(status, &json!({"error": {"message": "scripted", "type": code, "param": null, "code": code}}))
}

fn model_of(request: &Received) -> String {
    request.json()["model"].as_str().unwrap_or_default().to_owned()
}

/// An answer over the Responses API: what the model thought, and a call or words.
fn response(item: &Value) -> Answer {
    let thought = json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "b64="});
    Answer::json(
        200,
        &json!({"id": "resp_1", "object": "response", "model": "gpt-6-luna-2026-09-01", "status": "completed",
            "error": null, "output": [thought, item],
            "usage": {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}}),
    )
}

fn words(text: &str) -> Answer {
    let content = json!([{"type": "output_text", "text": text, "annotations": []}]);
    response(&json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}))
}

fn mail_call(subject: &str) -> Answer {
    let arguments = json!({"to": "sam@example.com", "subject": subject, "body": "hello"}).to_string();
    response(&json!({"type": "function_call", "id": "fc_1", "status": "completed", "call_id": "call_1",
        "name": "gmail_send_message", "arguments": arguments}))
}

/// Over the Responses API: sends a mail whose subject is the prompt, then says so.
fn sends_a_mail(request: &Received) -> Answer {
    let body = request.json();
    let input = body["input"].as_array().unwrap();
    if input.iter().any(|item| item["type"] == "function_call_output") {
        return words("sent");
    }
    mail_call(input[1]["content"].as_str().unwrap())
}

/// How often each model was asked.
fn asked(peer: &HttpPeer, model: &str) -> usize {
    let chat = peer.requests("/chat/completions").into_iter().chain(peer.requests("/responses"));
    chat.filter(|request| model_of(request) == model).count()
}

async fn worker(peer: &HttpPeer, change: impl FnOnce(&mut Config)) -> EmbeddedWorker {
    EmbeddedWorker::with(None, |config| {
        config.model.base_url.clone_from(&peer.url);
        change(config);
    })
    .await
}

fn fallback(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn notice<'r>(data: &'r Value, code: &str) -> Option<&'r Value> {
    data["notices"].as_array()?.iter().find(|notice| notice["code"] == code)
}

#[tokio::test]
async fn after_the_shutdown_of_the_default_model_every_job_is_answered_by_its_successor_and_says_so() {
    let peer = HttpPeer::start(|request| match model_of(request).as_str() {
        SUCCESSOR => sends_a_mail(request),
        model => shut_down(model),
    })
    .await;
    let worker = worker(&peer, |_| {}).await;
    let send = |number: usize| {
        let job = job(&format!("mail {number}"));
        // Every third job names the model that is gone.
        let job = if number % 3 == 2 { with(job, "model", json!(GONE)) } else { job };
        let worker = &worker;
        async move { worker.completed(&job).await }
    };
    let mut replies = vec![send(0).await];
    assert_eq!(asked(&peer, GONE), 1);
    replies.extend(futures_util::future::join_all((1..10).map(send)).await);
    assert_eq!(asked(&peer, GONE), 1, "nobody else has to find out");
    for data in &replies {
        let models = json!([{"model": GONE, "calls": 0, "reason": "model_gone"}, {"model": SUCCESSOR, "calls": 2}]);
        assert_eq!((&data["models"], &data["model"]), (&models, &json!("gpt-6-luna-2026-09-01")), "{data:#}");
        assert!(notice(data, "model_fallback").is_some(), "{data:#}");
        assert_eq!((&data["status"], &data["effects"][0]["state"]), (&json!("completed"), &json!("done")));
        assert_eq!(data["usage"]["unknown"], false, "a refused request costs nothing: {data:#}");
    }
    let world = worker.peer.world().await;
    let mut sent: Vec<&str> = world["effects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|effect| effect["params"]["subject"].as_str().unwrap())
        .collect();
    sent.sort_unstable();
    assert_eq!(sent, (0..10).map(|number| format!("mail {number}")).collect::<Vec<_>>(), "each once");
    let metrics = worker.metrics();
    let counted = r#"agentkit_model_fallbacks_total{from="gpt-4o",to="gpt-6-luna",reason="model_gone"} 10"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn a_model_that_fails_in_the_middle_of_a_run_hands_over_to_another_one_of_another_kind() {
    let peer = HttpPeer::start(|request| match model_of(request).as_str() {
        SUCCESSOR if request.json()["input"].as_array().unwrap().len() < 3 => sends_a_mail(request),
        HOUSE if chat_model::tool_results(request) == 1 => {
            chat_model::wants("call_1", "gmail_fetch_mails", &json!({"max_results": 1}))
        }
        HOUSE => chat_model::says("sent and read"),
        _ => error(503, "server_error"),
    })
    .await;
    let worker = worker(&peer, |config| {
        SUCCESSOR.clone_into(&mut config.model.model);
        config.model.fallback = Some(fallback(&[HOUSE]));
    })
    .await;
    let data = worker.completed(&job("mail 1")).await;
    let models = json!([{"model": SUCCESSOR, "calls": 1, "reason": "unavailable"}, {"model": HOUSE, "calls": 2}]);
    assert_eq!((&data["models"], &data["text"]), (&models, &json!("sent and read")), "{data:#}");
    assert_eq!(data["effects"].as_array().unwrap().len(), 1, "{data:#}");
    assert_eq!(worker.peer.world().await["effects"].as_array().unwrap().len(), 1);
    let first = &peer.requests("/chat/completions")[0];
    let body = first.json();
    let messages = body["messages"].as_array().unwrap();
    let roles: Vec<&str> = messages.iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool"]);
    assert_eq!(messages[2]["tool_calls"][0]["id"], messages[3]["tool_call_id"]);
    assert!(!String::from_utf8_lossy(&first.body).contains("b64="), "another's reasoning");
    assert!(body["tools"][0]["function"].is_object(), "in the form of its API");
    let second = peer.requests("/chat/completions").pop().unwrap().json();
    let ids = second["messages"].as_array().unwrap().iter().filter_map(|message| message["tool_call_id"].as_str());
    assert_eq!(ids.collect::<std::collections::BTreeSet<_>>().len(), 2, "ids of two models do not meet: {second:#}");
}

/// What becomes of a job whose first model answers like this.
async fn after(failure: fn() -> Answer, change: impl FnOnce(&mut Config)) -> (Value, HttpPeer) {
    let peer = HttpPeer::start(move |request| match model_of(request).as_str() {
        HOUSE => chat_model::says("by the other one"),
        _ => failure(),
    })
    .await;
    let worker = worker(&peer, |config| {
        config.model.fallback = Some(fallback(&[HOUSE]));
        change(config);
    })
    .await;
    (worker.run(&job("say it")).await, peer)
}

/// What a model answers.
type Failing = fn() -> Answer;

#[tokio::test]
async fn what_falls_over_and_what_never_does() {
    let falls: [(Failing, &str); 9] = [
        (|| Answer::Reset, "interrupted"),
        (|| error(500, "server_error"), "unavailable"),
        (|| error(529, "unknown_error"), "unavailable"),
        (|| error(503, "server_error").header("retry-after", "600"), "unavailable"),
        (|| error(429, "rate_limit_exceeded").header("retry-after", "60"), "rate_limited"),
        (|| error(429, "insufficient_quota"), "quota_exhausted"),
        (|| error(402, "billing"), "quota_exhausted"),
        (|| shut_down("gpt-4o"), "model_gone"),
        (|| Answer::of(200, "text/html", "<html>bad gateway</html>"), "bad_answer"),
    ];
    for (failure, reason) in falls {
        let (reply, _) = after(failure, |_| {}).await;
        let data = &reply["data"];
        assert_eq!(data["text"], "by the other one", "{reason}: {reply:#}");
        assert_eq!(data["models"][0]["reason"], reason, "{reply:#}");
    }
    let stays: [(Failing, &str); 5] = [
        (|| error(400, "invalid_value"), "model_rejected"),
        (|| error(403, "model_not_found"), "model_rejected"),
        (|| error(400, "content_filter"), "content_filtered"),
        // The other one has no larger window.
        (|| error(400, "context_length_exceeded"), "token_limit"),
        (
            || {
                let message = json!({"role": "assistant", "content": null, "refusal": "I will not."});
                let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
                Answer::json(200, &json!({"model": "m", "choices": [choice]}))
            },
            "refused",
        ),
    ];
    for (failure, code) in stays {
        let (reply, peer) = after(failure, |_| {}).await;
        assert_eq!(reply["data"]["error"]["code"], code, "{reply:#}");
        assert_eq!(asked(&peer, HOUSE), 0, "{code}");
        assert_eq!(reply["data"]["models"], Value::Null, "{reply:#}");
    }
}

#[tokio::test]
async fn a_larger_context_window_is_another_ones_business_and_a_list_is_the_operators_own() {
    let larger = |config: &mut Config| {
        HOUSE.clone_into(&mut config.model.model);
        config.model.fallback = Some(fallback(&["smaller-house", GONE]));
    };
    let peer = HttpPeer::start(|request| match model_of(request).as_str() {
        GONE => chat_model::says("by the larger one"),
        _ => error(400, "context_length_exceeded"),
    })
    .await;
    let worker = worker(&peer, larger).await;
    let data = worker.completed(&job("say it")).await;
    assert_eq!(data["models"][1], json!({"model": GONE, "calls": 1}), "{data:#}");
    assert_eq!(asked(&peer, "smaller-house"), 0);
    // A job that names its model is not answered by another one.
    let named = worker.failed(&with(job("say it"), "model", json!(HOUSE))).await;
    assert_eq!(named["error"]["code"], "token_limit");
    // Nobody takes over where the operator says so.
    let (reply, _) = after(|| shut_down(GONE), |config| config.model.fallback = Some(Vec::new())).await;
    assert_eq!(reply["data"]["error"]["code"], "model_rejected", "{reply:#}");
    assert!(reply["data"]["error"]["hint"].as_str().unwrap().contains("model.fallback"), "{reply:#}");
}

#[tokio::test]
async fn when_all_models_fail_the_run_waits_or_ends_as_the_last_one_says() {
    let retired = |config: &mut Config| config.model.fallback = Some(fallback(&["retired", "also-retired"]));
    let (reply, _) = after(|| error(429, "insufficient_quota"), retired).await;
    let failure = &reply["data"]["error"];
    assert_eq!(failure["code"], "model_quota", "{reply:#}");
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("`also-retired`") && message.contains("gpt-4o (quota_exhausted)"), "{message}");
    // All of them are away for two rounds, and the first one is back in the third.
    let rounds = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = rounds.clone();
    let peer = HttpPeer::start(move |request| {
        let before = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if model_of(request) == GONE && before > 12 { chat_model::says("at last") } else { error(503, "server_error") }
    })
    .await;
    let worker = worker(&peer, |config| {
        config.model.fallback = Some(fallback(&[HOUSE]));
        config.worker.transient.attempts = 6;
    })
    .await;
    let data = worker.completed(&job("say it")).await;
    assert_eq!(data["text"], "at last", "{data:#}");
    assert!(data["attempts"].as_u64().unwrap() > 1, "it waited as ever: {data:#}");
}
