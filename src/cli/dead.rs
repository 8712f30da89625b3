//! `dead`: messages that were given up. Looked at, they stay in the queue as they are; replayed or dropped, they leave it.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::jobs::{broker, journal, operator};
use super::output::plain;
use super::timeline::{Timeline, outcome};
use super::{CommandError, Context};
use crate::job::{Job, JobId};
use crate::journal::Journal;
use crate::queue::amqp::DeadLetters;
use crate::queue::{Delivery, Destination, Message, Publisher};
use crate::worker::control::operator::{Operator, Reopen};
use crate::worker::control::runs::RunError;
use crate::worker::message::dead_letter::{DEAD_AT, DEAD_ATTEMPTS, DEAD_DETAIL, DEAD_REASON, DEAD_STEP};
use crate::worker::message::fresh::{as_sent, fresh};

/// Arguments of `dead`.
#[derive(Debug, Args)]
pub struct DeadArguments {
    /// What to do
    #[command(subcommand)]
    pub action: DeadAction,
}

/// What can be done about dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadAction {
    /// All dead letters, oldest first
    #[command(after_help = "Examples:
  agentkit-worker dead list
  agentkit-worker dead list --json")]
    List(ListArguments),
    /// Headers, body, and what is known of the run
    #[command(after_help = "Example:
  agentkit-worker dead show order-4711-summary

Shows the body, and with it the prompt.")]
    Show(OneLetter),
    /// Lets letters run again
    #[command(after_help = "Examples:
  agentkit-worker dead replay order-4711-summary order-4712-summary
  agentkit-worker dead replay --all

The message goes back to the job queue with fresh headers; the letter is removed once the broker has confirmed that.
A run that was given up goes on where it had stopped, its failures forgiven: model turns that were paid and tool calls
that were made are not repeated, and a write whose outcome is unknown stays fenced off. Its caller gets a new reply with
an event id of its own. A run with any other end is not run again; its caller gets the same reply once more.
Where the run's journal is not kept any more, the worker's policy for lost journals says whether it starts anew.
A letter whose journal is damaged is left where it is: send that job under a new id.")]
    Replay(ReplayArguments),
    /// Throws letters away
    #[command(after_help = "Examples:
  agentkit-worker dead drop order-4711-summary
  agentkit-worker dead drop order-4711-summary --yes")]
    Drop(DropArguments),
}

/// How the list is printed.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Print one JSON object a line instead
    #[arg(long)]
    pub json: bool,
}

/// Which letter.
#[derive(Debug, Args)]
pub struct OneLetter {
    /// Its id, as `dead list` shows it
    pub id: String,
}

/// Which letters run again.
#[derive(Debug, Args)]
pub struct ReplayArguments {
    /// Their ids, as `dead list` shows them
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "ID")]
    pub ids: Vec<String>,
    /// All that are in the queue now
    #[arg(long)]
    pub all: bool,
}

/// Which letters are thrown away.
#[derive(Debug, Args)]
pub struct DropArguments {
    /// Their ids, as `dead list` shows them
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Carries out `dead`.
pub(crate) async fn dead(context: Context, arguments: DeadArguments) -> Result<ExitCode, CommandError> {
    match arguments.action {
        DeadAction::List(arguments) => list(&context, &arguments).await,
        DeadAction::Show(arguments) => show(&context, &arguments.id).await,
        DeadAction::Replay(arguments) => replay(&context, &arguments).await,
        DeadAction::Drop(arguments) => drop_letters(&context, &arguments).await,
    }
}

/// A dead letter, taken from the queue for as long as this lives.
struct Letter {
    id: String,
    /// When it was given up, else when it was first published.
    at: Option<Timestamp>,
    reason: String,
    attempts: Option<String>,
    step: Option<String>,
    detail: Option<String>,
    size: usize,
    delivery: Delivery,
}

impl Letter {
    fn of(context: &Context, delivery: Delivery) -> Self {
        let message = &delivery.message;
        let header = |name: &str| message.properties.headers.get(name).filter(|text| !text.is_empty()).cloned();
        let by_broker = ByBroker::of(message);
        Self {
            id: id(context, message),
            at: header(DEAD_AT).and_then(|at| at.parse().ok()).or(by_broker.at).or(message.properties.timestamp),
            reason: header(DEAD_REASON).or(by_broker.reason).unwrap_or_else(|| "put there by somebody else".to_owned()),
            attempts: header(DEAD_ATTEMPTS),
            step: header(DEAD_STEP),
            detail: header(DEAD_DETAIL),
            size: message.body.len(),
            delivery,
        }
    }

    /// What the journal knows better, for a letter that the broker made.
    async fn fill_in(&mut self, context: &Context, journal: &dyn Journal) {
        if self.attempts.is_some() {
            return;
        }
        let Some(id) = JobId::new(self.id.as_str()) else { return };
        let Ok(Ok(Some(timeline))) = journal.read(&id).await.map(|lines| Timeline::read(&lines)) else { return };
        self.attempts = Some(timeline.run().attempts().to_string());
        self.step = Some(timeline.run().doing(context.clock.now()));
    }

    fn to_json(&self) -> Value {
        json!({
            "id": self.id, "at": self.at, "reason": self.reason, "attempts": self.attempts, "step": self.step,
            "detail": self.detail, "bytes": self.size,
        })
    }
}

/// What the broker says of a letter that it made itself, in its header `x-death`
/// (<https://www.rabbitmq.com/docs/dlx#effects>).
#[derive(Default)]
struct ByBroker {
    reason: Option<String>,
    at: Option<Timestamp>,
}

impl ByBroker {
    fn of(message: &Message) -> Self {
        let headers = &message.properties.headers;
        let deaths: Vec<Value> =
            headers.get("x-death").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let text = |name: &str| deaths.first()?.get(name)?.as_str().map(str::to_owned);
        let reason = text("reason").or_else(|| headers.get("x-first-death-reason").cloned());
        Self {
            reason: reason.map(|reason| format!("broker: {reason}")),
            at: text("time").and_then(|at| at.parse().ok()),
        }
    }
}

/// The job's id where the body is a job, else what else names the message.
fn id(context: &Context, message: &Message) -> String {
    match parse(context, message) {
        Ok(job) => job.id().to_string(),
        Err(Some(id)) => id.to_string(),
        Err(None) => match &message.properties.message_id {
            Some(id) if !id.is_empty() => id.clone(),
            _ => crate::key::digest(&message.body, 8),
        },
    }
}

fn parse(context: &Context, message: &Message) -> Result<Job, Option<JobId>> {
    Job::from_slice(&message.body, &message.envelope(), context.config.worker.max_job_bytes)
        .map_err(|invalid| invalid.id)
}

/// The letters that are `wanted`, and the others without their bodies. Each is held until the last was taken, as one that
/// goes back may be the next one taken; those not settled go back in their order when they are dropped.
async fn take_all(
    context: &Context,
    wanted: impl Fn(&str) -> bool,
) -> Result<(Vec<Letter>, Vec<Letter>), CommandError> {
    let named = context.config.amqp.problems().into_iter().map(|problem| format!("amqp.{problem}"));
    Context::demand(named.collect())?;
    let queue = DeadLetters::open(&context.config.amqp).await?;
    let (mut found, mut others) = (Vec::new(), Vec::new());
    while let Some(delivery) = queue.take().await? {
        let mut letter = Letter::of(context, delivery);
        if wanted(&letter.id) {
            found.push(letter);
        } else {
            letter.delivery.message.body.clear();
            others.push(letter);
        }
    }
    Ok((found, others))
}

async fn list(context: &Context, arguments: &ListArguments) -> Result<ExitCode, CommandError> {
    let (_, mut letters) = take_all(context, |_| false).await?;
    let journal = journal(context)?;
    for letter in &mut letters {
        letter.fill_in(context, &*journal).await;
    }
    if arguments.json {
        for letter in letters {
            println!("{}", letter.to_json());
        }
        return Ok(ExitCode::SUCCESS);
    }
    if letters.is_empty() {
        println!("no dead letters");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<30}  {:<20}  {:<22}  {:>8}  {:>9}  LAST STEP", "ID", "WHEN", "REASON", "ATTEMPTS", "BYTES");
    for letter in &letters {
        println!(
            "{:<30}  {:<20}  {:<22}  {:>8}  {:>9}  {}",
            plain(&letter.id),
            letter.at.map_or_else(unknown, |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
            plain(&letter.reason),
            plain(&letter.attempts.clone().unwrap_or_else(unknown)),
            letter.size,
            plain(&letter.step.clone().unwrap_or_else(unknown)),
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(context: &Context, id: &str) -> Result<ExitCode, CommandError> {
    let (letters, _others) = take_all(context, |found| found == id).await?;
    missing(&[id.to_owned()], &letters)?;
    for letter in &letters {
        print_letter(letter);
    }
    let Some(id) = JobId::new(id) else { return Ok(ExitCode::SUCCESS) };
    match journal(context)?.read(&id).await.map(|lines| Timeline::read(&lines)) {
        Ok(Ok(Some(timeline))) => {
            println!();
            timeline.print(false);
        }
        Ok(Ok(None)) => println!("\nno journal of this id is kept"),
        Ok(Err(error)) => println!("\n{}", plain(&error.to_string())),
        Err(error) => println!("\nthe run's timeline cannot be shown: {error}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_letter(letter: &Letter) {
    let message = &letter.delivery.message;
    println!("id:       {}", plain(&letter.id));
    println!("reason:   {}", plain(&letter.reason));
    let known = [("detail:  ", &letter.detail), ("attempts:", &letter.attempts), ("step:    ", &letter.step)];
    for (name, text) in known.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
        println!("{name} {}", plain(text));
    }
    println!("when:     {}", letter.at.map_or_else(unknown, |at| at.to_string()));
    let properties = &message.properties;
    println!("reply to: {}", plain(properties.reply_to.as_deref().unwrap_or("?")));
    println!("headers:");
    for (name, text) in &properties.headers {
        println!("  {}: {}", plain(name), plain(text));
    }
    println!("body ({} bytes):", letter.size);
    let text = serde_json::from_slice::<Value>(&message.body)
        .and_then(|value| serde_json::to_string_pretty(&value))
        .unwrap_or_else(|_| String::from_utf8_lossy(&message.body).into_owned());
    for line in text.lines() {
        println!("  {}", plain(line));
    }
}

async fn replay(context: &Context, arguments: &ReplayArguments) -> Result<ExitCode, CommandError> {
    let broker = broker(context).await?;
    let operator = operator(context, &broker)?;
    let publisher = broker.publisher();
    let wanted = |id: &str| arguments.all || arguments.ids.iter().any(|wanted| wanted == id);
    let (letters, _others) = take_all(context, wanted).await?;
    missing(&arguments.ids, &letters)?;
    let mut code = ExitCode::SUCCESS;
    for letter in letters {
        let id = plain(&letter.id);
        match replay_one(context, &operator, &*publisher, letter).await {
            Ok(words) => println!("{id}: {words}"),
            Err(CommandError::Other(error)) => {
                println!("{id}: left where it is: {error:#}");
                code = ExitCode::FAILURE;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(code)
}

/// First the journal, then the message, then the letter: whatever fails in between, the letter can be replayed again.
async fn replay_one(
    context: &Context,
    operator: &Operator,
    publisher: &dyn Publisher,
    letter: Letter,
) -> Result<String, CommandError> {
    let mut message = fresh(&letter.delivery.message);
    let words = match parse(context, &letter.delivery.message) {
        Err(_) => "sent again, although it is no job for this version".to_owned(),
        Ok(job) => match operator.reopen(&job.id()).await {
            Ok(Reopen::Unknown) => "sent again; nothing is known of an earlier run".to_owned(),
            Ok(Reopen::Unfinished) => "the run goes on".to_owned(),
            Ok(Reopen::Reopened) => "the run goes on where it had stopped".to_owned(),
            Ok(Reopen::Ended(run)) => {
                message = as_sent(&message);
                let outcome = run.reply().map(outcome).unwrap_or_default();
                format!("not run again, as it ended {outcome}; the same reply is sent")
            }
            Err(RunError::BadJournal(error)) => {
                return Err(CommandError::Other(anyhow!(error).context("send the job under a new id")));
            }
            Err(error) => return Err(error.into()),
        },
    };
    publisher.publish(&Destination::Jobs, message).await?;
    letter.delivery.ack().await.context("it is sent, but the letter could not be removed")?;
    Ok(words)
}

async fn drop_letters(context: &Context, arguments: &DropArguments) -> Result<ExitCode, CommandError> {
    let (letters, _others) = take_all(context, |id| arguments.ids.iter().any(|wanted| wanted == id)).await?;
    missing(&arguments.ids, &letters)?;
    if !arguments.yes && !confirmed(letters.len())? {
        println!("nothing dropped");
        return Ok(ExitCode::FAILURE);
    }
    for letter in letters {
        letter.delivery.ack().await?;
        println!("{}: dropped", plain(&letter.id));
    }
    Ok(ExitCode::SUCCESS)
}

fn confirmed(count: usize) -> Result<bool, CommandError> {
    if !std::io::stdin().is_terminal() {
        return Err(CommandError::Usage("there is no terminal to ask at: say --yes".to_owned()));
    }
    print!("Throw {count} dead letter(s) away for good? [y/N] ");
    std::io::stdout().flush().context("standard output")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("standard input")?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

/// Nothing is done by halves: one id that is not there, and nothing is touched.
fn missing(wanted: &[String], found: &[Letter]) -> Result<(), CommandError> {
    let absent: Vec<String> =
        wanted.iter().filter(|id| !found.iter().any(|letter| letter.id == **id)).map(|id| plain(id)).collect();
    if absent.is_empty() {
        return Ok(());
    }
    Err(anyhow!("no dead letter has the id {}; `agentkit-worker dead list` shows all", absent.join(", ")).into())
}

fn unknown() -> String {
    "?".to_owned()
}
