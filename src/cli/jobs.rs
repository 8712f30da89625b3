//! `jobs`: a run's timeline from its journal; act on it.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::anyhow;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

use super::decide::{self, Said};
use super::jobs_list::JobListArguments;
use super::output::plain;
use super::timeline::{Timeline, outcome};
use super::which_run::WhichRun;
use super::{CommandError, Context, export, jobs_list};
use crate::agent::event::SettledEffect;
use crate::agent::run::Run;
use crate::app;
use crate::audit::Audit;
use crate::decision::Ruling;
use crate::encryption::Encryption;
use crate::journal::redis::RedisJournal;
use crate::journal::{Journal, JournalError};
use crate::parking::redis::RedisParking;
use crate::queue::amqp::AmqpQueue;
use crate::redis_client::RedisClient;
use crate::reply::Settlement;
use crate::telemetry;
use crate::worker::control::operator::{Cancel, Operator};
use crate::worker::control::runs::{RunError, Runs};
use crate::worker::control::settling::SettleOutcome;
use crate::worker::message::signature::HeaderKey;

/// Arguments of `jobs`.
#[derive(Debug, Args)]
pub struct JobsArguments {
    /// What to do
    #[command(subcommand)]
    pub action: JobsAction,
}

/// What can be done about a run.
#[derive(Debug, Subcommand)]
pub enum JobsAction {
    /// Finds runs: by how they stand, whose they are, and when that changed last
    #[command(after_help = "Examples:
  agentkit-worker jobs list
  agentkit-worker jobs list --state failed --since 2h
  agentkit-worker jobs list --identifier user_123 --json

The run that changed last comes first. Runs are known from the moment that a worker takes them until nothing is kept of
them any more.")]
    List(JobListArguments),
    /// A run's journal as JSON, to keep or to hand on
    #[command(after_help = "Examples:
  agentkit-worker jobs export order-4711-summary > run.json
  agentkit-worker jobs export order-4711-summary --content > run.json

Prompts, arguments, results and answers are left out unless `--content` asks for them. Exit code 1 where no run of this id
is known.")]
    Export(ExportArguments),
    /// Says what became of an effect that was `unknown` when its run ended
    #[command(after_help = "Examples:
  agentkit-worker jobs settle order-4711-summary --call call_7 --as done
  agentkit-worker jobs settle order-4711-summary --call call_7 --as not_done --by ann

The call is named by the reply (`effects[].call_id`) and by `jobs show --content`. It is journalled, and the caller gets
`agentkit.job.effect_settled` in its reply queue. The same again changes nothing (exit code 0); something else than was said
before, or of an effect that is known, is refused (exit code 1).")]
    Settle(SettleArguments),
    /// What happened in a run, and how it stands
    #[command(after_help = "Examples:
  agentkit-worker jobs show order-4711-summary
  agentkit-worker jobs show order-4711-summary --content
  agentkit-worker jobs show order-4711-summary --json
  agentkit-worker jobs show order-4711-summary --producer billing

Exit code 1 where no run of this id is known.")]
    Show(ShowArguments),
    /// Ends a run with `failed/cancelled`
    #[command(after_help = "Example:
  agentkit-worker jobs cancel order-4711-summary

A run that is under way stops within a second, its model call included; a run that waits ends at once. The caller gets
`failed/cancelled` with everything that was done until then; a tool call that was out is reported as `unknown`. A run
that has ended before is left as it is (exit code 1, unless it had been cancelled).")]
    Cancel(WhichRun),
    /// Wakes a run that waits (for an authorization, a rate limit, another attempt) now
    #[command(after_help = "Example:
  agentkit-worker jobs resume order-4711-summary

The run looks at once whether it can go on; if it cannot, it waits again. Nothing is run twice by it.")]
    Resume(WhichRun),
    /// Lets the calls of a run be made that wait for approval
    #[command(after_help = "Examples:
  agentkit-worker jobs approve order-4711-summary
  agentkit-worker jobs approve order-4711-summary --call call_7

The calls are named by `agentkit.job.approval_required` (`call_id`) and by `jobs show`. Exit code 1 where nothing waits, or
something else was decided before.")]
    Approve(DecideArguments),
    /// Has the calls of a run not be made that wait for approval
    #[command(after_help = "Example:
  agentkit-worker jobs deny order-4711-summary --reason \"not to this address\"

The reason is told to the model. Exit code 1 where nothing waits, or something else was decided before.")]
    Deny(DecideArguments),
}

/// Which calls of which run, and why.
#[derive(Debug, Args)]
pub struct DecideArguments {
    /// Which run
    #[command(flatten)]
    pub run: WhichRun,
    /// One call, by the model's id of it or by the approval's [default: all that wait]
    #[arg(long, value_name = "C")]
    pub call: Option<String>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// Which run, and how much of it is shown.
#[derive(Debug, Args)]
pub struct ShowArguments {
    /// Which run
    #[command(flatten)]
    pub run: WhichRun,
    /// Show prompts, arguments and results, too
    #[arg(long)]
    pub content: bool,
    /// Print one JSON object instead
    #[arg(long)]
    pub json: bool,
}

impl From<RunError> for CommandError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Unavailable(_) | RunError::Queue(_) | RunError::NotTold(_) => {
                Self::Unavailable(error.to_string())
            }
            error => Self::Other(error.into()),
        }
    }
}

impl From<JournalError> for CommandError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Decrypt(_) => Self::Other(error.into()),
            error => Self::Unavailable(format!("Redis: {error}; is REDIS_URL right, and Redis running?")),
        }
    }
}

/// What became of which effect.
#[derive(Debug, Args)]
pub struct SettleArguments {
    /// Of which run
    #[command(flatten)]
    pub run: WhichRun,
    /// The call, by the model's id of it
    #[arg(long, value_name = "C")]
    pub call: String,
    /// Whether it was carried out
    #[arg(long = "as", value_name = "done|not_done", value_parser = PossibleValuesParser::new(["done", "not_done"]))]
    pub settlement: String,
    /// Who says so [default: USER]
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
}

/// Which run is exported, and how much of it.
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// Which run
    #[command(flatten)]
    pub run: WhichRun,
    /// With prompts, arguments, results and answers
    #[arg(long)]
    pub content: bool,
}

/// Carries out `jobs`.
pub(crate) async fn jobs(context: Context, arguments: JobsArguments) -> Result<ExitCode, CommandError> {
    match arguments.action {
        JobsAction::List(arguments) => jobs_list::list(&arguments, &*journal(&context)?, context.clock.now()).await,
        JobsAction::Export(arguments) => export(&context, &arguments).await,
        JobsAction::Settle(arguments) => settle(&context, &arguments).await,
        JobsAction::Show(arguments) => show(&context, &arguments).await,
        JobsAction::Cancel(run) => cancel(&context, &run).await,
        JobsAction::Resume(run) => resume(&context, &run).await,
        JobsAction::Approve(arguments) => decide(&context, arguments, Ruling::Approve).await,
        JobsAction::Deny(arguments) => decide(&context, arguments, Ruling::Deny).await,
    }
}

/// The journals that the workers write.
pub(super) fn journal(context: &Context) -> Result<Arc<dyn Journal>, CommandError> {
    Ok(Arc::new(
        RedisJournal::with_index_of(redis(context)?, context.config.journal.index_runs).encrypted(encryption(context)?),
    ))
}

/// What is kept may be encrypted.
pub(super) fn encryption(context: &Context) -> Result<Encryption, CommandError> {
    context.config.journal.encryption().map_err(|problem| CommandError::Usage(format!("journal.{problem}")))
}

pub(super) fn redis(context: &Context) -> Result<RedisClient, CommandError> {
    let named = context.config.redis.problems().into_iter().map(|problem| format!("redis.{problem}"));
    context.demand(named.collect())?;
    RedisClient::new(&context.config.redis).map_err(|error| CommandError::Usage(format!("redis: {error}")))
}

/// The broker that the workers use; makes sure of the queues.
pub(super) async fn broker(context: &Context) -> Result<AmqpQueue, CommandError> {
    let named = context.config.amqp.problems().into_iter().map(|problem| format!("amqp.{problem}"));
    context.demand(named.collect())?;
    Ok(AmqpQueue::connect(context.config.amqp.clone()).await?)
}

/// Who acts on runs.
pub(super) fn operator(context: &Context, broker: &AmqpQueue) -> Result<Operator, CommandError> {
    Ok(Operator::new(runs(context, broker)?))
}

/// The record that this command's act goes into.
pub(super) fn audit(context: &Context) -> Result<Audit, CommandError> {
    let audit = Audit::open(&context.config.audit, context.clock.clone(), telemetry::name_of(&context.config.log));
    audit.map_err(|problem| CommandError::Other(anyhow!("audit.{problem}")))
}

fn runs(context: &Context, broker: &AmqpQueue) -> Result<Runs, CommandError> {
    let (redis, encryption) = (redis(context)?, encryption(context)?);
    Ok(Runs {
        journal: Arc::new(
            RedisJournal::with_index_of(redis.clone(), context.config.journal.index_runs).encrypted(encryption.clone()),
        ),
        publisher: broker.publisher(),
        parking: Arc::new(RedisParking::new(redis).encrypted(encryption)),
        clock: context.clock.clone(),
        lifetimes: app::lifetimes(&context.config),
        header_key: HeaderKey::of(&context.config.scalekit.client_secret),
        audit: audit(context)?,
        name: app::process_name(),
    })
}

async fn decide(context: &Context, arguments: DecideArguments, ruling: Ruling) -> Result<ExitCode, CommandError> {
    let DecideArguments { run, call, reason } = arguments;
    let job = run.find(context, &*journal(context)?).await?;
    let said = Said { job, call, reason, ruling };
    decide::decide(context, runs(context, &broker(context).await?)?, said).await
}

async fn settle(context: &Context, arguments: &SettleArguments) -> Result<ExitCode, CommandError> {
    let id = arguments.run.find(context, &*journal(context)?).await?;
    let settlement = if arguments.settlement == "done" { Settlement::Done } else { Settlement::NotDone };
    let by = arguments.by.as_deref().or_else(|| context.sources.variable("USER")).unwrap_or("an operator").to_owned();
    let said = SettledEffect { call_id: arguments.call.clone(), settlement, by };
    let words = format!("{} is {}", plain(&said.call_id), settlement.as_str());
    match operator(context, &broker(context).await?)?.settle(&id, &said).await? {
        SettleOutcome::Settled => println!("{words}; the caller is told"),
        SettleOutcome::Already => println!("{words}, as was said before"),
        SettleOutcome::Refused(why) => {
            eprintln!("nothing was settled: {}: {}", plain(&said.call_id), plain(&why.to_string()));
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn export(context: &Context, arguments: &ExportArguments) -> Result<ExitCode, CommandError> {
    let journal = journal(context)?;
    let id = arguments.run.find(context, &*journal).await?;
    let lines = journal.read(&id).await?;
    let exported = export::exported(&lines, arguments.content).map_err(|error| CommandError::Other(error.into()))?;
    let exported = exported.ok_or(RunError::Unknown(id))?;
    println!("{exported}");
    Ok(ExitCode::SUCCESS)
}

async fn show(context: &Context, arguments: &ShowArguments) -> Result<ExitCode, CommandError> {
    let journal = journal(context)?;
    let id = arguments.run.find(context, &*journal).await?;
    let lines = journal.read(&id).await?;
    let timeline = Timeline::read(&lines).map_err(|error| CommandError::Other(error.into()))?;
    let Some(timeline) = timeline else { return Err(RunError::Unknown(id).into()) };
    if arguments.json {
        println!("{}", timeline.to_json(arguments.content));
    } else {
        timeline.lines(arguments.content).iter().for_each(|line| println!("{line}"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn cancel(context: &Context, run: &WhichRun) -> Result<ExitCode, CommandError> {
    let id = &run.find(context, &*journal(context)?).await?;
    let operator = operator(context, &broker(context).await?)?;
    match operator.cancel(id).await? {
        Cancel::UnderWay => println!("cancelled; its worker stops within a second, and the caller is told"),
        Cancel::Waiting => println!("cancelled; the caller is told"),
        Cancel::Ended(run) => return Ok(ended(&run)),
    }
    Ok(ExitCode::SUCCESS)
}

/// To cancel twice is no failure; to come too late is one.
fn ended(run: &Run) -> ExitCode {
    let outcome = run.reply().map(outcome).unwrap_or_default();
    println!("nothing to cancel: the run has ended before, {outcome}");
    if outcome == "failed/cancelled" { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn resume(context: &Context, run: &WhichRun) -> Result<ExitCode, CommandError> {
    let id = &run.find(context, &*journal(context)?).await?;
    let operator = operator(context, &broker(context).await?)?;
    let run = operator.resume(id).await?;
    if run.is_delivered() {
        println!("nothing to resume: the run has ended, {}", run.reply().map(outcome).unwrap_or_default());
        return Ok(ExitCode::FAILURE);
    }
    if run.is_under_way() {
        println!("the run is under way already; if its worker is dead, another one goes on with it soon");
    } else {
        println!("woken");
    }
    Ok(ExitCode::SUCCESS)
}
