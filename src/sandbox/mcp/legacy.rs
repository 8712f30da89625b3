//! The revisions with a handshake, which may begin a session that every later request has to name.

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::messages::{METHOD_NOT_FOUND, McpRefusal, RpcMessage, respond};
use super::methods;
use super::servers::McpServer;
use crate::sandbox::mcp_state::{McpSession, McpSettings};
use crate::sandbox::shared::Shared;
use crate::sandbox::state::State;

/// Oldest first.
pub(super) const REVISIONS: [&str; 3] = ["2025-03-26", "2025-06-18", "2025-11-25"];
const SESSION: &str = "mcp-session-id";

pub(super) fn knows(version: &str) -> bool {
    REVISIONS.contains(&version)
}

pub(super) fn answer(
    shared: &Shared,
    server: &McpServer,
    headers: &HeaderMap,
    message: &RpcMessage,
) -> Result<Response, McpRefusal> {
    let mut state = shared.lock();
    let settings = state.mcp.settings.clone();
    if message.method == "initialize" {
        return Ok(begin(&mut state, server, message, &settings));
    }
    let session = session(headers);
    if settings.sessions {
        check(&state, server, session).map_err(|refusal| refusal.of(message))?;
    }
    if message.is_notification() {
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    let result = match message.method.as_str() {
        "ping" => Ok(json!({})),
        // The protocol's error comes with HTTP's good status here, unlike in later revisions.
        method if !method.starts_with("tools/") => Err(McpRefusal::new(200, METHOD_NOT_FOUND, "Method not found")),
        _ => methods::run(shared, &mut state, server, message),
    };
    let result = result.map_err(|refusal| refusal.of(message))?;
    let changed = session.and_then(|session| state.mcp.sessions.get_mut(session)).is_some_and(|session| {
        let changed = session.listed != settings.more_tools;
        if message.method == "tools/list" {
            session.listed = settings.more_tools;
        }
        changed && message.method != "tools/list"
    });
    let told = changed.then(|| json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
    Ok(respond(message, settings.answers, told.as_slice(), &result))
}

/// Ends the session that the request names, as clients do that need it no more.
pub(super) fn end_session(shared: &Shared, server: &McpServer, headers: &HeaderMap) -> StatusCode {
    let mut state = shared.lock();
    match session(headers) {
        None => StatusCode::METHOD_NOT_ALLOWED,
        Some(session) if check(&state, server, Some(session)).is_err() => StatusCode::NOT_FOUND,
        Some(session) => {
            state.mcp.sessions.remove(session);
            StatusCode::NO_CONTENT
        }
    }
}

fn begin(state: &mut State, server: &McpServer, message: &RpcMessage, settings: &McpSettings) -> Response {
    let requested = message.params["protocolVersion"].as_str().filter(|version| knows(version));
    let result: Value = json!({
        "protocolVersion": requested.unwrap_or(REVISIONS[REVISIONS.len() - 1]),
        "capabilities": {"tools": {"listChanged": true}},
        "serverInfo": {"name": server.name(), "version": env!("CARGO_PKG_VERSION")},
    });
    let mut response = respond(message, settings.answers, &[], &result);
    if settings.sessions {
        let id = state.next_word("session");
        let session = McpSession { owner: server.owner(), listed: settings.more_tools };
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(SESSION, value);
        }
        state.mcp.sessions.insert(id, session);
    }
    response
}

fn check(state: &State, server: &McpServer, session: Option<&str>) -> Result<(), McpRefusal> {
    let Some(session) = session else {
        return Err(McpRefusal::plain("Bad Request: Mcp-Session-Id header is required"));
    };
    let known = state.mcp.sessions.get(session).is_some_and(|session| session.owner == server.owner());
    if known { Ok(()) } else { Err(McpRefusal::new(404, -32001, "Session not found")) }
}

fn session(headers: &HeaderMap) -> Option<&str> {
    headers.get(SESSION).and_then(|value| value.to_str().ok())
}
