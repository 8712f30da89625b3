#![doc = include_str!("README.md")]

mod answer;
mod config;
mod content;
mod error;
mod event_stream;
mod handshake;
mod mirror;
mod negotiation;
mod post;
mod secrets;
mod session;
mod tools;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::OnceCell;
use url::Url;

use self::mirror::Mirror;
use self::session::Session;
use crate::http;
use crate::retry::Policy;

pub use self::config::{HintTrust, McpConfig};
pub use self::error::{McpError, McpFailure};
pub use self::tools::{CallRequest, Called, ListedTools};

/// Sessions that are kept at most, and for how long after their last use: a server forgets them at some time, too.
const MOST_SESSIONS: u64 = 10_000;
const SESSION_IDLE: Duration = Duration::from_mins(10);

/// One MCP endpoint and what is known of it.
pub struct Endpoint {
    url: Url,
    headers: Vec<(String, SecretString)>,
    timeout: Duration,
    retry: Policy,
    http: http::Client,
    /// Of this address: one origin may have servers of both eras.
    era: Mutex<Option<Era>>,
    /// Of servers of the legacy era, by [`Caller::session`].
    sessions: moka::future::Cache<String, Arc<OnceCell<Arc<Session>>>>,
    /// Which arguments go into headers, by the tool's name, as the last list said. None was read before it is there.
    mirrors: Mutex<Option<Arc<Mirrors>>>,
    next_id: AtomicU64,
}

/// By the tool's name.
type Mirrors = BTreeMap<String, Vec<Mirror>>;

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Era {
    /// From revision 2026-07-28 on: every request stands alone.
    Modern,
    /// Up to 2025-11-25: `initialize` first, then requests in its session.
    Legacy,
}

/// For whom something is asked.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Whose session it is, where the server keeps sessions: what one user's calls leave there is not another's.
    pub session: &'a str,
    /// Sent as `Authorization: Bearer` beside the endpoint's own headers.
    pub bearer: Option<&'a SecretString>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Endpoint").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// The server that `config` names, or what is wrong with its address. `retry` is for requests that run no tool. Nothing is
    /// called yet.
    pub fn new(config: &McpConfig, retry: Policy, http: http::Client) -> Result<Self, String> {
        let url = config::endpoint(&config.url)?;
        let headers = config.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Ok(Self { headers, ..Self::at(url, Duration::from_secs(config.timeout_seconds), retry, http) })
    }

    /// The same without headers of its own.
    pub fn at(url: Url, timeout: Duration, retry: Policy, http: http::Client) -> Self {
        Self {
            url,
            headers: Vec::new(),
            timeout,
            retry,
            http,
            era: Mutex::default(),
            sessions: moka::future::Cache::builder().max_capacity(MOST_SESSIONS).time_to_idle(SESSION_IDLE).build(),
            mirrors: Mutex::default(),
            next_id: AtomicU64::new(1),
        }
    }

    /// Its address, as it was configured.
    pub fn address(&self) -> &Url {
        &self.url
    }

    fn era(&self) -> Option<Era> {
        *self.era.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn_era(&self, era: Option<Era>) {
        *self.era.lock().unwrap_or_else(PoisonError::into_inner) = era;
    }
}
