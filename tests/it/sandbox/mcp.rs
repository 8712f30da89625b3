//! The sandbox's MCP servers, asked as the protocol's text says, and otherwise.

use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::support::sandbox_peer::SandboxPeer;

const MODERN: &str = "2026-07-28";

/// A server of a sandbox and what opens it.
struct Door<'a> {
    peer: &'a SandboxPeer,
    url: String,
    token: String,
}

impl<'a> Door<'a> {
    fn crm(peer: &'a SandboxPeer) -> Self {
        Self { peer, url: peer.sandbox.crm_url(), token: peer.sandbox.crm_token().to_owned() }
    }

    fn connection(peer: &'a SandboxPeer, name: &str, token: &str) -> Self {
        let url = format!("{}/mcp/v3/connections/{name}", peer.sandbox.scalekit_url());
        Self { peer, url, token: token.to_owned() }
    }

    fn request(&self, body: &Value) -> RequestBuilder {
        let request = self.peer.client.post(&self.url).bearer_auth(&self.token);
        request.header("accept", "application/json, text/event-stream").json(body)
    }

    /// A request of the revision without a handshake, with all that belongs to it.
    fn modern(&self, method: &str, params: Value) -> RequestBuilder {
        let mut params = params;
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {},
        });
        let name = params["name"].as_str().map(str::to_owned);
        let body = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
        let mut request = self.request(&body).header("mcp-protocol-version", MODERN).header("mcp-method", method);
        if let Some(name) = name {
            request = request.header("mcp-name", name);
        }
        request
    }

    async fn call(&self, tool: &str, arguments: Value) -> (u16, Value) {
        read(self.modern("tools/call", json!({"name": tool, "arguments": arguments})).send().await.unwrap()).await
    }

    /// The names on all pages of the list.
    async fn listed(&self) -> Vec<String> {
        let (mut names, mut cursor) = (Vec::new(), Value::Null);
        loop {
            let params = if cursor.is_null() { json!({}) } else { json!({ "cursor": cursor }) };
            let (status, answer) = read(self.modern("tools/list", params).send().await.unwrap()).await;
            assert_eq!(status, 200, "{answer}");
            let tools = answer["result"]["tools"].as_array().unwrap();
            names.extend(tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()));
            cursor = answer["result"]["nextCursor"].clone();
            if cursor.is_null() {
                return names;
            }
        }
    }

    /// A request of the revisions with a handshake.
    async fn legacy(&self, session: Option<&str>, method: &str, params: Value) -> Response {
        let body = json!({"jsonrpc": "2.0", "id": "a-1", "method": method, "params": params});
        let mut request = self.request(&body).header("mcp-protocol-version", "2025-11-25");
        if let Some(session) = session {
            request = request.header("mcp-session-id", session);
        }
        request.send().await.unwrap()
    }

    /// Shakes hands; the session.
    async fn begin(&self) -> String {
        let hello =
            json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
        let response = self.legacy(None, "initialize", hello).await;
        let session = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        let (_, answer) = read(response).await;
        assert_eq!(answer["result"]["protocolVersion"], "2025-06-18", "{answer}");
        let done = self.request(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        assert_eq!(done.header("mcp-session-id", &session).send().await.unwrap().status().as_u16(), 202);
        session
    }
}

/// Status and message: the last one, where the answer is a stream.
async fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let is_stream = response.headers().get("content-type").is_some_and(|kind| kind == "text/event-stream");
    let text = response.text().await.unwrap();
    let last = |stream: &str| {
        let event =
            stream.split("\r\n\r\n").filter(|event| event.contains("data:")).last().unwrap_or_default().to_owned();
        event.lines().filter_map(|line| line.strip_prefix("data: ")).collect::<Vec<_>>().join("\n")
    };
    let text = if is_stream { last(&text) } else { text };
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn settings(peer: &SandboxPeer, settings: Value) {
    assert_eq!(peer.post("/_sandbox/mcp", settings).await.0, 200);
}

/// How many calls have changed the operator's register.
async fn changes(peer: &SandboxPeer) -> usize {
    let (_, shown) = peer.get("/_sandbox/mcp").await;
    shown["crm"]["calls"].as_array().unwrap().iter().filter(|call| call["changed"] == true).count()
}

#[tokio::test]
async fn the_revision_without_a_handshake_is_held_to_its_headers() {
    let peer = SandboxPeer::start().await;
    let crm = Door::crm(&peer);
    let (status, answer) = read(crm.modern("server/discover", json!({})).send().await.unwrap()).await;
    assert_eq!((status, &answer["result"]["resultType"]), (200, &json!("complete")), "{answer}");
    assert_eq!(answer["result"]["supportedVersions"][0], MODERN);
    settings(&peer, json!({"page_size": 4, "more_tools": 300})).await;
    let listed = crm.listed().await;
    assert_eq!(listed.len(), 309, "{listed:?}");
    assert!(
        listed.contains(&"notes.add".to_owned()) && listed.is_sorted_by_key(|name| name.starts_with("read_archive"))
    );
    let (_, list) = read(crm.modern("tools/list", json!({})).send().await.unwrap()).await;
    assert_eq!((&list["result"]["ttlMs"], &list["result"]["cacheScope"]), (&json!(60_000), &json!("public")));
    let (_, found) = crm.call("search_contacts", json!({"query": "tomas"})).await;
    assert!(found["result"]["content"][0]["text"].as_str().unwrap().contains("c-2"), "{found}");
    assert_eq!(changes(&peer).await, 0);
    for _ in 0..2 {
        let (_, created) = crm.call("create_contact", json!({"name": "Ada", "email": "ada@example.com"})).await;
        assert_eq!(created["result"]["isError"], false, "{created}");
    }
    assert_eq!(changes(&peer).await, 2);
    let (_, refused) = crm.call("get_contact", json!({"id": "c-99"})).await;
    assert_eq!(refused["result"]["isError"], true);
    let (_, all) = crm.call("show_report", json!({"as": "all"})).await;
    assert_eq!(all["result"]["content"].as_array().unwrap().len(), 5);

    let deals = json!({"name": "list_deals", "arguments": {"region": "north"}});
    let without = read(crm.modern("tools/call", deals.clone()).send().await.unwrap()).await;
    assert_eq!((without.0, &without.1["error"]["code"]), (400, &json!(-32020)), "{}", without.1);
    for value in ["north", "=?base64?bm9ydGg=?="] {
        let mirrored = crm.modern("tools/call", deals.clone()).header("mcp-param-region", value);
        let (status, answer) = read(mirrored.send().await.unwrap()).await;
        assert_eq!((status, &answer["result"]["isError"]), (200, &json!(false)), "{answer}");
    }
    let (_, unknown) = crm.call("no_such_tool", json!({})).await;
    assert_eq!((&unknown["error"]["code"], &unknown["id"]), (&json!(-32602), &json!(7)));
    let (status, answer) = read(crm.modern("prompts/list", json!({})).send().await.unwrap()).await;
    assert_eq!((status, &answer["error"]["code"]), (404, &json!(-32601)));

    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": {
        "io.modelcontextprotocol/protocolVersion": "2031-01-01", "io.modelcontextprotocol/clientCapabilities": {},
    }}});
    let unheard_of = crm.request(&list).header("mcp-protocol-version", "2031-01-01").header("mcp-method", "tools/list");
    let (status, answer) = read(unheard_of.send().await.unwrap()).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32022)), "{answer}");
    assert_eq!(answer["error"]["data"]["supported"][1], "2025-11-25");
    let one_sided = crm.request(&list).header("mcp-protocol-version", MODERN);
    assert_eq!(read(one_sided.send().await.unwrap()).await.1["error"]["code"], -32020);

    let no_stream = peer.client.post(&crm.url).bearer_auth(&crm.token).header("accept", "application/json").json(&list);
    assert_eq!(no_stream.send().await.unwrap().status().as_u16(), 406);
    let from_a_page = crm.modern("tools/list", json!({})).header("origin", "https://evil.example");
    assert_eq!(from_a_page.send().await.unwrap().status().as_u16(), 403);
    let stranger = peer.client.post(&crm.url).json(&list).send().await.unwrap();
    assert_eq!(stranger.status().as_u16(), 401);
    assert!(stranger.headers().contains_key("www-authenticate"));
    assert_eq!(peer.client.get(&crm.url).send().await.unwrap().status().as_u16(), 405);
    for body in ["", "[]", "{\"jsonrpc\":", "[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}]"] {
        let request = crm.request(&Value::Null).body(body);
        assert_eq!(request.send().await.unwrap().status().as_u16(), 400, "{body}");
    }
}

#[tokio::test]
async fn the_revisions_with_a_handshake_have_sessions_and_streams() {
    let peer = SandboxPeer::start().await;
    let crm = Door::crm(&peer);
    settings(&peer, json!({"speaks": "legacy", "answers": "sse"})).await;
    let (status, answer) = read(crm.modern("tools/list", json!({})).send().await.unwrap()).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32000)), "an older server knows no later code");
    assert_eq!(crm.legacy(None, "tools/list", json!({})).await.status().as_u16(), 400);
    let session = crm.begin().await;
    let (_, listed) = read(crm.legacy(Some(&session), "tools/list", json!({})).await).await;
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 9, "{listed}");
    assert_eq!(listed["id"], "a-1");
    settings(&peer, json!({"speaks": "legacy", "answers": "sse", "more_tools": 1})).await;
    let find = json!({"name": "search_contacts", "arguments": {"query": ""}});
    let stream = crm.legacy(Some(&session), "tools/call", find.clone()).await.text().await.unwrap();
    assert!(stream.contains("notifications/tools/list_changed"), "{stream}");
    let (_, found) = read(crm.legacy(Some(&session), "tools/call", find.clone()).await).await;
    assert_eq!(found["result"]["isError"], false, "{found}");

    let leave = peer.client.delete(&crm.url).bearer_auth(&crm.token).header("mcp-session-id", &session);
    assert_eq!(leave.send().await.unwrap().status().as_u16(), 204);
    assert_eq!(crm.legacy(Some(&session), "tools/call", find.clone()).await.status().as_u16(), 404);
    let session = crm.begin().await;
    assert_eq!(peer.request(Method::DELETE, "/_sandbox/mcp/sessions").send().await.unwrap().status().as_u16(), 200);
    assert_eq!(crm.legacy(Some(&session), "tools/call", find.clone()).await.status().as_u16(), 404);

    settings(&peer, json!({"speaks": "legacy", "sessions": false})).await;
    assert_eq!(read(crm.legacy(None, "tools/call", find).await).await.1["result"]["isError"], false);
    settings(&peer, json!({"speaks": "modern"})).await;
    let (status, answer) = read(crm.legacy(None, "initialize", json!({"protocolVersion": "2025-06-18"})).await).await;
    assert_eq!((status, &answer["error"]["data"]["supported"]), (400, &json!([MODERN])), "{answer}");
}

#[tokio::test]
async fn a_connections_server_takes_its_own_tokens_alone() {
    let peer = SandboxPeer::start().await;
    let tokens = "/api/v1/mcp/connections/gmail/tokens";
    let for_user = json!({"identifier": "user_123", "expiry": "900s"});
    assert_eq!(peer.post(tokens, for_user.clone()).await.0, 400, "no account is active");
    peer.activate("gmail", "user_123").await;
    peer.activate("gmail-team", "user_123").await;
    for (path, body, expected) in [
        (tokens, json!({"identifier": "user_123", "expiry": "59s"}), 400),
        (tokens, json!({"identifier": "user_123", "expiry": "86401s"}), 400),
        (tokens, json!({"identifier": "user_123", "expiry": "an hour"}), 400),
        (tokens, json!({"identifier": "user_123", "access_level": "read_only"}), 400),
        (tokens, json!({"identifier": ""}), 400),
        ("/api/v1/mcp/connections/hubspot/tokens", for_user.clone(), 404),
        ("/api/v1/mcp/connections/nope/tokens", for_user.clone(), 404),
    ] {
        assert_eq!(peer.post(path, body.clone()).await.0, expected, "{path} {body}");
    }
    let mint = async |name: &str, level: &str| {
        let body = json!({"identifier": "user_123", "expiry": "900s", "access_level": level});
        let (status, answer) = peer.post(&format!("/api/v1/mcp/connections/{name}/tokens"), body).await;
        assert_eq!(status, 200, "{answer}");
        answer["token"].as_str().unwrap().to_owned()
    };
    let (full, reading) = (mint("GMAIL", "FULL").await, mint("gmail", "READ_ONLY").await);
    let (all, some) = (Door::connection(&peer, "gmail", &full), Door::connection(&peer, "gmail", &reading));
    let (listed, read_only) = (all.listed().await, some.listed().await);
    assert!(listed.contains(&"gmail_send_message".to_owned()) && !read_only.contains(&"gmail_send_message".to_owned()));
    assert!(!read_only.is_empty() && read_only.iter().all(|name| listed.contains(name)));
    let mail = json!({"to": "bob@example.com", "subject": "Hi", "body": "Hello"});
    let (_, refused) = some.call("gmail_send_message", mail.clone()).await;
    assert_eq!((&refused["error"]["code"], peer.effects().await), (&json!(-32602), 0), "{refused}");
    let (_, sent) = all.call("gmail_send_message", mail).await;
    assert_eq!((&sent["result"]["isError"], peer.effects().await), (&json!(false), 1), "{sent}");
    let (_, logged) = peer.get("/api/v1/agentkit/tool_call_logs").await;
    assert_eq!(logged["tool_call_logs"][0]["source"], "MCP");

    let status = async |door: Door<'_>| door.modern("tools/list", json!({})).send().await.unwrap().status().as_u16();
    assert_eq!(status(Door::connection(&peer, "gmail-team", &full)).await, 401, "another server's token");
    assert_eq!(status(Door::connection(&peer, "GMAIL", &full)).await, 404, "the path has the name's own letters");
    assert_eq!(status(Door::connection(&peer, "gmail", &peer.token)).await, 401, "the environment's token");
    let session = all.begin().await;
    assert_eq!(some.legacy(Some(&session), "tools/list", json!({})).await.status().as_u16(), 404, "another's session");
    peer.set_account("gmail", "user_123", "EXPIRED").await;
    let (_, inactive) = all.call("gmail_fetch_mails", json!({})).await;
    assert_eq!(inactive["result"]["isError"], true, "{inactive}");
    peer.clock.advance(jiff::SignedDuration::from_secs(901));
    assert_eq!(status(all).await, 401, "the token has expired");
}

#[tokio::test]
async fn faults_meet_mcp_servers_too() {
    let peer = SandboxPeer::start().await;
    let crm = Door::crm(&peer);
    let add = json!({"name": "notes.add", "arguments": {"id": "c-1", "text": "called"}});
    let ask = || crm.modern("tools/call", add.clone()).send();
    peer.fault(json!([
        {"on": "mcp_list", "kind": "status", "status": 503},
        {"on": "mcp_call", "tool": "get_contact", "kind": "reset"},
        {"on": "mcp_call", "tool": "notes.add", "kind": "status", "status": 200, "rpc_code": -32603, "message": "no"},
        {"on": "mcp_call", "kind": "rpc_result", "result": {"resultType": "input_required", "inputRequests": {}}},
        {"on": "mcp_call", "kind": "commit_then_reset"},
        {"on": "mcp_call", "kind": "stream_ends"},
        {"on": "mcp_call", "kind": "stream_stalls"},
        {"on": "mcp_call", "kind": "big_answer", "big_answer_bytes": 5_000},
    ]))
    .await;
    let (status, answer) = read(crm.modern("tools/list", json!({})).send().await.unwrap()).await;
    assert_eq!((status, &answer["error"]["code"], &answer["id"]), (503, &json!(-32603), &json!(7)));
    let (status, answer) = read(ask().await.unwrap()).await;
    assert_eq!((status, &answer["error"]["message"]), (200, &json!("no")));
    let (_, answer) = read(ask().await.unwrap()).await;
    assert_eq!(answer["result"]["resultType"], "input_required");
    assert_eq!(changes(&peer).await, 0);
    ask().await.unwrap_err();
    assert_eq!(changes(&peer).await, 1);
    assert!(!ask().await.unwrap().text().await.unwrap().contains("data:"));
    assert_eq!(changes(&peer).await, 2);
    let mut stalled = ask().await.unwrap();
    assert!(stalled.chunk().await.unwrap().is_some_and(|chunk| chunk.starts_with(b":")));
    assert_eq!(changes(&peer).await, 3);
    let (_, big) = read(ask().await.unwrap()).await;
    assert!(big.to_string().len() > 5_000);
    assert_eq!(peer.count("mcp_call").await, 6);
    crm.modern("tools/call", json!({"name": "get_contact", "arguments": {"id": "c-1"}})).send().await.unwrap_err();
}
