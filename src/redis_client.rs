//! The one connection to Redis that journal and cache share: connected at first use, every wait bounded, and not asked
//! for a while after it failed several times in a row.
//!
//! The `redis` crate's own connection manager is not used, for three reasons found in its source (1.8.1): it keeps a
//! connection on which commands time out (after a network cut until TCP gives up, some 15 minutes), it keeps for ever
//! a refusal that is not an I/O error ("max number of clients reached"), and it answers the first command after an
//! outage with the failure of its last attempt to connect.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, RedisError, RedisResult, ScriptInvocation};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::Instant;

use crate::key::Key;

/// How Redis is reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `redis://[user:password@]host[:port][/database]`, `rediss://…` for TLS with the system's roots, or
    /// `unix:///path`.
    pub url: SecretString,
    /// Stands before every key, so that several deployments can share one Redis.
    pub key_prefix: String,
    /// Longest wait for a connection, TLS and authentication included.
    pub connection_timeout_milliseconds: u64,
    /// Longest wait for an answer. Journals are read in one answer, so it must have room for a few megabytes.
    pub response_timeout_milliseconds: u64,
    /// After so many failures of the connection in a row Redis is skipped for a while.
    pub breaker_failures: u32,
    /// How long it is skipped before one call tries again.
    pub breaker_open_milliseconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".into(),
            key_prefix: "agentkit:".to_owned(),
            connection_timeout_milliseconds: 250,
            response_timeout_milliseconds: 400,
            breaker_failures: 5,
            breaker_open_milliseconds: 5000,
        }
    }
}

impl Config {
    /// Everything that is wrong, as `field: problem`; the address itself is never repeated.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if redis::Client::open(self.url.expose_secret()).is_err() {
            problems
                .push("url: not an address of a redis server (`redis://host:port`, `rediss://` for tls)".to_owned());
        }
        let positive = [
            ("connection_timeout_milliseconds", self.connection_timeout_milliseconds),
            ("response_timeout_milliseconds", self.response_timeout_milliseconds),
            ("breaker_failures", self.breaker_failures.into()),
            ("breaker_open_milliseconds", self.breaker_open_milliseconds),
        ];
        problems.extend(
            positive.iter().filter(|(_, value)| *value == 0).map(|(name, _)| format!("{name}: must be at least 1")),
        );
        problems
    }
}

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

/// What an operator must know about a Redis server, from its `INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `redis_version`.
    pub version: String,
    /// `role`: `master` or `slave`; a replica refuses writes.
    pub role: String,
    /// `aof_enabled`: without it a restart loses what was written since the last snapshot.
    pub append_only: bool,
    /// `maxmemory_policy`: anything but `noeviction` may evict journals.
    pub eviction_policy: String,
}

/// A shared connection to Redis. Clones share it.
#[derive(Clone)]
pub struct RedisClient(Arc<Inner>);

struct Inner {
    client: redis::Client,
    timeouts: AsyncConnectionConfig,
    longest_call: Duration,
    key_prefix: String,
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

enum Failure {
    /// The server answered with an error; the connection is in order.
    Refused(RedisError),
    /// No connection, or no answer in time.
    Unreachable(RedisError),
    /// The connection broke under the command, as it does when Redis was restarted since the last one.
    Dropped(RedisError),
}

impl RedisClient {
    /// A client for `config`. Nothing is connected yet: a Redis that is down does not stop a start.
    ///
    /// # Errors
    /// Where the address is not one of a Redis server.
    pub fn new(config: &Config) -> Result<Self, Unavailable> {
        let client = redis::Client::open(config.url.expose_secret()).map_err(|error| describe(&error))?;
        let connection_timeout = Duration::from_millis(config.connection_timeout_milliseconds);
        let response_timeout = Duration::from_millis(config.response_timeout_milliseconds);
        Ok(Self(Arc::new(Inner {
            client,
            timeouts: AsyncConnectionConfig::new()
                .set_connection_timeout(Some(connection_timeout))
                .set_response_timeout(Some(response_timeout)),
            longest_call: connection_timeout + response_timeout,
            key_prefix: config.key_prefix.clone(),
            link: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(0),
            breaker: Breaker::new(config.breaker_failures, Duration::from_millis(config.breaker_open_milliseconds)),
        })))
    }

    /// How Redis has answered lately. Asks nothing; see [`RedisClient::ping`].
    pub fn status(&self) -> Status {
        self.0.breaker.status()
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
        self.0.breaker.admit()?;
        let attempts = async {
            match self.attempt(&operation).await {
                Err(Failure::Dropped(_)) if repeatable => self.attempt(&operation).await,
                result => result,
            }
        };
        let result = tokio::time::timeout(self.0.longest_call, attempts).await;
        match result.unwrap_or_else(|_| Err(Failure::Unreachable(io::Error::from(io::ErrorKind::TimedOut).into()))) {
            Ok(value) => {
                self.0.breaker.succeeded();
                Ok(value)
            }
            Err(Failure::Refused(error)) => {
                self.0.breaker.succeeded();
                Err(describe(&error))
            }
            Err(Failure::Unreachable(error) | Failure::Dropped(error)) => {
                let failure = describe(&error);
                self.0.breaker.failed(&failure);
                Err(failure)
            }
        }
    }

    async fn attempt<T, F>(&self, operation: impl Fn(MultiplexedConnection) -> F) -> Result<T, Failure>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let link = self.link().await.map_err(Failure::Unreachable)?;
        let error = match operation(link.connection).await {
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
        let mut made = self.0.connecting.lock().await;
        if let Some(link) = self.present_link() {
            return Ok(link);
        }
        let connection = self.0.client.get_multiplexed_async_connection_with_config(&self.0.timeouts).await?;
        *made += 1;
        let link = Link { number: *made, connection };
        *lock(&self.0.link) = Some(link.clone());
        Ok(link)
    }

    fn present_link(&self) -> Option<Link> {
        lock(&self.0.link).clone()
    }

    /// Gives up connection `number`, unless another task has replaced it already.
    fn forget(&self, number: u64) {
        lock(&self.0.link).take_if(|link| link.number == number);
    }
}

impl fmt::Debug for RedisClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RedisClient").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Facts {
    fn from_info(info: &str) -> Self {
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map_or_else(|| "unknown".to_owned(), |value| value.trim().to_owned())
        };
        Self {
            version: field("redis_version"),
            role: field("role"),
            append_only: field("aof_enabled") == "1",
            eviction_policy: field("maxmemory_policy"),
        }
    }
}

/// Refuses calls for a while after several failures in a row, then lets one through to see.
struct Breaker {
    threshold: u32,
    open_time: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failures: u32,
    failure: Option<Unavailable>,
    /// Set while calls are refused: when the next one may try.
    next_try: Option<Instant>,
}

impl Breaker {
    fn new(threshold: u32, open_time: Duration) -> Self {
        Self { threshold, open_time, state: Mutex::default() }
    }

    fn status(&self) -> Status {
        let state = lock(&self.state);
        Status { available: state.next_try.is_none(), failure: state.failure.as_ref().map(ToString::to_string) }
    }

    fn admit(&self) -> Result<(), Unavailable> {
        let mut state = lock(&self.state);
        let Some(next_try) = state.next_try else {
            return Ok(());
        };
        let now = Instant::now();
        if now < next_try {
            let failure = state.failure.as_ref().map(ToString::to_string).unwrap_or_default();
            return Err(Unavailable(format!(
                "skipped after {} failures in a row, the last: {failure}",
                state.failures
            )));
        }
        // Set before the try: all others are refused meanwhile, and a try that is given up needs no clean-up.
        state.next_try = Some(now + self.open_time);
        Ok(())
    }

    fn succeeded(&self) {
        let mut state = lock(&self.state);
        if state.next_try.is_some() {
            tracing::info!("redis is available again");
        }
        *state = State::default();
    }

    fn failed(&self, failure: &Unavailable) {
        let mut state = lock(&self.state);
        state.failures = state.failures.saturating_add(1);
        state.failure = Some(failure.clone());
        if state.failures < self.threshold {
            return;
        }
        if state.next_try.is_none() {
            tracing::warn!(error = %failure, failures = state.failures, "redis is unavailable, skipping it");
        }
        state.next_try = Some(Instant::now() + self.open_time);
    }
}

fn describe(error: &RedisError) -> Unavailable {
    let text = error.to_string();
    // An "unknown command" answer goes on to quote the arguments, which may be anything.
    let end = text.find(", with args beginning with").unwrap_or(text.len());
    Unavailable(text[..end].to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down() -> Unavailable {
        Unavailable("down".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn the_breaker_opens_after_failures_in_a_row_and_lets_one_call_try_at_a_time() {
        let breaker = Breaker::new(3, Duration::from_secs(5));
        breaker.failed(&down());
        breaker.failed(&down());
        breaker.succeeded();
        breaker.failed(&down());
        breaker.failed(&down());
        assert_eq!(breaker.admit(), Ok(()), "failures are counted in a row only");
        breaker.failed(&down());
        assert!(breaker.admit().is_err());
        assert_eq!(breaker.status(), Status { available: false, failure: Some("down".to_owned()) });

        tokio::time::advance(Duration::from_millis(4999)).await;
        assert!(breaker.admit().is_err());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(breaker.admit(), Ok(()), "one tries");
        assert!(breaker.admit().is_err(), "others wait for what it finds");
        breaker.failed(&down());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(breaker.admit(), Ok(()));
        breaker.succeeded();
        assert_eq!(breaker.admit(), Ok(()));
        assert_eq!(breaker.status(), Status { available: true, failure: None });
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_is_given_up_does_not_keep_the_breaker_open_for_ever() {
        let breaker = Breaker::new(1, Duration::from_secs(5));
        breaker.failed(&down());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(breaker.admit(), Ok(()));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(breaker.admit(), Ok(()));
    }

    #[test]
    fn every_problem_of_the_configuration_is_named_and_no_address_repeated() {
        assert_eq!(Config::default().problems(), Vec::<String>::new());
        let config = Config {
            url: "http://user:hunter2@host".into(),
            response_timeout_milliseconds: 0,
            breaker_failures: 0,
            ..Config::default()
        };
        let problems = config.problems();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(!format!("{problems:?} {config:?} {:?}", RedisClient::new(&config)).contains("hunter2"));
        assert!(toml::from_str::<Config>("urll = \"redis://x\"").is_err());
    }

    #[test]
    fn facts_are_read_from_any_answer() {
        let info =
            "# Server\r\nredis_version:7.0.15\r\nrole:slave\r\naof_enabled:1\r\nmaxmemory_policy:allkeys-lru\r\n";
        let facts = Facts::from_info(info);
        assert_eq!((facts.version.as_str(), facts.role.as_str()), ("7.0.15", "slave"));
        assert!(facts.append_only);
        assert_eq!(facts.eviction_policy, "allkeys-lru");
        for broken in ["", ":", "redis_version", "redis_versions:7", "\0\n\r:::"] {
            assert_eq!(Facts::from_info(broken).version, "unknown", "{broken:?}");
        }
    }

    #[test]
    fn arguments_that_a_server_quotes_are_cut_from_the_failure() {
        let answer = "unknown command 'EVALSHA', with args beginning with: 'hunter2'".to_owned();
        let error = RedisError::from((redis::ErrorKind::Extension, "an error", answer));
        assert!(!describe(&error).0.contains("hunter2"));
        assert!(describe(&error).0.contains("unknown command"));
    }
}
