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
use super::{consent_page, control, fault_injection, model, page, scalekit};

/// Bodies above this are refused; the real services have their limits far below.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// All routes behind the gate.
pub(super) fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .merge(scalekit::router(shared))
        .merge(model::router(shared))
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
        Some(fault) => fault_injection::apply(&fault, &shared.stop, &cut, request, next).await,
    }
}
