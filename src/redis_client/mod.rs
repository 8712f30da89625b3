//! The one way to Redis that journal, cache, digests and parking share.

mod breaker;
mod config;
mod facts;
mod node;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, FromRedisValue, RedisResult, ScriptInvocation};
use secrecy::ExposeSecret;
use tokio::time::Instant;

pub use config::Config;
pub use facts::Facts;

use crate::key::Key;
use node::{Limits, Node};

/// Redis did not do it: not reached, not in time, or refused (read-only, out of memory, loading). What a timed-out
/// command did is not known. The text names the cause and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// How Redis has answered lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whether commands are sent to it at present; false while it is being skipped.
    pub available: bool,
    /// Why the connection last failed; empty again after the first success.
    pub failure: Option<String>,
}

/// The shared way to Redis. Clones share it.
#[derive(Clone)]
pub struct RedisClient(Arc<Inner>);

struct Inner {
    key_prefix: String,
    limits: Limits,
    node: Node,
}

impl RedisClient {
    /// A client for `config`. Nothing is connected yet: a Redis that is down does not stop a start.
    ///
    /// # Errors
    /// Where the address is not one of a Redis server.
    pub fn new(config: &Config) -> Result<Self, Unavailable> {
        let client =
            Client::open(config.url.expose_secret()).map_err(|_| Unavailable(config.problems().join("; ")))?;
        let limits = Limits::from(config);
        let node = Node::new(client, &limits);
        Ok(Self(Arc::new(Inner { key_prefix: config.key_prefix.clone(), limits, node })))
    }

    /// How Redis has answered lately. Asks nothing; see [`RedisClient::ping`].
    pub fn status(&self) -> Status {
        self.0.node.status()
    }

    /// Asks for a sign of life.
    pub async fn ping(&self) -> Result<(), Unavailable> {
        self.query::<()>(&redis::cmd("PING")).await
    }

    /// What an operator must know about the server.
    pub async fn facts(&self) -> Result<Facts, Unavailable> {
        let answer: Vec<u8> = self.query(&redis::cmd("INFO")).await?;
        Ok(Facts::from_info(&String::from_utf8_lossy(&answer)))
    }

    /// `key` with this deployment's prefix.
    pub(crate) fn full_key(&self, key: &Key) -> String {
        format!("{}{key}", self.0.key_prefix)
    }

    /// `{prefix}{kind}:{…}` with `part` percent-encoded as the hash tag, which alone decides the slot on a cluster.
    pub(crate) fn tagged_key(&self, kind: &str, part: &str) -> String {
        format!("{}{kind}:{{{}}}", self.0.key_prefix, crate::key::encode(part))
    }

    /// Sends a command that may be sent twice: where the connection turns out to be broken, it is sent once more over
    /// a new one.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Unavailable> {
        self.call(true, |mut connection| async move { command.query_async(&mut connection).await }).await
    }

    /// Sends a command that must not be sent twice.
    pub(crate) async fn query_once<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Unavailable> {
        self.call(false, |mut connection| async move { command.query_async(&mut connection).await }).await
    }

    /// Runs a script that may run twice, by its digest; Redis is sent the text where it does not know it.
    pub(crate) async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, Unavailable> {
        self.call(true, |mut connection| async move { script.invoke_async(&mut connection).await }).await
    }

    async fn call<T, F>(
        &self,
        repeatable: bool,
        operation: impl Fn(MultiplexedConnection) -> F,
    ) -> Result<T, Unavailable>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let deadline = Instant::now() + self.0.limits.longest_call;
        self.0.node.call(repeatable, deadline, operation).await.map_err(|failure| failure.describe())
    }
}

impl fmt::Debug for RedisClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RedisClient").field("status", &self.status()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
