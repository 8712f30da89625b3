//! Faults that a test can order, and what each does to an answer.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::connection::Cut;
use super::gate::RouteGroup;
use super::model::model_error;
use super::scalekit::errors::error_body;
use super::shared::Shared;

/// One order: which requests it meets, how often, and what happens to them.
///
/// Orders are looked through in the order they were given; a request is met by the first that fits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    /// The group of routes it applies to.
    on: RouteGroup,
    /// Only calls of this tool (for `execute`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tool: Option<String>,
    /// How many fitting requests pass unharmed first.
    #[serde(default)]
    skip: u32,
    /// How many fitting requests it meets, 1 if absent.
    #[serde(default = "once")]
    times: u32,
    /// Milliseconds to wait before anything else happens.
    #[serde(default)]
    delay_ms: u64,
    /// What happens.
    kind: FaultKind,
    /// For `status`: the HTTP status, 500 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// For `status`: the machine-readable code in the usual error body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error_code: Option<String>,
    /// For `status`: the code that the provider of the tool gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tool_error_code: Option<String>,
    /// For `status`: the text in the usual error body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// For `status`: a body in place of the usual one; a string is sent as plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Value>,
    /// For `status`: an HTML page, as a load balancer gives.
    #[serde(default)]
    html: bool,
    /// For `status`: only the first half of the body, properly framed.
    #[serde(default)]
    truncated: bool,
    /// For `status`: further headers, such as `retry-after`.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// For `big_answer`: bytes that the answer is padded with.
    #[serde(default)]
    big_answer_bytes: usize,
}

/// What a fault does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FaultKind {
    /// Answers with a status and does nothing.
    Status,
    /// Answers as usual, after the delay.
    Delay,
    /// Breaks the connection before anything was done.
    Reset,
    /// Does it, then never answers.
    CommitThenTimeout,
    /// Does it, then breaks the connection without an answer.
    CommitThenReset,
    /// Does it, and breaks the connection in the middle of the answer's body.
    HalfAnswer,
    /// Does it, and pads the answer.
    BigAnswer,
}

fn once() -> u32 {
    1
}

/// The orders that are left.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub(super) fn left(&self) -> &[Fault] {
        &self.0
    }

    /// The order that this request meets, counted down.
    pub(super) fn take(&mut self, group: RouteGroup, tool: Option<&str>) -> Option<Fault> {
        for fault in &mut self.0 {
            let fits = fault.on == group && (fault.tool.is_none() || fault.tool.as_deref() == tool);
            if !fits || fault.times == 0 {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                return None;
            }
            fault.times -= 1;
            let met = fault.clone();
            self.0.retain(|fault| fault.times > 0);
            return Some(met);
        }
        None
    }
}

impl Fault {
    /// Lets the request meet this fault.
    pub(super) async fn apply(&self, shared: &Shared, cut: &Cut, request: Request, next: Next) -> Response {
        if self.delay_ms > 0 {
            let pause = tokio::time::sleep(Duration::from_millis(self.delay_ms));
            shared.stop.run_until_cancelled(pause).await;
        }
        match self.kind {
            FaultKind::Status => self.answer(),
            FaultKind::Delay => next.run(request).await,
            FaultKind::Reset => broken(cut),
            FaultKind::CommitThenTimeout => {
                let _lost = next.run(request).await;
                shared.stop.cancelled().await;
                broken(cut)
            }
            FaultKind::CommitThenReset => {
                let _lost = next.run(request).await;
                broken(cut)
            }
            FaultKind::HalfAnswer => half(next.run(request).await).await,
            FaultKind::BigAnswer => padded(next.run(request).await, self.big_answer_bytes).await,
        }
    }

    fn answer(&self) -> Response {
        let status = self.status.and_then(|status| StatusCode::from_u16(status).ok());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (content_type, text) = self.content(status.as_u16());
        let text = if self.truncated { text.chars().take(text.chars().count() / 2).collect() } else { text };
        let mut response = (status, [(header::CONTENT_TYPE, content_type)], text).into_response();
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    fn content(&self, status: u16) -> (&'static str, String) {
        if self.html {
            return ("text/html", format!("<html><head><title>{status}</title></head><body>{status}</body></html>"));
        }
        if let Some(Value::String(text)) = &self.body {
            return ("text/plain", text.clone());
        }
        let body = self.body.clone().unwrap_or_else(|| self.usual_body(status));
        ("application/json", body.to_string())
    }

    fn usual_body(&self, status: u16) -> Value {
        let message = self.message.as_deref().unwrap_or("ordered by a fault");
        let code = self.error_code.as_deref();
        if self.on == RouteGroup::Model {
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
            let tool_error_code = self.tool_error_code.as_deref().unwrap_or("TOOL_EXEC_FAILED");
            json!({"tool_error_info": {
                "execution_id": "exec_fault", "tool_error_message": message, "tool_error_code": tool_error_code,
            }})
        });
        error_body(status, message, code, tool_error)
    }
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
    match answer.get_mut("data") {
        Some(Value::Object(data)) => data.insert("padding".to_owned(), padding),
        _ => answer.as_object_mut().and_then(|answer| answer.insert("padding".to_owned(), padding)),
    };
    (parts.status, Json(answer)).into_response()
}

async fn whole(body: Body) -> Bytes {
    axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default()
}
