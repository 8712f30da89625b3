//! A private Redis server per test, which a test may kill, freeze and restart.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use agentkit_worker::internals::redis_client::{Config, RedisClient};
use tempfile::TempDir;

use super::redis_cluster::RedisCluster;
use super::{least_rights, shortly};

/// A server on a free port of the loopback interface, with an append-only file in its own folder. Gone with the test,
/// also where the test process is killed.
pub(crate) struct Redis {
    folder: TempDir,
    port: u16,
    /// The file that a Sentinel keeps its state in.
    file: Option<PathBuf>,
    options: Vec<String>,
    running: Option<RedisProcess>,
}

/// A shell that has started the server and ends it as soon as our end of the pipe to it is closed, in whatever way this
/// process ends. As the server's parent it exists before the server does and keeps its process id from being reused.
struct RedisProcess {
    watchdog: Child,
    server: String,
}

/// The file is written before a command is answered, without a flush that the write may have to wait for: a server that is
/// killed (unlike a machine without power) then knows all that it answered. With `everysec` it may lose two seconds where
/// the disk is busy.
const USUAL: [&str; 10] = [
    "--save",
    "",
    "--appendonly",
    "yes",
    "--appendfsync",
    "no",
    "--maxmemory-policy",
    "noeviction",
    "--repl-diskless-sync-delay",
    "0",
];

/// `$0` is the server's folder, `$@` its command line.
const WATCHDOG: &str = r#"
"$@" >&2 &
echo $!
read -r word
kill -9 $!
wait
[ "$word" = keep ] || rm -rf "$0"
"#;

impl Redis {
    /// Starts a server and waits until it answers.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with further options, `--name value …`.
    pub(crate) async fn start_with(options: &[&str]) -> Self {
        let mut redis = Self::stopped(options);
        redis.restart().await;
        redis
    }

    /// Starts a replica of this server, and waits until it has the data.
    pub(crate) async fn start_replica(&self) -> Self {
        Self::start_replica_of(self.port).await
    }

    /// Starts a replica of the server on a port, and waits until it has the data.
    pub(crate) async fn start_replica_of(port: u16) -> Self {
        let replica = Self::start_with(&["--replicaof", "127.0.0.1", &port.to_string()]).await;
        shortly("the replica has its master's data", async || {
            replica.command(&["INFO", "replication"]).contains("master_link_status:up").then_some(())
        })
        .await;
        replica
    }

    /// Starts a Sentinel for a master, and waits until it answers.
    pub(crate) async fn start_sentinel(name: &str, master: u16) -> Self {
        let mut sentinel = Self::stopped(&[]);
        let settings = format!(
            "sentinel monitor {name} 127.0.0.1 {master} 2\nsentinel down-after-milliseconds {name} 1000\n\
             sentinel failover-timeout {name} 5000\n"
        );
        let file = sentinel.folder.path().join("sentinel.conf");
        std::fs::write(&file, settings).unwrap();
        (sentinel.file, sentinel.options) = (Some(file), vec!["--sentinel".to_owned()]);
        sentinel.restart().await;
        sentinel
    }

    /// A server that was not started yet.
    pub(crate) fn stopped(options: &[&str]) -> Self {
        let given = USUAL.iter().chain(options).map(ToString::to_string);
        let options = given.chain(least_rights::redis_options()).collect();
        Self { folder: tempfile::tempdir().unwrap(), port: free_port(), file: None, options, running: None }
    }

    /// Where it listens on the loopback interface.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The server's address.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A client's configuration for this server.
    pub(crate) fn config(&self) -> Config {
        Config { url: self.url().into(), ..Config::default() }
    }

    /// A client of this server with the product's own limits.
    pub(crate) fn client(&self) -> RedisClient {
        RedisClient::new(&self.config()).unwrap()
    }

    /// Starts the server again, on the same port and with the same data, and waits until it answers.
    pub(crate) async fn restart(&mut self) {
        assert!(self.running.is_none(), "redis runs already");
        self.running = Some(self.spawn());
        shortly("redis answers", async || self.try_command(&["PING"]).filter(|answer| answer == "PONG")).await;
    }

    /// Kills the server as a crash does.
    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    /// Has a server that was killed begin with nothing when it is started again.
    pub(crate) fn forget(&self) {
        assert!(self.running.is_none(), "redis runs");
        self.in_folder(|folder| {
            for entry in std::fs::read_dir(folder).unwrap() {
                std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
            }
        });
    }

    /// Looks at the server's files, or changes those of one that was killed.
    pub(crate) fn in_folder<T>(&self, act: impl FnOnce(&Path) -> T) -> T {
        act(self.folder.path())
    }

    /// Stops the server's process without closing its connections, as a stalled machine does.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets a frozen server go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Sends a command by `redis-cli` and returns its answer.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        self.try_command(arguments).expect("redis answers")
    }

    /// The same of a server that may be away, or close the connection, as Sentinel has one do that becomes a replica.
    pub(crate) fn try_command(&self, arguments: &[&str]) -> Option<String> {
        let output =
            Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(arguments).output().expect("redis-cli");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn spawn(&self) -> RedisProcess {
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG])
            .arg(self.folder.path())
            .arg("redis-server")
            .args(&self.file)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"])
            .arg(self.folder.path())
            .args(&self.options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = String::new();
        BufReader::new(watchdog.stdout.take().unwrap()).read_line(&mut server).unwrap();
        RedisProcess { watchdog, server: server.trim().to_owned() }
    }

    /// The server's process.
    pub(crate) fn process(&self) -> u32 {
        self.running.as_ref().expect("redis runs").server.parse().unwrap()
    }

    fn signal(&self, signal: &str) {
        let server = self.process().to_string();
        assert!(Command::new("kill").args([signal, &server]).status().unwrap().success());
    }
}

impl Drop for RedisProcess {
    fn drop(&mut self) {
        let _ = self.watchdog.stdin.take().map(|mut pipe| pipe.write_all(b"keep\n"));
        let _ = self.watchdog.wait();
    }
}

/// A Redis for tests that do no harm to it: the one that `TEST_REDIS_URL` names, else a private one, or a cluster.
pub(crate) struct AnyRedis {
    _private: Option<Redis>,
    client: RedisClient,
}

impl AnyRedis {
    /// Starts a private server unless there is another. Each call has keys of its own.
    pub(crate) async fn start() -> Self {
        let Some(url) = external_url() else {
            let redis = Redis::start().await;
            let client = RedisClient::new(&patient(redis.config())).unwrap();
            return Self { _private: Some(redis), client };
        };
        let config = Config { url: url.into(), key_prefix: random_prefix(), ..Config::default() };
        Self { _private: None, client: RedisClient::new(&patient(config)).unwrap() }
    }

    /// The cluster that all such tests share. Each call has keys of its own.
    pub(crate) async fn cluster() -> Self {
        let config = Config { key_prefix: random_prefix(), ..RedisCluster::shared().await.config() };
        Self { _private: None, client: RedisClient::new(&patient(config)).unwrap() }
    }

    /// A client of it.
    pub(crate) fn client(&self) -> RedisClient {
        self.client.clone()
    }
}

/// Contract tests send megabytes on busy machines; the product's limits have tests of their own.
fn patient(config: Config) -> Config {
    Config { connection_timeout_milliseconds: 10_000, response_timeout_milliseconds: 10_000, ..config }
}

#[expect(clippy::disallowed_methods, reason = "tests that share a server must not meet each other's keys")]
fn random_prefix() -> String {
    format!("agentkit-test-{}:", uuid::Uuid::new_v4())
}

#[expect(clippy::disallowed_methods, reason = "a test's own configuration")]
fn external_url() -> Option<String> {
    std::env::var("TEST_REDIS_URL").ok().filter(|url| !url.is_empty())
}

/// Below the range that outgoing connections take their ports from, so none of them takes it while the server is down.
#[expect(clippy::disallowed_methods, reason = "parallel tests try different ports")]
pub(crate) fn free_port() -> u16 {
    loop {
        let port = 10_000 + u16::try_from(uuid::Uuid::new_v4().as_u128() % 20_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
