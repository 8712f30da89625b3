//! Answers of Scalekit and of models, over HTTP, as they come from somebody who means no good.

use std::sync::{Arc, LazyLock, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::mutation::{Verdict, fuzz};
use crate::agent::message::{Message, ToolChoice};
use crate::clock::SystemClock;
use crate::http;
use crate::job::{ConnectionName, Identifier};
use crate::llm::{Config as LlmConfig, Llm, ModelRequest, Profiles, ProviderApi, ProviderConfig, RenderedTools};
use crate::retry::Policy;
use crate::scalekit::{Config, ExecuteRequest, Scalekit};

/// Whoever answers: with this status and these bytes, whatever is asked but for a token that nobody meddles with.
#[derive(Clone, Default)]
struct Stand(Arc<Mutex<(u16, Vec<u8>)>>);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static CLIENT: LazyLock<http::Client> = LazyLock::new(|| {
    let config = http::Config { max_body_bytes: 1 << 20, ..http::Config::default() };
    http::Client::new(&config, Arc::new(SystemClock)).unwrap()
});

const TOKEN: &str = r#"{"access_token": "a-secret-token", "expires_in": 86400, "token_type": "Bearer"}"#;
const ACCOUNT: &str = r#"{"connected_account": {"id": "ca_1", "status": "ACTIVE"}}"#;

impl Stand {
    /// Returns where it listens.
    fn start(token_is_sound: bool) -> (Self, String) {
        let stand = Self::default();
        let answer = move |State(Self(answer)): State<Self>, uri: Uri| async move {
            if token_is_sound && uri.path() == "/oauth/token" {
                return (StatusCode::OK, TOKEN.as_bytes().to_vec());
            }
            if !token_is_sound && uri.path() != "/oauth/token" {
                return (StatusCode::OK, ACCOUNT.as_bytes().to_vec());
            }
            let (status, body) = answer.lock().unwrap().clone();
            (StatusCode::from_u16(status).unwrap(), body)
        };
        let routes = Router::new().fallback(answer).with_state(stand.clone());
        let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        RUNTIME.spawn(async move { axum::serve(listener, routes).await });
        (stand, url)
    }

    fn answers(&self, status: u16, body: &[u8]) {
        *self.0.lock().unwrap() = (status, body.to_vec());
    }
}

fn scalekit(url: String) -> Scalekit {
    let once = Policy { attempts: 1, initial_milliseconds: 1, max_milliseconds: 1, max_retry_after_milliseconds: 1 };
    let config = Config {
        environment_url: url,
        client_id: "skc_1".into(),
        client_secret: "secret".to_owned().into(),
        control_retry: once,
        ..Config::default()
    };
    Scalekit::new(config, CLIENT.clone(), Arc::new(SystemClock)).unwrap()
}

fn errors() -> Value {
    json!({"code": 3, "message": "no", "details": [{"error_code": "TOOL_ERROR", "tool_error_info": {
        "tool_error_message": "it failed", "execution_id": "exec_1", "tool_error_code": "400"},
        "validation_error_info": {"field_violations": [{"field": "a", "description": "wrong"}]}}]})
}

#[test]
fn answers_of_scalekit_are_read_or_refused() {
    let (stand, url) = Stand::start(true);
    let scalekit = scalekit(url);
    let (user, gmail) = (Identifier::new("user_123").unwrap(), ConnectionName::new("gmail").unwrap());
    let definition = json!({"name": "gmail_fetch_mails", "description": "x", "input_schema": {"type": "object"}});
    let execute = |data: Value| json!({"data": data, "execution_id": "exec_1"});
    let samples = [
        json!({"connected_account": {"id": "ca_1", "status": "ACTIVE", "connector": "gmail"}}),
        json!({"link": "https://example.com/link", "expiry": "2026-11-22T09:00:00Z"}),
        json!({"tools": [{"connected_account_id": "ca_1", "tool": {"id": "t", "provider": "GMAIL",
            "definition": definition}}], "next_page_token": "", "total_size": 1}),
        execute(json!({"array": [{"id": "m1", "subject": "x"}]})),
        execute(json!({"content": [{"type": "text", "text": "{\"ok\": true}"}], "isError": false})),
        execute(json!({"ok": false, "error": "ratelimited", "errors": [{"message": "no"}]})),
        json!({"tool_call_logs": [{"tool_name": "t", "connection_name": "gmail", "status": "success",
            "execution_id": "exec_1", "started_at": "2026-11-22T08:00:00Z"}], "next_page_token": ""}),
        errors(),
    ];
    let refused = std::cell::Cell::new(0);
    fuzz(samples.map(|sample| sample.to_string()), |bytes| {
        for status in [200, 422] {
            stand.answers(status, bytes);
            let params = Map::new();
            let request = ExecuteRequest {
                tool: "gmail_fetch_mails",
                identifier: &user,
                connection: &gmail,
                params: &params,
                run_id: "order-1",
                traceparent: None,
            };
            let results = RUNTIME.block_on(async {
                [
                    scalekit.account(&user, &gmail).await.map(drop),
                    scalekit.magic_link(&user, &gmail, "state").await.map(drop),
                    scalekit.accounts_of(&gmail).await.map(drop),
                    scalekit.scoped_tools(&user, &gmail).await.map(drop),
                    scalekit.tool_call_logs("order-1").await.map(drop),
                    scalekit.execute(&request, || async { Ok(()) }).await.map(drop),
                ]
            });
            for error in results.into_iter().filter_map(Result::err) {
                refused.set(refused.get() + 1);
                let words = error.to_string();
                assert!(!words.is_empty() && words.len() < 4096, "{words}");
                assert!(!error.outline().is_empty());
            }
        }
        Verdict::Taken
    });
    assert!(refused.get() > 0);
}

#[test]
fn tokens_of_scalekit_are_read_or_refused() {
    let (stand, url) = Stand::start(false);
    let (user, gmail) = (Identifier::new("user_123").unwrap(), ConnectionName::new("gmail").unwrap());
    fuzz([TOKEN], |bytes| {
        stand.answers(200, bytes);
        // One that has no token yet.
        let account = RUNTIME.block_on(scalekit(url.clone()).account(&user, &gmail));
        Verdict::of(account.inspect_err(|error| {
            assert!(!error.to_string().contains("secret"), "what is no token may still hold one: {error}");
        }))
    });
}

#[test]
fn answers_of_models_are_read_or_refused_over_each_api() {
    let chat =
        [include_str!("../../tests/data/llm/chat_calls.json"), include_str!("../../tests/data/llm/chat_odd.json")];
    let responses = [include_str!("../../tests/data/llm/responses_calls.json")];
    let messages = [include_str!("../../tests/data/llm/messages_calls.json")];
    for (model, samples) in
        [("gpt-4o", &chat[..]), ("gpt-6-luna", &responses[..]), ("anthropic/claude-opus-5-5", &messages[..])]
    {
        let (stand, url) = Stand::start(true);
        let config =
            LlmConfig { base_url: format!("{url}/v1"), api_key: "k".to_owned().into(), ..LlmConfig::default() };
        let anthropic =
            ProviderConfig { api: Some(ProviderApi::Anthropic), base_url: url.clone(), ..ProviderConfig::default() };
        let llm = Llm::new(config, Profiles::built_in(), CLIENT.clone()).unwrap();
        let llm = llm.with_provider("anthropic", &anthropic, CLIENT.clone()).unwrap();
        let tools = RenderedTools::new(&llm.profile(model), []);
        let messages = [Message::System("Be brief.".to_owned()), Message::User("Summarize.".to_owned())];
        let ask = || {
            RUNTIME.block_on(llm.complete(&ModelRequest {
                model,
                messages: &messages,
                tools: &tools,
                tool_choice: ToolChoice::Auto,
                output_schema: None,
                max_output_tokens: None,
                run_id: "order-1",
                user: "user_123",
            }))
        };
        fuzz(
            samples.iter().filter(|sample| serde_json::from_str::<Value>(sample).is_ok_and(|v| v.is_object())),
            |bytes| {
                stand.answers(400, bytes);
                let error = ask().unwrap_err();
                assert!(!error.to_string().is_empty() && error.to_string().len() < 4096, "{error}");
                stand.answers(200, bytes);
                Verdict::of(ask().map(|reply| {
                    let kept = serde_json::to_string(&reply).unwrap();
                    assert_eq!(serde_json::from_str::<crate::agent::message::ModelReply>(&kept).unwrap(), reply);
                }))
            },
        );
    }
}
