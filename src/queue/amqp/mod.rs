//! RabbitMQ, through quorum queues, publisher confirms and two connections that are rebuilt for ever.
//!
//! A connection is never repaired: at the first sign of trouble it is dropped with all its channels, and a new one is built
//! (a *generation*). Deliveries know the generation they came with, so that a late ack is an error and not somebody else's ack.
//! Consuming and publishing have a connection each, because a broker that is low on memory stops reading from those that
//! publish, and acks must still get through.

mod address;
mod backlog;
mod connection;
mod consumer;
mod dead_letter_queue;
mod delivery;
mod depth;
mod greeting;
mod holder;
mod inbox;
mod inspect;
mod management;
mod message;
mod names;
mod publisher;
mod renewal;
mod reply_queues;
mod stream;
mod topology;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use backlog::AmqpBacklog;
pub use consumer::AmqpConsumer;
pub use dead_letter_queue::AmqpDeadLetterQueue;
pub use depth::QueueDepth;
pub use greeting::Greeting;
pub use holder::AmqpHolder;
pub use inbox::ReplyInbox;
pub use inspect::{AddressFacts, BrokerFacts, DeadLetters, QueueFacts, QueueState, inspect};
pub use names::{QueueNames, Tier};
pub use publisher::AmqpPublisher;
pub use topology::{Argument, QueueDefinition, TopologyMode, definitions};

use crate::queue::QueueError;
use crate::retry::{Policy, RetryDecision, retry};
use crate::transport::{Peer, Protection, TlsConfig};

/// How the broker is reached and used.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `amqp://user:password@host:port/vhost`, or `amqps://` for TLS. Of a cluster the addresses of its nodes, separated by commas: each connection begins at a random one, and where one is away,
    /// refuses or is silent the next one is tried.
    #[schemars(with = "String")]
    pub url: SecretString,
    /// `http://[user:password@]host:port` of RabbitMQ's management API, of one node or several, separated by commas. Asked how
    /// many members each queue has, which AMQP does not tell; nothing else needs it.
    #[schemars(with = "Option<String>")]
    pub management_url: Option<SecretString>,
    /// Whom `amqps://` addresses, and `https://` ones of the management API, are trusted by, and who we are to them.
    pub tls: TlsConfig,
    /// First part of every queue's name.
    pub prefix: String,
    /// What is done about the queues when connecting.
    pub topology: TopologyMode,
    /// Seconds between heartbeats. A broker that froze is noticed after about 2.5 times that long (measured: 10 s at 4).
    pub heartbeat_seconds: u16,
    /// Longest wait for a connection to one address, in milliseconds.
    pub connect_timeout_milliseconds: u64,
    /// Attempts to connect at start, before that is an error. Later on there is no end to them.
    pub connect_attempts: u32,
    /// Longest nominal wait between two attempts to connect, each of which tries all addresses, in milliseconds.
    pub reconnect_max_milliseconds: u64,
    /// Longest wait for a confirm, an ack on its way or any other answer, in milliseconds.
    pub publish_timeout_milliseconds: u64,
    /// Publishes that can be in flight at once, each on a channel of its own.
    pub publish_channels: u16,
    /// Largest body that is published, in bytes. Brokers take 128 MiB up to 3.x and 16 MiB from 4.0.
    pub max_message_bytes: usize,
    /// The user that messages state as their publisher, for workers that ask for it.
    #[serde(skip)]
    pub stated_user: Option<String>,
    /// Whether jobs are put aside into queues of their own (`fairness.key`).
    #[serde(skip)]
    pub lanes: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: SecretString::from("amqp://guest:guest@127.0.0.1:5672"),
            management_url: None,
            tls: TlsConfig::default(),
            prefix: "agentkit".into(),
            topology: TopologyMode::Declare,
            heartbeat_seconds: 5,
            connect_timeout_milliseconds: 5_000,
            connect_attempts: 5,
            reconnect_max_milliseconds: 15_000,
            publish_timeout_milliseconds: 15_000,
            publish_channels: 16,
            max_message_bytes: 8 << 20,
            stated_user: None,
            lanes: false,
        }
    }
}

impl Config {
    /// Everything that is wrong with it, as `field: problem`.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Err(error) = address::parse(self) {
            problems.push(format!("url: {error}"));
        } else if let Err(error) = management::addresses(self) {
            problems.push(format!("management_url: {error}"));
        }
        let encrypted = |peers: Vec<Peer>| peers.iter().any(|peer| peer.protection == Protection::Encrypted);
        problems.extend(self.tls.problems(encrypted(self.peers()) || encrypted(self.management_peers())));
        // Queue names end at 255 bytes and those beginning with `amq.` are the broker's own.
        if !(1..=200).contains(&self.prefix.len()) || self.prefix.starts_with("amq.") {
            problems.push("prefix: must have 1 to 200 bytes and not begin with \"amq.\"".to_owned());
        }
        let positive = [
            ("heartbeat_seconds", u64::from(self.heartbeat_seconds)),
            ("connect_timeout_milliseconds", self.connect_timeout_milliseconds),
            ("connect_attempts", u64::from(self.connect_attempts)),
            ("reconnect_max_milliseconds", self.reconnect_max_milliseconds),
            ("publish_timeout_milliseconds", self.publish_timeout_milliseconds),
            ("publish_channels", u64::from(self.publish_channels)),
        ];
        problems.extend(
            positive.into_iter().filter(|(_, value)| *value == 0).map(|(name, _)| format!("{name}: must not be 0")),
        );
        problems
    }

    /// The names that all processes with this `amqp.prefix` use.
    pub fn names(&self) -> QueueNames {
        QueueNames::new(&self.prefix)
    }

    /// The queues that are used.
    pub fn definitions(&self) -> Vec<QueueDefinition> {
        let names = self.names();
        let mut all = definitions(&names);
        all.retain(|definition| self.lanes || !names.is_backlog(&definition.name));
        all
    }

    /// The user of the broker that the worker is.
    ///
    /// # Errors
    /// Where the addresses are of several users.
    pub fn user(&self) -> Result<String, QueueError> {
        address::user(self).map_err(QueueError::Refused)
    }

    /// Each address of `url`; none where that cannot be read.
    pub fn peers(&self) -> Vec<Peer> {
        address::parse(self).unwrap_or_default().iter().map(address::Address::peer).collect()
    }

    /// Each address of `management_url`.
    pub fn management_peers(&self) -> Vec<Peer> {
        management::addresses(self).ok().flatten().unwrap_or_default().iter().map(Peer::of_url).collect()
    }

    /// Where the management API lists the queues of the virtual host, each address with user and password; `None` where
    /// nobody has said where it is.
    pub fn management_addresses(&self) -> Result<Option<Vec<Url>>, QueueError> {
        management::addresses(self).map_err(QueueError::Refused)
    }

    fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_milliseconds)
    }

    fn answer_timeout(&self) -> Duration {
        Duration::from_millis(self.publish_timeout_milliseconds)
    }
}

/// The broker: makes consumers, and gives out the one publisher. Clones are handles on the same publishing connection,
/// which lasts as long as any of them or the publisher.
#[derive(Debug, Clone)]
pub struct AmqpQueue {
    config: Arc<Config>,
    status: Arc<Status>,
    publisher: Arc<AmqpPublisher>,
}

impl AmqpQueue {
    /// Connects and makes sure of the queues. This first connection is tried `connect_attempts` times; a refusal (bad
    /// credentials, queues with other arguments) is reported at once.
    pub async fn connect(config: Config) -> Result<Self, QueueError> {
        if let [problem, ..] = config.problems().as_slice() {
            return Err(QueueError::Refused(problem.clone()));
        }
        let policy = Policy {
            attempts: config.connect_attempts,
            initial_milliseconds: 500,
            max_milliseconds: 5_000,
            max_retry_after_milliseconds: 0,
        };
        let (config, last) = (Arc::new(config), address::LastPlace::default());
        let first = retry(
            policy,
            |error| if matches!(error, QueueError::Refused(_)) { RetryDecision::Stop } else { RetryDecision::Again },
            |error, attempt, _| tracing::warn!(%error, attempt, "broker not reached, trying again"),
            || publisher::PublisherGeneration::open(&config, &last),
        )
        .await?;
        let status = Arc::new(Status::default());
        let publisher = Arc::new(AmqpPublisher::start(config.clone(), first, last, status.clone()));
        Ok(Self { config, status, publisher })
    }

    /// A consumer of the job queue on a connection of its own. `prefetch` deliveries are handed out or fetched ahead at
    /// most: the worker's concurrency, as more would wait behind long jobs while other workers are idle.
    pub fn consumer(&self, prefetch: u16) -> AmqpConsumer {
        AmqpConsumer::start(self.config.clone(), self.config.names().jobs(), prefetch, self.status.clone())
    }

    /// The same of the queue of what is urgent; `None` where that does not exist, as where somebody else makes the queues.
    pub async fn urgent_consumer(&self, prefetch: u16) -> Result<Option<AmqpConsumer>, QueueError> {
        let without = "queue does not exist: what is urgent waits with all other jobs";
        self.consumer_of_any(self.config.names().urgent(), prefetch, without).await
    }

    /// The same of the queue of decisions.
    pub async fn decision_consumer(&self, prefetch: u16) -> Result<Option<AmqpConsumer>, QueueError> {
        let without = "queue does not exist: nobody can decide about calls that wait by a message";
        self.consumer_of_any(self.config.names().decisions(), prefetch, without).await
    }

    async fn consumer_of_any(
        &self,
        queue: String,
        prefetch: u16,
        without: &'static str,
    ) -> Result<Option<AmqpConsumer>, QueueError> {
        if self.config.topology != TopologyMode::Declare
            && self.publisher.look_at(&QueueDefinition::new(queue.clone())).await?.is_none()
        {
            tracing::warn!(queue, "{without}");
            return Ok(None);
        }
        Ok(Some(AmqpConsumer::start(self.config.clone(), queue, prefetch, self.status.clone())))
    }

    /// What all parts of the process publish with; its connection is another than the consumers'.
    pub fn publisher(&self) -> Arc<AmqpPublisher> {
        self.publisher.clone()
    }

    /// Holds messages for this process, in a queue of its own that is called after `process`.
    pub async fn holder(&self, process: &str) -> Result<AmqpHolder, QueueError> {
        AmqpHolder::start(self.config.clone(), process, self.publisher.clone(), &self.status).await
    }

    /// The jobs that were put aside; connects when it is first looked at.
    pub fn backlog(&self) -> AmqpBacklog {
        AmqpBacklog::new(self.config.clone())
    }

    /// A reader of `<prefix>.dead`; connects when it is used, not before.
    pub fn dead_letter_queue(&self) -> AmqpDeadLetterQueue {
        AmqpDeadLetterQueue::new(self.config.clone(), self.publisher.clone())
    }

    /// How the connections are doing.
    pub fn status(&self) -> Arc<Status> {
        self.status.clone()
    }
}

/// How the connections are doing, for health checks and metrics.
#[derive(Debug, Default)]
pub struct Status {
    connected: AtomicBool,
    /// Consumers that are to be registered, and that are.
    consumers: AtomicUsize,
    consuming: AtomicUsize,
    blocked: AtomicBool,
    reconnects: AtomicU64,
    broken: CancellationToken,
}

impl Status {
    /// Whether the publishing connection is up.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Whether all consumers are registered at the broker and their connections up.
    pub fn consuming(&self) -> bool {
        let consuming = self.consuming.load(Ordering::Relaxed);
        consuming > 0 && consuming >= self.consumers.load(Ordering::Relaxed)
    }

    /// Whether the broker takes no publishes for lack of memory or disk.
    pub fn blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Cancelled when a task that keeps a connection has crashed: nobody builds it anew then.
    pub fn broken(&self) -> CancellationToken {
        self.broken.clone()
    }

    /// Starts a task that keeps a connection.
    fn keep(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let crashed = self.broken.clone().drop_guard();
        tokio::spawn(async move {
            task.await;
            crashed.disarm();
        })
    }

    /// How often a connection was built anew.
    pub fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_a_config_may_be_empty() {
        assert_eq!(Config::default().problems(), Vec::<String>::new());
        let config: Config = toml::from_str("").unwrap();
        assert_eq!(config.names().wait(Tier::TwoMinutes), "agentkit.wait.2m");
        assert!(toml::from_str::<Config>("prefx = \"p\"").is_err());
        assert!(!format!("{config:?}").contains("guest"));
    }

    #[test]
    fn every_problem_is_named() {
        let config: Config = toml::from_str(
            "url = \"nonsense\"\nprefix = \"amq.x\"\nheartbeat_seconds = 0\npublish_channels = 0\nconnect_attempts = 0",
        )
        .unwrap();
        let problems = config.problems().join("\n");
        for field in ["url", "prefix", "heartbeat_seconds", "publish_channels", "connect_attempts"] {
            assert!(problems.contains(&format!("{field}: ")), "{field} is missing in:\n{problems}");
        }
    }
}
