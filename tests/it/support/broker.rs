//! A RabbitMQ node for the tests: private ports, private data, nothing left behind even when the test process is killed.

use std::fs::{self, File};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentkit_worker::internals::queue::amqp::Config;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use tokio::sync::{MutexGuard, OnceCell};

use super::{PATIENCE, setting, unique};

/// The scripts themselves: the ones in `/usr/sbin` change the user and the folder.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// A broker and how it is reached.
#[derive(Debug)]
pub(crate) struct Broker {
    url: String,
    node: Option<Mutex<Node>>,
}

impl Broker {
    /// The broker that all tests of this process share: the one of `TEST_AMQP_URL`, else a node started once. Keep out of
    /// each other's way with [`Broker::config`]'s prefix.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Broker> = OnceCell::const_new();
        SHARED
            .get_or_init(|| async {
                match setting("TEST_AMQP_URL") {
                    Some(url) => Self { url, node: None },
                    None => Self::start_own().await,
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
        let node = Node::new(lines);
        let broker = Self { url: format!("amqp://guest:guest@127.0.0.1:{}", node.port), node: Some(Mutex::new(node)) };
        broker.start().await;
        broker
    }

    /// A node of one's own that waits so long for an ack. Up to 4.2 it would look for late ones once a minute only.
    pub(crate) async fn start_impatient(consumer_timeout: Duration) -> Self {
        let broker = Self::start_with(&format!("consumer_timeout = {}\n", consumer_timeout.as_millis())).await;
        broker.control(&["eval", "application:set_env(rabbit, channel_tick_interval, 500)."]).await;
        broker
    }

    /// `host:port`, for a proxy.
    pub(crate) fn address(&self) -> &str {
        self.url.rsplit('@').next().expect("an address has a host")
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A configuration for this broker with queues of its own.
    pub(crate) fn config(&self) -> Config {
        Config { url: self.url.clone().into(), prefix: unique("test"), ..Config::default() }
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
        let deadline = Instant::now() + PATIENCE;
        while let Err(problem) = self.is_ready().await {
            if let Some(output) = self.node().ended() {
                panic!("the broker ended at start: {output}");
            }
            assert!(Instant::now() < deadline, "the broker is not ready: {problem}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends the processes without a warning; the data stay.
    pub(crate) fn kill(&self) {
        self.node().kill();
    }

    /// Ends the processes as an operator does; the data stay.
    pub(crate) async fn stop(&self) {
        let server = self.node().processes[1].id().to_string();
        run(Command::new("kill").args(["-TERM", &server]));
        super::eventually("the broker ends", || async { self.node().ended().map(drop) }).await;
        self.kill();
    }

    /// Makes the process stand still, or go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        let process = self.process().to_string();
        run(Command::new("kill").args([if frozen { "-STOP" } else { "-CONT" }, &process]));
    }

    /// The node's process.
    pub(crate) fn process(&self) -> u32 {
        self.node().processes[1].id()
    }

    /// Where the node keeps its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.node().folder.path().join("mnesia")
    }

    /// Calls `rabbitmqctl`; takes about a second.
    pub(crate) async fn control(&self, arguments: &[&str]) -> String {
        let mut command = self.node().command(&format!("{PROGRAMS}/rabbitmqctl"));
        command.args(arguments);
        tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap()
    }

    fn node(&self) -> std::sync::MutexGuard<'_, Node> {
        let node = self.node.as_ref().expect("only nodes of one's own are touched");
        node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An open port says little: ready is who takes a queue and confirms a message.
    async fn is_ready(&self) -> Result<(), String> {
        let attempt = async {
            let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            let queue = lapin::types::ShortString::from(unique("ready"));
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            channel.queue_declare(queue.clone(), QueueDeclareOptions::durable(), arguments).await?;
            let publish = BasicPublishOptions::default();
            channel.basic_publish("".into(), queue.clone(), publish, b"", BasicProperties::default()).await?.await?;
            channel.queue_delete(queue, QueueDeleteOptions::default()).await?;
            connection.close(200, "".into()).await
        };
        match tokio::time::timeout(Duration::from_secs(5), attempt).await {
            Ok(result) => result.map_err(|error: lapin::Error| error.to_string()),
            Err(_) => Err("no answer within 5 s".to_owned()),
        }
    }
}

/// The processes: a name server (else the node starts one that outlives everything), the node, and a watchdog.
#[derive(Debug)]
struct Node {
    folder: tempfile::TempDir,
    port: u16,
    distribution_port: u16,
    name_server_port: u16,
    processes: Vec<Child>,
}

impl Node {
    fn new(lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["home", "mnesia", "log"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let file = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        file("enabled_plugins", "[].");
        file("home/.erlang.cookie", &unique("cookie"));
        let cookie = folder.path().join("home/.erlang.cookie");
        fs::set_permissions(cookie, fs::Permissions::from_mode(0o400)).unwrap();
        let usual = "loopback_users = none\nlog.console = false\ndisk_free_limit.absolute = 50MB\n\
                     vm_memory_high_watermark.absolute = 1GB\nmax_message_size = 16777216\n";
        file("rabbitmq.conf", &format!("{usual}{lines}"));
        // Held together, so that they differ.
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [port, distribution_port, name_server_port] =
            listeners.map(|listener| listener.local_addr().unwrap().port());
        Self { folder, port, distribution_port, name_server_port, processes: Vec::new() }
    }

    fn start(&mut self) {
        assert!(Path::new(PROGRAMS).exists(), "rabbitmq-server is not installed; `./tests/run` does that");
        let mut name_server = self.command("epmd");
        name_server.args(["-port", &self.name_server_port.to_string(), "-address", "127.0.0.1"]);
        self.processes.push(name_server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.name_server_port)).is_err() {
            assert!(Instant::now() < deadline, "epmd does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut server = self.command(&format!("{PROGRAMS}/rabbitmq-server"));
        let output = File::create(self.output()).unwrap();
        server.stdout(output.try_clone().unwrap()).stderr(output);
        self.processes.push(server.spawn().unwrap());
        self.processes.push(self.watchdog());
    }

    /// Kills the others and removes their data once its input ends, which is when this process does, however it ends.
    fn watchdog(&self) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", "cat >/dev/null; kill -9 \"$1\" \"$2\"; rm -rf \"$3\"", "watchdog"]);
        command.args(self.processes.iter().map(|process| process.id().to_string()));
        command.arg(self.folder.path()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A group of its own: a Ctrl-C in the terminal must not kill the watchdog first.
        command.process_group(0).spawn().unwrap()
    }

    fn kill(&mut self) {
        // The watchdog first: the numbers it knows may soon be somebody else's.
        for mut process in self.processes.drain(..).rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// What the node printed, where it has ended.
    fn ended(&mut self) -> Option<String> {
        self.processes[1].try_wait().unwrap()?;
        let mut text = String::new();
        File::open(self.output()).unwrap().read_to_string(&mut text).unwrap();
        Some(text)
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("output")
    }

    fn command(&self, program: &str) -> Command {
        let path = |name: &str| self.folder.path().join(name);
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", path("home"))
            .env("LANG", "C.UTF-8")
            // The server's process is then the node itself, not a shell around it.
            .env("detached", "1")
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.name_server_port.to_string())
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", path("advanced.config"))
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins"))
            .env("RABBITMQ_FEATURE_FLAGS_FILE", path("feature_flags"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", path("schema"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_MNESIA_BASE", path("mnesia"))
            .env("RABBITMQ_NODENAME", "rabbit@localhost")
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_PID_FILE", path("pid"))
            .env("RABBITMQ_PLUGINS_EXPAND_DIR", path("plugins-expand"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
            .stdin(Stdio::null())
            .process_group(0);
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}
