//! The only place that speaks HTTP to the outside: one client with bounded time and bodies, and errors that say whether
//! a request can have reached its peer.
//!
//! Nothing is repeated here. Redirects are not followed (a redirected POST is sent twice), reqwest's own retry is off,
//! and HTTP/1.1 is spoken only. What remains is hyper's resend on a pooled connection that turned out to be closed: it
//! happens only while the request still waits in the connection's queue, so no byte of it was written (read in
//! hyper 1.12 `proto/h1/dispatch.rs` and hyper-util 0.1.21 `client/legacy/client.rs`).

mod body;
mod bounded;
mod builder;
mod config;
mod public;
mod redaction;
mod request;
mod retry_after;
mod room;

use std::borrow::Cow;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use url::Url;

pub use self::body::Body;
pub use self::bounded::parse as parse_bounded;
use self::builder::{builder, proxy};
pub use self::config::Config;
pub use self::public::{addresses_of, is_public};
use self::redaction::EXCERPT_CHARACTERS;
pub use self::redaction::{excerpt, redacted};
pub use self::request::{Method, Request};
use self::retry_after::{retry_after, used_up};
use self::room::{FREE_BYTES, Held, Room};
use crate::agent::effect::Ran;
use crate::clock::SharedClock;
use crate::transport::{self, TlsConfig};

/// Sends requests. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    inner: reqwest::Client,
    clock: SharedClock,
    max_body_bytes: usize,
    room: Room,
    /// Why no `https` address can be called, if none can.
    no_tls: Option<String>,
    /// The section of the configuration that says whom TLS trusts.
    tls_keys: Cow<'static, str>,
}

/// A whole answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Response {
    /// The HTTP status; 400 and more are answers like any other, no [`HttpError`].
    pub status: u16,
    /// How long the peer wants to be left alone: `retry-after-ms`, else `retry-after` in seconds or as an HTTP date, else, of a
    /// 429, until what its `anthropic-ratelimit-…` headers call used up is there again.
    pub retry_after: Option<Duration>,
    /// `x-request-id` or `request-id`, for the peer's support.
    pub request_id: Option<String>,
    /// `x-should-retry`, the peer's own word on a repeat.
    pub should_retry: Option<bool>,
    /// The media type with its parameters, such as `application/json; charset=utf-8`.
    pub content_type: Option<String>,
    /// `mcp-session-id`, of MCP servers that keep sessions.
    pub session_id: Option<String>,
    /// Whether it says how to authenticate (`www-authenticate`).
    pub wants_authentication: bool,
    /// The body, not longer than the configured limit.
    pub body: Bytes,
    /// The room of a large one, for as long as it is there.
    pub room: Option<Held>,
}

/// Why there is no whole answer. Hosts are named, addresses are not: a query can hold what nobody should read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The name was not found, or no connection or TLS session came about: no byte of the request left.
    #[error("{host} cannot be reached: {reason}")]
    NotSent {
        /// The host of the URL, without path or query.
        host: String,
        /// What went wrong.
        reason: String,
    },
    /// The request was on its way, and no whole answer came in time.
    #[error("{host} gave no answer within {} s", after.as_secs_f64())]
    TimedOut {
        /// The host of the URL, without path or query.
        host: String,
        /// The limit that was used up.
        after: Duration,
    },
    /// The connection broke after the request had set out, or the answer was cut off or is no HTTP.
    #[error("the connection to {host} broke: {reason}")]
    Broken {
        /// The host of the URL, without path or query.
        host: String,
        /// What went wrong.
        reason: String,
    },
    /// The answer is larger than allowed.
    #[error("the answer of {host} (status {status}) is larger than {limit} bytes")]
    BodyTooLarge {
        /// The host of the URL, without path or query.
        host: String,
        /// The HTTP status.
        status: u16,
        /// The limit in bytes.
        limit: usize,
    },
    /// The request or the configuration is wrong; nothing was sent.
    #[error("{0}")]
    Invalid(String),
}

impl HttpError {
    /// Whether the request can have had an effect.
    pub fn ran(&self) -> Ran {
        match self {
            Self::NotSent { .. } | Self::Invalid(_) => Ran::No,
            Self::TimedOut { .. } | Self::Broken { .. } | Self::BodyTooLarge { .. } => Ran::Perhaps,
        }
    }
}

impl Client {
    /// A client as `config` says, which trusts the system's authorities. Without any of those it still calls `http`
    /// addresses, and refuses `https` ones with words that say what to install.
    pub fn new(config: &Config, clock: SharedClock) -> Result<Self, HttpError> {
        Self::with_tls(config, &TlsConfig::default(), "tls", clock)
    }

    /// The same with certificates of one's own, which the section `tls_keys` of the configuration names.
    pub fn with_tls(
        config: &Config,
        tls: &TlsConfig,
        tls_keys: impl Into<Cow<'static, str>>,
        clock: SharedClock,
    ) -> Result<Self, HttpError> {
        transport::choose_provider();
        let tls_keys = tls_keys.into();
        let proxy = config.proxy.as_ref().map(proxy).transpose()?;
        let own = match tls.is_empty() {
            true => None,
            false => Some(tls.client().map_err(|problem| HttpError::Invalid(format!("{tls_keys}.{problem}")))?),
        };
        let preset = match own {
            Some(own) => builder(config, proxy.clone()).tls_backend_preconfigured(own),
            None => builder(config, proxy.clone()),
        };
        let (inner, no_tls) = match preset.build() {
            Ok(client) => (client, None),
            Err(error) => {
                let reason = format!("TLS cannot be used (install ca-certificates): {}", words(&error));
                let client = builder(config, proxy).tls_certs_only([]).build();
                (client.map_err(|error| HttpError::Invalid(words(&error)))?, Some(reason))
            }
        };
        let room = Room::of(config.large_bodies_bytes.max(config.max_body_bytes));
        Ok(Self { inner, clock, max_body_bytes: config.max_body_bytes, room, no_tls, tls_keys })
    }

    /// Sends a request once and reads the whole answer. Every HTTP status is an answer.
    pub async fn send(&self, request: Request) -> Result<Response, HttpError> {
        self.send_until(request, |_, _| false).await
    }

    /// The same for answers that may go on after all that is wanted of them was said: `is_enough` is asked with the head and the
    /// whole body so far, each time that more has come. What it wants no more of is cut off.
    pub async fn send_until(
        &self,
        request: Request,
        mut is_enough: impl FnMut(&Response, &[u8]) -> bool + Send,
    ) -> Result<Response, HttpError> {
        if request.url.scheme() == "https"
            && let Some(reason) = &self.no_tls
        {
            return Err(HttpError::Invalid(reason.clone()));
        }
        let host = host(&request.url);
        let (after, began) = (request.timeout, Instant::now());
        let late = |_| HttpError::TimedOut { host: host.clone(), after };
        let mut begun =
            tokio::time::timeout(after, self.begin(request, &mut is_enough, &host)).await.map_err(late)??;
        let left = after.saturating_sub(began.elapsed());
        if begun.rest.is_some() {
            // What is waited for here is our own room, and no fault of the peer's.
            begun.response.room = Some(self.room.take(begun.size).await);
            tokio::time::timeout(left, self.read(&mut begun, usize::MAX, &mut is_enough, &host))
                .await
                .map_err(late)??;
        }
        Ok(Response { body: begun.body.freeze(), ..begun.response })
    }

    /// Sends a request, and reads an answer that needs no room; the beginning of one that does.
    async fn begin(&self, request: Request, is_enough: &mut IsEnough<'_>, host: &str) -> Result<Begun, HttpError> {
        let method = match request.method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
        };
        let mut builder = self.inner.request(method, request.url.clone());
        for (name, value, is_secret) in request.all_headers() {
            let value = reqwest::header::HeaderValue::from_str(value);
            let mut value = value.map_err(|_| HttpError::Invalid(format!("not a value of the header {name}")))?;
            value.set_sensitive(is_secret);
            builder = builder.header(name, value);
        }
        if let Some(body) = request.body {
            builder = builder.body(reqwest::Body::wrap(body));
        }
        let answer = builder.send().await.map_err(|error| self.failure(&error, host))?;
        let text = |name: &str| Some(answer.headers().get(name)?.to_str().ok()?.trim().to_owned());
        let now = self.clock.now();
        let response = Response {
            status: answer.status().as_u16(),
            retry_after: retry_after(text("retry-after-ms"), text("retry-after"), now)
                .or_else(|| used_up(text, now).filter(|_| answer.status() == reqwest::StatusCode::TOO_MANY_REQUESTS)),
            request_id: text("x-request-id").or_else(|| text("request-id")),
            should_retry: text("x-should-retry").and_then(|text| text.parse().ok()),
            content_type: text("content-type"),
            session_id: text("mcp-session-id"),
            wants_authentication: answer.headers().contains_key("www-authenticate"),
            body: Bytes::new(),
            room: None,
        };
        // Unknown where it comes in chunks, or compressed.
        let length = answer.content_length().and_then(|length| usize::try_from(length).ok());
        let size = length.unwrap_or(usize::MAX).min(self.max_body_bytes);
        let mut begun = Begun { response, body: BytesMut::new(), size, rest: Some(answer) };
        self.read(&mut begun, FREE_BYTES, is_enough, host).await?;
        Ok(begun)
    }

    /// Reads on, until the answer ends, is longer than `most`, or says enough.
    async fn read(
        &self,
        begun: &mut Begun,
        most: usize,
        is_enough: &mut IsEnough<'_>,
        host: &str,
    ) -> Result<(), HttpError> {
        let Begun { response, body, size, rest } = begun;
        let Some(answer) = rest else { return Ok(()) };
        if most > *size {
            body.reserve(size.saturating_sub(body.len()));
        }
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.failure(&error, host))? {
            if body.len() + chunk.len() > self.max_body_bytes {
                let (host, status, limit) = (host.to_owned(), response.status, self.max_body_bytes);
                return Err(HttpError::BodyTooLarge { host, status, limit });
            }
            body.extend_from_slice(&chunk);
            if is_enough(response, body) {
                break;
            }
            if body.len() > most {
                return Ok(());
            }
        }
        *rest = None;
        Ok(())
    }

    fn failure(&self, error: &reqwest::Error, host: &str) -> HttpError {
        let host = host.to_owned();
        // With TLS 1.3 a peer says only after our first bytes that it wants another certificate; it has read none of them.
        if let Some(reason) = transport::failure(error, &self.tls_keys) {
            return HttpError::NotSent { host, reason };
        }
        let reason = words(error);
        if error.is_builder() {
            HttpError::Invalid(format!("not a request for {host}: {reason}"))
        } else if error.is_connect() {
            HttpError::NotSent { host, reason }
        } else {
            HttpError::Broken { host, reason }
        }
    }
}

/// See [`Client::send_until`].
type IsEnough<'a> = dyn FnMut(&Response, &[u8]) -> bool + Send + 'a;

/// An answer of which a part is read.
struct Begun {
    response: Response,
    body: BytesMut,
    /// How long it will be at most.
    size: usize,
    /// Where more may come.
    rest: Option<reqwest::Response>,
}

fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or("(no host)");
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What an error and its sources say, without reqwest's own first line, which holds the address.
fn words(error: &reqwest::Error) -> String {
    let mut words = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        words.push(error.to_string());
        source = error.source();
    }
    words.dedup();
    redacted(&words.join(": "), EXCERPT_CHARACTERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_never_left_is_proven_not_to_have_run() {
        let host = || "h".to_owned();
        let errors = [
            (HttpError::NotSent { host: host(), reason: host() }, Ran::No),
            (HttpError::Invalid(host()), Ran::No),
            (HttpError::TimedOut { host: host(), after: Duration::ZERO }, Ran::Perhaps),
            (HttpError::Broken { host: host(), reason: host() }, Ran::Perhaps),
            (HttpError::BodyTooLarge { host: host(), status: 200, limit: 1 }, Ran::Perhaps),
        ];
        for (error, ran) in errors {
            assert_eq!(error.ran(), ran, "{error}");
        }
    }
}
