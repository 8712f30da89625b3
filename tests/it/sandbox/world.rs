//! The sandbox itself: its consent page, its webhooks, its world and its faults.

use std::time::Duration;

use agentkit_worker::internals::sandbox::{Sandbox, WebhookTarget};
use axum::Router;
use axum::http::HeaderMap;
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use jiff::SignedDuration;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::sandbox_peer::{SandboxPeer, plain_client};

async fn link(peer: &SandboxPeer, identifier: &str) -> String {
    let account = json!({"connector": "gmail", "identifier": identifier});
    let (status, body) = peer.post("/api/v1/connected_accounts/magic_link", account).await;
    assert_eq!(status, 200, "{body}");
    body["link"].as_str().unwrap().to_owned()
}

async fn decide(link: &str, decision: &str) -> (u16, String) {
    let request = plain_client().post(link).body(format!("decision={decision}"));
    let response = request.header("content-type", "application/x-www-form-urlencoded").send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

async fn status(peer: &SandboxPeer, identifier: &str) -> String {
    let path = format!("/api/v1/connected_accounts/details?connector=gmail&identifier={identifier}");
    peer.get(&path).await.1["connected_account"]["status"].as_str().unwrap_or("none").to_owned()
}

#[tokio::test]
async fn wrong_credentials_and_old_tokens_are_refused() {
    let peer = SandboxPeer::start_with(|options| options.token_lifetime = Duration::from_mins(1)).await;
    let form = peer.client.post(format!("{}/oauth/token", peer.sandbox.scalekit_url()));
    let form = form.body("client_id=skc_1&client_secret=wrong&grant_type=client_credentials").send().await.unwrap();
    assert_eq!(form.status(), 401);
    assert_eq!(form.json::<Value>().await.unwrap()["error"], "invalid_client");
    assert_eq!(peer.get("/api/v1/tools").await.0, 200);
    peer.clock.advance(SignedDuration::from_secs(60));
    let (status, body) = peer.get("/api/v1/tools").await;
    assert_eq!((status, &body["details"][0]["error_code"]), (401, &json!("UNAUTHENTICATED")));
}

#[tokio::test]
async fn a_click_on_the_consent_page_activates_the_account_once() {
    let peer = SandboxPeer::start().await;
    assert_eq!(status(&peer, "user_123").await, "none");
    let link = link(&peer, "user_123").await;
    assert_eq!(status(&peer, "user_123").await, "PENDING_AUTH");
    assert_eq!(decide(&link, "perhaps").await.0, 400);
    assert_eq!(decide(&link, "allow").await.0, 200);
    assert_eq!(status(&peer, "user_123").await, "ACTIVE");
    let (status, text) = decide(&link, "allow").await;
    assert!(status == 410 && text.contains("already used"), "{text}");
}

#[tokio::test]
async fn accounts_can_be_there_from_the_start() {
    let peer = SandboxPeer::with_active_accounts().await;
    assert_eq!(status(&peer, "user_123").await, "ACTIVE");
    assert_eq!(peer.execute("slack", "slack_list_channels", json!({})).await.0, 200);
    assert_eq!(peer.execute("hubspot", "slack_list_channels", json!({})).await.0, 404);
}

#[tokio::test]
async fn a_denied_or_expired_link_activates_nothing() {
    let peer = SandboxPeer::start().await;
    let denied = link(&peer, "user_123").await;
    assert_eq!(decide(&denied, "deny").await.0, 200);
    let late = link(&peer, "user_123").await;
    peer.clock.advance(SignedDuration::from_secs(600));
    let (code, text) = decide(&late, "allow").await;
    assert!(code == 410 && text.contains("expired"), "{text}");
    assert_eq!(decide(&format!("{late}x"), "allow").await.0, 404);
    assert_eq!(status(&peer, "user_123").await, "PENDING_AUTH");
}

#[tokio::test]
async fn the_consent_page_shows_an_identifier_as_text_only() {
    let peer = SandboxPeer::start().await;
    let page = link(&peer, "<script>alert('x')</script>").await;
    let text = plain_client().get(page).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") && !text.contains("<script>"), "{text}");
    assert!(text.contains("Allow") && text.contains("Deny") && text.contains("gmail"));
}

#[tokio::test]
async fn a_change_of_status_is_announced_with_a_signature() {
    let (sender, mut received) = mpsc::unbounded_channel::<(HeaderMap, String)>();
    let receive = move |headers: HeaderMap, body: String| async move { sender.send((headers, body)).unwrap() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/hook", post(receive))).await });
    let key = b"a key of a test";
    let secret = format!("whsec_{}", STANDARD.encode(key));
    let consent = Some(Duration::from_millis(1));
    let target = Some(WebhookTarget { url, secret });
    let peer = SandboxPeer::start_with(|options| (options.webhook, options.consent_after) = (target, consent)).await;
    link(&peer, "user_123").await;
    let (headers, body) = tokio::time::timeout(Duration::from_secs(10), received.recv()).await.unwrap().unwrap();
    let header = |name: &str| headers[name].to_str().unwrap();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(format!("{}.{}.{body}", header("webhook-id"), header("webhook-timestamp")).as_bytes());
    assert_eq!(header("webhook-signature"), format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())));
    let event: Value = serde_json::from_str(&body).unwrap();
    let document: Value = serde_json::from_str(include_str!("../../data/scalekit-openapi.json")).unwrap();
    let schema = json!({
        "$ref": "#/components/schemas/ConnectedAccountStatusUpdatedEvent", "components": document["components"],
    });
    assert!(jsonschema::is_valid(&schema, &event), "{event}");
    assert_eq!((&event["data"]["old_status"], &event["data"]["status"]), (&json!("PENDING_AUTH"), &json!("ACTIVE")));
}

#[tokio::test]
async fn a_webhook_secret_that_cannot_be_read_stops_the_start() {
    let clock = std::sync::Arc::new(agentkit_worker::internals::clock::SystemClock);
    let mut options = agentkit_worker::internals::sandbox::SandboxOptions::new(clock);
    options.webhook = Some(WebhookTarget { url: "http://127.0.0.1:9/".to_owned(), secret: "secret".to_owned() });
    assert!(Sandbox::start(options).await.is_err());
}

#[tokio::test]
async fn pages_lead_through_more_tools_than_a_model_takes() {
    let peer = SandboxPeer::start().await;
    peer.activate("github", "user_123").await;
    let list = "/api/v1/tools/scoped?identifier=user_123&filter.connection_names=github";
    let (mut names, mut token, mut pages) = (std::collections::BTreeSet::new(), String::new(), 0);
    loop {
        let (_, page) = peer.get(&format!("{list}&page_size=1000&page_token={token}")).await;
        let tools = page["tools"].as_array().unwrap();
        assert!(tools.len() <= 100);
        names.extend(tools.iter().map(|tool| tool["tool"]["definition"]["name"].to_string()));
        pages += 1;
        token = page["next_page_token"].as_str().unwrap().to_owned();
        if token.is_empty() {
            assert_eq!(page["total_size"], json!(names.len()));
            break;
        }
    }
    assert!(names.len() > 128 && pages == 2, "{} names on {pages} pages", names.len());
    assert_eq!(peer.get(list).await.1["tools"].as_array().unwrap().len(), 10);
    assert_eq!(peer.get(&format!("{list}&page_token=forged")).await.0, 400);
}

#[tokio::test]
async fn tools_change_the_world_and_leave_their_mark() {
    let peer = SandboxPeer::start().await;
    for connector in ["gmail", "googlecalendar", "slack", "github", "notes-chAb8Lfz"] {
        peer.activate(connector, "user_123").await;
    }
    let mail = json!({"to": "bob@example.com", "subject": "Hello", "body": "Text"});
    let (_, draft) = peer.execute("gmail", "gmail_create_draft", mail.clone()).await;
    let draft = json!({"draft_id": draft["data"]["id"]});
    assert_eq!(peer.execute("gmail", "gmail_send_draft", draft.clone()).await.0, 200);
    assert_eq!(peer.execute("gmail", "gmail_send_draft", draft).await.0, 404);
    let (_, unread) =
        peer.execute("gmail", "gmail_fetch_mails", json!({"query": "is:unread", "max_results": 2.0})).await;
    let ids: Vec<&Value> = unread["data"]["messages"].as_array().unwrap().iter().map(|mail| &mail["id"]).collect();
    assert_eq!(ids.len(), 2);
    peer.execute("gmail", "gmail_trash_message", json!({"message_id": ids[0]})).await;
    let event = json!({"summary": "Retro", "start_datetime": "2026-11-23T10:00:00Z", "event_duration_minutes": 45});
    peer.execute("googlecalendar", "googlecalendar_create_event", event).await;
    let (status, gone) = peer.execute("slack", "slack_send_message", json!({"channel": "nowhere", "text": "x"})).await;
    assert_eq!((status, &gone["data"]), (200, &json!({"ok": false, "error": "channel_not_found"})));
    peer.execute("slack", "slack_send_message", json!({"channel": "#general", "text": "Done"})).await;
    let (_, issues) =
        peer.execute("github", "github_issues_list", json!({"owner": "o", "repo": "r", "state": "open"})).await;
    assert_eq!(issues["data"]["array"].as_array().unwrap().len(), 2);
    let (_, notes) = peer.execute("notes-chAb8Lfz", "notesmcp_notes-search", json!({"query": "plan"})).await;
    assert!(notes["data"]["content"][0]["text"].as_str().unwrap().contains("Plan for the year"));

    let world = peer.world().await;
    let effects: Vec<&str> =
        world["effects"].as_array().unwrap().iter().map(|effect| effect["tool"].as_str().unwrap()).collect();
    let expected = [
        "gmail_create_draft",
        "gmail_send_draft",
        "gmail_trash_message",
        "googlecalendar_create_event",
        "slack_send_message",
    ];
    assert_eq!(effects, expected);
    assert_eq!(world["mails"].as_array().unwrap().last().unwrap()["labelIds"], json!(["SENT"]));
    let (_, log) = peer.get("/api/v1/agentkit/tool_call_logs?agent_run_id=run-1&status=provider_error").await;
    assert_eq!((&log["total_size"], &log["tool_call_logs"][0]["tool_name"]), (&json!("1"), &json!("gmail_send_draft")));
    let execution = log["tool_call_logs"][0]["execution_id"].as_str().unwrap();
    assert_eq!(peer.get(&format!("/api/v1/agentkit/tool_call_logs/{execution}")).await.0, 200);
}

#[tokio::test]
async fn worlds_of_two_identifiers_are_apart() {
    let peer = SandboxPeer::start().await;
    let identifier = "team/one two";
    peer.activate("slack", identifier).await;
    let call = json!({
        "tool_name": "slack_send_message", "connector": "slack", "identifier": identifier,
        "params": {"channel": "general", "text": "Hi"},
    });
    assert_eq!(peer.post("/api/v1/execute_tool", call).await.0, 200);
    let (_, theirs) = peer.get("/_sandbox/world/team%2Fone%20two").await;
    assert_eq!(theirs["effects"].as_array().unwrap().len(), 1);
    assert_eq!(peer.world().await["effects"], json!([]));
}

fn send() -> Value {
    json!({"to": "bob@example.com", "subject": "Hello", "body": "Text"})
}

async fn sent(peer: &SandboxPeer) -> usize {
    peer.effects().await
}

/// Sends one mail without expecting an answer.
async fn try_to_send(peer: &SandboxPeer, patience: Duration) -> Result<reqwest::Response, reqwest::Error> {
    let call = json!({
        "tool_name": "gmail_send_message", "connector": "gmail", "identifier": "user_123", "params": send(),
    });
    peer.request(Method::POST, "/api/v1/execute_tool").json(&call).timeout(patience).send().await
}

#[tokio::test]
async fn ordered_statuses_come_in_order_and_then_stop() {
    let peer = SandboxPeer::start().await;
    peer.activate("gmail", "user_123").await;
    let faults = json!([
        {"on": "execute", "tool": "slack_send_message", "kind": "status", "status": 500},
        {"on": "execute", "kind": "status", "status": 429, "error_code": "RATE_LIMITED", "headers": {"retry-after": "7"}},
        {"on": "execute", "times": 2, "kind": "status", "status": 502, "html": true},
        {"on": "execute", "kind": "status", "status": 500, "error_code": "TOOL_ERROR", "tool_error_code": "UPSTREAM"},
        {"on": "execute", "kind": "status", "status": 503, "truncated": true},
    ]);
    peer.fault(faults).await;
    let limited = try_to_send(&peer, Duration::from_secs(5)).await.unwrap();
    assert_eq!((limited.status().as_u16(), &limited.headers()["retry-after"]), (429, &"7".parse().unwrap()));
    assert_eq!(limited.json::<Value>().await.unwrap()["details"][0]["error_code"], "RATE_LIMITED");
    for _ in 0..2 {
        let (status, body) = peer.execute("gmail", "gmail_send_message", send()).await;
        assert!(status == 502 && body.as_str().unwrap().starts_with("<html>"), "{body}");
    }
    let (_, provider) = peer.execute("gmail", "gmail_send_message", send()).await;
    assert_eq!(provider["details"][0]["tool_error_info"]["tool_error_code"], "UPSTREAM");
    let (status, half) = peer.execute("gmail", "gmail_send_message", send()).await;
    assert!(status == 503 && half.is_string(), "{half}");
    assert_eq!(sent(&peer).await, 0);
    assert_eq!(peer.execute("gmail", "gmail_send_message", send()).await.0, 200);
    assert_eq!(sent(&peer).await, 1);
    assert_eq!(peer.get("/_sandbox/faults").await.1["left"].as_array().unwrap().len(), 1);
    peer.fault(json!({"on": "model", "kind": "status", "status": 429, "error_code": "insufficient_quota"})).await;
    let (_, broke) = peer.model("/chat/completions", json!({})).await;
    assert_eq!(
        (&broke["error"]["code"], &broke["error"]["type"]),
        (&json!("insufficient_quota"), &json!("insufficient_quota"))
    );
    let typo = json!({"on": "execute", "kind": "status", "statsu": 500});
    assert_eq!(peer.post("/_sandbox/faults", typo).await.0, 422);
}

#[tokio::test]
async fn a_reset_breaks_the_connection_before_and_after_the_effect() {
    let peer = SandboxPeer::start().await;
    peer.activate("gmail", "user_123").await;
    let patience = Duration::from_secs(10);
    for (kind, effects) in [("reset", 0), ("commit_then_reset", 1)] {
        peer.fault(json!({"on": "execute", "kind": kind})).await;
        let error = try_to_send(&peer, patience).await.unwrap_err();
        assert!(!error.is_timeout() && !error.is_connect(), "{kind}: {error:?}");
        assert_eq!(sent(&peer).await, effects, "{kind}");
    }
    peer.fault(json!({"on": "execute", "kind": "half_answer"})).await;
    let response = try_to_send(&peer, patience).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.bytes().await.is_err());
    assert_eq!(sent(&peer).await, 2);
}

#[tokio::test]
async fn a_lost_answer_leaves_its_effect_and_does_not_hold_up_the_stop() {
    let peer = SandboxPeer::start().await;
    peer.activate("gmail", "user_123").await;
    peer.fault(json!({"on": "execute", "kind": "commit_then_timeout", "times": 2})).await;
    let error = try_to_send(&peer, Duration::from_millis(300)).await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert_eq!(sent(&peer).await, 1);
    let call =
        json!({"tool_name": "gmail_send_message", "connector": "gmail", "identifier": "user_123", "params": send()});
    let waiting = peer.request(Method::POST, "/api/v1/execute_tool").json(&call).send();
    let waiting = tokio::spawn(waiting);
    while sent(&peer).await < 2 {
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(Duration::from_secs(10), peer.sandbox.stop()).await.unwrap();
    assert!(waiting.await.unwrap().is_err());
}

#[tokio::test]
async fn answers_can_be_late_or_huge() {
    let peer = SandboxPeer::start().await;
    peer.activate("gmail", "user_123").await;
    peer.fault(json!({"on": "execute", "kind": "delay", "delay_ms": 5_000})).await;
    assert!(try_to_send(&peer, Duration::from_millis(100)).await.unwrap_err().is_timeout());
    peer.fault(json!({"on": "execute", "kind": "big_answer", "big_answer_bytes": 300_000})).await;
    let (_, body) = peer.execute("gmail", "gmail_get_profile", json!({})).await;
    assert_eq!(body["data"]["padding"].as_str().unwrap().len(), 300_000);
}

#[tokio::test]
async fn requests_are_counted_without_secrets_and_a_reset_forgets() {
    let peer = SandboxPeer::start().await;
    peer.activate("gmail", "user_123").await;
    peer.execute("gmail", "gmail_send_message", send()).await;
    let (_, log) = peer.get("/_sandbox/requests").await;
    assert_eq!((&log["counts"]["token"], &log["counts"]["execute"]), (&json!(1), &json!(1)));
    let text = log.to_string();
    assert!(!text.contains(&peer.token) && !text.contains(peer.sandbox.client_secret()), "{text}");
    assert_eq!(log["recent"][1]["body"]["tool_name"], "gmail_send_message");
    assert_eq!(peer.post("/_sandbox/reset", json!({})).await.0, 200);
    assert_eq!(peer.get("/_sandbox/requests").await.1["counts"], json!({}));
    assert_eq!(sent(&peer).await, 0);
    assert_eq!(peer.execute("gmail", "gmail_send_message", send()).await.0, 404);
}
