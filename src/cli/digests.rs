//! `digests`: scheduled jobs.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio_util::sync::CancellationToken;

use super::jobs::audit;
use super::{CommandError, Context};
use crate::app;
use crate::digest_store::DigestStore;
use crate::digest_store::redis::RedisDigestStore;
use crate::metrics::Metrics;
use crate::queue::amqp::AmqpQueue;
use crate::redis_client::RedisClient;
use crate::schedule::by_hand::{HoldError, pause, resume};
use crate::schedule::digest::{self, Digest};
use crate::schedule::occurrence::time_zone;
use crate::schedule::recipients::{Recipients, Source};
use crate::schedule::{Digests, Scheduler};

/// Arguments of `digests`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentkit-worker digests list
  agentkit-worker digests next daily-email-summary -n 20
  agentkit-worker digests run daily-email-summary --recipient user_123
  agentkit-worker digests pause daily-email-summary")]
pub struct DigestsArguments {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with digests.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// All digests and how they stand
    List,
    /// The coming times, in the digest's zone and the recipient's
    Next {
        /// The digest
        name: String,
        /// How many
        #[arg(short = 'n', default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
        count: u32,
        /// Show this recipient's own times; the other zone is UTC without it
        #[arg(long, value_name = "ID")]
        recipient: Option<String>,
    },
    /// Publishes its jobs now, outside the schedule
    Run {
        /// The digest
        name: String,
        /// For this recipient only
        #[arg(long, value_name = "ID")]
        recipient: Option<String>,
    },
    /// No more firings, until `resume`; all workers see it, restarts do not end it
    Pause {
        /// The digest
        name: String,
    },
    /// Firings again, from now on; what was due in between stays away
    Resume {
        /// The digest
        name: String,
    },
}

/// Carries out `digests`.
pub(crate) async fn digests(context: Context, arguments: DigestsArguments) -> Result<ExitCode, CommandError> {
    let all = digest::load(&context.config.digests.dir)?;
    match arguments.action {
        Action::List => list(&context, &all).await?,
        Action::Next { name, count, recipient } => {
            next(&context, &named(all, &name)?, count, recipient.as_deref()).await?;
        }
        Action::Run { name, recipient } => run(&context, named(all, &name)?, recipient.as_deref()).await?,
        Action::Pause { name } => {
            let (digest, by) = (named(all, &name)?, app::process_name());
            pause(&digest, &store(&context)?, &audit(&context)?, context.clock.now(), &by).await.map_err(not_held)?;
            println!("{name} is paused; jobs that are on the queue still run");
        }
        Action::Resume { name } => {
            let digest = named(all, &name)?;
            let by = app::process_name();
            resume(&digest, &store(&context)?, &audit(&context)?, context.clock.now(), &by).await.map_err(not_held)?;
            match digest.enabled {
                true => println!("{name} fires again from now on"),
                false => println!("{name} is not paused any more; {} says `enabled = false`", digest.file.display()),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(context: &Context, all: &[Digest]) -> Result<(), CommandError> {
    let store = store(context)?;
    let now = context.clock.now();
    if all.is_empty() {
        println!("no digests in {}", context.config.digests.dir.display());
    }
    for digest in all {
        let standing = store.look(&digest.name, &[], now, now).await.map_err(away)?;
        let state = match (digest.enabled, standing.paused) {
            (false, false) => "not enabled",
            (false, true) => "not enabled, and paused",
            (true, true) => "paused",
            (true, false) => "active",
        };
        let next = digest.schedule().next_after(now).map(|next| next.at);
        let zone = digest.schedule().zone().clone();
        println!("{}  {state}", digest.name);
        println!("  schedule      {} in {}, next {}", digest.cron, digest.timezone, shown(next, &zone));
        println!("  recipients    {}", source(&digest.recipients));
        println!("  last fire     {}", shown(standing.last_fire, &zone));
        println!("  last success  {}", shown(standing.last_success, &zone));
        println!("  failures      {} in a row", standing.failures);
    }
    Ok(())
}

async fn next(context: &Context, digest: &Digest, count: u32, recipient: Option<&str>) -> Result<(), CommandError> {
    let ours = digest.schedule().zone().clone();
    let (schedule, other, name) = match recipient {
        None => (digest.schedule(), TimeZone::UTC, "UTC".to_owned()),
        Some(identifier) => {
            let recipient = find(context, digest, identifier).await?;
            let schedule = digest.schedule_of(&recipient).map_err(CommandError::Usage)?;
            let name = recipient.timezone.unwrap_or_else(|| digest.timezone.clone());
            (schedule, time_zone(&name).map_err(CommandError::Usage)?, name)
        }
    };
    println!("{:<32} {name}", digest.timezone);
    let mut at = context.clock.now();
    for _ in 0..count {
        let Some(occurrence) = schedule.next_after(at) else { break };
        at = occurrence.at;
        println!("{:<32} {}", shown(Some(at), &ours), shown(Some(at), &other));
    }
    Ok(())
}

async fn find(
    context: &Context,
    digest: &Digest,
    identifier: &str,
) -> Result<crate::schedule::recipients::Recipient, CommandError> {
    let store = store(context)?;
    let mut recipients = Recipients::open(&digest.recipients, &store).await.map_err(anyhow::Error::from)?;
    while let Some(next) = recipients.next().await.map_err(anyhow::Error::from)? {
        if let Ok(recipient) = next
            && recipient.identifier.as_str() == identifier
        {
            return Ok(recipient);
        }
    }
    Err(CommandError::Usage(format!("{} has no recipient `{identifier}`", digest.name)))
}

async fn run(context: &Context, digest: Digest, recipient: Option<&str>) -> Result<(), CommandError> {
    if let Some(identifier) = recipient {
        find(context, &digest, identifier).await?;
    }
    let queue = AmqpQueue::connect(context.config.amqp.clone()).await?;
    let owner = app::process_name();
    let mark = format!("now:{}:{}", context.clock.now().as_second(), crate::key::digest(&owner, 4));
    let scheduler = Scheduler {
        store: Arc::new(store(context)?),
        publisher: app::scheduled_jobs(queue.publisher(), &context.config),
        clock: context.clock.clone(),
        metrics: Arc::new(Metrics::default()),
        rules: app::scheduler_rules(&context.config, owner),
        stop: CancellationToken::new(),
        digests: Arc::new(Digests::new(Vec::new())),
        audit: audit(context)?,
    };
    let counts =
        scheduler.fire_now(&digest, recipient, &mark, &app::process_name()).await.map_err(anyhow::Error::from)?;
    println!("{}: {} jobs published, {} recipients left out", digest.name, counts.published, counts.skipped);
    Ok(())
}

fn not_held(error: HoldError) -> CommandError {
    match error {
        HoldError::Store(error) => away(error),
        HoldError::Unrecorded(error) => CommandError::Other(error.into()),
    }
}

fn named(all: Vec<Digest>, name: &str) -> Result<Digest, CommandError> {
    let names: Vec<String> = all.iter().map(|digest| digest.name.clone()).collect();
    let unknown = || CommandError::Usage(format!("there is no digest `{name}`; there are: {}", names.join(", ")));
    all.into_iter().find(|digest| digest.name == name).ok_or_else(unknown)
}

fn store(context: &Context) -> Result<RedisDigestStore, CommandError> {
    let client = RedisClient::new(&context.config.redis).context("redis").map_err(CommandError::Other)?;
    Ok(RedisDigestStore::new(client))
}

fn away(error: crate::digest_store::StoreError) -> CommandError {
    CommandError::Unavailable(format!("Redis: {error}; is REDIS_URL right, and Redis running?"))
}

fn source(source: &Source) -> String {
    match source {
        Source::List(list) => format!("{} listed", list.len()),
        Source::Csv(path) | Source::Ndjson(path) => path.display().to_string(),
        Source::Set(set) => format!("Redis set {set}"),
    }
}

fn shown(at: Option<Timestamp>, zone: &TimeZone) -> String {
    at.map_or_else(
        || "never".to_owned(),
        |at| at.to_zoned(zone.clone()).strftime("%a %Y-%m-%d %H:%M:%S %Z").to_string(),
    )
}
