//! One Redis server: connected at first use, every wait bounded, and not asked for a while after it failed several
//! times in a row.
//!
//! The `redis` crate's own connection manager is not used, for three reasons found in its source (1.8.1): it keeps a
//! connection on which commands time out (after a network cut until TCP gives up, some 15 minutes), it keeps for ever
//! a refusal that is not an I/O error ("max number of clients reached"), and it answers the first command after an
//! outage with the failure of its last attempt to connect.

use std::future::Future;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue, RedisError, RedisResult,
};
use tokio::time::{Instant, timeout_at};

use super::breaker::Breaker;
use super::wire::Wire;
use super::{Config, Status, Unavailable, lock};

/// How long a server is waited for, and how often in vain.
pub(super) struct Limits {
    timeouts: AsyncConnectionConfig,
    /// A call lasts no longer: one connection and one answer.
    pub(super) longest_call: Duration,
    breaker_failures: u32,
    breaker_open: Duration,
}

impl From<&Config> for Limits {
    fn from(config: &Config) -> Self {
        let connection_timeout = Duration::from_millis(config.connection_timeout_milliseconds);
        let response_timeout = Duration::from_millis(config.response_timeout_milliseconds);
        Self {
            timeouts: AsyncConnectionConfig::new()
                .set_connection_timeout(Some(connection_timeout))
                .set_response_timeout(Some(response_timeout)),
            longest_call: connection_timeout + response_timeout,
            breaker_failures: config.breaker_failures,
            breaker_open: Duration::from_millis(config.breaker_open_milliseconds),
        }
    }
}

/// How a command is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sending {
    /// Whether it may be sent twice.
    pub(super) repeatable: bool,
    /// See [`Wire`].
    pub(super) asking: bool,
    /// When the answer comes too late.
    pub(super) deadline: Instant,
}

/// A server and the one connection to it.
pub(super) struct Node {
    /// `host:port`, or the path of a socket.
    pub(super) server: String,
    client: Client,
    timeouts: AsyncConnectionConfig,
    pub(super) longest_call: Duration,
    link: Mutex<Option<Link>>,
    /// Held while connecting, so that one task connects for all; counts the connections made.
    connecting: tokio::sync::Mutex<u64>,
    breaker: Breaker,
}

#[derive(Clone)]
struct Link {
    number: u64,
    connection: MultiplexedConnection,
}

/// Why a server did not do it.
pub(super) enum Failure {
    /// It answered with an error; the connection is in order.
    Refused(RedisError),
    /// No connection, or no answer in time.
    Unreachable(RedisError),
    /// The connection broke under the command, as it does when Redis was restarted since the last one.
    Dropped(RedisError),
    /// It was not asked.
    Skipped(Unavailable),
}

impl Failure {
    /// The cause in words, without a secret.
    pub(super) fn describe(&self) -> Unavailable {
        match self {
            Self::Refused(error) | Self::Unreachable(error) | Self::Dropped(error) => describe(error),
            Self::Skipped(reason) => reason.clone(),
        }
    }
}

impl Node {
    /// # Errors
    /// Where the address is of a kind that this program was built without.
    pub(super) fn new(address: ConnectionInfo, limits: &Limits) -> Result<Self, Unavailable> {
        let server = address.addr().to_string();
        Ok(Self {
            server: server.clone(),
            client: Client::open(address).map_err(|error| describe(&error))?,
            timeouts: limits.timeouts.clone(),
            longest_call: limits.longest_call,
            link: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(0),
            breaker: Breaker::new(server, limits.breaker_failures, limits.breaker_open),
        })
    }

    /// The host of its address; empty where that is a socket's.
    pub(super) fn host(&self) -> &str {
        match self.client.get_connection_info().addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
            _ => "",
        }
    }

    /// How the server has answered lately.
    pub(super) fn status(&self) -> Status {
        self.breaker.status()
    }

    /// Asks this very server something that changes nothing.
    pub(super) async fn ask<T: FromRedisValue>(&self, question: &Cmd) -> Result<T, Failure> {
        let deadline = Instant::now() + self.longest_call;
        let sending = Sending { repeatable: true, asking: false, deadline };
        self.call(sending, |mut wire| async move { question.query_async(&mut wire).await }).await
    }

    /// Does `operation` over the connection. Where it may be repeated and the connection turns out to be broken, it is
    /// done once more over a new one.
    pub(super) async fn call<T, F>(&self, sending: Sending, operation: impl Fn(Wire) -> F) -> Result<T, Failure>
    where
        F: Future<Output = RedisResult<T>>,
    {
        self.breaker.admit().map_err(Failure::Skipped)?;
        let attempts = async {
            match self.attempt(sending.asking, &operation).await {
                Err(Failure::Dropped(_)) if sending.repeatable => self.attempt(sending.asking, &operation).await,
                result => result,
            }
        };
        let timed_out = |_| Err(Failure::Unreachable(io::Error::from(io::ErrorKind::TimedOut).into()));
        let result = timeout_at(sending.deadline, attempts).await.unwrap_or_else(timed_out);
        match &result {
            Ok(_) | Err(Failure::Refused(_)) => self.breaker.succeeded(),
            Err(failure) => self.breaker.failed(&failure.describe()),
        }
        result
    }

    async fn attempt<T, F>(&self, asking: bool, operation: impl Fn(Wire) -> F) -> Result<T, Failure>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let link = self.link().await.map_err(Failure::Unreachable)?;
        let error = match operation(Wire { connection: link.connection, asking }).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if !error.is_io_error() && !error.is_unrecoverable_error() {
            return Err(Failure::Refused(error));
        }
        self.forget(link.number);
        if error.is_connection_dropped() { Err(Failure::Dropped(error)) } else { Err(Failure::Unreachable(error)) }
    }

    async fn link(&self) -> RedisResult<Link> {
        if let Some(link) = self.present_link() {
            return Ok(link);
        }
        let mut made = self.connecting.lock().await;
        if let Some(link) = self.present_link() {
            return Ok(link);
        }
        let connection = self.client.get_multiplexed_async_connection_with_config(&self.timeouts).await?;
        *made += 1;
        let link = Link { number: *made, connection };
        *lock(&self.link) = Some(link.clone());
        Ok(link)
    }

    fn present_link(&self) -> Option<Link> {
        lock(&self.link).clone()
    }

    /// Gives up connection `number`, unless another task has replaced it already.
    fn forget(&self, number: u64) {
        lock(&self.link).take_if(|link| link.number == number);
    }
}

fn describe(error: &RedisError) -> Unavailable {
    let text = error.to_string();
    // An "unknown command" answer goes on to quote the arguments, which may be anything.
    let end = text.find(", with args beginning with").unwrap_or(text.len());
    Unavailable(text[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_a_server_quotes_are_cut_from_the_failure() {
        let answer = "unknown command 'EVALSHA', with args beginning with: 'hunter2'".to_owned();
        let error = RedisError::from((redis::ErrorKind::Extension, "an error", answer));
        assert!(!describe(&error).0.contains("hunter2"));
        assert!(describe(&error).0.contains("unknown command"));
    }
}
