//! The one way to Redis that journal, cache, digests and parking share.

mod breaker;
mod cluster;
mod config;
mod facts;
mod node;
mod script;
mod slots;
mod wire;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind};
use tokio::time::Instant;

pub use config::Config;
pub use facts::Facts;
pub(crate) use script::{Invocation, Script};

use crate::key::Key;
use cluster::Cluster;
use node::{Failure, Limits, Node, Sending};
use wire::Wire;

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
    servers: Servers,
}

enum Servers {
    One(Box<Node>),
    Cluster(Box<Cluster>),
}

impl RedisClient {
    /// A client for `config`. Nothing is connected yet: a Redis that is down does not stop a start.
    ///
    /// # Errors
    /// Where the address is not one of a Redis server.
    pub fn new(config: &Config) -> Result<Self, Unavailable> {
        let addresses = config.addresses().map_err(|problems| Unavailable(problems.join("; ")))?;
        let limits = Limits::from(config);
        let servers = match &addresses[..] {
            [address] if !config.cluster => Servers::One(Box::new(Node::new(address.clone(), &limits)?)),
            _ => Servers::Cluster(Box::new(Cluster::new(addresses, limits)?)),
        };
        Ok(Self(Arc::new(Inner { key_prefix: config.key_prefix.clone(), servers })))
    }

    /// How Redis has answered lately. Asks nothing; see [`RedisClient::ping`].
    pub fn status(&self) -> Status {
        match &self.0.servers {
            Servers::One(node) => node.status(),
            Servers::Cluster(cluster) => cluster.status(),
        }
    }

    /// Asks for a sign of life, of a cluster every master.
    pub async fn ping(&self) -> Result<(), Unavailable> {
        match &self.0.servers {
            Servers::One(node) => node.ask(&redis::cmd("PING")).await.map_err(|failure| failure.describe()),
            Servers::Cluster(cluster) => cluster.ping().await,
        }
    }

    /// What an operator must know about the server, or about every master of a cluster.
    pub async fn facts(&self) -> Result<Vec<Facts>, Unavailable> {
        match &self.0.servers {
            Servers::One(node) => Ok(vec![Facts::of(node).await.map_err(|failure| failure.describe())?]),
            Servers::Cluster(cluster) => cluster.facts().await,
        }
    }

    /// `key` with this deployment's prefix.
    pub(crate) fn full_key(&self, key: &Key) -> String {
        format!("{}{key}", self.0.key_prefix)
    }

    /// `{prefix}{kind}:{…}` with `part` percent-encoded as the hash tag, which alone decides the slot on a cluster.
    pub(crate) fn tagged_key(&self, kind: &str, part: &str) -> String {
        format!("{}{kind}:{{{}}}", self.0.key_prefix, crate::key::encode(part))
    }

    /// Sends a command, whose first argument is its one key, and which may be sent twice: where the connection turns out
    /// to be broken, it is sent once more over a new one.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Unavailable> {
        let slot = slots::of_command(command);
        self.call(slot, true, |mut wire| async move { command.query_async(&mut wire).await }).await
    }

    /// Sends a command, whose first argument is its one key, and which must not be sent twice.
    pub(crate) async fn query_once<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Unavailable> {
        let slot = slots::of_command(command);
        self.call(slot, false, |mut wire| async move { command.query_async(&mut wire).await }).await
    }

    /// Runs a script that may run twice, by its digest; Redis is sent the text where it does not know it.
    pub(crate) async fn run<T: FromRedisValue>(&self, script: &Invocation<'_>) -> Result<T, Unavailable> {
        self.call(script.slot, true, |mut wire| async move { script.script.invoke_async(&mut wire).await }).await
    }

    async fn call<T, F>(&self, slot: u16, repeatable: bool, operation: impl Fn(Wire) -> F) -> Result<T, Unavailable>
    where
        F: Future<Output = RedisResult<T>>,
    {
        match &self.0.servers {
            Servers::One(node) => {
                let sending = Sending { repeatable, asking: false, deadline: Instant::now() + node.longest_call };
                node.call(sending, operation).await.map_err(|failure| of_one(&failure))
            }
            Servers::Cluster(cluster) => cluster.call(slot, repeatable, operation).await,
        }
    }
}

/// Why a server that is taken for the only one did not do it.
fn of_one(failure: &Failure) -> Unavailable {
    let cause = failure.describe();
    match failure {
        Failure::Refused(error)
            if error.is_cluster_error() || error.kind() == ErrorKind::Server(ServerErrorKind::CrossSlot) =>
        {
            Unavailable(format!("this is a node of a redis cluster: set redis.cluster = true ({cause})"))
        }
        _ => cause,
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
