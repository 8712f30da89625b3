//! What operators and machines ask over HTTP: is it alive, is it ready, what has it counted.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Says whether something holds, and if not, why.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the server tells of.
#[derive(Clone)]
pub struct Facts {
    /// Whether the worker does its work: a worker that is connected but does not consume is not alive.
    pub alive: Check,
    /// Whether it may be given work.
    pub ready: Check,
    /// What it has counted.
    pub metrics: Arc<Metrics>,
}

/// Listens on `bind`, so that the port is known before anything else starts.
pub async fn listen(bind: &str) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(bind).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, facts: Facts, stop: CancellationToken) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|State(facts): State<Facts>| async move { answer((facts.alive)()) }))
        .route("/readyz", get(|State(facts): State<Facts>| async move { answer((facts.ready)()) }))
        .route("/metrics", get(metrics))
        .with_state(facts);
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn answer(result: Result<(), String>) -> impl IntoResponse {
    match result {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn metrics(State(facts): State<Facts>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], facts.metrics.render())
}
