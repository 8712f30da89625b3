//! A broker of one node for the tests.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use agentkit_worker::internals::queue::amqp::Config;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use tokio::sync::{MutexGuard, OnceCell};

use super::broker_node::{NameServer, Node, Settings, run, until_ready};
use super::{least_rights, setting, unique, used_queues};

/// A broker and how it is reached.
#[derive(Debug)]
pub(crate) struct Broker {
    url: String,
    node: Option<Mutex<Node>>,
    is_shared: bool,
}

impl Broker {
    /// The broker that all tests of this process share: the one of `TEST_AMQP_URL`, else a node started once. Keep out of
    /// each other's way with [`Broker::config`]'s prefix.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Broker> = OnceCell::const_new();
        SHARED
            .get_or_init(|| async {
                match setting("TEST_AMQP_URL") {
                    Some(url) => Self { url, node: None, is_shared: true },
                    None => Self { is_shared: true, ..Self::start_own().await },
                }
            })
            .await
    }

    /// A second node, for tests that kill, freeze or starve it, one after another. Leave it in good health.
    pub(crate) async fn exclusive() -> MutexGuard<'static, Self> {
        static EXCLUSIVE: OnceCell<tokio::sync::Mutex<Broker>> = OnceCell::const_new();
        EXCLUSIVE.get_or_init(|| async { tokio::sync::Mutex::new(Self::start_own().await) }).await.lock().await
    }

    /// A node of one's own.
    pub(crate) async fn start_own() -> Self {
        Self::start_with("").await
    }

    /// A node of one's own with further lines in its configuration.
    pub(crate) async fn start_with(lines: &str) -> Self {
        let mut output = String::new();
        // Another program may take a port before the node does: then the next node has other ones.
        for _ in 0..3 {
            let mut node =
                Node::new("rabbit@localhost", NameServer::start(), Settings { lines, ..Settings::default() });
            node.start();
            let broker = Self::of(node);
            match until_ready(&broker.url, || broker.node().ended()).await {
                Ok(()) => {
                    broker.give_least_rights().await;
                    return broker;
                }
                Err(ended) => output = ended,
            }
        }
        panic!("the broker ended at every start: {output}");
    }

    async fn give_least_rights(&self) {
        for command in least_rights::broker_commands().iter().filter(|_| least_rights::are_wanted()) {
            self.control(&command.iter().map(String::as_str).collect::<Vec<_>>()).await;
        }
    }

    /// A node of one's own that waits so long for an ack. Up to 4.2 it would look for late ones once a minute only.
    pub(crate) async fn start_impatient(consumer_timeout: Duration) -> Self {
        let broker = Self::start_with(&format!("consumer_timeout = {}\n", consumer_timeout.as_millis())).await;
        broker.control(&["eval", "application:set_env(rabbit, channel_tick_interval, 500)."]).await;
        broker
    }

    /// A node that was not started yet.
    pub(super) fn of(node: Node) -> Self {
        Self { url: node.url(), node: Some(Mutex::new(node)), is_shared: false }
    }

    /// `host:port`, for a proxy.
    pub(crate) fn address(&self) -> &str {
        self.url.rsplit('@').next().expect("an address has a host")
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Where its management API listens, if it has one.
    pub(crate) fn management_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.node().management_port)
    }

    /// A configuration for this broker with queues of its own.
    pub(crate) fn config(&self) -> Config {
        let prefix = unique("test");
        if self.is_shared {
            used_queues::remember(&self.url, &prefix);
        }
        Config { url: self.url.clone().into(), prefix, ..Config::default() }
    }

    /// A connection for the test itself.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::connect(&self.url, ConnectionProperties::default()).await.unwrap()
    }

    /// Takes a message from a queue; `None` where none is ready.
    pub(crate) async fn take(&self, queue: &str) -> Option<(Vec<u8>, BasicProperties)> {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.unwrap();
        let taken = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap()?;
        Some((taken.delivery.data, taken.delivery.properties))
    }

    /// How many messages of a queue are ready.
    pub(crate) async fn ready(&self, queue: &str) -> u32 {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
        channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap().message_count()
    }

    /// Starts the node again after [`Broker::kill`], with its data.
    pub(crate) async fn start(&self) {
        self.node().start();
        self.until_ready().await;
    }

    /// Waits until it takes a queue and confirms a message.
    pub(super) async fn until_ready(&self) {
        until_ready(&self.url, || self.node().ended()).await.unwrap();
    }

    /// Ends the processes without a warning; the data stay.
    pub(crate) fn kill(&self) {
        self.node().kill();
    }

    /// Ends the processes as an operator does; the data stay.
    pub(crate) async fn stop(&self) {
        self.node().signal("TERM");
        super::eventually("the broker ends", || async { self.node().ended().map(drop) }).await;
        self.kill();
    }

    /// Makes the process stand still, or go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.node().signal(if frozen { "STOP" } else { "CONT" });
    }

    /// Calls `rabbitmqctl`; takes about a second.
    pub(crate) async fn control(&self, arguments: &[&str]) -> String {
        self.call("rabbitmqctl", arguments).await
    }

    /// The same, of a node that may be away.
    pub(super) async fn try_control(&self, arguments: &[&str]) -> String {
        let mut command = self.node().program("rabbitmqctl");
        command.args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
    }

    /// Calls `rabbitmq-queues`; takes about a second.
    pub(super) async fn queues(&self, arguments: &[&str]) -> String {
        self.call("rabbitmq-queues", arguments).await
    }

    async fn call(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = self.node().program(program);
        command.args(arguments);
        tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap()
    }

    fn node(&self) -> std::sync::MutexGuard<'_, Node> {
        let node = self.node.as_ref().expect("only nodes of one's own are touched");
        node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
