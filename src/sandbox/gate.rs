//! What every request passes first: the log, then the faults.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::connection::Cut;
use super::route_group::RouteGroup;
use super::shared::Shared;
use super::{consent_page, control, fault_injection, mcp, model, page, scalekit};

/// Bodies above this are refused; the real services have their limits far below.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// All routes behind the gate.
pub(super) fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .merge(scalekit::router(shared))
        .merge(model::router(shared))
        .merge(mcp::router())
        .merge(consent_page::router())
        .merge(control::router())
        .merge(page::router())
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
    if RouteGroup::of(request.uri().path(), None).is_none() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let Ok(bytes) = to_bytes(body, BODY_LIMIT).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let body: Option<Value> = serde_json::from_slice(&bytes).ok();
    let asked = body.as_ref().unwrap_or(&Value::Null);
    let Some(group) = RouteGroup::of(parts.uri.path(), asked["method"].as_str()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let tool = if group.is_mcp() { &asked["params"]["name"] } else { &asked["tool_name"] };
    let tool = tool.as_str().map(str::to_owned);
    let rpc_id = asked["id"].clone();
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
        Some(fault) => fault_injection::apply(&fault, rpc_id, &shared.stop, &cut, request, next).await,
    }
}
