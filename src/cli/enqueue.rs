//! `enqueue`: publish a job, and wait for its reply if asked to.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tracing::debug;

use super::output::{Screen, plain};
use super::run::new_job;
use super::{CommandError, Context, INTERRUPTED, Interrupt};
use crate::client::{Client, ClientError};
use crate::job::{Envelope, Job, JobId};
use crate::reply::ReplyEvent;

/// Arguments of `enqueue`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentkit-worker enqueue \"Summarize my unread emails\" --identifier user_123 --connection gmail --wait
  agentkit-worker enqueue \"Post the standup notes\" --identifier user_123 --connection slack --reply-to answers
  agentkit-worker enqueue --file job.json --wait --timeout 120")]
pub struct EnqueueArguments {
    /// What the agent shall do
    #[arg(required_unless_present = "file")]
    pub prompt: Option<String>,
    /// The user whose accounts are used
    #[arg(long, value_name = "ID", required_unless_present = "file")]
    pub identifier: Option<String>,
    /// A connection whose tools the agent may use; may be given several times
    #[arg(long = "connection", value_name = "C", required_unless_present = "file")]
    pub connections: Vec<String>,
    /// The job's id; the same id again gets the same reply again [default: a new one]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// The model [default: as the worker is configured]
    #[arg(long, value_name = "M")]
    pub model: Option<String>,
    /// Queue for the replies [default: the common reply queue]
    #[arg(long, value_name = "Q", conflicts_with = "wait")]
    pub reply_to: Option<String>,
    /// Wait for the reply, showing live progress
    #[arg(long)]
    pub wait: bool,
    /// Seconds to wait at most
    #[arg(long, value_name = "S", default_value_t = 600, requires = "wait")]
    pub timeout: u64,
    /// Read the whole job from a JSON file (`-`: standard input)
    #[arg(long, value_name = "JOB.json", conflicts_with_all = ["prompt", "identifier", "connections"])]
    pub file: Option<PathBuf>,
    /// Print every reply as one line of JSON instead
    #[arg(long, requires = "wait")]
    pub json: bool,
}

/// Carries out `enqueue`.
pub(crate) async fn enqueue(context: Context, arguments: EnqueueArguments) -> Result<ExitCode, CommandError> {
    let job = job(&context, &arguments)?;
    let named = context.config.amqp.problems().into_iter().map(|problem| format!("amqp.{problem}"));
    context.demand(named.collect())?;
    let client = Client::connect(context.config.amqp.clone(), context.clock.clone()).await?;
    if !arguments.wait {
        let sent = client.enqueue(&job).await.inspect_err(|_| eprintln!("job {}", plain(job.id().as_str())));
        println!("{}", sent.map_err(failed)?.id());
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("job {}", plain(job.id().as_str()));
    say_where_nobody_works(&context, &client).await;
    let screen = Screen::new();
    let seen = |reply: &crate::reply::Reply| match &reply.event {
        _ if arguments.json => println!("{}", serde_json::to_string(reply).expect("a reply is JSON types only")),
        ReplyEvent::AuthorizationRequired(event) if !event.is_final => screen.authorization(event),
        _ => screen.terminal(reply),
    };
    let mut interrupt = Interrupt::listen()?;
    let asked = client.request(&job, Duration::from_secs(arguments.timeout), seen);
    let reply = tokio::select! {
        reply = asked => reply.map_err(failed)?,
        () = interrupt.received() => {
            screen.clear();
            eprintln!("interrupted; the job goes on");
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    Ok(if matches!(reply.event, ReplyEvent::Completed(_)) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The job is taken by the broker all the same, and waits.
async fn say_where_nobody_works(context: &Context, client: &Client) {
    let amqp = &context.config.amqp;
    match client.workers().await {
        Ok(0) => {
            let at: Vec<String> = amqp.peers().into_iter().map(|peer| peer.address).collect();
            let (queue, at) = (amqp.names().jobs(), at.join(", "));
            eprintln!("nobody consumes {queue} at {at}: the job waits until an `agentkit-worker worker` runs there");
        }
        Ok(_) => {}
        Err(error) => debug!(%error, "nobody knows how many workers there are"),
    }
}

fn job(context: &Context, arguments: &EnqueueArguments) -> Result<Job, CommandError> {
    let mut job = match &arguments.file {
        Some(path) => {
            let body = if path.as_os_str() == "-" {
                std::io::read_to_string(std::io::stdin()).context("standard input cannot be read")?
            } else {
                let text = std::fs::read_to_string(path);
                text.map_err(|error| CommandError::Usage(format!("{}: {error}", path.display())))?
            };
            let most = context.config.worker.max_job_bytes;
            Job::from_slice(body.as_bytes(), &Envelope::default(), most)
                .map_err(|error| CommandError::Usage(error.to_string()))?
        }
        None => new_job(
            arguments.prompt.as_deref().unwrap_or_default(),
            arguments.identifier.clone().unwrap_or_default(),
            arguments.connections.clone(),
        )?,
    };
    if let Some(id) = &arguments.id {
        job.id = Some(JobId::new(id.clone()).ok_or(CommandError::Usage("--id: 1 to 200 bytes".into()))?);
    }
    if job.id.is_none() {
        // A person who asks twice wants two answers; without an id the second would get the first one's reply.
        job.id = JobId::new(new_id());
    }
    if arguments.model.is_some() {
        job.model.clone_from(&arguments.model);
    }
    if arguments.reply_to.is_some() {
        job.reply_to.clone_from(&arguments.reply_to);
    }
    job.progress |= arguments.wait;
    Ok(job)
}

#[expect(clippy::disallowed_methods, reason = "the process floor is where randomness enters")]
fn new_id() -> String {
    format!("cli-{}", uuid::Uuid::new_v4().simple())
}

fn failed(error: ClientError) -> CommandError {
    match error {
        ClientError::Invalid(error) => CommandError::Usage(error.to_string()),
        ClientError::Queue(error) => error.into(),
        error @ ClientError::TimedOut(_) => CommandError::Other(error.into()),
    }
}
