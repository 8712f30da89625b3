//! The client alone against a server on the wire: both eras, and what can be proven after each kind of failure.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use agentkit_worker::internals::agent::effect::Ran;
use agentkit_worker::internals::clock::SystemClock;
use agentkit_worker::internals::http;
use agentkit_worker::internals::mcp::{CallRequest, Called, Caller, Endpoint, McpConfig, McpError};
use agentkit_worker::internals::retry::Policy;
use serde_json::{Value, json};

use crate::support::http_peer::{Answer, HttpPeer};
use crate::support::mcp_peer::{BEARER, McpPeer, PeerCall, PeerEra, events};

const ALICE: Caller<'_> = Caller { session: "alice", bearer: None };
const BOB: Caller<'_> = Caller { session: "bob", bearer: None };

/// Reading the system's certificates takes most of a second in a debug build: once is enough.
static CLIENT: LazyLock<http::Client> = LazyLock::new(|| {
    let config = http::Config { max_body_bytes: 1 << 20, ..http::Config::default() };
    http::Client::new(&config, Arc::new(SystemClock)).unwrap()
});

fn endpoint(url: &str) -> Endpoint {
    let retry = Policy { attempts: 2, initial_milliseconds: 1, max_milliseconds: 1, max_retry_after_milliseconds: 0 };
    let headers = [("Authorization".to_owned(), BEARER.to_owned().into())];
    let config =
        McpConfig { url: url.to_owned(), headers: headers.into(), timeout_seconds: 20, ..McpConfig::default() };
    Endpoint::new(&config, retry, CLIENT.clone()).unwrap()
}

async fn call(endpoint: &Endpoint, caller: Caller<'_>, tool: &str, arguments: Value) -> Result<Called, McpError> {
    call_within(endpoint, caller, tool, arguments, Duration::from_secs(20)).await
}

async fn call_within(
    endpoint: &Endpoint,
    caller: Caller<'_>,
    tool: &str,
    arguments: Value,
    left: Duration,
) -> Result<Called, McpError> {
    let arguments = arguments.as_object().unwrap();
    let traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    endpoint.call(caller, &CallRequest { tool, arguments, left, traceparent }, || async { Ok(()) }).await
}

/// What the server does with a call, and what is told of it.
struct Row {
    code: &'static str,
    ran: Ran,
    on_call: Box<dyn Fn(&PeerCall) -> Answer + Send + Sync>,
}

fn row(code: &'static str, ran: Ran, on_call: impl Fn(&PeerCall) -> Answer + Send + Sync + 'static) -> Row {
    Row { code, ran, on_call: Box::new(on_call) }
}

fn names(tools: &[Value]) -> Vec<&str> {
    tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_server_of_either_era_lists_and_runs_its_tools_and_its_era_is_found_out_once() {
    let long = "x".repeat(128);
    for era in [PeerEra::Modern, PeerEra::Legacy] {
        let peer = McpPeer::start(era, |call| call.text(&call.arguments.to_string())).await;
        let client = endpoint(&peer.url());
        // What only the modern era knows of is no matter in the other.
        let expected = ["find_contacts", "create_note", "admin.notes.put", long.as_str(), "bad_headers"];
        let expected: &[&str] = if era == PeerEra::Modern { &expected[..4] } else { &expected };
        for _ in 0..2 {
            let listed = client.list(ALICE).await.unwrap();
            assert_eq!(names(&listed.tools), expected, "{era:?}");
            assert_eq!((listed.keep, listed.is_public), (Some(Duration::from_secs(60)), true));
        }
        for tool in ["admin.notes.put", "find_contacts", &long] {
            let arguments = json!({"region": "eu-1"});
            let region = if tool == "find_contacts" { arguments.clone() } else { json!({}) };
            assert_eq!(call(&client, ALICE, tool, region.clone()).await.unwrap().data, region, "{era:?}");
        }
        let unsent = call(&client, BOB, "create_note", json!({})).await.map(|called| called.data);
        assert_eq!(unsent, Ok(json!({})), "{era:?}");
        let lists = peer.requests("tools/list").len();
        let sessions = peer.sessions();
        let expected = if era == PeerEra::Modern { (4, 0) } else { (5, 2) };
        assert_eq!((lists, sessions), expected, "{era:?}: a session for each user, and one request to find out");
        for request in peer.requests("tools/call") {
            let meta = &request.json()["params"]["_meta"];
            assert!(meta["traceparent"].as_str().unwrap().contains("0af7651916cd43dd"), "{meta}");
            assert_eq!(meta.get("io.modelcontextprotocol/clientCapabilities").is_some(), era == PeerEra::Modern);
        }

        // The server becomes another one.
        let other = if era == PeerEra::Modern { PeerEra::Legacy } else { PeerEra::Modern };
        peer.become_of(other);
        client.list(ALICE).await.unwrap();
        assert_eq!(call(&client, ALICE, "create_note", json!({})).await.unwrap().data, json!({}), "{era:?}");
    }
}

#[tokio::test]
async fn a_call_finds_nothing_out_and_is_not_sent_where_that_fails() {
    for era in [PeerEra::Modern, PeerEra::Legacy] {
        let peer = McpPeer::start(era, |call| call.text("done")).await;
        let client = endpoint(&peer.url());
        assert_eq!(call(&client, ALICE, "create_note", json!({})).await.unwrap().data, json!("done"));
        let (first, calls) = (&peer.http.requests("/mcp")[0], peer.requests("tools/call").len());
        assert_eq!((first.json()["method"].as_str(), calls), (Some("tools/list"), 1), "{era:?}");
        let held = || async { Err("not ours any more".to_owned()) };
        let arguments = serde_json::Map::new();
        let request =
            CallRequest { tool: "create_note", arguments: &arguments, left: Duration::from_secs(9), traceparent: None };
        let error = client.call(ALICE, &request, held).await.unwrap_err();
        assert_eq!((error.to_string().as_str(), error.ran()), ("not ours any more", Ran::No));
        let late = CallRequest { left: Duration::ZERO, ..request };
        assert_eq!(client.call(ALICE, &late, held).await.unwrap_err().ran(), Ran::No);
        assert_eq!(peer.calls().len(), 1);
    }
    for (answer, code) in [(503, "unavailable"), (429, "rate_limited"), (401, "unauthorized"), (404, "refused")] {
        let peer = HttpPeer::start(move |_| Answer::of(answer, "text/plain", "no")).await;
        let error = call(&endpoint(&format!("{}/mcp", peer.url)), ALICE, "t", json!({})).await.unwrap_err();
        assert_eq!((error.code(), error.ran(), error.is_answer()), (code, Ran::No, false), "{answer}: {error}");
        let called = peer.requests("/mcp").iter().any(|request| request.json()["method"] == "tools/call");
        assert!(!called, "{answer}");
    }
    let error = call(&endpoint(&HttpPeer::nobody().await), ALICE, "t", json!({})).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("not_sent", Ran::No));
}

#[tokio::test]
async fn after_each_kind_of_failure_only_what_is_proven_counts_as_not_run_and_nothing_is_sent_twice() {
    let head = |more: &str| format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{more}\r\n").into_bytes();
    let stream = move |body: &str| Answer::Raw([head(""), body.as_bytes().to_vec()].concat());
    let progress = events(&[json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}})]);
    let table = vec![
        row("broken", Ran::Perhaps, |_| Answer::Reset),
        row("broken", Ran::Perhaps, |_| Answer::CutOff(json!({"jsonrpc": "2.0"}).to_string().into_bytes())),
        row("broken", Ran::Perhaps, move |_| stream("")),
        row("broken", Ran::Perhaps, move |_| stream(&progress)),
        row("broken", Ran::Perhaps, move |call| {
            let whole = events(&[json!({"jsonrpc": "2.0", "id": call.id, "result": {"content": []}})]);
            stream(&whole[..whole.len() - 1])
        }),
        row("timed_out", Ran::Perhaps, |_| Answer::Hang),
        row("bad_answer", Ran::Perhaps, |_| Answer::Endless),
        row("bad_answer", Ran::Perhaps, move |_| stream(&": flood\n\n".repeat(1 << 18))),
        row("bad_answer", Ran::Perhaps, |_| Answer::of(200, "text/html", "<html>hello</html>")),
        row("bad_answer", Ran::Perhaps, |_| Answer::of(202, "application/json", "")),
        row("bad_answer", Ran::Perhaps, |_| Answer::of(200, "application/json", "[".repeat(10_000))),
        row("bad_answer", Ran::Perhaps, |call| call.result(&json!({"resultType": "complete"}))),
        row("bad_answer", Ran::Perhaps, |call| call.result(&json!({"resultType": "task", "content": []}))),
        row("unavailable", Ran::Perhaps, |_| Answer::of(503, "text/html", "down")),
        row("unavailable", Ran::Perhaps, |call| call.error(500, -32600, "no")),
        row("server_failed", Ran::Perhaps, |call| call.error(200, -32603, "boom")),
        row("refused", Ran::Perhaps, |_| Answer::of(400, "text/plain", "Bad Request")),
        row("refused", Ran::Perhaps, |_| Answer::of(409, "text/plain", "Conflict")),
        row("tool_failed", Ran::Perhaps, |call| call.error(200, -32000, "no such page")),
        row("tool_failed", Ran::Perhaps, |call| {
            call.result(&json!({"isError": true, "content": [{"type": "text", "text": "full"}]}))
        }),
        row("wants_more", Ran::Perhaps, |call| {
            let requests = json!({"a": {"method": "elicitation/create", "params": {}}});
            call.result(&json!({"resultType": "input_required", "inputRequests": requests, "requestState": "s"}))
        }),
        row("refused", Ran::No, |call| call.error(400, -32600, "no")),
        row("invalid_arguments", Ran::No, |call| call.error(200, -32602, "Unknown tool: t")),
        row("unauthorized", Ran::No, |_| Answer::of(401, "text/plain", "expired")),
        row("rate_limited", Ran::No, |_| Answer::of(429, "text/plain", "slow down")),
    ];
    let table = Arc::new(table);
    for era in [PeerEra::Modern, PeerEra::Legacy] {
        let rows = table.clone();
        let peer = McpPeer::start(era, move |call| (rows[call.before].on_call)(call)).await;
        let client = endpoint(&peer.url());
        for (row, Row { code, ran, .. }) in table.iter().enumerate() {
            let left = Duration::from_secs(if *code == "timed_out" { 1 } else { 20 });
            let error = call_within(&client, ALICE, "create_note", json!({}), left).await.unwrap_err();
            assert_eq!((error.code(), error.ran()), (*code, *ran), "{era:?}, row {row}: {error}");
            assert_eq!(peer.calls().len(), row + 1, "{era:?}, row {row}: {error}");
        }
    }
}

#[tokio::test]
async fn a_session_that_was_forgotten_is_opened_anew_and_the_call_runs_once() {
    let peer = McpPeer::start(PeerEra::Legacy, |call| call.text("done")).await;
    let client = endpoint(&peer.url());
    client.list(ALICE).await.unwrap();
    for sessions in 2..4 {
        peer.forget_sessions();
        assert_eq!(call(&client, ALICE, "create_note", json!({})).await.unwrap().data, json!("done"));
        assert_eq!((peer.sessions(), peer.calls().len()), (sessions, sessions - 1));
    }
    peer.forget_sessions();
    client.list(ALICE).await.unwrap();
    assert_eq!(peer.sessions(), 4);
}

#[tokio::test]
async fn questions_in_the_middle_of_an_answer_are_refused_and_a_stream_that_stays_open_is_left() {
    let peer = McpPeer::start(PeerEra::Legacy, |call| {
        let ask = |id: &str, method: &str| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": {}});
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        let first = format!("{head}{}", events(&[ask("q1", "elicitation/create")]));
        let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
        let result =
            json!({"jsonrpc": "2.0", "id": call.id, "result": {"content": [{"type": "text", "text": "no name"}]}});
        Answer::InTwo(first.into_bytes(), call.heard.clone(), events(&[changed, result]).into_bytes())
    })
    .await;
    let client = endpoint(&peer.url());
    let called = call(&client, ALICE, "create_note", json!({})).await.unwrap();
    assert_eq!((called.data, called.list_changed), (json!("no name"), true));
    let said = peer.said();
    assert_eq!((said.len(), &said[0]["id"], &said[0]["error"]["code"]), (1, &json!("q1"), &json!(-32601)), "{said:?}");
}

#[tokio::test]
async fn lists_that_make_no_sense_are_errors_and_our_credentials_are_never_repeated() {
    let list = |result: Value| {
        move |request: &Value| json!({"jsonrpc": "2.0", "id": request["id"], "result": result.clone()}).to_string()
    };
    let page =
        |cursor: &str| json!({"resultType": "complete", "tools": [{"name": "t"}, {"name": "t"}], "nextCursor": cursor});
    let many: Vec<Value> = (0..10_001).map(|index| json!({"name": format!("t{index}")})).collect();
    for (result, expected) in [
        (json!({"tools": {}}), Err("bad_answer")),
        (json!({"tools": "x"}), Err("bad_answer")),
        (json!({}), Err("bad_answer")),
        (json!({"tools": many}), Err("bad_answer")),
        (json!({"tools": []}), Ok(0)),
        (page(""), Ok(1)),
        (page("again"), Ok(1)),
    ] {
        let answer = list(result.clone());
        let peer = HttpPeer::start(move |request| Answer::of(200, "application/json", answer(&request.json()))).await;
        let listed = endpoint(&format!("{}/mcp", peer.url)).list(ALICE).await;
        let got = listed.as_ref().map(|listed| listed.tools.len()).map_err(McpError::code);
        assert_eq!(got, expected, "{listed:?}");
    }
    let endless = HttpPeer::start(|request| {
        let message = request.json();
        let result = json!({"tools": [], "nextCursor": message["id"].to_string()});
        Answer::json(200, &json!({"jsonrpc": "2.0", "id": message["id"], "result": result}))
    })
    .await;
    assert_eq!(endpoint(&format!("{}/mcp", endless.url)).list(ALICE).await.unwrap_err().code(), "bad_answer");

    let token = BEARER.split(' ').next_back().unwrap();
    let echo = McpPeer::start(PeerEra::Modern, |call| match call.before {
        0 => call.text(&format!("you said {BEARER}")),
        1 => call.error(200, -32000, BEARER),
        _ => Answer::of(418, "text/plain", BEARER),
    })
    .await;
    let client = endpoint(&echo.url());
    for _ in 0..3 {
        let said = format!("{:?}", call(&client, ALICE, "create_note", json!({})).await);
        assert!(!said.contains(token), "{said}");
    }
    assert!(!format!("{client:?}").contains(token));
}
