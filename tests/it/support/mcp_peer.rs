//! An MCP server on the wire, of either era, which does to calls what a test wants.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::http_peer::{Answer, HttpPeer, Received};

/// What speaks to the peer must have this in its header `authorization`.
pub(crate) const BEARER: &str = "Bearer crm-t0ken-of-the-team";

/// How the peer is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerEra {
    /// Revision 2026-07-28: every request stands alone, answers are JSON.
    Modern,
    /// Revision 2025-06-18: `initialize`, a session, answers as events.
    Legacy,
}

/// A request to run a tool.
#[derive(Debug, Clone)]
pub(crate) struct PeerCall {
    pub(crate) tool: String,
    pub(crate) arguments: Value,
    pub(crate) id: Value,
    /// How many calls came before it.
    pub(crate) before: usize,
    /// Notified where the client answers a question.
    pub(crate) heard: Arc<Notify>,
    era: PeerEra,
}

impl PeerCall {
    /// An answer with this result, as the era has it.
    pub(crate) fn result(&self, result: &Value) -> Answer {
        self.message(&json!({"jsonrpc": "2.0", "id": self.id, "result": result}))
    }

    /// A text as the result.
    pub(crate) fn text(&self, text: &str) -> Answer {
        self.result(&json!({"resultType": "complete", "content": [{"type": "text", "text": text}]}))
    }

    /// An answer with this error.
    pub(crate) fn error(&self, status: u16, code: i64, message: &str) -> Answer {
        let error = json!({"jsonrpc": "2.0", "id": self.id, "error": {"code": code, "message": message}});
        if status == 200 { self.message(&error) } else { Answer::json(status, &error) }
    }

    fn message(&self, message: &Value) -> Answer {
        match self.era {
            PeerEra::Modern => Answer::json(200, message),
            PeerEra::Legacy => Answer::of(200, "text/event-stream", events(std::slice::from_ref(message))),
        }
    }
}

/// Messages as a stream of events.
pub(crate) fn events(messages: &[Value]) -> String {
    messages.iter().fold(String::new(), |text, message| format!("{text}event: message\ndata: {message}\n\n"))
}

/// The peer; it ends with this value.
pub(crate) struct McpPeer {
    pub(crate) http: HttpPeer,
    world: Arc<Mutex<World>>,
}

#[derive(Default)]
struct World {
    era: Option<PeerEra>,
    /// What the client said to questions.
    said: Vec<Value>,
    heard: Arc<Notify>,
    sessions: BTreeSet<String>,
    opened: usize,
    calls: Vec<PeerCall>,
}

impl McpPeer {
    /// A peer that asks `on_call` what to do with each call.
    pub(crate) async fn start(era: PeerEra, on_call: impl Fn(&PeerCall) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with(era, json!({"ttlMs": 60_000, "cacheScope": "public"}), on_call).await
    }

    /// The same, whose lists say this besides.
    pub(crate) async fn start_with(
        era: PeerEra,
        said_of_lists: Value,
        on_call: impl Fn(&PeerCall) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let world = Arc::new(Mutex::new(World { era: Some(era), ..World::default() }));
        let shared = world.clone();
        let http = HttpPeer::start(move |request| answer(&said_of_lists, &shared, &on_call, request)).await;
        Self { http, world }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/mcp", self.http.url)
    }

    /// All calls that came, refused ones left out.
    pub(crate) fn calls(&self) -> Vec<PeerCall> {
        self.world.lock().unwrap().calls.clone()
    }

    /// How many sessions were opened.
    pub(crate) fn sessions(&self) -> usize {
        self.world.lock().unwrap().opened
    }

    /// It is a server of this era from now on.
    pub(crate) fn become_of(&self, era: PeerEra) {
        self.world.lock().unwrap().era = Some(era);
    }

    /// What the client said to questions.
    pub(crate) fn said(&self) -> Vec<Value> {
        self.world.lock().unwrap().said.clone()
    }

    /// Forgets all sessions, as a server does that starts anew.
    pub(crate) fn forget_sessions(&self) {
        self.world.lock().unwrap().sessions.clear();
    }

    /// The requests of this method so far.
    pub(crate) fn requests(&self, method: &str) -> Vec<Received> {
        self.http.requests("/mcp").into_iter().filter(|request| request.json()["method"] == method).collect()
    }
}

fn answer(
    said_of_lists: &Value,
    world: &Mutex<World>,
    on_call: &impl Fn(&PeerCall) -> Answer,
    request: &Received,
) -> Answer {
    let header = |name: &str| request.headers.get(name).map(String::as_str).unwrap_or_default();
    if header("authorization") != BEARER {
        return Answer::of(401, "text/plain", "who are you?").header("www-authenticate", "Bearer");
    }
    let message = request.json();
    let (era, heard) = {
        let world = world.lock().unwrap();
        (world.era.unwrap(), world.heard.clone())
    };
    let (id, method) = (message["id"].clone(), message["method"].as_str().unwrap_or_default().to_owned());
    let refused = |status: u16, code: i64, text: &str| {
        let data = json!({"supported": ["2026-07-28"]});
        Answer::json(
            status,
            &json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text, "data": data}}),
        )
    };
    let call = |before| PeerCall {
        tool: message["params"]["name"].as_str().unwrap_or_default().to_owned(),
        arguments: message["params"]["arguments"].clone(),
        id: id.clone(),
        before,
        heard: heard.clone(),
        era,
    };
    if !header("accept").contains("text/event-stream") || !header("accept").contains("application/json") {
        return Answer::of(406, "text/plain", "not acceptable");
    }
    match era {
        PeerEra::Modern => {
            let meta = &message["params"]["_meta"];
            let revision = meta["io.modelcontextprotocol/protocolVersion"].as_str().unwrap_or_default();
            if header("mcp-protocol-version") != "2026-07-28" || revision != "2026-07-28" {
                return refused(400, -32022, "Unsupported protocol version");
            }
            let named = message["params"]["name"].as_str();
            let region = message["params"]["arguments"]["region"].as_str();
            let mirrored = header("mcp-param-region");
            if header("mcp-method") != method
                || named.is_some_and(|name| header("mcp-name") != name)
                || method == "tools/call" && region.unwrap_or_default() != mirrored
            {
                return refused(400, -32020, "Header mismatch");
            }
        }
        PeerEra::Legacy if method == "initialize" => {
            let mut world = world.lock().unwrap();
            world.opened += 1;
            let session = format!("session-{}", world.opened);
            world.sessions.insert(session.clone());
            let result = json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                "serverInfo": {"name": "peer", "version": "1"}});
            let message = json!({"jsonrpc": "2.0", "id": id, "result": result});
            return Answer::of(200, "text/event-stream", events(&[message])).header("mcp-session-id", &session);
        }
        PeerEra::Legacy => {
            let session = header("mcp-session-id");
            if session.is_empty() {
                return Answer::of(400, "text/plain", "Bad Request: Missing session ID");
            }
            if !world.lock().unwrap().sessions.contains(session) {
                return refused(404, -32001, "Session not found");
            }
            if header("mcp-protocol-version") != "2025-06-18" {
                return Answer::of(400, "text/plain", "Bad Request: Unsupported protocol version");
            }
            if message.get("method").is_none() {
                world.lock().unwrap().said.push(message);
                heard.notify_one();
                return Answer::of(202, "text/plain", "");
            }
            if message["id"].is_null() {
                return Answer::of(202, "text/plain", "");
            }
        }
    }
    match method.as_str() {
        "tools/list" => call(0).result(&page(&message["params"]["cursor"], said_of_lists)),
        "tools/call" => {
            let call = {
                let mut world = world.lock().unwrap();
                let call = call(world.calls.len());
                world.calls.push(call.clone());
                call
            };
            on_call(&call)
        }
        _ => refused(404, -32601, "Method not found"),
    }
}

/// The tools, on two pages.
fn page(cursor: &Value, said: &Value) -> Value {
    let tool = |name: &str, annotations: Value, properties: Value| {
        json!({"name": name, "description": format!("Does {name}."), "annotations": annotations,
            "inputSchema": {"type": "object", "properties": properties}})
    };
    let text = json!({"text": {"type": "string"}});
    let mut page = if cursor.is_null() {
        let region = json!({"region": {"type": "string", "x-mcp-header": "Region"}});
        json!({"nextCursor": "2", "tools": [
            tool("find_contacts", json!({"readOnlyHint": true}), region),
            tool("create_note", json!({"destructiveHint": false}), text),
        ]})
    } else {
        let bad = json!({"a": {"type": "number", "x-mcp-header": "A"}});
        json!({"tools": [
            tool("admin.notes.put", json!({"idempotentHint": true}), text),
            tool(&"x".repeat(128), Value::Null, json!({})),
            tool("bad_headers", Value::Null, bad),
            {"name": ""}, {"title": "nameless"}, 5,
        ]})
    };
    page["resultType"] = json!("complete");
    for (name, value) in said.as_object().unwrap() {
        page[name] = value.clone();
    }
    page
}
