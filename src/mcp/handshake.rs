//! Servers of the legacy era: `initialize`, then requests in the session that it opens.

use std::sync::Arc;

use secrecy::SecretString;
use serde_json::{Map, Value, json};
use tracing::debug;

use super::post::Post;
use super::session::{REVISIONS, Session, client_info};
use super::{Caller, Endpoint, McpError};
use crate::http;

impl Endpoint {
    /// The caller's session; all who ask for it at the same time wait for one.
    pub(super) async fn session(&self, caller: Caller<'_>) -> Result<Arc<Session>, McpError> {
        let place = self.sessions.get_with(caller.session.to_owned(), async { Arc::default() }).await;
        place.get_or_try_init(|| self.initialize(caller)).await.cloned()
    }

    /// The server does not know this session any more.
    pub(super) async fn forget_session(&self, caller: Caller<'_>, session: &Arc<Session>) {
        let place = self.sessions.get(caller.session).await;
        let is_this = place.as_ref().and_then(|place| place.get()).is_some_and(|known| Arc::ptr_eq(known, session));
        if is_this {
            self.sessions.invalidate(caller.session).await;
        }
    }

    async fn initialize(&self, caller: Caller<'_>) -> Result<Arc<Session>, McpError> {
        let params = json!({"protocolVersion": REVISIONS[0], "capabilities": {}, "clientInfo": client_info()});
        let post = Post::new("initialize", as_object(params), self.timeout);
        let (finished, id) = self.post(caller, &post, None).await?;
        let said = finished.result.get("protocolVersion").and_then(Value::as_str).unwrap_or_default();
        let Some(revision) = REVISIONS.into_iter().find(|revision| *revision == said) else {
            return Err(McpError::OtherRevision(vec![http::redacted(said, 40)]));
        };
        if id.as_ref().is_some_and(|id| id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(McpError::bad_result(finished.status, "the session has no legal name"));
        }
        debug!(host = self.url.host_str(), revision, has_session = id.is_some(), "MCP server of the legacy era");
        let session = Session { revision, id: id.map(SecretString::from) };
        self.notify(caller, &session, "notifications/initialized").await?;
        Ok(Arc::new(session))
    }
}

fn as_object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}
