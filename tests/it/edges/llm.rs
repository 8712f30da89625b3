//! The model client over HTTP, against a scripted model.

use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::internals::agent::effect::Effect;
use agentkit_worker::internals::agent::message::{Finish, Message, ModelReply, ToolChoice, Usage};
use agentkit_worker::internals::agent::tool::Tool;
use agentkit_worker::internals::clock::{ManualClock, SharedClock};
use agentkit_worker::internals::http::{self, Client};
use agentkit_worker::internals::llm::{Config, Llm, LlmError, ModelRequest, Profiles, RenderedTools};
use agentkit_worker::internals::retry::RetryDecision;
use agentkit_worker::job::ConnectionName;
use serde_json::json;
use serde_json::value::RawValue;

use crate::support::sandbox_peer::SandboxPeer;
use crate::support::scripted_model::{ScriptedModel, Turn, http as http_answer, turn};

const CHAT_MODEL: &str = "gpt-4o";
const REASONING_MODEL: &str = "gpt-6-luna";
/// The sandbox's key; the scripted model takes any.
const API_KEY: &str = "sk-sandbox";

/// A client of `base_url`, on Sunday, 22 November 2026, 08:00 UTC.
fn client(base_url: String, timeout_seconds: u64) -> Llm {
    let clock: SharedClock = Arc::new(ManualClock::new("2026-11-22T08:00:00Z".parse().unwrap()));
    let http = Client::new(&http::Config { max_body_bytes: 64 << 10, ..http::Config::default() }, clock).unwrap();
    let config = Config { base_url, api_key: API_KEY.to_owned().into(), timeout_seconds, ..Config::default() };
    Llm::new(config, Profiles::built_in(), http).unwrap()
}

fn fetch_mails() -> Tool {
    Tool {
        name: "gmail_fetch_mails".to_owned(),
        model_name: "gmail_fetch_mails".to_owned(),
        connection: ConnectionName::new("gmail").unwrap(),
        effect: Effect::Read,
        hinted: None,
        description: "Fetches mails.".to_owned(),
        parameters: Arc::from(RawValue::from_string(r#"{"type":"object","properties":{}}"#.to_owned()).unwrap()),
    }
}

async fn ask(llm: &Llm, model: &str, messages: &[Message]) -> Result<ModelReply, LlmError> {
    let tools = RenderedTools::new(&llm.profile(model), &[fetch_mails()]);
    let request = ModelRequest {
        model,
        messages,
        tools: &tools,
        tool_choice: ToolChoice::Auto,
        output_schema: None,
        max_output_tokens: None,
        run_id: "order-4711",
        user: "user_123",
    };
    llm.complete(&request).await
}

fn prompt() -> Vec<Message> {
    vec![Message::System("Be brief.".to_owned()), Message::User("Summarize my mail.".to_owned())]
}

/// The error of one question that is answered with `turn`.
async fn error_of(turn: Turn) -> LlmError {
    let model = ScriptedModel::start([turn]).await;
    let error = ask(&client(model.base_url(), 5), CHAT_MODEL, &prompt()).await.unwrap_err();
    model.finish();
    error
}

#[tokio::test]
async fn a_conversation_with_tool_calls_goes_through_over_both_apis() {
    for (name, line) in [(CHAT_MODEL, "POST /v1/chat/completions"), (REASONING_MODEL, "POST /v1/responses")] {
        let model = ScriptedModel::start([
            turn::calls([("gmail_fetch_mails", json!({"max_results": 5})), ("gmail_fetch_mails", json!({}))])
                .with_text("Looking."),
            turn::text("You have no mail."),
        ])
        .await;
        let llm = client(model.base_url(), 5);
        let mut messages = prompt();

        let first = ask(&llm, name, &messages).await.unwrap();
        assert_eq!(first.message.text.as_deref(), Some("Looking."));
        assert_eq!(first.message.calls[0].arguments, r#"{"max_results":5}"#);
        assert_eq!(
            first.usage,
            Some(Usage { input_tokens: 100, output_tokens: 10, cached_tokens: 50, ..Usage::default() })
        );
        assert_eq!(first.request_id.as_deref(), Some("req_scripted"));
        let ids: Vec<String> = first.message.calls.iter().map(|call| call.id.clone()).collect();
        assert_eq!(ids, ["call_0_0", "call_0_1"]);
        messages.push(Message::Assistant(first.message));
        messages.extend(ids.into_iter().map(|call_id| Message::ToolResult { call_id, content: "[]".to_owned() }));

        let second = ask(&llm, name, &messages).await.unwrap();
        assert_eq!(second.message.text.as_deref(), Some("You have no mail."));
        assert_eq!(second.finish, Finish::Stop);

        let requests = model.finish();
        assert!(requests.iter().all(|request| request.line == line), "{requests:?}");
        assert_eq!(requests[0].header("authorization"), Some("Bearer sk-sandbox"));
        assert_eq!(requests[0].header("content-type"), Some("application/json"));
        assert_eq!(requests[1].body["prompt_cache_key"], "order-4711");
        assert!(!String::from_utf8_lossy(&requests[1].bytes).contains("user_123"), "users are not named");
    }
}

#[tokio::test]
async fn a_conversation_may_change_from_one_api_to_the_other_and_back() {
    let model = ScriptedModel::start([
        turn::calls([("gmail_fetch_mails", json!({}))]),
        turn::calls([("gmail_fetch_mails", json!({"max_results": 2}))]),
        turn::text("Done."),
    ])
    .await;
    let llm = client(model.base_url(), 5);
    let mut messages = prompt();
    for name in [CHAT_MODEL, REASONING_MODEL, CHAT_MODEL] {
        let message = ask(&llm, name, &messages).await.unwrap().message;
        let calls = message.calls.clone();
        messages.push(Message::Assistant(message));
        messages
            .extend(calls.into_iter().map(|call| Message::ToolResult { call_id: call.id, content: "[]".to_owned() }));
    }
    let requests = model.finish();
    assert_eq!(requests[2].body["messages"][4]["tool_calls"][0]["id"], "call_1_0");
}

#[tokio::test]
async fn the_sandboxs_models_are_understood_and_understand() {
    let peer = SandboxPeer::start().await;
    let llm = client(peer.sandbox.model_url(), 5);
    for name in [CHAT_MODEL, REASONING_MODEL] {
        let mut messages = prompt();
        messages.push(Message::User("Fetch my last 5 unread emails and summarize them.".to_owned()));
        let first = ask(&llm, name, &messages).await.unwrap();
        let call = first.message.calls.first().cloned().unwrap_or_else(|| panic!("{name} called no tool: {first:?}"));
        assert_eq!(call.name, "gmail_fetch_mails");
        messages.push(Message::Assistant(first.message));
        messages.push(Message::ToolResult { call_id: call.id, content: "[]".to_owned() });
        let last = ask(&llm, name, &messages).await.unwrap();
        assert!(last.message.text.is_some() && last.message.calls.is_empty(), "{last:?}");
    }
}

#[tokio::test]
async fn a_rate_limit_carries_the_wait_that_the_server_asks_for() {
    let error = error_of(turn::error(429, "rate_limit_exceeded").retry_after(40)).await;
    assert!(matches!(error, LlmError::RateLimited { .. }), "{error:?}");
    assert_eq!(error.retry(), RetryDecision::AgainAfter(Duration::from_secs(40)));
    assert_eq!(error.request_id(), Some("req_scripted"));

    let milliseconds = turn::status(503).header("retry-after-ms", "250").retry_after(40);
    assert_eq!(error_of(milliseconds).await.retry(), RetryDecision::AgainAfter(Duration::from_millis(250)));

    let date = turn::status(429).header("retry-after", "Sun, 22 Nov 2026 08:00:30 GMT");
    assert_eq!(error_of(date).await.retry(), RetryDecision::AgainAfter(Duration::from_secs(30)));

    assert_eq!(error_of(turn::status(429)).await.retry(), RetryDecision::Again);
}

#[tokio::test]
async fn a_used_up_quota_is_never_tried_again() {
    let error = error_of(turn::error(429, "insufficient_quota").retry_after(1).header("x-should-retry", "true")).await;
    assert!(matches!(&error, LlmError::QuotaExhausted { code, .. } if code == "insufficient_quota"), "{error:?}");
    assert_eq!(error.retry(), RetryDecision::Stop);
}

#[tokio::test]
async fn the_servers_own_word_on_a_retry_wins_over_the_status() {
    assert_eq!(error_of(turn::status(500)).await.retry(), RetryDecision::Again);
    assert_eq!(error_of(turn::status(500).header("x-should-retry", "false")).await.retry(), RetryDecision::Stop);
    assert_eq!(error_of(turn::status(404).header("x-should-retry", "true")).await.retry(), RetryDecision::Again);
}

#[tokio::test]
async fn a_refused_key_is_told_apart_and_not_repeated() {
    let body = r#"{"error": {"message": "Incorrect API key provided: sk-te*t", "code": "invalid_api_key"}}"#;
    let error = error_of(turn::status(401).body(body)).await;
    assert!(matches!(error, LlmError::Credentials { .. }), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("sk-te"), "{error:?}");
}

#[tokio::test]
async fn a_proxys_page_is_a_malformed_answer_whatever_its_status() {
    let page = "<html><body>Sign in to the hotel network</body></html>";
    let error = error_of(turn::status(200).body(page)).await;
    assert!(matches!(&error, LlmError::BadAnswer { excerpt, .. } if excerpt.contains("hotel")), "{error:?}");
    assert_eq!(error.retry(), RetryDecision::Again);
    let error = error_of(turn::status(502).body(page)).await;
    assert!(matches!(error, LlmError::Unavailable { status: 502, .. }), "{error:?}");
    let error = error_of(turn::status(302).header("location", "http://127.0.0.1:9/")).await;
    assert!(matches!(error, LlmError::Rejected { status: 302, .. }), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_is_cut_off_or_no_http_is_an_interruption() {
    let mut cut = http_answer(200, &[], r#"{"choices": [{"message": {"content": "the secret"}}]}"#);
    cut.truncate(cut.len() - 10);
    for turn in [turn::raw(cut), turn::raw("SSH-2.0-OpenSSH_9.9\r\n"), turn::raw(""), turn::reset()] {
        let error = error_of(turn).await;
        assert!(matches!(error, LlmError::Interrupted(_)), "{error:?}");
        assert_eq!(error.retry(), RetryDecision::Again);
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn a_body_larger_than_allowed_is_a_malformed_answer() {
    let error = error_of(turn::text(&"x".repeat(65 << 10))).await;
    assert!(matches!(error, LlmError::BadAnswer { .. }), "{error:?}");
}

#[tokio::test]
async fn a_model_that_does_not_answer_times_out() {
    let model = ScriptedModel::start([turn::hang()]).await;
    let error = ask(&client(model.base_url(), 1), CHAT_MODEL, &prompt()).await.unwrap_err();
    assert_eq!(error, LlmError::TimedOut);
    assert_eq!(error.retry(), RetryDecision::Again);
    model.finish();
}

#[tokio::test]
async fn a_server_that_is_not_there_got_nothing() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let error = ask(&client(base_url, 5), CHAT_MODEL, &prompt()).await.unwrap_err();
    assert!(matches!(error, LlmError::NotSent(_)), "{error:?}");
    assert_eq!(error.retry(), RetryDecision::Again);
}

#[tokio::test]
async fn a_conversation_with_an_unanswered_call_never_leaves() {
    let model = ScriptedModel::start([turn::calls([("gmail_fetch_mails", json!({}))])]).await;
    let llm = client(model.base_url(), 5);
    let mut messages = prompt();
    messages.push(Message::Assistant(ask(&llm, CHAT_MODEL, &messages).await.unwrap().message));
    for name in [CHAT_MODEL, REASONING_MODEL] {
        let error = ask(&llm, name, &messages).await.unwrap_err();
        assert!(matches!(error, LlmError::Invalid(_)), "{error:?}");
        assert_eq!(error.retry(), RetryDecision::Stop);
    }
    assert_eq!(model.finish().len(), 1);
}

#[tokio::test]
async fn a_cut_turn_and_a_refusal_are_told_over_both_apis() {
    for name in [CHAT_MODEL, REASONING_MODEL] {
        let model = ScriptedModel::start([turn::text("Once upon").cut(), turn::refusal("No.")]).await;
        let llm = client(model.base_url(), 5);
        assert_eq!(ask(&llm, name, &prompt()).await.unwrap().finish, Finish::Length);
        assert_eq!(ask(&llm, name, &prompt()).await.unwrap().finish, Finish::Refusal("No.".to_owned()));
        model.finish();
    }
}

#[tokio::test]
async fn a_model_is_found_with_its_shutdown_date_or_not_at_all() {
    let known = |body: &str| turn::status(200).body(body);
    let model = ScriptedModel::with_looks([
        known(r#"{"id": "gpt-4o", "object": "model", "shutdown_date": "2027-01-14"}"#),
        known(r#"{"id": "gpt-6-luna", "shutdown_date": null}"#),
        turn::error(404, "model_not_found"),
        turn::status(401),
        known("<html>"),
    ])
    .await;
    let llm = client(model.base_url(), 5);
    let found = llm.find_model("gpt-4o").await.unwrap().unwrap();
    assert_eq!(found.shutdown, Some("2027-01-14".parse().unwrap()));
    assert_eq!(llm.find_model("gpt-6-luna").await.unwrap().unwrap().shutdown, None);
    assert_eq!(llm.find_model("../../evil?x").await.unwrap(), None);
    assert!(matches!(llm.find_model("gpt-4o").await, Err(LlmError::Credentials { .. })));
    assert!(matches!(llm.find_model("gpt-4o").await, Err(LlmError::BadAnswer { .. })));
    let requests = model.finish();
    assert_eq!(requests[0].line, "GET /v1/models/gpt-4o");
    assert_eq!(requests[2].line, "GET /v1/models/..%2F..%2Fevil%3Fx");
}

/// The double must catch what it is there for.
mod the_scripted_model {
    use super::*;

    async fn post(model: &ScriptedModel, body: &str) {
        let clock: SharedClock = Arc::new(ManualClock::new("2026-11-22T08:00:00Z".parse().unwrap()));
        let http = Client::new(&http::Config::default(), clock).unwrap();
        let url = format!("{}/chat/completions", model.base_url()).parse().unwrap();
        let request = http::Request::new(http::Method::Post, url, Duration::from_secs(5)).json(body.to_owned());
        http.send(request).await.unwrap();
    }

    #[tokio::test]
    #[should_panic(expected = "came after the last turn")]
    async fn notices_a_request_too_many() {
        let model = ScriptedModel::start([]).await;
        post(&model, "{}").await;
        model.finish();
    }

    #[tokio::test]
    #[should_panic(expected = "left over")]
    async fn notices_a_turn_left_over() {
        ScriptedModel::start([turn::text("never said")]).await.finish();
    }

    #[tokio::test]
    #[should_panic(expected = "was not finished")]
    async fn notices_that_nobody_looked() {
        drop(ScriptedModel::start([]).await);
    }

    #[tokio::test]
    #[should_panic(expected = "calls without an answer")]
    async fn notices_a_call_without_an_answer() {
        let model = ScriptedModel::start([turn::text("hm")]).await;
        let call = json!({"role": "assistant", "tool_calls": [{"id": "a"}]});
        let user = json!({"role": "user", "content": "and?"});
        post(&model, &json!({"messages": [call, user]}).to_string()).await;
        model.finish();
    }

    #[tokio::test]
    #[should_panic(expected = "not an open call")]
    async fn notices_an_answer_without_a_call() {
        let model = ScriptedModel::start([turn::text("hm")]).await;
        let output = json!({"type": "function_call_output", "call_id": "a", "output": ""});
        post(&model, &json!({"input": [output]}).to_string()).await;
        model.finish();
    }

    #[tokio::test]
    async fn waits_with_a_turn_until_it_is_released() {
        let gate = Arc::new(tokio::sync::Notify::new());
        let model = ScriptedModel::start([turn::text("now").released_by(&gate)]).await;
        let llm = client(model.base_url(), 5);
        let asking = tokio::spawn(async move { ask(&llm, CHAT_MODEL, &prompt()).await });
        model.wait_for_requests(1).await;
        assert!(!asking.is_finished());
        gate.notify_one();
        assert_eq!(asking.await.unwrap().unwrap().message.text.as_deref(), Some("now"));
        model.finish();
    }
}
