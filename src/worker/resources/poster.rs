//! POSTs replies to the addresses that jobs name: signed, to public hosts alone, without following where they lead.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::{Host, Url};

use crate::clock::SharedClock;
use crate::http::{self, Client, HttpError, Method, Request, addresses_of, is_public};
use crate::reply::CONTENT_TYPE;
use crate::retry::Policy;
use crate::webhook::Secrets;

/// Longest time for one request and its answer.
const WITHIN: Duration = Duration::from_secs(10);
/// Bytes of an answer, of which nothing is needed.
const MOST_ANSWER: usize = 64 << 10;

/// Where replies may be POSTed, and by what they are known for ours; see `config/default.toml`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplyUrlConfig {
    /// What replies are signed with: `whsec_` and base64, several separated by commas while one is replaced. Without one no
    /// job may name an address.
    #[serde(default)]
    #[schemars(with = "String")]
    pub secret: SecretString,
    /// The same, in a file.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// `host` or `host:port` that may be private, and plain http.
    pub allowed_hosts: Vec<String>,
    /// How often a reply is POSTed, and what is waited in between.
    pub retry: Policy,
}

impl ReplyUrlConfig {
    /// What is wrong with it, as `field: problem`.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.secrets().err().into_iter().collect()
    }

    fn secrets(&self) -> Result<Secrets, String> {
        let secret = match &self.secret_file {
            Some(path) => SecretString::from(
                std::fs::read_to_string(path)
                    .map_err(|error| format!("secret_file: it cannot be read: {error}"))?
                    .trim()
                    .to_owned(),
            ),
            None => self.secret.expose_secret().to_owned().into(),
        };
        Secrets::parse(&secret).map_err(|problem| format!("secret: {problem}"))
    }
}

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Posted {
    /// It was taken.
    Delivered,
    /// Nobody wants it there any more.
    Gone,
    /// It must not go there.
    Forbidden(&'static str),
    /// It was not taken, or nobody knows; and how long the other side wants to be left alone.
    Failed { reason: String, retry_after: Option<Duration> },
}

/// POSTs replies.
pub(crate) struct Poster {
    secrets: Secrets,
    allowed_hosts: Vec<String>,
    pub(crate) retry: Policy,
    /// For public hosts.
    guarded: Client,
    /// For those that the operator allows.
    trusted: Client,
    clock: SharedClock,
}

impl Poster {
    /// As configured.
    ///
    /// # Errors
    /// In words that do not repeat a secret.
    pub(crate) fn new(config: &ReplyUrlConfig, http: &http::Config, clock: SharedClock) -> Result<Self, String> {
        // Each attempt has a connection of its own: none is kept that was looked at before.
        let http = http::Config { max_body_bytes: MOST_ANSWER, pool_idle_milliseconds: 0, ..http.clone() };
        let words = |error: HttpError| error.to_string();
        Ok(Self {
            secrets: config.secrets()?,
            allowed_hosts: config.allowed_hosts.clone(),
            retry: config.retry,
            guarded: Client::public_only(&http, clock.clone()).map_err(words)?,
            trusted: Client::new(&http::Config { proxy: None, ..http }, clock.clone()).map_err(words)?,
            clock,
        })
    }

    /// Why no job may name this address, if so.
    pub(crate) fn objection(&self, address: &str) -> Option<&'static str> {
        if self.secrets.is_empty() {
            return Some("this worker has no `reply_url.secret` to sign with");
        }
        let Ok(url) = Url::parse(address) else { return Some("not an address") };
        if !url.username().is_empty() || url.password().is_some() {
            return Some("must not hold a user or a password");
        }
        let Some(host) = url.host() else { return Some("must name a host") };
        if self.is_allowed(&url) {
            return (!["http", "https"].contains(&url.scheme())).then_some("must be an https address");
        }
        if url.scheme() != "https" {
            return Some("must be an https address");
        }
        let literal = match host {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        };
        literal.is_some_and(|address| !is_public(address)).then_some("its address is not public")
    }

    fn is_allowed(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
        let names = |allowed: &String| allowed == host || Some(allowed) == with_port.as_ref();
        self.allowed_hosts.iter().any(names)
    }

    /// POSTs the event `id`, once.
    pub(crate) async fn post(&self, address: &str, id: &str, body: Bytes) -> Posted {
        if let Some(objection) = self.objection(address) {
            return Posted::Forbidden(objection);
        }
        let Ok(url) = Url::parse(address) else { return Posted::Forbidden("not an address") };
        let client = if self.is_allowed(&url) { &self.trusted } else { &self.guarded };
        if let (Some(Host::Domain(host)), false) = (url.host(), self.is_allowed(&url)) {
            match tokio::time::timeout(WITHIN, addresses_of(host)).await {
                Ok(Ok(found)) if !found.iter().all(|address| is_public(*address)) => {
                    return Posted::Forbidden("its address is not public");
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Posted::Failed { reason: error.to_string(), retry_after: None },
                Err(_) => {
                    return Posted::Failed { reason: "its name is not found in time".to_owned(), retry_after: None };
                }
            }
        }
        let timestamp = self.clock.now().as_second().to_string();
        let signature = self.secrets.sign(id, &timestamp, &body);
        let request = Request::new(Method::Post, url, WITHIN)
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(CONTENT_TYPE, body.to_vec());
        let (status, retry_after) = match client.send(request).await {
            Ok(answer) => (answer.status, answer.retry_after),
            Err(HttpError::BodyTooLarge { status, .. }) => (status, None),
            Err(error) => return Posted::Failed { reason: error.to_string(), retry_after: None },
        };
        match status {
            200..300 => Posted::Delivered,
            410 => Posted::Gone,
            429 | 503 => Posted::Failed { reason: format!("status {status}"), retry_after },
            _ => Posted::Failed { reason: format!("status {status}"), retry_after: None },
        }
    }
}
