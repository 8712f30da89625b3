//! `erase`: removes what is kept of a user, seals what must stay, and says what it could not reach.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::jobs::{audit, broker, encryption, operator, redis};
use super::output::plain;
use super::{CommandError, Context};
use crate::agent::event::Entry;
use crate::agent::run::Run;
use crate::app::process_name;
use crate::audit::{AuditEvent, AuditRecord, Unwritten};
use crate::cache::redis::RedisCache;
use crate::digest_store::redis::RedisDigestStore;
use crate::job::{Identifier, JobId};
use crate::journal::index::FoundRun;
use crate::journal::redis::RedisJournal;
use crate::journal::{Claim, ClaimMode, Journal};
use crate::parking::redis::RedisParking;
use crate::queue::amqp::DeadLetters;
use crate::redis_client::RedisClient;
use crate::worker::control::operator::Operator;
use crate::worker::control::runs::RunError;
use crate::worker::message::dead_letter::decrypted;

/// Arguments of `erase`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentkit-worker erase user_123 --dry-run
  agentkit-worker erase user_123
  agentkit-worker erase user_123 --cancel --json

Goes over all keys in Redis and all dead letters, which takes a while where there are millions. What has not ended is left, or
cancelled first with `--cancel`, which needs a worker. Of a run that has ended its id, its kind of end and a digest of the job
stay for as long as its reply would have (`worker.keep_sealed_seconds`), so that the same job is not run again. May be
interrupted and repeated. Exit code 1 where something was left.")]
pub struct EraseArguments {
    /// The user, as jobs name them
    pub identifier: String,
    /// Only say what is kept
    #[arg(long)]
    pub dry_run: bool,
    /// Cancel what has not ended, and wait until its callers are told
    #[arg(long, conflicts_with = "dry_run")]
    pub cancel: bool,
    /// Seconds to wait for that at most
    #[arg(long, value_name = "S", default_value_t = 60, requires = "cancel")]
    pub timeout: u64,
    /// Print one JSON object instead
    #[arg(long)]
    pub json: bool,
}

/// What nobody can find from here.
const UNREACHED: [&str; 4] = [
    "messages in the job queue and the wait queues: jobs that no worker has begun, and copies of others",
    "replies in callers' queues and in the common reply queue",
    "tool lists and links in the memory of workers, for minutes; what programs keep that were told by replies",
    "logs, metrics and traces; what Scalekit, the model's provider and the tools themselves keep",
];

/// How often it is asked whether what was cancelled has ended.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A run that is just being sealed is claimed for so long at most.
const LEASE: Duration = Duration::from_secs(5);

/// How many of each kind there were.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts(BTreeMap<&'static str, u64>);

/// What is left, and why.
struct Left {
    id: JobId,
    why: String,
}

struct Eraser {
    identifier: Identifier,
    redis: RedisClient,
    journal: RedisJournal,
    for_real: bool,
    least: Duration,
    counts: Counts,
    left: Vec<Left>,
}

/// Carries out `erase`.
pub(crate) async fn erase(context: Context, arguments: EraseArguments) -> Result<ExitCode, CommandError> {
    let identifier = Identifier::new(arguments.identifier.clone())
        .ok_or_else(|| CommandError::Usage("an identifier has 1 to 100 characters".to_owned()))?;
    let redis = redis(&context)?;
    let broker = broker(&context).await?;
    let operator = operator(&context, &broker)?;
    let mut eraser = Eraser {
        journal: RedisJournal::with_index_of(redis.clone(), context.config.journal.index_runs)
            .encrypted(encryption(&context)?),
        redis,
        identifier,
        for_real: !arguments.dry_run,
        least: Duration::from_secs(context.config.worker.keep_sealed_seconds),
        counts: Counts(["runs", "dead_letters"].map(|kind| (kind, 0)).into()),
        left: Vec::new(),
    };
    let mut runs = eraser.runs().await?;
    if arguments.cancel {
        eraser.cancel(&operator, &mut runs, Duration::from_secs(arguments.timeout)).await?;
    }
    if eraser.for_real {
        let line = AuditRecord {
            identifier: Some(arguments.identifier),
            ..AuditRecord::of_operator(context.clock.now(), AuditEvent::Erased, &process_name())
        };
        audit(&context)?.record(vec![line], Unwritten::Drop).await.map_err(anyhow::Error::from)?;
    }
    let ended = eraser.ended(runs);
    eraser.count_index_entries().await?;
    eraser.erase_runs(ended).await?;
    eraser.erase_rest().await?;
    eraser.erase_dead_letters(&context).await?;
    eraser.report(arguments.json);
    Ok(if eraser.left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Eraser {
    /// All runs of the user: those that the index has, and all others.
    async fn runs(&mut self) -> Result<BTreeMap<JobId, Option<Run>>, CommandError> {
        let (mut all, mut runs) = (self.journal.stored_runs().await?, BTreeMap::new());
        while let Some(ids) = all.next().await? {
            for id in ids {
                if runs.contains_key(&id) {
                    continue;
                }
                match self.journal.find(&id).await? {
                    Some(FoundRun::Certain(row)) if row.identifier != self.identifier => continue,
                    None => {
                        if self.waits_for_its_first_worker(&id).await? {
                            runs.insert(id, None);
                        }
                        continue;
                    }
                    Some(_) => {}
                }
                if let Some(run) = self.read(&id).await?.filter(|run| run.job().identifier == self.identifier) {
                    runs.insert(id, Some(run));
                }
            }
        }
        Ok(runs)
    }

    /// Whether the HTTP port took it as a job of the user.
    async fn waits_for_its_first_worker(&self, id: &JobId) -> Result<bool, CommandError> {
        let note = self.journal.announced(id).await?.and_then(|note| serde_json::from_str::<Value>(&note).ok());
        let identifier = note.as_ref().and_then(|note| note.pointer("/job/identifier")?.as_str());
        Ok(identifier == Some(self.identifier.as_str()))
    }

    /// What cannot be read may be anybody's, and is said to be left.
    async fn read(&mut self, id: &JobId) -> Result<Option<Run>, CommandError> {
        match Run::replay(&self.journal.read(id).await?) {
            Ok(run) => Ok(run),
            Err(error) => {
                if !self.left.iter().any(|left| left.id == *id) {
                    self.leave(id.clone(), &format!("perhaps it is of this user: {error}"));
                }
                Ok(None)
            }
        }
    }

    /// Cancels what has not ended, and waits until all of it is delivered.
    async fn cancel(
        &mut self,
        operator: &Operator,
        runs: &mut BTreeMap<JobId, Option<Run>>,
        patience: Duration,
    ) -> Result<(), CommandError> {
        let unfinished = |run: &Option<Run>| run.as_ref().is_some_and(|run| !run.is_delivered());
        let ids: Vec<JobId> = runs.iter().filter(|(_, run)| unfinished(run)).map(|(id, _)| id.clone()).collect();
        for id in &ids {
            match operator.cancel(id).await {
                Ok(_) => self.counts.add("cancelled", 1),
                // It is asked again below.
                Err(RunError::Busy | RunError::Unknown(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let end = Instant::now() + patience;
        for id in ids {
            loop {
                let run = self.read(&id).await?;
                let delivered = run.as_ref().is_some_and(Run::is_delivered);
                runs.insert(id.clone(), run);
                if delivered || Instant::now() >= end {
                    break;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Those that have ended, with what stays of them; the others are left.
    fn ended(&mut self, runs: BTreeMap<JobId, Option<Run>>) -> Vec<(JobId, Vec<String>)> {
        let mut ended = Vec::new();
        for (id, run) in runs {
            let Some(run) = run else {
                self.leave(id, "it waits in the job queue for its first worker");
                continue;
            };
            match run.tombstone() {
                Some(entries) => {
                    let line = |entry: &Entry| serde_json::to_string(entry).expect("entries are JSON types only");
                    ended.push((id, entries.iter().map(line).collect()));
                }
                None if run.reply().is_some() => self.leave(id, "it has ended, and its reply is not delivered yet"),
                None => self.leave(id, &format!("it has not ended: it is {}", run.standing().0.as_str())),
            }
        }
        ended
    }

    fn leave(&mut self, id: JobId, why: &str) {
        self.left.push(Left { id, why: why.to_owned() });
    }

    /// Before runs leave the index one by one.
    async fn count_index_entries(&mut self) -> Result<(), CommandError> {
        let entries = self.journal.unindex(&self.identifier, &self.left_ids(), false).await?;
        self.counts.add("index_entries", entries);
        Ok(())
    }

    fn left_ids(&self) -> BTreeSet<JobId> {
        self.left.iter().map(|left| left.id.clone()).collect()
    }

    async fn erase_runs(&mut self, ended: Vec<(JobId, Vec<String>)>) -> Result<(), CommandError> {
        for (id, tombstone) in ended {
            if self.for_real && !self.entomb(&id, &tombstone).await? {
                self.leave(id, "a worker has it at this moment");
                continue;
            }
            self.counts.add("runs", 1);
        }
        Ok(())
    }

    async fn entomb(&self, id: &JobId, lines: &[String]) -> Result<bool, CommandError> {
        match self.journal.claim(id, "erase", LEASE, ClaimMode::IfFree).await? {
            Claim::Held { .. } => Ok(false),
            Claim::Granted { token, .. } => {
                self.journal.entomb(id, &self.identifier, token, lines, self.least).await?;
                Ok(true)
            }
        }
    }

    async fn erase_rest(&mut self) -> Result<(), CommandError> {
        let left = self.left_ids();
        let (user, for_real) = (self.identifier.as_str(), self.for_real);
        let away = |error: String| CommandError::Unavailable(format!("Redis: {error}"));
        if for_real {
            self.journal.unindex(&self.identifier, &left, true).await?;
        }
        let parking = RedisParking::new(self.redis.clone());
        let parked = parking.erase(&self.identifier, &left, for_real).await.map_err(|error| away(error.to_string()))?;
        let cache = RedisCache::new(self.redis.clone());
        let tools = cache.erase(&["tools", user], for_real).await.map_err(|error| away(error.to_string()))?;
        let links = cache.erase(&["link", user], for_real).await.map_err(|error| away(error.to_string()))?;
        let digests = RedisDigestStore::new(self.redis.clone());
        let digests = digests.erase(user, for_real).await.map_err(|error| away(error.to_string()))?;
        for (kind, count) in [
            ("parked_entries", parked),
            ("cached_tool_lists", tools),
            ("cached_links", links),
            ("digest_memories", digests),
        ] {
            self.counts.add(kind, count);
        }
        Ok(())
    }

    /// A letter that is no JSON object with an identifier is nobody's.
    async fn erase_dead_letters(&mut self, context: &Context) -> Result<(), CommandError> {
        let queue = DeadLetters::open(&context.config.amqp).await?;
        let mut others = Vec::new();
        let encryption = encryption(context)?;
        while let Some(mut letter) = queue.take().await? {
            let body: Value = match decrypted(letter.message.clone(), &encryption) {
                Ok(message) => serde_json::from_slice(&message.body).unwrap_or_default(),
                Err(_) => {
                    self.counts.add("dead_letters_that_cannot_be_read", 1);
                    Value::Null
                }
            };
            letter.message.body.clear();
            if body.get("identifier").and_then(Value::as_str) != Some(self.identifier.as_str()) {
                others.push(letter);
                continue;
            }
            self.counts.add("dead_letters", 1);
            if self.for_real {
                letter.ack_for_certain().await?;
            } else {
                others.push(letter);
            }
        }
        Ok(())
    }

    fn report(&self, as_json: bool) {
        if as_json {
            let left = self.left.iter().map(|left| json!({"id": left.id.unique(), "why": left.why}));
            let report = json!({
                "identifier": self.identifier, "dry_run": !self.for_real, "found": self.counts.0,
                "left": left.collect::<Vec<_>>(), "unreached": UNREACHED,
            });
            println!("{report}");
            return;
        }
        let done = if self.for_real { "erased" } else { "kept" };
        for (kind, count) in &self.counts.0 {
            println!("{done}: {count} {}", kind.replace('_', " "));
        }
        if self.for_real && self.counts.0.get("runs").is_some_and(|count| *count > 0) {
            println!("of each run its id, its kind of end and a digest of its job stay, so that it is not run again");
        }
        for Left { id, why } in &self.left {
            println!("left: {}: {}", plain(&id.unique()), plain(why));
        }
        for what in UNREACHED {
            println!("not reached: {what}");
        }
    }
}

impl Counts {
    fn add(&mut self, kind: &'static str, count: u64) {
        *self.0.entry(kind).or_default() += count;
    }
}
