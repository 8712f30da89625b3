//! What every request passes first: the log, then the faults.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::connection::Cut;
use super::shared::Shared;
use super::{consent_page, control, model, scalekit};

/// Bodies above this are refused; the real services have their limits far below.
pub(super) const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// The log forgets the oldest requests above this many.
const LOG_LIMIT: usize = 500;

/// Routes that are counted, and hit by faults, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RouteGroup {
    /// `POST /oauth/token`.
    Token,
    /// `GET …/connected_accounts/details`.
    Details,
    /// `POST …/connected_accounts/magic_link`.
    MagicLink,
    /// The other routes below `…/connected_accounts`.
    Accounts,
    /// `GET …/tools/scoped`.
    Scoped,
    /// `GET …/tools` and `…/tools/available`.
    Tools,
    /// `POST …/execute_tool`.
    Execute,
    /// `GET …/agentkit/tool_call_logs`.
    Logs,
    /// Everything below `/v1`.
    Model,
    /// The page behind a magic link.
    Consent,
}

impl RouteGroup {
    fn of(path: &str) -> Option<Self> {
        let group = match path {
            "/oauth/token" => Self::Token,
            "/api/v1/connected_accounts/details" => Self::Details,
            "/api/v1/connected_accounts/magic_link" => Self::MagicLink,
            "/api/v1/tools/scoped" => Self::Scoped,
            "/api/v1/execute_tool" => Self::Execute,
            _ if path.starts_with("/api/v1/connected_accounts") => Self::Accounts,
            _ if path.starts_with("/api/v1/tools") => Self::Tools,
            _ if path.starts_with("/api/v1/agentkit/tool_call_logs") => Self::Logs,
            _ if path.starts_with("/v1/") => Self::Model,
            _ if path.starts_with("/magicLink/") => Self::Consent,
            _ => return None,
        };
        Some(group)
    }
}

/// The requests seen since the last clearing.
#[derive(Debug, Default, Serialize)]
pub(super) struct RequestLog {
    counts: BTreeMap<RouteGroup, u64>,
    recent: VecDeque<Value>,
}

/// All routes behind the gate.
pub(super) fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .merge(scalekit::router(shared))
        .merge(model::router(shared))
        .merge(consent_page::router())
        .merge(control::router())
        .fallback(|| async { (StatusCode::NOT_FOUND, "not a route of the sandbox") })
        .layer(middleware::from_fn_with_state(Arc::clone(shared), pass))
        .with_state(Arc::clone(shared))
}

async fn pass(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(cut): ConnectInfo<Cut>,
    request: Request,
    next: Next,
) -> Response {
    let Some(group) = RouteGroup::of(request.uri().path()) else {
        return next.run(request).await;
    };
    let (parts, body) = request.into_parts();
    let Ok(bytes) = to_bytes(body, BODY_LIMIT).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let body: Option<Value> = serde_json::from_slice(&bytes).ok();
    let tool = body.as_ref().and_then(|body| body["tool_name"].as_str()).map(str::to_owned);
    let fault = {
        let mut state = shared.lock();
        // Neither headers nor the form with the client's secret are kept.
        state.requests.note(
            group,
            json!({
                "group": group, "method": parts.method.as_str(), "path": parts.uri.path(), "query": parts.uri.query(),
                "body": body, "at": shared.now(),
            }),
        );
        state.faults.take(group, tool.as_deref())
    };
    let request = Request::from_parts(parts, Body::from(bytes));
    match fault {
        None => next.run(request).await,
        Some(fault) => fault.apply(&shared, &cut, request, next).await,
    }
}

impl RequestLog {
    fn note(&mut self, group: RouteGroup, request: Value) {
        *self.counts.entry(group).or_default() += 1;
        if self.recent.len() == LOG_LIMIT {
            self.recent.pop_front();
        }
        self.recent.push_back(request);
    }
}
