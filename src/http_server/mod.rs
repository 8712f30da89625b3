//! What comes in over HTTP: operators and machines ask whether it is alive, whether it is ready, what it has counted;
//! Scalekit tells what has changed; who holds a token sends jobs, looks at them and decides about their calls.

mod answers;
mod approvals;
pub(crate) mod config;
mod connections;
mod dead;
mod events;
mod jobs;
mod link_page;
mod list;
pub(crate) mod pages;
mod process;
mod settle;
pub(crate) mod tokens;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{delete, get, post};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::approvals::{DECISION_BYTES, FORM_BYTES};
pub(crate) use self::connections::ConnectionLimits;
use self::connections::in_time;
use self::pages::{PageFacts, frame};
pub(crate) use self::settle::SettlementBody;
use self::tokens::Tokens;
use crate::approval::link::Links;
use crate::metrics::{Form, Metrics};
use crate::parking::{Parking, WaitsFor};
use crate::producers::Producers;
use crate::webhook::Signed;
use crate::worker::control::dead_letters::DeadLetterDesk;
use crate::worker::control::decider::Decider;
use crate::worker::control::job_door::JobDoor;
use crate::worker::control::webhooks::{Refused, Webhooks};

/// Largest webhook in bytes; Scalekit's account events have about one thousand.
const WEBHOOK_BYTES: usize = 256 * 1024;

/// Says whether something holds, and if not, why.
pub(crate) type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the server tells of, and whom it tells.
#[derive(Clone)]
pub(crate) struct Endpoints {
    /// Whether the worker does its work: a worker that is connected but does not consume is not alive.
    pub alive: Check,
    /// Whether it may be given work.
    pub ready: Check,
    /// The services behind the worker, by name, and whether each can be used.
    pub services: Arc<[(&'static str, Check)]>,
    pub metrics: Arc<Metrics>,
    /// How many runs wait.
    pub parking: Arc<dyn Parking>,
    /// Hears of changed accounts.
    pub webhooks: Arc<Webhooks>,
    /// Takes decisions about calls that wait.
    pub decider: Arc<Decider>,
    /// Knows links for its own.
    pub links: Arc<Links>,
    /// Who may ask for what.
    pub tokens: Arc<Tokens>,
    /// Which of them are producers, who decide about their own jobs alone.
    pub producers: Arc<Producers>,
    /// Takes jobs, and tells of them.
    pub jobs: Arc<JobDoor>,
    /// Shows what was given up, and lets it run again.
    pub dead_letters: Arc<DeadLetterDesk>,
    /// Places of those who wait for what happens to a job.
    pub streams: Arc<Semaphore>,
    /// Those who wait are answered when the worker stops.
    pub stop: CancellationToken,
    /// What the pages for people tell of.
    pub pages: PageFacts,
}

/// Listens on `bind`, so that the port is known before anything else starts.
pub(crate) async fn listen(bind: &str) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(bind).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// What operators and machines ask, who sends jobs, and the pages for people; answered within this time, unless they want to
/// wait.
pub(crate) fn operation(within: Duration, max_job_bytes: usize) -> Router<Endpoints> {
    let lasting =
        Router::new().route("/v1/jobs/{id}", get(jobs::look)).route("/v1/jobs/{id}/events", get(events::events));
    let router = Router::new()
        .route("/livez", get(|State(facts): State<Endpoints>| async move { answer((facts.alive)()) }))
        .route("/readyz", get(|State(facts): State<Endpoints>| async move { answer((facts.ready)()) }))
        .route("/metrics", get(metrics))
        .route("/v1/approvals/{id}", post(approvals::decide).layer(DefaultBodyLimit::max(DECISION_BYTES)))
        .route("/v1/jobs", get(list::list).post(jobs::submit).layer(DefaultBodyLimit::max(max_job_bytes)))
        .route("/v1/jobs/{id}", delete(jobs::cancel))
        .route("/v1/jobs/{id}/settle", post(settle::settle).layer(DefaultBodyLimit::max(settle::BODY_BYTES)))
        .route("/v1/dead", get(dead::list))
        .route("/v1/dead/{id}/replay", post(dead::replay))
        .merge(pages::pages());
    router.layer(from_fn_with_state(within, in_time)).merge(lasting)
}

/// What comes from outside: Scalekit's webhooks, and people by their links.
pub(crate) fn public(within: Duration) -> Router<Endpoints> {
    let page = get(approvals::show).post(approvals::press).layer(DefaultBodyLimit::max(FORM_BYTES));
    Router::new()
        .route("/webhooks/scalekit", post(webhook).layer(DefaultBodyLimit::max(WEBHOOK_BYTES)))
        .route("/approvals/{id}", page)
        .route("/approvals/page.css", get(|| async { frame::look() }))
        .route("/approvals/page.svg", get(|| async { frame::mark() }))
        .layer(from_fn_with_state(within, in_time))
}

/// Serves for ever: health must be told up to the end, which is the process's.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Router<Endpoints>,
    facts: Endpoints,
    limits: ConnectionLimits,
) {
    match connections::serve(listener, routes.with_state(facts), limits).await {}
}

fn answer(result: Result<(), String>) -> impl IntoResponse {
    match result {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

/// A webhook is answered once what follows from it is done or well under way: Scalekit sends nothing twice that was taken.
async fn webhook(State(facts): State<Endpoints>, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let signed = Signed {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
        body: &body,
    };
    match facts.webhooks.receive(&signed).await {
        Ok(()) => (StatusCode::NO_CONTENT, String::new()),
        Err(refused @ (Refused::NotConfigured | Refused::NotNow)) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{refused}\n"))
        }
        Err(refused @ Refused::Forged(_)) => {
            debug!(%refused, "webhook refused");
            (StatusCode::UNAUTHORIZED, format!("{refused}\n"))
        }
    }
}

async fn metrics(State(facts): State<Endpoints>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let form = Form::wanted(accept);
    if let Some(figures) = process::figures().await {
        facts.metrics.process_stands(figures);
    }
    for (service, check) in facts.services.iter() {
        facts.metrics.service_stands(service, check().is_ok());
    }
    for waits_for in WaitsFor::ALL {
        match facts.parking.count(waits_for).await {
            Ok(count) => facts.metrics.parked(waits_for.as_str(), count),
            Err(error) => debug!(%error, "the last count of parked runs is shown"),
        }
    }
    ([(header::CONTENT_TYPE, form.content_type())], facts.metrics.render_as(form))
}
