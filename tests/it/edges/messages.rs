//! The Messages API over HTTP: every conversation that a run can have is taken, whoever answered in it before, and what the
//! server says besides its answer is heard.

use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::internals::agent::message::{AssistantMessage, Finish, Message, ModelReply, ToolCall, ToolChoice};
use agentkit_worker::internals::agent::tool::Tool;
use agentkit_worker::internals::clock::{ManualClock, SharedClock};
use agentkit_worker::internals::http::{self, Client};
use agentkit_worker::internals::llm::{
    Config, Llm, LlmError, ModelRequest, Profiles, ProviderApi, ProviderConfig, RenderedTools,
};
use agentkit_worker::internals::retry::RetryDecision;
use agentkit_worker::job::ConnectionName;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::json;

use crate::support::sandbox_peer::SandboxPeer;
use crate::support::scripted_model::{ScriptedModel, Turn, turn};

const THINKS: &str = "anthropic/claude-opus-5-5";
const PLAIN: &str = "anthropic/claude-haiku-4-5";
const CLAUDES: [&str; 3] = [THINKS, "anthropic/claude-sonnet-5-5", PLAIN];
const ALL: [&str; 5] = [THINKS, "anthropic/claude-sonnet-5-5", PLAIN, "gpt-4o", "gpt-6-luna"];
const API_KEY: &str = "sk-sandbox";

/// A client of both kinds of API, on Monday, 30 November 2026, 08:00 UTC.
fn client(openai: String, anthropic: &str) -> Llm {
    let clock: SharedClock = Arc::new(ManualClock::new("2026-11-30T08:00:00Z".parse().unwrap()));
    let http = Client::new(&http::Config::default(), clock).unwrap();
    let config = Config { base_url: openai, api_key: API_KEY.to_owned().into(), ..Config::default() };
    let provider = ProviderConfig {
        api: Some(ProviderApi::Anthropic),
        base_url: anthropic.to_owned(),
        api_key: API_KEY.to_owned().into(),
        ..ProviderConfig::default()
    };
    let llm = Llm::new(config, Profiles::built_in(), http.clone()).unwrap();
    llm.with_provider("anthropic", &provider, http).unwrap()
}

fn tools() -> Vec<Tool> {
    let definition = json!({"name": "gmail_fetch_mails", "description": "Fetches mails.",
        "input_schema": {"type": "object", "properties": {"max_results": {"type": "integer"}}}});
    vec![Tool::from_definition(&definition, &ConnectionName::new("gmail").unwrap()).unwrap()]
}

async fn ask(llm: &Llm, model: &str, messages: &[Message]) -> Result<ModelReply, LlmError> {
    let tools = RenderedTools::new(&llm.profile(model), &tools());
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

/// Appends what was said, an answer to each of its calls, and now and then a remark.
fn append(messages: &mut Vec<Message>, said: AssistantMessage, draw: &mut impl FnMut(u16) -> usize) {
    let calls = said.calls.clone();
    messages.push(Message::Assistant(said));
    for call in &calls {
        let content =
            ["[]", "", " \n", "{\"tool_result\":{\"messages\":[]}}", "\u{1F4E7}\u{0}\u{2028}", "Not executed."];
        let content = content[draw(6)].to_owned();
        messages.push(Message::ToolResult { call_id: call.id.clone(), content });
    }
    if calls.is_empty() || draw(4) == 1 {
        messages.push(Message::User("Do something else.".to_owned()));
    }
}

/// Something that no server of ours has said: another one's ids, broken arguments, blank words, foreign thoughts.
fn odd(number: usize, draw: &mut impl FnMut(u16) -> usize) -> AssistantMessage {
    let arguments = ["{}", "", "{\"cut", "[1]", "{\"a\": \"\\ud800\"}", "{\"max_results\": 1.0}"];
    let ids = ["functions.get:", "call|", "", "toolu_odd", &"x".repeat(80)];
    let calls = (0..draw(3)).map(|index| ToolCall {
        id: format!("{}{number}_{index}", ids[draw(5)]),
        name: "gmail_fetch_mails".to_owned(),
        arguments: arguments[draw(6)].to_owned(),
    });
    let calls: Vec<ToolCall> = calls.collect();
    let text =
        [Some("Looking."), Some(" \n"), None][draw(3)].filter(|text| !calls.is_empty() || !text.trim().is_empty());
    let text = text.or(calls.is_empty().then_some("There is nothing."));
    let items = [
        json!({"type": "reasoning", "id": "rs_1", "encrypted_content": "x"}),
        json!({"api": "messages", "model": THINKS, "content": [{"type": "thinking", "thinking": "?", "signature": "none"}]}),
        json!({"x": 1}),
    ];
    // Of its own nobody doctors what is kept: a thought of the very model is not made up.
    let provider_items = if draw(2) == 1 && !calls.is_empty() { vec![items[draw(3)].clone()] } else { Vec::new() };
    AssistantMessage { text: text.map(str::to_owned), calls, provider_items }
}

#[tokio::test]
async fn every_conversation_that_a_run_can_have_is_taken_whoever_answered_before() {
    let peer = SandboxPeer::start().await;
    let llm = client(peer.sandbox.model_url(), peer.sandbox.messages_url());
    let mut runner = TestRunner::deterministic();
    let strategy = proptest::collection::vec(any::<u16>(), 60);
    for _ in 0..40 {
        let choices = strategy.new_tree(&mut runner).unwrap().current();
        let mut left = choices.iter().copied();
        let mut draw = |below: u16| usize::from(left.next().unwrap_or_default() % below);
        let mut messages = vec![Message::User("loop forever with new arguments".to_owned())];
        if draw(2) == 1 {
            messages.insert(0, Message::System("You help.".to_owned()));
        }
        for number in 0..6 {
            if draw(3) == 0 {
                append(&mut messages, odd(number, &mut draw), &mut draw);
            } else {
                let model = ALL[draw(5)];
                let said = ask(&llm, model, &messages).await;
                let said = said.unwrap_or_else(|error| panic!("{model}: {error}: {messages:#?} of {choices:?}"));
                append(&mut messages, said.message, &mut draw);
            }
            let model = CLAUDES[draw(3)];
            let result = ask(&llm, model, &messages).await;
            result.unwrap_or_else(|error| panic!("{model}: {error}: {messages:#?} of {choices:?}"));
        }
    }
}

#[tokio::test]
async fn a_thought_goes_back_to_who_had_it_and_a_changed_one_is_refused() {
    let peer = SandboxPeer::start().await;
    let llm = client(peer.sandbox.model_url(), peer.sandbox.messages_url());
    let mut messages = vec![Message::User("loop forever".to_owned())];
    let said = ask(&llm, THINKS, &messages).await.unwrap().message;
    append(&mut messages, said.clone(), &mut |_| 0);
    ask(&llm, THINKS, &messages).await.unwrap();
    let kept = |messages: &[Message]| serde_json::to_string(messages).unwrap().contains("signed-claude-opus-5-5");
    assert!(kept(&messages), "the stand-in thinks");
    let sent = peer.bodies("model").await.pop().unwrap();
    assert_eq!(sent["messages"][1]["content"][0], said.provider_items[0]["content"][0]);
    ask(&llm, CLAUDES[1], &messages).await.unwrap();
    let Message::Assistant(changed) = &mut messages[1] else { panic!("an answer") };
    changed.provider_items[0]["content"][0]["thinking"] = json!("Something else.");
    let error = ask(&llm, THINKS, &messages).await.unwrap_err();
    assert!(matches!(&error, LlmError::Rejected { message, .. } if message.contains("signature")), "{error:?}");
}

/// The error of one question that is answered with `turn`, after a look at the request.
async fn error_of(turn: Turn) -> LlmError {
    let model = ScriptedModel::start([turn]).await;
    let url = model.base_url();
    let llm = client(url.clone(), &url);
    let error = ask(&llm, THINKS, &[Message::User("Go.".to_owned())]).await.unwrap_err();
    let requests = model.finish();
    let request = &requests[0];
    assert_eq!(request.line, "POST /v1/messages", "a base URL that ends with /v1 is understood");
    for (name, value) in
        [("x-api-key", API_KEY), ("authorization", "Bearer sk-sandbox"), ("anthropic-version", "2023-06-01")]
    {
        assert_eq!(request.header(name), Some(value), "{name}");
    }
    assert!(!format!("{error:?} {error}").contains(API_KEY));
    error
}

#[tokio::test]
async fn what_the_server_says_of_a_failure_decides_about_a_repeat() {
    let body = |kind: &str, code: Option<&str>| {
        let details = code.map(|code| json!({ "error_code": code }));
        json!({"type": "error", "error": {"type": kind, "message": "no", "details": details}, "request_id": "req_1"})
            .to_string()
    };
    let limited = || turn::status(429).body(body("rate_limit_error", None));
    let error = error_of(limited().retry_after(40)).await;
    assert_eq!(error.retry(), RetryDecision::AgainAfter(Duration::from_secs(40)), "{error:?}");
    let reset = limited()
        .header("anthropic-ratelimit-input-tokens-remaining", "0")
        .header("anthropic-ratelimit-input-tokens-reset", "2026-11-30T08:00:25Z")
        .header("anthropic-ratelimit-requests-remaining", "9")
        .header("anthropic-ratelimit-requests-reset", "2026-11-30T09:00:00Z");
    assert_eq!(error_of(reset).await.retry(), RetryDecision::AgainAfter(Duration::from_secs(25)));
    let spent = error_of(turn::status(429).body(body("rate_limit_error", Some("enforced_spend_limit_reached")))).await;
    assert!(matches!(spent, LlmError::QuotaExhausted { .. }) && spent.retry() == RetryDecision::Stop, "{spent:?}");
    let overloaded = error_of(turn::status(529).body(body("overloaded_error", None))).await;
    assert_eq!(overloaded.retry(), RetryDecision::Again, "{overloaded:?}");
    let refused = error_of(turn::status(401).body(body("authentication_error", None))).await;
    assert!(matches!(refused, LlmError::Credentials { .. }), "{refused:?}");
    let cut =
        error_of(turn::raw("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"type\":\"message\",\"content\":[{")).await;
    assert!(matches!(cut, LlmError::Interrupted(_)), "{cut:?}");
}

#[tokio::test]
async fn a_scripted_answer_is_read_whole() {
    let model = ScriptedModel::start([turn::refusal("No."), turn::text("Cut").cut()]).await;
    let llm = client(model.base_url(), &model.base_url());
    let messages = [Message::User("Go.".to_owned())];
    let refused = ask(&llm, THINKS, &messages).await.unwrap();
    assert_eq!(refused.finish, Finish::Refusal("No.".to_owned()));
    assert_eq!(refused.usage.map(|usage| (usage.input_tokens, usage.cached_tokens)), Some((100, 50)));
    assert_eq!(refused.request_id.as_deref(), Some("req_scripted"));
    assert_eq!(ask(&llm, THINKS, &messages).await.unwrap().finish, Finish::Length);
    model.finish();
}
