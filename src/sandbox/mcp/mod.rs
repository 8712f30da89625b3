//! MCP servers over Streamable HTTP: Scalekit's own for each connection, and one of the kind that an operator runs.
//!
//! Both speak the revision without a handshake (2026-07-28) and the earlier ones with it, hold clients to what the protocol
//! says they must send, and answer in JSON or as a stream, as `/_sandbox/mcp` says.

mod legacy;
mod messages;
mod methods;
mod modern;
mod servers;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde_json::json;

use super::mcp_state::Era;
use super::shared::{CRM_TOKEN, Shared};
use messages::{McpRefusal, RpcMessage};
use servers::McpServer;

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/mcp/crm", post(ask_crm).delete(leave_crm))
        .route("/mcp/v3/connections/{name}", post(ask_connection).delete(leave_connection))
}

async fn ask_crm(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    answer(&shared, crm(&headers), &headers, &body)
}

async fn leave_crm(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    leave(&shared, crm(&headers), &headers)
}

async fn ask_connection(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(&shared, connection(&shared, &name, &headers), &headers, &body)
}

async fn leave_connection(State(shared): State<Arc<Shared>>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    leave(&shared, connection(&shared, &name, &headers), &headers)
}

/// The operator's server, for whoever brings its token.
fn crm(headers: &HeaderMap) -> Result<McpServer, StatusCode> {
    if bearer(headers) == Some(CRM_TOKEN) { Ok(McpServer::Crm) } else { Err(StatusCode::UNAUTHORIZED) }
}

/// Scalekit's server of the connection, for whoever brings a token that was made for it. Its name in the path is
/// case-sensitive, though the name that tokens are asked by is not.
fn connection(shared: &Shared, name: &str, headers: &HeaderMap) -> Result<McpServer, StatusCode> {
    if shared.catalogue.connection(name).is_none_or(|connection| !connection.enabled) {
        return Err(StatusCode::NOT_FOUND);
    }
    let grant = bearer(headers).and_then(|token| shared.lock().mcp.grants.get(token).cloned());
    let grant = grant.filter(|grant| grant.connector == name && grant.expires_at > shared.now());
    grant.map(McpServer::Connection).ok_or(StatusCode::UNAUTHORIZED)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn answer(shared: &Shared, server: Result<McpServer, StatusCode>, headers: &HeaderMap, body: &[u8]) -> Response {
    let server = match server {
        Ok(server) => server,
        Err(status) => return shut(status),
    };
    let answered = messages::check_headers(headers).and_then(|()| RpcMessage::read(body)).and_then(|message| {
        let speaks = shared.lock().mcp.settings.speaks;
        match (modern::is_meant(&message, headers), speaks) {
            (true, Era::Legacy) => Err(McpRefusal::plain("Bad Request: unsupported protocol version")),
            (false, Era::Modern) => Err(modern::needs_newer(&message, headers)),
            (true, _) => modern::answer(shared, &server, headers, &message),
            (false, _) => legacy::answer(shared, &server, headers, &message),
        }
    });
    answered.unwrap_or_else(McpRefusal::into_response)
}

fn leave(shared: &Shared, server: Result<McpServer, StatusCode>, headers: &HeaderMap) -> Response {
    server.map_or_else(shut, |server| legacy::end_session(shared, &server, headers).into_response())
}

/// The door stays shut: no such server, or no good token.
fn shut(status: StatusCode) -> Response {
    if status == StatusCode::UNAUTHORIZED {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")];
        return (status, challenge, axum::Json(json!({"error": "invalid_token"}))).into_response();
    }
    (status, "not a server of the sandbox").into_response()
}
