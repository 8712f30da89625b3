//! One message to a server, and what comes back; what a server asks in the middle of it is refused.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tracing::debug;

use super::answer::{Finished, Question, RpcAnswer, error_in};
use super::mirror::header_value;
use super::secrets::SentSecrets;
use super::session::{Session, client_info};
use super::{Caller, Endpoint, McpError};
use crate::http::{Method, Request, Response};

/// The revision of the modern era that we speak.
const MODERN_REVISION: &str = "2026-07-28";
/// So many questions in the middle of one answer are refused; further ones are not heard.
const MOST_QUESTIONS: usize = 8;
/// Longest time for what nobody waits for, so that it outlives no answer for long.
const ASIDE: Duration = Duration::from_secs(5);
/// JSON-RPC's code for what is not known.
const METHOD_NOT_FOUND: i64 = -32601;

/// A request of the protocol.
pub(super) struct Post<'a> {
    pub(super) method: &'static str,
    pub(super) params: Map<String, Value>,
    pub(super) timeout: Duration,
    /// What it is about, where there is a name for it.
    pub(super) name: Option<&'a str>,
    /// Arguments that go into headers as well, in the modern era.
    pub(super) mirrored: Vec<(String, String)>,
    /// Where it stands in a trace (W3C `traceparent`).
    pub(super) traceparent: Option<&'a str>,
}

impl Post<'_> {
    pub(super) fn new(method: &'static str, params: Map<String, Value>, timeout: Duration) -> Self {
        Self { method, params, timeout, name: None, mirrored: Vec::new(), traceparent: None }
    }

    /// Whether it can have any effect: what has none may be sent again, and to find out about the server.
    pub(super) fn is_harmless(&self) -> bool {
        self.method != "tools/call"
    }
}

impl Endpoint {
    /// Sends a request and reads its answer, in a session or, without one, in the modern era. Returns the session that the
    /// server has opened, where it has.
    pub(super) async fn post(
        &self,
        caller: Caller<'_>,
        post: &Post<'_>,
        session: Option<&Session>,
    ) -> Result<(Finished, Option<String>), McpError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let is_modern = session.is_none() && post.method != "initialize";
        let mut params = post.params.clone();
        let meta = meta(is_modern, post.traceparent);
        if !meta.is_empty() {
            params.insert("_meta".to_owned(), Value::Object(meta));
        }
        let body = json!({"jsonrpc": "2.0", "id": id, "method": post.method, "params": params});
        let mut request = self.request(caller, session, &body, post.timeout);
        if let Some(traceparent) = post.traceparent {
            request = request.header("traceparent", traceparent);
        }
        if is_modern {
            request = request.header("mcp-protocol-version", MODERN_REVISION).header("mcp-method", post.method);
            if let Some(name) = post.name {
                request = request.header("mcp-name", header_value(name));
            }
            for (name, value) in &post.mirrored {
                request = request.header(name.clone(), value.clone());
            }
        }
        let secrets = SentSecrets::of(self.headers.iter().map(|(_, value)| value).chain(caller.bearer));
        let mut answer = RpcAnswer::to(id, secrets.clone());
        let (tell, asked) = mpsc::unbounded_channel();
        let sent = {
            let exchange = self.http.send_until(request, |head, body| {
                answer.is_whole(head, body, &mut |question| drop(tell.send(question)))
            });
            let refusing = Box::pin(self.refuse(caller, session, asked));
            tokio::select! {
                biased;
                sent = exchange => sent,
                never = refusing => match never {},
            }
        };
        let response = sent.map_err(|error| McpError::from_http(&error))?;
        if !(200..300).contains(&response.status) {
            let body = secrets.hidden(&response.body).into_owned().into();
            let response = Response { body, ..response };
            let in_session = session.is_some_and(Session::has_id);
            return Err(McpError::from_status(&response, error_in(&response.body).as_ref(), in_session));
        }
        Ok((answer.finish(&response)?, response.session_id))
    }

    /// Tells the server something that it does not answer.
    pub(super) async fn notify(
        &self,
        caller: Caller<'_>,
        session: &Session,
        method: &'static str,
    ) -> Result<(), McpError> {
        let body = json!({"jsonrpc": "2.0", "method": method});
        let request = self.request(caller, Some(session), &body, self.timeout);
        let response = self.http.send(request).await.map_err(|error| McpError::from_http(&error))?;
        if (200..300).contains(&response.status) {
            return Ok(());
        }
        Err(McpError::from_status(&response, error_in(&response.body).as_ref(), session.has_id()))
    }

    /// Says no to whatever the server asks while it answers: nobody and no model is there for it. Never ends by itself.
    async fn refuse(
        &self,
        caller: Caller<'_>,
        session: Option<&Session>,
        mut asked: UnboundedReceiver<Question>,
    ) -> Infallible {
        for _ in 0..MOST_QUESTIONS {
            let (Some(session), Some(Question { id, method })) = (session, asked.recv().await) else { break };
            debug!(method, "a question of the MCP server is refused");
            let body = if method == "ping" {
                json!({"jsonrpc": "2.0", "id": id, "result": {}})
            } else {
                let message = "not supported: this client has neither a person, nor a model, nor files to ask";
                json!({"jsonrpc": "2.0", "id": id, "error": {"code": METHOD_NOT_FOUND, "message": message}})
            };
            if let Err(error) = self.http.send(self.request(caller, Some(session), &body, ASIDE)).await {
                debug!(%error, "the MCP server could not be told");
            }
        }
        std::future::pending().await
    }

    /// A message with what every message has.
    fn request(&self, caller: Caller<'_>, session: Option<&Session>, body: &Value, timeout: Duration) -> Request {
        let mut request = Request::new(Method::Post, self.url.clone(), timeout)
            .json(body.to_string())
            .header("accept", "application/json, text/event-stream");
        for (name, value) in &self.headers {
            request = request.secret_header(name, value);
        }
        if let Some(token) = caller.bearer {
            request = request.bearer(token);
        }
        if let Some(session) = session {
            if session.has_revision_header() {
                request = request.header("mcp-protocol-version", session.revision);
            }
            if let Some(id) = &session.id {
                request = request.secret_header("mcp-session-id", id);
            }
        }
        request
    }
}

/// What a request says beside its own parameters.
fn meta(is_modern: bool, traceparent: Option<&str>) -> Map<String, Value> {
    let mut meta = Map::new();
    if is_modern {
        meta.insert("io.modelcontextprotocol/protocolVersion".to_owned(), MODERN_REVISION.into());
        meta.insert("io.modelcontextprotocol/clientInfo".to_owned(), client_info());
        meta.insert("io.modelcontextprotocol/clientCapabilities".to_owned(), json!({}));
    }
    if let Some(traceparent) = traceparent {
        meta.insert("traceparent".to_owned(), traceparent.into());
    }
    meta
}
