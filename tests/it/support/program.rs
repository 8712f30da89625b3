//! The program itself, as a process with an environment and a folder of its own.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};

use agentkit_worker::internals::queue::amqp::Config as Amqp;
use agentkit_worker::internals::sandbox::Sandbox;
use secrecy::ExposeSecret;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::sandbox_peer::plain_client;
use super::{least_rights, soon};

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct CommandOutcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl CommandOutcome {
    /// All that was printed, for searching.
    pub(crate) fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Puts these lines into the configuration file of a program's folder.
pub(crate) fn write_settings(folder: &Path, lines: &str) {
    std::fs::create_dir_all(folder.join("config")).unwrap();
    std::fs::write(folder.join("config").join("local.toml"), lines).unwrap();
}

/// An environment and a working folder for the program.
pub(crate) struct Program {
    folder: TempDir,
    variables: Vec<(String, String)>,
    /// Where another build of it is.
    file: Option<PathBuf>,
}

impl Program {
    /// Nothing is set.
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), variables: Vec::new(), file: None }
    }

    /// Everything that a worker needs: broker, Redis, the stand-ins, any free port, JSON logs.
    pub(crate) fn of_service(sandbox: &Sandbox, amqp: &Amqp, redis_url: &str) -> Self {
        Self::new()
            .pointed_to(sandbox)
            .set("AMQP_URL", amqp.url.expose_secret())
            .set("AGENTKIT_WORKER__AMQP__PREFIX", &amqp.prefix)
            .set("REDIS_URL", redis_url)
            .set("AGENTKIT_WORKER__REDIS__KEY_PREFIX", &format!("{}:", amqp.prefix))
            .set("AGENTKIT_WORKER__HTTP__BIND", "127.0.0.1:0")
            .set("AGENTKIT_WORKER__LOG__FORMAT", "json")
    }

    /// Uses these stand-ins.
    pub(crate) fn pointed_to(self, sandbox: &Sandbox) -> Self {
        self.set("SCALEKIT_ENV_URL", sandbox.scalekit_url())
            .set("SCALEKIT_CLIENT_ID", sandbox.client_id())
            .set("SCALEKIT_CLIENT_SECRET", sandbox.client_secret())
            .set("OPENAI_BASE_URL", &sandbox.model_url())
            .set("OPENAI_API_KEY", sandbox.api_key())
    }

    /// Sets a variable; the last one of a name counts.
    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes another build of the program.
    pub(crate) fn built_as(self, file: PathBuf) -> Self {
        Self { file: Some(file), ..self }
    }

    /// Where the program runs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts these lines into the configuration file of the folder.
    pub(crate) fn write_settings(&self, lines: &str) {
        write_settings(self.folder(), lines);
    }

    /// Runs a command to its end, without a terminal.
    pub(crate) async fn run(&self, arguments: &[&str]) -> CommandOutcome {
        let output = soon(&arguments.join(" "), self.command(arguments).output()).await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        CommandOutcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Starts a command that goes on until it is told to stop.
    pub(crate) fn start(&self, arguments: &[&str]) -> RunningProgram {
        self.start_with(arguments, &[])
    }

    /// The same with further variables.
    pub(crate) fn start_with(&self, arguments: &[&str], variables: &[(&str, String)]) -> RunningProgram {
        let mut command = self.command(arguments);
        command.envs(variables.iter().cloned());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, log) = watch::channel(Vec::new());
        let sender = Arc::new(sender);
        tokio::spawn(keep(child.stdout.take().unwrap(), Arc::clone(&sender)));
        tokio::spawn(keep(child.stderr.take().unwrap(), sender));
        RunningProgram { watchdog: watchdog(child.id().unwrap()), child, log }
    }

    /// Starts a worker and waits until it takes jobs.
    pub(crate) async fn worker(&self) -> WorkerProcess {
        let worker = self.worker_in_trouble().await;
        super::eventually("the worker is ready", || async { (worker.get("/readyz").await.0 == 200).then_some(()) })
            .await;
        worker
    }

    /// Starts a worker that may not become ready.
    pub(crate) async fn worker_in_trouble(&self) -> WorkerProcess {
        least_rights::prepare(&self.variables).await;
        let running = self.start(&["worker"]);
        let line = running.line("HTTP: /livez").await;
        let line: Value = serde_json::from_str(&line).unwrap();
        WorkerProcess { url: format!("http://{}", line["address"].as_str().unwrap()), running }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.file.clone().unwrap_or_else(binary));
        command
            .arg0("agentkit-worker")
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .current_dir(self.folder.path());
        if self.file.is_none() {
            // What most tests are about is not whether somebody approves it; earlier builds do not know the variable.
            command.env("AGENTKIT_WORKER__APPROVAL__WRITES", "none");
        }
        command.envs(self.variables.iter().cloned());
        if arguments == ["worker"] {
            command.envs(least_rights::variables(&self.variables));
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

/// The program as it was when the tests began: held open, as another build may replace the file meanwhile.
fn binary() -> PathBuf {
    static BINARY: OnceLock<File> = OnceLock::new();
    let file = BINARY.get_or_init(|| File::open(env!("CARGO_BIN_EXE_agentkit-worker")).unwrap());
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// Kills the process once its own input ends, which is when this process does, however it ends.
fn watchdog(process: u32) -> std::process::Child {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "cat >/dev/null; kill -9 \"$1\"", "watchdog", &process.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

async fn keep(output: impl AsyncRead + Unpin, log: Arc<watch::Sender<Vec<String>>>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.send_modify(|log| log.push(line));
    }
}

/// A command under way.
pub(crate) struct RunningProgram {
    child: Child,
    watchdog: std::process::Child,
    log: watch::Receiver<Vec<String>>,
}

impl RunningProgram {
    /// The lines printed so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    /// Waits for a line that contains `text`.
    pub(crate) async fn line(&self, text: &str) -> String {
        let mut log = self.log.clone();
        let find = |lines: &Vec<String>| lines.iter().find(|line| line.contains(text)).cloned();
        let found = soon(text, log.wait_for(|lines| find(lines).is_some())).await.map(|lines| find(&lines));
        found.ok().flatten().unwrap_or_else(|| panic!("ended without {text:?}: {:#?}", self.log()))
    }

    /// The process's number.
    pub(crate) fn process(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Sends `TERM`, `KILL`, `INT`, `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let process = self.process().to_string();
        let status = std::process::Command::new("kill").args([&format!("-{name}"), &process]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end; gives all lines that it printed.
    pub(crate) async fn end(mut self) -> (ExitStatus, Vec<String>) {
        let status = soon("the end of the process", self.child.wait()).await.unwrap();
        let mut log = self.log.clone();
        // The sender is gone once everything was read.
        while log.changed().await.is_ok() {}
        (status, self.log())
    }
}

impl Drop for RunningProgram {
    fn drop(&mut self) {
        // The watchdog first: the number it knows may soon be somebody else's. The child is killed by its own drop.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
    }
}

/// A worker under way.
pub(crate) struct WorkerProcess {
    pub(crate) running: RunningProgram,
    pub(crate) url: String,
}

impl WorkerProcess {
    /// Status and body of one of its pages; status 0 where nobody answers.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        match plain_client().get(format!("{}{path}", self.url)).send().await {
            Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
            Err(_) => (0, String::new()),
        }
    }

    /// Waits until one of its pages answers with this status; gives the body.
    pub(crate) async fn page(&self, path: &str, status: u16) -> String {
        super::eventually(&format!("{path} answers {status}"), || async {
            let (found, body) = self.get(path).await;
            (found == status).then_some(body)
        })
        .await
    }

    /// How many lines of its log contain `text`.
    pub(crate) fn lines(&self, text: &str) -> usize {
        self.running.log().iter().filter(|line| line.contains(text)).count()
    }

    /// The value of a metric, by its name and labels as they are printed.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let (_, page) = self.get("/metrics").await;
        let line = page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Tells it to stop and waits until it has.
    pub(crate) async fn stop(self) -> (ExitStatus, Vec<String>) {
        self.running.signal("TERM");
        self.running.end().await
    }
}
