//! The commands, one file each.

pub(crate) mod audit;
mod components;
mod config_schema;
pub(crate) mod dead;
mod decide;
pub(crate) mod demo;
pub(crate) mod digests;
pub(crate) mod doctor;
mod doctor_mcp;
mod doctor_redis;
mod doctor_transport;
mod end_of_life;
pub(crate) mod enqueue;
pub(crate) mod erase;
mod export;
pub(crate) mod jobs;
mod jobs_list;
mod letters;
pub(crate) mod openapi;
mod output;
mod report;
pub mod run;
pub(crate) mod sandbox;
pub(crate) mod schema;
pub(crate) mod tools;
mod which_run;
pub(crate) mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::warn;

use crate::clock::{SharedClock, SystemClock};
use crate::config::{BadConfig, Config, Sources};
use crate::queue::QueueError;
use crate::schedule::BadDigests;
use crate::telemetry::{self, LogFormat};
use crate::worker::control::timeline;

/// Exit code for bad usage or configuration (`EX_USAGE` of sysexits.h).
pub const USAGE: u8 = 64;
/// Exit code for a needed service that cannot be reached (`EX_UNAVAILABLE`).
pub(crate) const UNAVAILABLE: u8 = 69;
/// Exit code after SIGINT, as shells give it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Runs LLM agent jobs from RabbitMQ with each user's own tools through Scalekit AgentKit.
#[derive(Debug, Parser)]
#[command(name = "agentkit-worker", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Arguments {
    /// Configuration file, over the built-in defaults and `config/local.toml`
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Form of the log lines on standard error
    #[arg(long, global = true, value_name = "text|json")]
    pub log: Option<LogArgument>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  agentkit-worker demo
  agentkit-worker run --sandbox
  agentkit-worker run \"Search for emails from GitHub and list the subjects\" --identifier user_123 --connection gmail
  agentkit-worker worker
  agentkit-worker enqueue \"Summarize my unread emails\" --identifier user_123 --connection gmail --wait
  agentkit-worker doctor

Exit codes: 0 done, 1 the job failed or a run-time error, 64 bad usage or configuration,
69 a needed service cannot be reached, 130 interrupted.";

const WHERE_TO_SET: &str = "Set it in the environment, in .env or in the file given with --config: SCALEKIT_ENV_URL, \
SCALEKIT_CLIENT_ID,
SCALEKIT_CLIENT_SECRET, OPENAI_API_KEY, AMQP_URL, REDIS_URL; `agentkit-worker schema config --toml` names every key.
Without an account: `agentkit-worker run --sandbox`.";

/// Form of the log lines.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum LogArgument {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The whole story in one process, with nothing installed and no account
    Demo(demo::DemoArguments),
    /// One job in this process, against the real Scalekit and model or the stand-ins
    Run(run::RunArguments),
    /// The service: consumes jobs from RabbitMQ until SIGTERM
    #[command(after_help = worker::EXAMPLES)]
    Worker,
    /// Publishes a job, and waits for its reply if asked to
    Enqueue(enqueue::EnqueueArguments),
    /// A run's timeline; cancel it, wake it
    Jobs(jobs::JobsArguments),
    /// Whether the audit record is as it was written
    Audit(audit::AuditArguments),
    /// Messages that were given up: look at them, let them run again, throw them away
    Dead(dead::DeadArguments),
    /// Scheduled jobs: what they are, when they come, and how they stand
    Digests(digests::DigestsArguments),
    /// What the agent would see for a user
    Tools(tools::ToolsArguments),
    /// Checks configuration, broker, Redis, Scalekit and model, and says what to do
    Doctor(doctor::DoctorArguments),
    /// Removes or seals what is kept of a user, and says what it could not reach
    Erase(erase::EraseArguments),
    /// Serves the stand-in Scalekit and model, for other people's tests
    Sandbox(sandbox::SandboxArguments),
    /// Prints JSON Schemas of the messages
    Schema(schema::SchemaArguments),
}

/// Why a command ends without having done its work, as far as the exit code tells it apart.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The arguments or the configuration are wrong.
    #[error("{0}")]
    Usage(String),
    /// A needed service cannot be reached, or refuses us.
    #[error("{0}")]
    Unavailable(String),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl From<BadConfig> for CommandError {
    fn from(error: BadConfig) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<BadDigests> for CommandError {
    fn from(error: BadDigests) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<QueueError> for CommandError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Refused(_) => Self::Usage(format!("RabbitMQ: {error}")),
            error => Self::Unavailable(format!("RabbitMQ: {error}; is AMQP_URL right, and the broker running?")),
        }
    }
}

/// What every command gets.
pub struct Context {
    /// The layers of the configuration.
    pub sources: Sources,
    /// The configuration; its parts are checked by the commands that need them.
    pub config: Config,
    /// Time.
    pub clock: SharedClock,
}

impl Context {
    /// Fails with all of `problems` at once, if there are any.
    pub fn demand(&self, problems: Vec<String>) -> Result<(), CommandError> {
        if problems.is_empty() {
            return Ok(());
        }
        let problems = BadConfig(problems.into_iter().map(|problem| self.sources.with_origin(problem)).collect());
        Err(CommandError::Usage(format!("{problems}\n{WHERE_TO_SET}")))
    }
}

/// SIGINT, noticed from the moment this is made: before anything is shown that somebody may answer with it.
pub(crate) struct Interrupt(Signal);

impl Interrupt {
    /// From now on the signal does not end the process by itself.
    pub(crate) fn listen() -> Result<Self, CommandError> {
        signal(SignalKind::interrupt()).map(Self).map_err(|error| CommandError::Other(error.into()))
    }

    /// The next one.
    pub(crate) async fn received(&mut self) {
        self.0.recv().await;
    }
}

/// Carries out one command.
pub async fn run(arguments: Arguments) -> ExitCode {
    // Boxed: the future of a command that holds a whole worker is large.
    match Box::pin(dispatch(arguments)).await {
        Ok(code) => code,
        Err(error) => {
            let code = match &error {
                CommandError::Usage(_) => ExitCode::from(USAGE),
                CommandError::Unavailable(_) => ExitCode::from(UNAVAILABLE),
                CommandError::Other(_) => ExitCode::FAILURE,
            };
            match error {
                CommandError::Other(error) => eprintln!("agentkit-worker: {error:#}"),
                error => eprintln!("agentkit-worker: {error}"),
            }
            code
        }
    }
}

async fn dispatch(arguments: Arguments) -> Result<ExitCode, CommandError> {
    let sources = Sources::of_process(arguments.config)?;
    let mut config = Config::load(&sources)?;
    match arguments.log {
        Some(LogArgument::Text) => config.log.format = LogFormat::Text,
        Some(LogArgument::Json) => config.log.format = LogFormat::Json,
        None => {}
    }
    // Commands for people show their own progress; the service logs what it does.
    let speaks_itself = !matches!(arguments.command, Command::Worker | Command::Sandbox(_));
    if speaks_itself && sources.variable("RUST_LOG").is_none() && arguments.log.is_none() {
        "error".clone_into(&mut config.log.filter);
    }
    telemetry::start(&config.log, sources.variable("NO_COLOR").is_some()).map_err(CommandError::Usage)?;
    for warning in sources.warnings() {
        warn!("{warning}");
    }
    let context = Context { sources, config, clock: Arc::new(SystemClock) };
    match arguments.command {
        Command::Demo(arguments) => Box::pin(demo::demo(context, arguments)).await,
        Command::Run(arguments) => Box::pin(run::run(context, arguments)).await,
        Command::Worker => worker::worker(context).await,
        Command::Enqueue(arguments) => enqueue::enqueue(context, arguments).await,
        Command::Jobs(arguments) => jobs::jobs(context, arguments).await,
        Command::Audit(arguments) => audit::audit(&context, &arguments),
        Command::Dead(arguments) => dead::dead(context, arguments).await,
        Command::Digests(arguments) => digests::digests(context, arguments).await,
        Command::Tools(arguments) => Box::pin(tools::tools(context, arguments)).await,
        Command::Doctor(arguments) => doctor::doctor(context, arguments).await,
        Command::Sandbox(arguments) => sandbox::sandbox(context, arguments).await,
        Command::Erase(arguments) => erase::erase(context, arguments).await,
        Command::Schema(arguments) => schema::schema(&arguments),
    }
}
