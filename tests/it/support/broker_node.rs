//! The processes of a RabbitMQ node: private ports, private data, nothing left behind even when the test process is killed.

use std::fs::{self, File};
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};

use super::redis::free_port;
use super::{PATIENCE, unique};

/// The scripts themselves: the ones in `/usr/sbin` change the user and the folder.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// What every node is told.
const USUAL: &str = "loopback_users = none\nlog.console = false\ndisk_free_limit.absolute = 50MB\n\
                     vm_memory_high_watermark.absolute = 1GB\nmax_message_size = 16777216\n";

/// What a node is told beyond the usual.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Settings<'a> {
    /// Further lines of `rabbitmq.conf`.
    pub(super) lines: &'a str,
    /// Of the application `rabbit`, what has no key there: Erlang terms, separated by commas.
    pub(super) terms: &'a str,
    /// Whether it has the management plugin.
    pub(super) management: bool,
}

/// The name server of one node or of a cluster: without one of our own the first node starts one that outlives everything.
#[derive(Debug)]
pub(super) struct NameServer {
    port: u16,
    /// Nodes that know the same secret let each other in.
    secret: String,
    process: Child,
    watchdog: Child,
}

impl NameServer {
    pub(super) fn start() -> Arc<Self> {
        let port = free_port();
        let mut command = Command::new("epmd");
        command.args(["-port", &port.to_string(), "-address", "127.0.0.1"]).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().unwrap();
        let watchdog = watchdog(&process, None);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "epmd does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Arc::new(Self { port, secret: unique("cookie"), process, watchdog })
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        end(&mut self.watchdog);
        end(&mut self.process);
    }
}

/// A node and its watchdog.
#[derive(Debug)]
pub(super) struct Node {
    folder: tempfile::TempDir,
    name: String,
    port: u16,
    pub(super) management_port: u16,
    distribution_port: u16,
    name_server: Arc<NameServer>,
    running: Option<(Child, Child)>,
}

impl Node {
    /// A node that was not started yet.
    pub(super) fn new(name: &str, name_server: Arc<NameServer>, settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["home", "mnesia", "log"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let file = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        file("enabled_plugins", if settings.management { "[rabbitmq_management]." } else { "[]." });
        file("advanced.config", &format!("[{{rabbit, [{}]}}].", settings.terms));
        file("home/.erlang.cookie", &name_server.secret);
        let cookie = folder.path().join("home/.erlang.cookie");
        fs::set_permissions(cookie, fs::Permissions::from_mode(0o400)).unwrap();
        let [port, distribution_port, management_port] = [(); 3].map(|()| free_port());
        let listener = format!("management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management_port}\n");
        let listener = if settings.management { &listener } else { "" };
        file("rabbitmq.conf", &format!("{USUAL}{listener}{}", settings.lines));
        let name = name.to_owned();
        Self { folder, name, port, management_port, distribution_port, name_server, running: None }
    }

    pub(super) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}", self.port)
    }

    /// Starts the processes, with the data that are there; ready is the node only later.
    pub(super) fn start(&mut self) {
        assert!(Path::new(PROGRAMS).exists(), "rabbitmq-server is not installed; `./tests/run` does that");
        let mut command = self.program("rabbitmq-server");
        let output = File::create(self.output()).unwrap();
        command.stdout(output.try_clone().unwrap()).stderr(output);
        let server = command.spawn().unwrap();
        let watchdog = watchdog(&server, Some(self.folder.path()));
        self.running = Some((server, watchdog));
    }

    pub(super) fn kill(&mut self) {
        if let Some((mut server, mut watchdog)) = self.running.take() {
            // The watchdog first: the number it knows may soon be somebody else's.
            end(&mut watchdog);
            end(&mut server);
        }
    }

    /// Sends `TERM`, `STOP`, `CONT`.
    pub(super) fn signal(&self, name: &str) {
        let process = self.running.as_ref().expect("the node runs").0.id();
        run(Command::new("kill").args([&format!("-{name}"), &process.to_string()]));
    }

    /// What the node printed, where it has ended.
    pub(super) fn ended(&mut self) -> Option<String> {
        self.running.as_mut().expect("the node was started").0.try_wait().unwrap()?;
        let mut text = String::new();
        File::open(self.output()).unwrap().read_to_string(&mut text).unwrap();
        Some(text)
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("output")
    }

    /// One of RabbitMQ's own programs, for this node.
    pub(super) fn program(&self, program: &str) -> Command {
        let path = |name: &str| self.folder.path().join(name);
        let mut command = Command::new(format!("{PROGRAMS}/{program}"));
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", path("home"))
            .env("LANG", "C.UTF-8")
            // The server's process is then the node itself, not a shell around it.
            .env("detached", "1")
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.name_server.port.to_string())
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", path("advanced.config"))
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins"))
            .env("RABBITMQ_FEATURE_FLAGS_FILE", path("feature_flags"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", path("schema"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_MNESIA_BASE", path("mnesia"))
            .env("RABBITMQ_NODENAME", &self.name)
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

/// Waits until the node at `url` serves. Fails with what it printed where it has `ended` instead.
pub(super) async fn until_ready(url: &str, ended: impl Fn() -> Option<String>) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while let Err(problem) = is_ready(url).await {
        if let Some(output) = ended() {
            return Err(output);
        }
        assert!(Instant::now() < deadline, "the broker is not ready: {problem}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// An open port says little: ready is who takes a queue and confirms a message.
async fn is_ready(url: &str) -> Result<(), String> {
    let attempt = async {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
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

/// Kills a process and removes its data once its own input ends, which is when this process does, however it ends.
fn watchdog(process: &Child, data: Option<&Path>) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", "cat >/dev/null; kill -9 \"$1\"; [ -z \"$2\" ] || rm -rf \"$2\"", "watchdog"]);
    command.arg(process.id().to_string()).args(data);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // A group of its own: a Ctrl-C in the terminal must not kill the watchdog first.
    command.process_group(0).spawn().unwrap()
}

fn end(process: &mut Child) {
    let _ = process.kill();
    let _ = process.wait();
}

/// Runs a command that must succeed; what it printed.
pub(super) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}
