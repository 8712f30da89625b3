//! What a fault does to a request and its answer.

use std::io;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::connection::Cut;
use super::faults::{Fault, FaultKind};
use super::model::MESSAGES;
use super::model::errors::{messages_error, model_error};
use super::route_group::RouteGroup;
use super::scalekit::errors::error_body;

/// What every stream begins with: a comment, which says nothing.
const STREAM_START: &str = ": the answer follows\r\n\r\n";

/// Lets the request meet the fault; silence lasts until `stop`. `rpc_id` is the id of a message to an MCP server.
pub(super) async fn apply(
    fault: &Fault,
    rpc_id: Value,
    stop: &CancellationToken,
    cut: &Cut,
    request: Request,
    next: Next,
) -> Response {
    if fault.delay_ms > 0 {
        let pause = tokio::time::sleep(Duration::from_millis(fault.delay_ms));
        stop.run_until_cancelled(pause).await;
    }
    match fault.kind {
        FaultKind::Status => answer(fault, request.uri().path(), &rpc_id),
        FaultKind::Delay => next.run(request).await,
        FaultKind::Reset => broken(cut),
        FaultKind::CommitThenTimeout => {
            let _lost = next.run(request).await;
            stop.cancelled().await;
            broken(cut)
        }
        FaultKind::CommitThenReset => {
            let _lost = next.run(request).await;
            broken(cut)
        }
        FaultKind::HalfAnswer => half(next.run(request).await).await,
        FaultKind::BigAnswer => padded(next.run(request).await, fault.big_answer_bytes).await,
        FaultKind::RpcResult => Json(json!({"jsonrpc": "2.0", "id": rpc_id, "result": fault.result})).into_response(),
        FaultKind::StreamEnds => {
            let _lost = next.run(request).await;
            stream_of(STREAM_START.into())
        }
        FaultKind::StreamStalls => {
            let _lost = next.run(request).await;
            let (stop, start) = (stop.clone(), Some(STREAM_START));
            stream_of(Body::from_stream(stream::unfold(start, move |start| {
                let stop = stop.clone();
                async move {
                    if let Some(start) = start {
                        return Some((Ok::<_, io::Error>(start), None));
                    }
                    stop.cancelled().await;
                    None
                }
            })))
        }
    }
}

fn stream_of(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

fn answer(fault: &Fault, path: &str, rpc_id: &Value) -> Response {
    let status = fault.status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let (content_type, text) = content(fault, path, rpc_id, status.as_u16());
    let text = if fault.truncated { text.chars().take(text.chars().count() / 2).collect() } else { text };
    let mut response = (status, [(header::CONTENT_TYPE, content_type)], text).into_response();
    for (name, value) in &fault.headers {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn content(fault: &Fault, path: &str, rpc_id: &Value, status: u16) -> (&'static str, String) {
    if fault.html {
        return ("text/html", format!("<html><head><title>{status}</title></head><body>{status}</body></html>"));
    }
    if let Some(Value::String(text)) = &fault.body {
        return ("text/plain", text.clone());
    }
    let body = fault.body.clone().unwrap_or_else(|| usual_body(fault, path, rpc_id, status));
    ("application/json", body.to_string())
}

fn usual_body(fault: &Fault, path: &str, rpc_id: &Value, status: u16) -> Value {
    let message = fault.message.as_deref().unwrap_or("ordered by a fault");
    let code = fault.error_code.as_deref();
    if fault.on.is_mcp() {
        let error = json!({"code": fault.rpc_code.unwrap_or(-32603), "message": message});
        return json!({"jsonrpc": "2.0", "id": rpc_id, "error": error});
    }
    if path == MESSAGES {
        return messages_error(status, message, code);
    }
    if matches!(fault.on, RouteGroup::Model | RouteGroup::Models) {
        let mut body = model_error(message, code, None);
        let limited = code.filter(|code| *code == "insufficient_quota").unwrap_or("requests");
        match status {
            429 => body["error"]["type"] = limited.into(),
            500.. => body["error"]["type"] = "server_error".into(),
            _ => {}
        }
        return body;
    }
    let tool_error = (code == Some("TOOL_ERROR")).then(|| {
        let tool_error_code = fault.tool_error_code.as_deref().unwrap_or("TOOL_EXEC_FAILED");
        json!({"tool_error_info": {
            "execution_id": "exec_fault", "tool_error_message": message, "tool_error_code": tool_error_code,
        }})
    });
    error_body(status, message, code, tool_error)
}

/// An answer that never leaves, as its connection is cut.
fn broken(cut: &Cut) -> Response {
    cut.cut();
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

/// The whole length is promised, half of it is sent.
async fn half(response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let whole = whole(body).await;
    let first = whole.slice(..whole.len() / 2);
    let pieces = stream::unfold(0, move |step| {
        let first = first.clone();
        async move {
            if step == 0 {
                return Some((Ok(first), 1));
            }
            // Lets the first half go out before the connection breaks.
            tokio::task::yield_now().await;
            Some((Err(io::Error::from(io::ErrorKind::ConnectionReset)), 2))
        }
    });
    let mut response = Response::from_parts(parts, Body::from_stream(pieces));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
    response
}

async fn padded(response: Response, bytes: usize) -> Response {
    let (parts, body) = response.into_parts();
    let Ok(mut answer) = serde_json::from_slice::<Value>(&whole(body).await) else {
        return (parts.status, "x".repeat(bytes)).into_response();
    };
    let padding: Value = "x".repeat(bytes).into();
    if let Some(Value::Array(content)) = answer.pointer_mut("/result/content") {
        content.push(json!({"type": "text", "text": padding}));
        return (parts.status, Json(answer)).into_response();
    }
    match answer.get_mut("data") {
        Some(Value::Object(data)) => data.insert("padding".to_owned(), padding),
        _ => answer.as_object_mut().and_then(|answer| answer.insert("padding".to_owned(), padding)),
    };
    (parts.status, Json(answer)).into_response()
}

async fn whole(body: Body) -> Bytes {
    axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default()
}
