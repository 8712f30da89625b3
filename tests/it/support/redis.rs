//! A private Redis server per test, which a test may kill, freeze and restart.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agentkit_worker::redis_client::{Config, RedisClient};
use tempfile::TempDir;

use super::time::eventually;

/// A server on a free port of the loopback interface, with an append-only file in its own folder. Gone with the test,
/// also where the test process is killed.
pub(crate) struct Redis {
    folder: TempDir,
    port: u16,
    options: Vec<String>,
    running: Option<Running>,
}

struct Running {
    server: Child,
    watchdog: Child,
}

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

    /// A server that was not started yet.
    pub(crate) fn stopped(options: &[&str]) -> Self {
        let options = options.iter().map(ToString::to_string).collect();
        Self { folder: tempfile::tempdir().unwrap(), port: free_port(), options, running: None }
    }

    /// A client's configuration for this server.
    pub(crate) fn config(&self) -> Config {
        Config { url: format!("redis://127.0.0.1:{}", self.port).into(), ..Config::default() }
    }

    /// A client of this server with the product's own limits.
    pub(crate) fn client(&self) -> RedisClient {
        RedisClient::new(&self.config()).unwrap()
    }

    /// Starts the server again, on the same port and with the same data, and waits until it answers.
    pub(crate) async fn restart(&mut self) {
        assert!(self.running.is_none(), "redis runs already");
        self.running = Some(self.spawn());
        eventually("redis answers", async || self.try_command(&["PING"]).filter(|answer| answer == "PONG")).await;
    }

    /// Kills the server as a crash does.
    pub(crate) fn kill(&mut self) {
        self.running = None;
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

    fn try_command(&self, arguments: &[&str]) -> Option<String> {
        let output =
            Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(arguments).output().expect("redis-cli");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn spawn(&self) -> Running {
        let server = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"])
            .args(["--repl-diskless-sync-delay", "0", "--dir"])
            .arg(self.folder.path())
            .args(&self.options)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        // Holds the other end of our pipe: when this process ends in whatever way, it ends the server too.
        let watchdog = Command::new("sh")
            .args(["-c", "cat >/dev/null; kill -9 \"$1\"; rm -rf \"$2\"", "watchdog", &server.id().to_string()])
            .arg(self.folder.path())
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh is installed");
        Running { server, watchdog }
    }

    fn signal(&self, signal: &str) {
        let server = &self.running.as_ref().expect("redis runs").server;
        assert!(Command::new("kill").args([signal, &server.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The watchdog goes before the server is waited for: until then the server's process id cannot be another's.
        let _ = self.server.kill();
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        let _ = self.server.wait();
    }
}

/// A Redis for tests that do no harm to it: the one that `TEST_REDIS_URL` names, else a private one.
pub(crate) struct AnyRedis {
    private: Option<Redis>,
    client: RedisClient,
}

impl AnyRedis {
    pub(crate) async fn start() -> Self {
        // Contract tests send megabytes from several tasks on busy machines; the product's limits have tests of their own.
        let patient = Config { response_timeout_milliseconds: 10_000, ..Config::default() };
        let Some(url) = external_url() else {
            let redis = Redis::start().await;
            let client = RedisClient::new(&Config { url: redis.config().url, ..patient }).unwrap();
            return Self { private: Some(redis), client };
        };
        let key_prefix = format!("{}:", tempfile::tempdir().unwrap().path().display());
        let client = RedisClient::new(&Config { url: url.into(), key_prefix, ..patient }).unwrap();
        Self { private: None, client }
    }

    pub(crate) fn client(&self) -> RedisClient {
        self.client.clone()
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's own configuration")]
fn external_url() -> Option<String> {
    std::env::var("TEST_REDIS_URL").ok().filter(|url| !url.is_empty())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// How long a call may take that meets a dead or frozen Redis, with room for a busy test machine.
pub(crate) const BOUND: Duration = Duration::from_millis(900);
