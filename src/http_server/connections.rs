//! Connections to the HTTP port: so many at most, none that says nothing for long, none that lives for ever.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// Bytes of a request's head, and of what is read ahead.
const HEAD_BYTES: usize = 32 << 10;
/// A connection is closed in good order after this time, however busy it is, and cut off after another such time: what
/// nobody reads must not keep its place for ever.
const LIFE: Duration = Duration::from_mins(5);
/// After an error that is not the client's, such as no file handles: the next attempt would meet it as well.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Bounds of the connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    /// At the same time; more are closed as they come.
    pub(crate) connections: usize,
    /// A request's head must have come within this time, as must its body with the answer; a connection that says nothing
    /// for so long is closed.
    pub(crate) within: Duration,
}

/// Headers of every answer: none of them is a page for others' pages, or for keeping.
const STRICT: [(HeaderName, HeaderValue); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
];

/// Serves for ever.
pub(super) async fn serve(listener: TcpListener, router: Router, limits: ConnectionLimits) -> Infallible {
    let within = limits.within;
    let router = router.layer(from_fn(strictly));
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut full = false;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "no connection could be taken");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            // Once, until there is a place again: who opens so many would fill the log as well.
            if !std::mem::replace(&mut full, true) {
                warn!(connections = limits.connections, "the HTTP port is full; further connections are closed");
            }
            continue;
        };
        full = false;
        let router = router.clone();
        tokio::spawn(async move {
            let _place = place;
            connection(stream, router, within).await;
        });
    }
}

async fn connection(stream: TcpStream, router: Router, within: Duration) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(within).max_buf_size(HEAD_BYTES);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = tokio::time::sleep(LIFE) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(LIFE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection to the HTTP port ended");
    }
}

/// The body is read within here, too.
pub(super) async fn in_time(State(within): State<Duration>, request: Request, next: Next) -> Response {
    let answered = tokio::time::timeout(within, next.run(request)).await;
    answered.unwrap_or_else(|_| (StatusCode::REQUEST_TIMEOUT, [(header::CONNECTION, "close")]).into_response())
}

async fn strictly(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in STRICT {
        response.headers_mut().entry(name).or_insert(value);
    }
    response
}
