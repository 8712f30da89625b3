//! One connection to the broker: made, watched and cut, with every wait bounded.
//!
//! The client library's automatic recovery stays off: it was seen to stop recovering without a word, and its confirms hang
//! meanwhile (measured with lapin 4.12.3). Whoever holds a [`BrokerConnection`] builds a new one where it failed.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::AsyncTcpStream;
use lapin::types::ShortString;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};
use tokio_util::compat::TokioAsyncReadCompatExt;
use tokio_util::sync::CancellationToken;

use super::Config;
use super::address::{Address, LastPlace, addresses, none_served};
use super::stream;
use crate::queue::QueueError;
use crate::retry::{Backoff, Policy, RetryDecision};
use crate::transport::{TlsConfig, failure};

/// Nominal wait before the first reconnect.
const RECONNECT_INITIAL_MILLISECONDS: u64 = 200;

#[derive(Debug)]
pub(super) struct BrokerConnection {
    pub(super) connection: Connection,
    /// Host and port of the node at the other end.
    pub(super) server: String,
    socket: Socket,
}

impl BrokerConnection {
    /// Connects to one of the addresses: each is tried once, in the order that `last` gives, and has the connect timeout
    /// for itself. `role` is what the operator sees in the broker's list of connections.
    pub(super) async fn open(config: &Config, last: &LastPlace, role: &str) -> Result<Self, QueueError> {
        let addresses = addresses(config)?;
        let mut failures = Vec::new();
        for place in last.round(addresses.len()) {
            match Self::open_at(config, &addresses[place], role).await {
                Ok(link) => {
                    last.remember(place);
                    for (place, error) in failures {
                        tracing::info!(address = %addresses[place], %error, "broker's address passed over");
                    }
                    return Ok(link);
                }
                Err(error) => failures.push((place, error)),
            }
        }
        Err(none_served(&addresses, failures))
    }

    /// Connects to this address.
    pub(super) async fn open_at(config: &Config, address: &Address, role: &str) -> Result<Self, QueueError> {
        let socket = Socket::default();
        let timeout = config.connect_timeout();
        let shaken = tokio::time::timeout(timeout, handshake(address, &config.tls, role, socket.clone())).await;
        let opened = match shaken {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(explain_handshake(&error, address, &config.tls).await),
            Err(_) => Err(QueueError::TimedOut(timeout)),
        };
        match opened {
            Ok(connection) => Ok(Self { connection, server: address.to_string(), socket }),
            Err(error) => {
                // A broker that is frozen accepts the connection and says nothing; the library's thread would wait for
                // its first word for ever.
                socket.cut();
                Err(error)
            }
        }
    }

    pub(super) async fn channel(&self, timeout: Duration) -> Result<Channel, QueueError> {
        within(timeout, self.connection.create_channel()).await
    }

    /// Whether the connection is up, as far as is known.
    pub(super) fn is_up(&self) -> bool {
        self.connection.status().connected()
    }

    /// Whether the broker takes no publishes from this connection, for lack of memory or disk.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Ends a failed connection at once, without the polite closing that a silent broker would never answer.
    pub(super) fn cut(&self) {
        self.socket.cut();
    }
}

async fn handshake(address: &Address, tls: &TlsConfig, role: &str, socket: Socket) -> lapin::Result<Connection> {
    let properties = ConnectionProperties::default()
        .with_connection_name(role.into())
        .with_client_property("product".into(), env!("CARGO_PKG_NAME").into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    let tls = tls.clone();
    Connection::connector(
        address.uri(),
        stream::runtime(),
        async move |uri, _| {
            let stream = stream::connect(&uri, &tls, |stream| socket.remember(stream)).await?;
            Ok(AsyncTcpStream::Plain(stream.compat()))
        },
        properties,
    )
    .await
}

/// The same as [`explain`], of a connection that has not come about.
async fn explain_handshake(error: &lapin::Error, address: &Address, tls: &TlsConfig) -> QueueError {
    match error.kind() {
        ErrorKind::IOError(error) => unreached(error, address, tls).await,
        _ => explain(error),
    }
}

/// What it means that no byte stream to `address` came about. To try again helps nobody where certificates are refused.
pub(super) async fn unreached(error: &io::Error, address: &Address, tls: &TlsConfig) -> QueueError {
    if error.kind() == io::ErrorKind::InvalidInput {
        return QueueError::Refused(format!("amqp.tls.{error}"));
    }
    let closed = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe].contains(&error.kind());
    let alert = if closed { stream::alert(&address.uri(), tls).await } else { None };
    match failure(alert.as_ref().unwrap_or(error), "amqp.tls") {
        Some(words) => QueueError::Refused(format!("{address}: {words}")),
        None => QueueError::Unavailable(format!("IO error: {error}")),
    }
}

/// A second handle on a connection's TCP socket.
#[derive(Debug, Clone, Default)]
struct Socket(Arc<OnceLock<TcpStream>>);

impl Socket {
    fn remember(&self, stream: &impl AsFd) -> std::io::Result<()> {
        let _ = self.0.set(TcpStream::from(stream.as_fd().try_clone_to_owned()?));
        Ok(())
    }

    fn cut(&self) {
        if let Some(stream) = self.0.get() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Waits for an answer of the broker, at most for `timeout`.
pub(super) async fn within<T>(
    timeout: Duration,
    answer: impl Future<Output = lapin::Result<T>>,
) -> Result<T, QueueError> {
    match tokio::time::timeout(timeout, answer).await {
        Ok(result) => result.map_err(|error| explain(&error)),
        Err(_) => Err(QueueError::TimedOut(timeout)),
    }
}

/// `text` as AMQP's short string, which ends at 255 bytes.
pub(super) fn short(text: &str) -> Result<ShortString, QueueError> {
    ShortString::try_new(text)
        .map_err(|_| QueueError::Refused(format!("a name or property of {} bytes is over AMQP's 255", text.len())))
}

/// What an error of the library means for the caller.
pub(super) fn explain(error: &lapin::Error) -> QueueError {
    let ErrorKind::ProtocolError(protocol) = error.kind() else {
        return QueueError::Unavailable(error.to_string());
    };
    let text = protocol.get_message().to_string();
    match protocol.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => too_large(&text).unwrap_or(QueueError::Refused(text)),
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED | AMQPSoftError::RESOURCELOCKED)
        | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::NOTIMPLEMENTED) => QueueError::Refused(text),
        _ => QueueError::Unavailable(text),
    }
}

/// Reads `message size X is larger than configured max size Y` (3.10 to 4.3).
fn too_large(text: &str) -> Option<QueueError> {
    let (_, rest) = text.split_once("message size ")?;
    let (size, rest) = rest.split_once(" is larger than ")?;
    let limit = rest.rsplit_once("max size ")?.1;
    Some(QueueError::TooLarge { size: size.parse().ok()?, limit: limit.trim().parse().ok()? })
}

/// The waits between attempts to connect: growing, jittered, for ever. A connection that held for a while starts them
/// anew; one that breaks again and again does not, so a flapping broker is not hammered.
#[derive(Debug)]
pub(super) struct Reconnect {
    policy: Policy,
    waits: Backoff,
    tried: bool,
    up_since: Option<tokio::time::Instant>,
}

impl Reconnect {
    pub(super) fn new(config: &Config) -> Self {
        let policy = Policy {
            attempts: u32::MAX,
            initial_milliseconds: RECONNECT_INITIAL_MILLISECONDS,
            max_milliseconds: config.reconnect_max_milliseconds,
            max_retry_after_milliseconds: 0,
        };
        Self { policy, waits: Backoff::new(policy), tried: false, up_since: None }
    }

    /// Calls `open` until it succeeds, or returns `None` once `stop` is cancelled. Says so when the reason changes, not
    /// at every attempt.
    pub(super) async fn until_open<T, F>(&mut self, stop: &CancellationToken, open: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, QueueError>>,
    {
        let mut last = String::new();
        loop {
            let wait = self.next_wait();
            let attempt = async {
                tokio::time::sleep(wait).await;
                open().await
            };
            let opened = tokio::select! {
                () = stop.cancelled() => return None,
                opened = attempt => opened,
            };
            match opened {
                Ok(opened) => {
                    self.came_up();
                    return Some(opened);
                }
                Err(error) if error.to_string() != last => {
                    tracing::warn!(%error, "broker not reached, trying on");
                    last = error.to_string();
                }
                Err(_) => {}
            }
        }
    }

    pub(super) fn came_up(&mut self) {
        self.tried = true;
        self.up_since = Some(tokio::time::Instant::now());
    }

    /// The wait before the next attempt; none before the very first.
    fn next_wait(&mut self) -> Duration {
        if !std::mem::replace(&mut self.tried, true) {
            return Duration::ZERO;
        }
        let held = self.up_since.take().map(|since| since.elapsed()).unwrap_or_default();
        if held > Duration::from_millis(self.policy.max_milliseconds) {
            self.waits = Backoff::new(self.policy);
        }
        self.waits.next(RetryDecision::Again).unwrap_or(Duration::from_millis(self.policy.max_milliseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Config {
        Config { url: url.to_owned().into(), ..Config::default() }
    }

    #[test]
    fn the_brokers_size_limit_is_read_from_its_text() {
        let error = too_large("PRECONDITION_FAILED - message size 200 is larger than configured max size 100");
        assert!(matches!(error, Some(QueueError::TooLarge { size: 200, limit: 100 })));
        for text in ["", "message size x is larger than configured max size y", "message size 99999999999999999999999"]
        {
            assert!(too_large(text).is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_connection_that_held_starts_the_waits_anew() {
        let config = Config { reconnect_max_milliseconds: 10_000, ..Config::default() };
        let mut reconnect = Reconnect::new(&config);
        assert_eq!(reconnect.next_wait(), Duration::ZERO);
        for _ in 0..20 {
            reconnect.came_up();
            reconnect.next_wait();
        }
        assert!((0..50).any(|_| reconnect.next_wait() > Duration::from_secs(1)), "a flapping broker is hammered");
        reconnect.came_up();
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(reconnect.next_wait() <= Duration::from_millis(RECONNECT_INITIAL_MILLISECONDS));
    }

    #[tokio::test]
    async fn a_silent_broker_ends_in_a_timeout_and_leaves_nothing_behind() {
        use tokio::io::AsyncReadExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("amqp://{}", listener.local_addr().unwrap());
        let config = Config { connect_timeout_milliseconds: 100, ..config(&url) };
        let open = tokio::spawn(async move { BrokerConnection::open(&config, &LastPlace::default(), "test").await });
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut received = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(5), peer.read_to_end(&mut received)).await;
        end.expect("the socket is cut").unwrap();
        assert_eq!(received, b"AMQP\0\0\x09\x01");
        let error = open.await.unwrap().unwrap_err();
        assert!(
            matches!(&error, QueueError::Unavailable(words) if words.ends_with(": no answer within 100ms")),
            "{error}"
        );
    }
}
