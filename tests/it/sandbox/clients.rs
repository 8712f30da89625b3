//! The product's own clients against the sandbox: they cannot tell it from the real services.

use std::sync::Arc;

use agentkit_worker::internals::agent::message::{Message, ModelReply, ToolChoice};
use agentkit_worker::internals::agent::tool::Tool;
use agentkit_worker::internals::clock::SystemClock;
use agentkit_worker::internals::http;
use agentkit_worker::internals::llm::{self, Llm, ModelRequest, Profiles, RenderedTools};
use agentkit_worker::internals::sandbox::Sandbox;
use agentkit_worker::internals::scalekit::{self, AccountStatus, Error, ExecuteRequest, Scalekit};
use agentkit_worker::job::{ConnectionName, Identifier};
use serde_json::{Map, Value};

use crate::support::sandbox_peer::{SandboxPeer, plain_client};

fn http_client() -> http::Client {
    http::Client::new(&http::Config::default(), Arc::new(SystemClock)).unwrap()
}

fn scalekit(sandbox: &Sandbox) -> Scalekit {
    let config = scalekit::Config {
        environment_url: sandbox.scalekit_url().to_owned(),
        client_id: sandbox.client_id().to_owned(),
        client_secret: sandbox.client_secret().into(),
        ..scalekit::Config::default()
    };
    Scalekit::new(config, http_client(), Arc::new(SystemClock)).unwrap()
}

fn names(connection: &str) -> (Identifier, ConnectionName) {
    (Identifier::new("user_123").unwrap(), ConnectionName::new(connection).unwrap())
}

async fn allow(link: &str) {
    let request = plain_client().post(link).body("decision=allow");
    let response = request.header("content-type", "application/x-www-form-urlencoded").send().await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn an_account_is_linked_and_its_tools_are_listed_and_run() {
    let peer = SandboxPeer::start().await;
    let scalekit = scalekit(&peer.sandbox);
    let (identifier, github) = names("github");
    assert_eq!(scalekit.account(&identifier, &github).await.unwrap().status, AccountStatus::Missing);
    let link = scalekit.magic_link(&identifier, &github, "job-1").await.unwrap();
    assert!(link.expires_at.is_some());
    assert_eq!(scalekit.account(&identifier, &github).await.unwrap().status, AccountStatus::PendingAuth);
    allow(link.expose()).await;
    assert_eq!(scalekit.account(&identifier, &github).await.unwrap().status, AccountStatus::Active);
    assert!(scalekit.scoped_tools(&identifier, &github).await.unwrap().len() > 128);

    let params: Map<String, Value> = serde_json::from_str(r#"{"owner": "o", "repo": "r"}"#).unwrap();
    let call = |tool| ExecuteRequest {
        tool,
        identifier: &identifier,
        connection: &github,
        params: &params,
        run_id: "run-1",
        traceparent: None,
    };
    let answer = scalekit.execute(&call("github_issues_list"), async || Ok(())).await.unwrap();
    assert_eq!(answer.data.as_array().unwrap().len(), 3);
    assert!(matches!(scalekit.execute(&call("github_nothing"), async || Ok(())).await, Err(Error::UnknownTool(_))));
    assert!(matches!(
        scalekit.execute(&call("github_issue_get"), async || Ok(())).await,
        Err(Error::InvalidArguments(_))
    ));
    let logs = scalekit.tool_call_logs("run-1").await.unwrap().unwrap();
    assert_eq!(logs.len(), 2);
    let (_, disabled) = names("hubspot");
    assert!(matches!(scalekit.magic_link(&identifier, &disabled, "").await, Err(Error::ConnectionDisabled(_))));
    let (_, unknown) = names("nothing");
    assert!(matches!(scalekit.magic_link(&identifier, &unknown, "").await, Err(Error::ConnectionNotFound(_))));
}

#[tokio::test]
async fn a_conversation_with_tools_comes_to_its_end_over_both_wire_forms() {
    let peer = SandboxPeer::start().await;
    peer.activate("gmail", "user_123").await;
    let scalekit = scalekit(&peer.sandbox);
    let (identifier, gmail) = names("gmail");
    let listed = scalekit.scoped_tools(&identifier, &gmail).await.unwrap();
    let tools: Vec<Tool> = listed.iter().filter_map(|tool| Tool::from_definition(&tool.definition, &gmail)).collect();
    let config = llm::Config {
        base_url: peer.sandbox.model_url(),
        api_key: peer.sandbox.api_key().into(),
        ..llm::Config::default()
    };
    let llm = Llm::new(config, Profiles::built_in(), http_client()).unwrap();
    for model in ["gpt-4o", "gpt-6-luna"] {
        let rendered = RenderedTools::new(&llm.profile(model), &tools);
        let mut messages = vec![
            Message::System("You help.".to_owned()),
            Message::User("Fetch my last 2 unread emails and summarize them.".to_owned()),
        ];
        let first = ask(&llm, model, &messages, &rendered).await;
        let [call] = first.message.calls.as_slice() else { panic!("{model}: {first:?}") };
        let params = serde_json::from_str(&call.arguments).unwrap();
        let request = ExecuteRequest {
            tool: &call.name,
            identifier: &identifier,
            connection: &gmail,
            params: &params,
            run_id: model,
            traceparent: None,
        };
        let content = scalekit.execute(&request, async || Ok(())).await.unwrap().data.to_string();
        let call_id = call.id.clone();
        messages.extend([Message::Assistant(first.message), Message::ToolResult { call_id, content }]);
        let last = ask(&llm, model, &messages, &rendered).await;
        let text = last.message.text.unwrap();
        assert!(last.message.calls.is_empty() && text.contains("2 emails"), "{model}: {text}");
        let usage = last.usage.unwrap();
        assert!(usage.cached_tokens > 0 && usage.input_tokens > usage.cached_tokens, "{usage:?}");
    }
}

async fn ask(llm: &Llm, model: &str, messages: &[Message], tools: &RenderedTools) -> ModelReply {
    let request = ModelRequest {
        model,
        messages,
        tools,
        tool_choice: ToolChoice::Auto,
        output_schema: None,
        max_output_tokens: None,
        run_id: "run-1",
        user: "user_123",
    };
    llm.complete(&request).await.unwrap()
}
