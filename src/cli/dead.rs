//! `dead`: messages that were given up. Looked at, they stay in the queue as they are; replayed or dropped, they leave it.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::jobs::{audit, broker, journal, operator};
use super::letters::{Letter, reader, take_all, take_named};
use super::output::plain;
use super::timeline::{Timeline, outcome};
use super::which_run::Whose;
use super::{CommandError, Context};
use crate::app::process_name;
use crate::audit::{AuditEvent, AuditRecord, Unwritten};
use crate::worker::control::dead_letters::{NotReplayed, Replayed};
use crate::worker::control::runs::RunError;

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
    /// Whose job it is
    #[command(flatten)]
    pub whose: Whose,
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
    /// Whose jobs they are
    #[command(flatten)]
    pub whose: Whose,
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
    /// Whose jobs they are
    #[command(flatten)]
    pub whose: Whose,
}

/// Carries out `dead`.
pub(crate) async fn dead(context: Context, arguments: DeadArguments) -> Result<ExitCode, CommandError> {
    match arguments.action {
        DeadAction::List(arguments) => list(&context, &arguments).await,
        DeadAction::Show(arguments) => show(&context, &arguments).await,
        DeadAction::Replay(arguments) => replay(&context, &arguments).await,
        DeadAction::Drop(arguments) => drop_letters(&context, &arguments).await,
    }
}

async fn list(context: &Context, arguments: &ListArguments) -> Result<ExitCode, CommandError> {
    let (_, mut letters) = take_all(context, |_| false).await?;
    let journal = journal(context)?;
    for letter in &mut letters {
        letter.facts.fill_in(&*journal, context.clock.now()).await;
    }
    if arguments.json {
        for letter in letters {
            println!("{}", serde_json::to_string(&letter.facts).expect("facts are JSON types only"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if letters.is_empty() {
        println!("no dead letters");
        return Ok(ExitCode::SUCCESS);
    }
    let producers = letters.iter().any(|letter| letter.facts.producer.is_some());
    let producer = |name: &str| if producers { format!("{name:<32}  ") } else { String::new() };
    let owner = producer("PRODUCER");
    println!("{:<30}  {owner}{:<20}  {:<22}  {:>8}  {:>9}  LAST STEP", "ID", "WHEN", "REASON", "ATTEMPTS", "BYTES");
    for Letter { facts: letter, .. } in &letters {
        println!(
            "{:<30}  {}{:<20}  {:<22}  {:>8}  {:>9}  {}",
            plain(&letter.id),
            producer(letter.producer.as_deref().unwrap_or_default()),
            letter.at.map_or_else(unknown, |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
            plain(&letter.reason),
            plain(&letter.attempts.clone().unwrap_or_else(unknown)),
            letter.bytes,
            plain(&letter.step.clone().unwrap_or_else(unknown)),
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(context: &Context, arguments: &OneLetter) -> Result<ExitCode, CommandError> {
    let (letters, _others) = take_named(context, std::slice::from_ref(&arguments.id), &arguments.whose).await?;
    for letter in &letters {
        print_letter(letter);
    }
    let readable = letters.iter().all(|letter| letter.facts.locked.is_none());
    let code = if readable { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let Some(id) = letters.iter().find_map(|letter| letter.facts.run.as_ref()) else { return Ok(code) };
    match journal(context)?.read(id).await.map(|lines| Timeline::read(&lines)) {
        Ok(Ok(Some(timeline))) => {
            println!();
            timeline.lines(false).iter().for_each(|line| println!("{line}"));
        }
        Ok(Ok(None)) => println!("\nno journal of this id is kept"),
        Ok(Err(error)) => println!("\n{}", plain(&error.to_string())),
        Err(error) => println!("\nthe run's timeline cannot be shown: {error}"),
    }
    Ok(code)
}

fn print_letter(letter: &Letter) {
    let Letter { facts: letter, delivery } = letter;
    let message = &delivery.message;
    println!("id:       {}", plain(&letter.id));
    if let Some(producer) = &letter.producer {
        println!("producer: {producer}");
    }
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
    if let Some(locked) = &letter.locked {
        return println!("body ({} bytes): {locked}", letter.bytes);
    }
    println!("body ({} bytes):", letter.bytes);
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
    let reader = reader(context)?;
    let (letters, _others) = match arguments.all {
        true => take_all(context, |letter| arguments.whose.covers(letter.producer.as_deref())).await?,
        false => take_named(context, &arguments.ids, &arguments.whose).await?,
    };
    let mut code = ExitCode::SUCCESS;
    for Letter { facts, delivery } in letters {
        let id = plain(&facts.id);
        match reader.replay(&operator, delivery).await {
            Ok(replayed) => println!("{id}: {}", words(&replayed)),
            Err(NotReplayed::Queue(error)) => return Err(error.into()),
            Err(NotReplayed::Run(error @ (RunError::Unavailable(_) | RunError::Queue(_)))) => return Err(error.into()),
            Err(error) => {
                println!("{id}: left where it is: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn words(replayed: &Replayed) -> String {
    match replayed {
        Replayed::NotAJob => "sent again, although it is no job for this version".to_owned(),
        Replayed::Anew => "sent again; nothing is known of an earlier run".to_owned(),
        Replayed::GoesOn => "the run goes on".to_owned(),
        Replayed::Reopened => "the run goes on where it had stopped".to_owned(),
        Replayed::Ended(run) => {
            let outcome = run.reply().map(outcome).unwrap_or_default();
            format!("not run again, as it ended {outcome}; the same reply is sent")
        }
    }
}

async fn drop_letters(context: &Context, arguments: &DropArguments) -> Result<ExitCode, CommandError> {
    let (letters, _others) = take_named(context, &arguments.ids, &arguments.whose).await?;
    if !arguments.yes && !confirmed(letters.len())? {
        println!("nothing dropped");
        return Ok(ExitCode::FAILURE);
    }
    let audit = audit(context)?;
    for letter in letters {
        let line = AuditRecord {
            job: Some(letter.facts.id.clone()),
            producer: letter.facts.producer.clone(),
            ..AuditRecord::of_operator(context.clock.now(), AuditEvent::DeadLetterDropped, &process_name())
        };
        audit.record(vec![line], Unwritten::Drop).await.map_err(anyhow::Error::from)?;
        letter.delivery.ack().await?;
        println!("{}: dropped", plain(&letter.facts.id));
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

fn unknown() -> String {
    "?".to_owned()
}
