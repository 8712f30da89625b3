//! Messages of JSON-RPC on their way in and out.

use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use crate::sandbox::mcp_state::AnswerForm;

pub(super) const METHOD_NOT_FOUND: i64 = -32601;
pub(super) const INVALID_PARAMS: i64 = -32602;
const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
/// The code of servers for whatever has none of its own.
const SERVER_ERROR: i64 = -32000;

/// One message of a client.
#[derive(Debug)]
pub(super) struct RpcMessage {
    /// Null for a notification.
    pub(super) id: Value,
    pub(super) method: String,
    pub(super) params: Value,
}

impl RpcMessage {
    /// Reads a body: one message, never a batch.
    pub(super) fn read(body: &[u8]) -> Result<Self, McpRefusal> {
        let mut body: Value =
            serde_json::from_slice(body).map_err(|_| McpRefusal::new(400, PARSE_ERROR, "the body is not JSON"))?;
        let method = body["method"].as_str().map(str::to_owned).filter(|_| body["jsonrpc"] == "2.0");
        let method =
            method.ok_or_else(|| McpRefusal::new(400, INVALID_REQUEST, "the body is not one JSON-RPC request"))?;
        Ok(Self { id: body["id"].take(), method, params: body["params"].take() })
    }

    /// Whether it waits for no answer.
    pub(super) fn is_notification(&self) -> bool {
        self.id.is_null()
    }
}

/// What every request by HTTP has to bring along, whatever the revision.
pub(super) fn check_headers(headers: &HeaderMap) -> Result<(), McpRefusal> {
    if headers.contains_key(header::ORIGIN) {
        return Err(McpRefusal::new(403, SERVER_ERROR, "Forbidden: no page may ask this server"));
    }
    let value = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let accept = value(header::ACCEPT);
    if !accept.contains("application/json") || !accept.contains("text/event-stream") {
        let words = "Not Acceptable: client must accept both application/json and text/event-stream";
        return Err(McpRefusal::new(406, SERVER_ERROR, words));
    }
    if !value(header::CONTENT_TYPE).starts_with("application/json") {
        return Err(McpRefusal::new(
            415,
            SERVER_ERROR,
            "Unsupported Media Type: Content-Type must be application/json",
        ));
    }
    Ok(())
}

/// An error in place of a result, with the HTTP status that it comes with.
#[derive(Debug)]
pub(super) struct McpRefusal {
    status: u16,
    code: i64,
    message: String,
    data: Value,
    id: Value,
}

impl McpRefusal {
    pub(super) fn new(status: u16, code: i64, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), data: Value::Null, id: Value::Null }
    }

    /// 400 with a code that says nothing about the revision, as servers of earlier revisions answer.
    pub(super) fn plain(message: &str) -> Self {
        Self::new(400, SERVER_ERROR, message)
    }

    pub(super) fn with(self, data: Value) -> Self {
        Self { data, ..self }
    }

    /// As the answer to `message`.
    pub(super) fn of(self, message: &RpcMessage) -> Self {
        Self { id: message.id.clone(), ..self }
    }

    pub(super) fn into_response(self) -> Response {
        let Self { status, code, message, data, id } = self;
        let mut error = json!({"code": code, "message": message});
        if !data.is_null() {
            error["data"] = data;
        }
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        (status, Json(json!({"jsonrpc": "2.0", "id": id, "error": error}))).into_response()
    }
}

/// The answer to `message`, after the notifications that a stream can carry and a lone object cannot.
pub(super) fn respond(message: &RpcMessage, form: AnswerForm, notifications: &[Value], result: &Value) -> Response {
    let answer = json!({"jsonrpc": "2.0", "id": message.id, "result": result});
    match form {
        AnswerForm::Json => Json(answer).into_response(),
        AnswerForm::Sse => {
            let start = ": what follows is spread over lines, as streams may be\r\nretry: 1000\r\n\r\n".to_owned();
            let stream = notifications.iter().chain([&answer]).fold(start, |stream, message| stream + &event(message));
            ([(header::CONTENT_TYPE, "text/event-stream")], stream).into_response()
        }
    }
}

fn event(message: &Value) -> String {
    let lines = format!("{message:#}");
    let data: Vec<String> = lines.lines().map(|line| format!("data: {line}\r\n")).collect();
    format!("event: message\r\n{}\r\n", data.concat())
}
