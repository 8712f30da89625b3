//! Scalekit's MCP server of a connection: with which token it is reached, and when it gets another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentkit_worker::internals::worker::{ConnectionConfig, ScalekitDoor};
use agentkit_worker::job::ConnectionName;
use serde_json::{Value, json};

use crate::support::embedded_worker::{EmbeddedWorker, job, with};
use crate::support::http_peer::{Answer, HttpPeer, Received};
use crate::support::scripted_model::{ScriptedModel, turn};

const MCP: &str = "/mcp/v3/connections/gmail";

/// Scalekit with accounts, tokens and one MCP server, which takes the token of this number and later ones.
fn scalekit(request: &Received, minted: &AtomicUsize, least: &AtomicUsize) -> Answer {
    match request.path() {
        "/oauth/token" => Answer::json(200, &json!({"access_token": "environment-token", "expires_in": 3600})),
        "/api/v1/connected_accounts/details" => {
            Answer::json(200, &json!({"connected_account": {"id": "ca_1", "status": "ACTIVE"}}))
        }
        "/api/v1/mcp/connections/gmail/tokens" => {
            let number = minted.fetch_add(1, Ordering::Relaxed) + 1;
            Answer::json(200, &json!({"token": format!("session.{number}"), "expires_at": "2099-01-01T00:00:00Z"}))
        }
        MCP => server(request, least.load(Ordering::Relaxed)),
        _ => Answer::json(404, &json!({"code": 5, "message": "not found"})),
    }
}

fn server(request: &Received, least: usize) -> Answer {
    let number =
        request.headers["authorization"].strip_prefix("Bearer session.").and_then(|number| number.parse().ok());
    if number.is_none_or(|number: usize| number < least) {
        return Answer::of(401, "text/plain", "which token?").header("www-authenticate", "Bearer");
    }
    let message = request.json();
    let result = match message["method"].as_str().unwrap() {
        "tools/list" => json!({"tools": [
            {"name": "gmail_fetch_mails", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": true}},
            {"name": "gmail_send_message", "inputSchema": {"type": "object"}},
        ]}),
        _ => json!({"content": [{"type": "text", "text": "done"}]}),
    };
    Answer::json(200, &json!({"jsonrpc": "2.0", "id": message["id"], "result": result}))
}

#[tokio::test]
async fn a_run_has_a_token_of_its_own_which_may_not_write_where_the_run_may_not() {
    let (minted, least) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, bound) = (minted.clone(), least.clone());
    let peer = HttpPeer::start(move |request| scalekit(request, &counted, &bound)).await;
    let turns = [turn::fetch_mails(), turn::text("read"), turn::send_mail(), turn::text("sent"), turn::send_mail()];
    let model = ScriptedModel::start(turns.into_iter().chain([turn::text("sent again")])).await;
    let worker = EmbeddedWorker::with(Some(&model), |config| {
        config.scalekit.environment_url.clone_from(&peer.url);
        let gmail = ConnectionName::new("gmail").unwrap();
        config.connections.insert(gmail, ConnectionConfig { source: ScalekitDoor::ScalekitMcp });
    })
    .await;
    let access = |from: usize| -> Vec<Value> {
        let asked = peer.requests("/tokens");
        asked[from..].iter().map(|request| request.json()["access_level"].clone()).collect()
    };

    worker.completed(&with(job("read"), "tools", json!({"effects": "read"}))).await;
    assert_eq!(access(0), [json!("READ_ONLY")], "one token for the list and the call");
    let completed = worker.completed(&job("send")).await;
    assert_eq!(
        (&completed["effects"][0]["state"], &completed["effects"][0]["tool"]),
        (&json!("done"), &json!("gmail_send_message"))
    );
    assert_eq!(access(1), [json!("FULL")]);
    let asked = peer.requests("/tokens")[0].json();
    assert_eq!((&asked["identifier"], asked["expiry"].is_string()), (&json!("user_123"), true), "{asked}");

    // The list is cached, and the first token of the run is refused: nothing ran, and a new one is taken.
    least.store(minted.load(Ordering::Relaxed) + 2, Ordering::Relaxed);
    let completed = worker.completed(&job("send it again")).await;
    assert_eq!(completed["effects"][0]["state"], "done", "{completed:#}");
    assert_eq!(access(2), [json!("FULL"), json!("FULL")]);
    let calls = peer.requests(MCP).into_iter().filter(|request| request.json()["method"] == "tools/call");
    let tools: Vec<Value> = calls.map(|call| call.json()["params"]["name"].clone()).collect();
    // The refused one is among them.
    assert_eq!(tools, ["gmail_fetch_mails", "gmail_send_message", "gmail_send_message", "gmail_send_message"]);
    assert!(peer.requests("/details").len() >= 3, "accounts are looked at as ever");
    model.finish();
}
