//! The one way to Redis that journal, cache, digests and parking share: connected at first use, every wait bounded, and
//! not asked for a while after it failed several times in a row.
//!
//! The `redis` crate's own connection manager is not used, for three reasons found in its source (1.8.1): it keeps a
//! connection on which commands time out (after a network cut until TCP gives up, some 15 minutes), it keeps for ever
//! a refusal that is not an I/O error ("max number of clients reached"), and it answers the first command after an
//! outage with the failure of its last attempt to connect.
//!
//! A Redis Cluster is left to the crate's cluster connection, with what that costs. A command may be sent twice, be it
//! one of [`RedisClient::query_once`]. While a node hangs, calls to the others fail or wait for a second now and then:
//! the crate answers nobody while it reads the map of slots, and it loads a new script on all masters or none. One
//! breaker stands for all nodes: where only a failing one is asked, the others are skipped with it for a while.

mod breaker;
mod config;
mod connection;
mod durability;
mod facts;
mod fullness;
mod health;
mod scan;
mod sentinel;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use redis::{Cmd, FromRedisValue, RedisError, RedisResult, ScriptInvocation, cmd, from_redis_value};
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use config::Config;
pub use durability::Durability;
pub use facts::ServerFacts;
pub(crate) use scan::KeyScan;

use crate::key::Key;
use crate::transport;
use breaker::Breaker;
use connection::{RedisConnection, Target};
use durability::DurableWrites;
use fullness::Fullness;
use health::Health;

/// Redis did not do it: not reached, not in time, or refused (read-only, out of memory, loading). What a timed-out
/// command did is not known. The text names the cause and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// What Redis says of a command that needs memory which it must not take, alone or in a script.
const FULL: &str = "command not allowed when used memory";

impl Unavailable {
    /// Whether Redis has no room for it.
    pub(crate) fn is_full(&self) -> bool {
        self.0.contains(FULL)
    }

    /// Whether the server takes no script over keys of several slots.
    pub(crate) fn is_cross_slot(&self) -> bool {
        self.0.contains("hash to the same slot")
    }
}

/// How Redis has answered lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whether commands are sent to it at present; false while it is being skipped.
    pub available: bool,
    /// Why the connection last failed; empty again after the first success.
    pub failure: Option<String>,
}

/// A shared connection to Redis. Clones share it.
#[derive(Clone)]
pub struct RedisClient(Arc<Inner>);

struct Inner {
    target: Target,
    /// Its addresses, for those who read of a failure.
    peers: String,
    longest_call: Duration,
    /// So old a link to a cluster is given up where a command times out; a younger one is kept.
    link_age: Duration,
    key_prefix: String,
    link: Mutex<Option<Made>>,
    /// Held while connecting, so that one task connects for all; counts the connections made.
    connecting: tokio::sync::Mutex<u64>,
    breaker: Breaker,
    /// For commands that are out: a server works them off one after another, and the last of thousands that were sent at once
    /// would be taken for one that it does not answer.
    places: Semaphore,
    fullness: Fullness,
    health: Health,
    durable: DurableWrites,
}

/// Commands that wait for their answers at the same time; the others wait for a place. A server a millisecond away answers
/// over a hundred thousand a second so.
const MOST_AT_ONCE: usize = 128;

#[derive(Clone)]
struct Made {
    number: u64,
    at: Instant,
    link: RedisConnection,
}

enum Failure {
    /// The server answered with an error; the connection is in order.
    Refused(RedisError),
    /// No connection, or no answer in time.
    Unreachable(RedisError),
    /// The connection broke under the command, as it does when Redis was restarted since the last one, or its server is the
    /// master no longer.
    Dropped(RedisError),
}

impl RedisClient {
    /// A client for `config`. Nothing is connected yet: a Redis that is down does not stop a start.
    ///
    /// # Errors
    /// Where the address is not one of a Redis server.
    pub fn new(config: &Config) -> Result<Self, Unavailable> {
        let target = Target::new(config)?;
        let once = Duration::from_millis(config.connection_timeout_milliseconds)
            + Duration::from_millis(config.response_timeout_milliseconds);
        let open_time = Duration::from_millis(config.breaker_open_milliseconds);
        Ok(Self(Arc::new(Inner {
            // The second time is for the node that the first one names, or for a cluster's map of slots.
            longest_call: if target.is_looked_up() { 2 * once } else { once },
            link_age: open_time,
            target,
            peers: config.peers().into_iter().map(|peer| peer.address).collect::<Vec<_>>().join(", "),
            key_prefix: config.key_prefix.clone(),
            link: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(0),
            breaker: Breaker::new(config.breaker_failures, open_time),
            places: Semaphore::new(MOST_AT_ONCE),
            fullness: Fullness::default(),
            health: Health::default(),
            durable: DurableWrites::new(config),
        })))
    }

    /// How Redis has answered lately. Asks nothing; see [`RedisClient::ping`].
    pub fn status(&self) -> Status {
        self.0.breaker.status()
    }

    /// Whether it has lately refused something for want of memory.
    pub fn is_full(&self) -> bool {
        self.0.fullness.is_full()
    }

    /// Whether keys of different slots cannot be changed together.
    pub(crate) fn is_cluster(&self) -> bool {
        self.0.target.is_cluster()
    }

    /// What is asked of it before a call that changes something leaves.
    pub fn durability(&self) -> Durability {
        self.0.durable.durability
    }

    /// Asks for a sign of life, of a cluster all masters that are connected.
    pub async fn ping(&self) -> Result<(), Unavailable> {
        self.query::<()>(&cmd("PING")).await
    }

    /// The server's time (`TIME`); of a cluster that of any master.
    pub async fn time(&self) -> Result<Timestamp, Unavailable> {
        let (seconds, microseconds): (i64, i32) = self.query(&cmd("TIME")).await?;
        let unreadable = |_| Unavailable("the server's time cannot be read".to_owned());
        Timestamp::new(seconds, microseconds.saturating_mul(1000)).map_err(unreadable)
    }

    /// What an operator must know about the server, or about every master of a cluster.
    pub async fn facts(&self) -> Result<Vec<ServerFacts>, Unavailable> {
        let infos = self.ask_all(&cmd("INFO")).await?;
        let mut all: Vec<ServerFacts> = infos.iter().map(|(server, info)| ServerFacts::new(server, info)).collect();
        if let [facts] = all.as_mut_slice()
            && facts.cluster.is_none()
        {
            let mut settings = HashMap::new();
            for name in ["appendfsync", "min-replicas-to-write"] {
                let told = self.query::<HashMap<String, String>>(cmd("CONFIG").arg("GET").arg(name)).await;
                settings.extend(told.unwrap_or_default());
            }
            facts.of_settings(&settings);
            return Ok(all);
        }
        let states = self.ask_all(cmd("CLUSTER").arg("INFO")).await?;
        let mut masters = 0;
        for facts in &mut all {
            masters = masters.max(states.get(&facts.server).map_or(0, |info| facts.of_cluster(info)));
        }
        // The crate asks those that it is connected to, and says nothing of the others.
        if self.0.target.is_cluster() && all.len() < masters {
            let answered = all.len();
            return Err(Unavailable(format!("only {answered} of the {masters} masters of the redis cluster answer")));
        }
        Ok(all)
    }

    /// The address of each Sentinel, and that of the master which it names; empty where there are none.
    pub async fn sentinels(&self) -> Vec<(String, Result<String, Unavailable>)> {
        self.0.target.ask_sentinels().await
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
        self.call(true, |mut link| async move { command.query_async(&mut link).await }).await
    }

    /// Sends a command that should not be sent twice. On a cluster it may be all the same: the crate sends again what a
    /// lost connection or a silent node left unanswered.
    pub(crate) async fn query_once<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Unavailable> {
        self.call(false, |mut link| async move { command.query_async(&mut link).await }).await
    }

    /// Runs a script that may run twice, by its digest; Redis is sent the text where it does not know it.
    pub(crate) async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, Unavailable> {
        self.call(true, |mut link| async move { script.invoke_async(&mut link).await }).await
    }

    /// Sends a command that changes `key` and may be sent twice; answers once that, and all that was acknowledged before,
    /// has survived what [`RedisClient::durability`] says.
    pub(crate) async fn write_durably<T: FromRedisValue>(&self, key: &str, write: Cmd) -> Result<T, Unavailable> {
        let written = self.0.durable.make(key, write).await?;
        from_redis_value(written).map_err(|_| Unavailable("an answer of another type".to_owned()))
    }

    /// Asks the server that [`ServerFacts::server`] names.
    async fn ask<T: FromRedisValue>(&self, server: &str, question: &Cmd) -> Result<T, Unavailable> {
        self.call(
            true,
            |mut link| async move { from_redis_value(link.ask(server, question).await?).map_err(Into::into) },
        )
        .await
    }

    async fn ask_all(&self, question: &Cmd) -> Result<BTreeMap<String, Vec<u8>>, Unavailable> {
        self.call(true, |mut link| async move { link.ask_all(question).await }).await
    }

    async fn call<T, F>(&self, repeatable: bool, operation: impl Fn(RedisConnection) -> F) -> Result<T, Unavailable>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let place = self.0.places.acquire().await;
        // Those that had places may have found out that nobody is there.
        self.0.breaker.admit()?;
        let result = self.call_anyway(repeatable, operation).await;
        drop(place);
        result
    }

    /// The same past the breaker, which hears of the outcome, and beyond the places.
    async fn call_anyway<T, F>(
        &self,
        repeatable: bool,
        operation: impl Fn(RedisConnection) -> F,
    ) -> Result<T, Unavailable>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let began = Instant::now();
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
                let failure = self.describe(&error);
                if failure.is_full() {
                    self.0.fullness.refused(&failure);
                }
                Err(failure)
            }
            Err(Failure::Unreachable(error) | Failure::Dropped(error)) => {
                let failure = self.named(self.describe(&error));
                self.0.breaker.failed(began, &failure);
                Err(failure)
            }
        }
    }

    fn describe(&self, error: &RedisError) -> Unavailable {
        match transport::failure(error, "redis.tls") {
            Some(words) => Unavailable(format!("{}: {words}", self.0.peers)),
            None => self.0.target.describe(error),
        }
    }

    /// With where it is, unless the words say so.
    fn named(&self, failure: Unavailable) -> Unavailable {
        let peers = &self.0.peers;
        if peers.split(", ").any(|peer| failure.0.contains(peer)) {
            failure
        } else {
            Unavailable(format!("{peers}: {failure}"))
        }
    }

    async fn attempt<T, F>(&self, operation: impl Fn(RedisConnection) -> F) -> Result<T, Failure>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let Made { number, link, .. } = self.link().await.map_err(Failure::Unreachable)?;
        let error = match operation(link).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let moved = self.0.target.has_moved(&error);
        if !moved && !error.is_io_error() && !error.is_unrecoverable_error() {
            return Err(Failure::Refused(error));
        }
        self.forget(number, error.is_timeout());
        if moved || error.is_connection_dropped() {
            Err(Failure::Dropped(error))
        } else {
            Err(Failure::Unreachable(error))
        }
    }

    async fn link(&self) -> RedisResult<Made> {
        if let Some(made) = self.present_link() {
            return Ok(made);
        }
        let mut count = self.0.connecting.lock().await;
        if let Some(made) = self.present_link() {
            return Ok(made);
        }
        let link = self.0.target.connect().await?;
        *count += 1;
        let made = Made { number: *count, at: Instant::now(), link };
        *lock(&self.0.link) = Some(made.clone());
        Ok(made)
    }

    fn present_link(&self) -> Option<Made> {
        lock(&self.0.link).clone()
    }

    /// Gives up link `number`, unless another task has replaced it already.
    ///
    /// One to a cluster mends itself but for one thing: a node that takes all and answers nothing it asks for ever,
    /// though another has taken its place. A new one finds that out, but waits for such nodes before it serves anybody:
    /// so time-outs give up an old link only.
    fn forget(&self, number: u64, timed_out: bool) {
        let spared = |made: &Made| timed_out && self.0.target.is_cluster() && made.at.elapsed() < self.0.link_age;
        lock(&self.0.link).take_if(|made| made.number == number && !spared(made));
    }
}

impl fmt::Debug for RedisClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RedisClient").field("status", &self.status()).finish_non_exhaustive()
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn arguments_that_a_server_quotes_are_cut_from_the_failure() {
        let answer = "unknown command 'EVALSHA', with args beginning with: 'hunter2'".to_owned();
        let error = RedisError::from((redis::ErrorKind::Extension, "an error", answer));
        assert!(!describe(&error).0.contains("hunter2"));
        assert!(describe(&error).0.contains("unknown command"));
    }

    /// A server that answers nothing before it has as many questions as it can get: says how many those were each time.
    async fn slow_server(listener: TcpListener, questions: usize) -> Vec<usize> {
        let (mut peer, _) = listener.accept().await.unwrap();
        let (mut bytes, mut answered, mut at_once) = (vec![0; 1 << 16], 0, Vec::new());
        while answered < questions {
            let mut waiting = 0;
            // What was to come next is there by then.
            while let Ok(read) = tokio::time::timeout(Duration::from_millis(200), peer.read(&mut bytes)).await {
                let read = read.unwrap();
                assert!(read > 0, "the client is gone");
                let of_the_link = bytes[..read]
                    .split(|byte| *byte == b'*')
                    .filter(|one| !one.is_empty() && !one.ends_with(b"PING\r\n"));
                for _ in of_the_link {
                    peer.write_all(b"+OK\r\n").await.unwrap();
                }
                waiting += bytes[..read].windows(4).filter(|window| window == b"PING").count();
            }
            peer.write_all("+PONG\r\n".repeat(waiting).as_bytes()).await.unwrap();
            answered += waiting;
            at_once.push(waiting);
        }
        at_once
    }

    #[tokio::test]
    async fn a_server_is_asked_no_more_at_once_than_it_answers_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = Config {
            url: format!("redis://{}", listener.local_addr().unwrap()).into(),
            response_timeout_milliseconds: 60_000,
            ..Config::default()
        };
        let client = RedisClient::new(&config).unwrap();
        let questions = 3 * MOST_AT_ONCE;
        let pings = futures_util::future::try_join_all((0..questions).map(|_| client.ping()));
        let (at_once, pings) = tokio::join!(slow_server(listener, questions), pings);
        pings.unwrap();
        assert_eq!(at_once.iter().sum::<usize>(), questions);
        assert!(at_once.iter().all(|waiting| *waiting <= MOST_AT_ONCE), "{at_once:?}");
    }
}
