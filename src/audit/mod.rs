//! The audit edge: an append-only record of every call that is more than reading, every decision and every operator's act, as
//! lines of JSON in a file. Each line carries the hash of the one before it, so that what is changed or taken out is seen.
//!
//! A line is on disk once [`Audit::record`] has returned. One thread of the process writes, and syncs once for all who wait. Several
//! processes of one machine may have the same file; a lock on it keeps them apart. Arguments, results and prompts never
//! stand in it.

mod chain;
mod file;
mod writer;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use jiff::Timestamp;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::oneshot;

pub use self::chain::{BadLine, Verified, verify};
use self::file::ChainFile;
use self::writer::{WriteRequest, write_all};
use crate::clock::SharedClock;
use crate::job::Job;

/// Characters of what others have named.
const LONGEST_NAME: usize = 500;

/// Where the record is kept; see `config/default.toml`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Its path; empty where nothing is recorded.
    pub file: PathBuf,
    /// 32 bytes in base64 that the lines are signed with; several, separated by commas, while one is replaced. Without it whoever
    /// can write to the file can make a chain of his own.
    #[schemars(with = "String")]
    pub key: SecretString,
}

impl AuditConfig {
    /// What is wrong with it, as `field: problem`.
    pub fn problems(&self) -> Vec<String> {
        chain::keys(&self.key).err().map(|problem| format!("key: {problem}")).into_iter().collect()
    }
}

/// How a user is named in the record.
pub type NameOf = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// The record of this process; clones are the same one. Without a file it keeps nothing.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Recorder>>);

struct Recorder {
    requests: mpsc::Sender<WriteRequest>,
    name_of: NameOf,
}

impl fmt::Debug for Audit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Audit").field(&self.0.is_some()).finish()
    }
}

/// The file did not take a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the audit record cannot be written: {0}")]
pub struct Unrecorded(pub String);

/// What becomes of lines that the file does not take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritten {
    /// They are dropped: what they tell of is not done then.
    Drop,
    /// They are written later, as long as the process lives: what they tell of has happened.
    Keep,
}

/// One line of the record, without what makes it one of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditRecord {
    /// By the clock of the worker.
    pub time: Timestamp,
    /// What happened.
    pub event: AuditEvent,
    /// The run, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "short_if_any")]
    pub job: Option<String>,
    /// The scheduled job, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "short_if_any")]
    pub digest: Option<String>,
    /// Who handed it over, where producers are named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub producer: Option<String>,
    /// Whose it is; in the file by the name that the configuration gives users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identifier: Option<String>,
    /// The number of the journal's entry that tells the same. A second line with the same number takes the first one's place: that
    /// one's worker lost the run, or died, before the entry was journalled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
    /// The call that it is about.
    #[serde(flatten)]
    pub call: Option<AuditedCall>,
    /// `done`, `failed`, `unknown`, `denied` or `not_run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// Scalekit's id of the execution.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "short_if_any")]
    pub execution_id: Option<String>,
    /// The decision.
    #[serde(flatten)]
    pub decision: Option<AuditedDecision>,
    /// Who did it, as far as that was said.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "short_if_any")]
    pub by: Option<String>,
}

/// What is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditEvent {
    /// A call that is more than reading is about to leave.
    ToolStarted,
    /// It has its one outcome.
    ToolFinished,
    /// It is proven not to have run, and is made again.
    ToolNotRun,
    /// A call that waited was decided about, or nobody did in time.
    Decided,
    /// A person said what became of an effect that was unknown.
    EffectSettled,
    /// An operator ended the run.
    Cancelled,
    /// An operator woke the run.
    Resumed,
    /// An operator took back the end of the run.
    Replayed,
    /// An operator threw a dead letter away.
    DeadLetterDropped,
    /// An operator removed what is kept of a user.
    Erased,
    /// An operator keeps a digest from firing.
    DigestPaused,
    /// An operator lets it fire again.
    DigestResumed,
    /// An operator fires it outside its schedule.
    DigestRun,
}

/// A tool call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditedCall {
    /// The model's id of it.
    #[serde(rename = "call", serialize_with = "short")]
    pub id: String,
    /// Its name at Scalekit.
    #[serde(serialize_with = "short")]
    pub tool: String,
    /// The connection that runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// What it does to the world.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<&'static str>,
    /// `sha256:…`, as in approvals; the arguments themselves are not recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments_digest: Option<String>,
}

/// A decision about a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditedDecision {
    /// Names what was asked.
    #[serde(serialize_with = "short")]
    pub approval: String,
    /// `approve`, `deny`, `edit` or `expired`.
    pub decision: &'static str,
    /// How it came.
    pub door: &'static str,
}

impl AuditRecord {
    /// A line about a run.
    pub fn new(time: Timestamp, event: AuditEvent, job: &Job) -> Self {
        let (id, identifier) = (job.id(), Some(job.identifier.to_string()));
        let (job, producer) = (Some(id.as_str().to_owned()), id.producer().map(str::to_owned));
        Self { job, producer, identifier, ..Self::empty(time, event) }
    }

    /// A line about what an operator does.
    pub fn of_operator(time: Timestamp, event: AuditEvent, by: &str) -> Self {
        Self { by: Some(by.to_owned()), ..Self::empty(time, event) }
    }

    fn empty(time: Timestamp, event: AuditEvent) -> Self {
        let (job, digest, producer, identifier, entry) = (None, None, None, None, None);
        let (call, outcome, execution_id, decision, by) = (None, None, None, None, None);
        Self { time, event, job, digest, producer, identifier, entry, call, outcome, execution_id, decision, by }
    }
}

impl Audit {
    /// Opens the file, or makes it, and goes on with its chain. Users are named by `name_of`.
    ///
    /// # Errors
    /// As `field: problem`.
    pub fn open(config: &AuditConfig, clock: SharedClock, name_of: NameOf) -> Result<Self, String> {
        let keys = chain::keys(&config.key).map_err(|problem| format!("key: {problem}"))?;
        if config.file.as_os_str().is_empty() {
            return Ok(Self::default());
        }
        let file = ChainFile::open(&config.file, keys.into_iter().next(), clock);
        let file = file.map_err(|error| format!("file: {}: {error}", config.file.display()))?;
        let (requests, received) = mpsc::channel();
        let writing = std::thread::Builder::new().name("audit".to_owned());
        writing.spawn(move || write_all(file, &received)).map_err(|error| format!("file: {error}"))?;
        Ok(Self(Some(Arc::new(Recorder { requests, name_of }))))
    }

    /// Whether anything is recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Returns once all of these are on disk, in their order.
    pub async fn record(&self, records: Vec<AuditRecord>, unwritten: Unwritten) -> Result<(), Unrecorded> {
        let Some(recorder) = self.0.as_ref().filter(|_| !records.is_empty()) else { return Ok(()) };
        let (answer, answered) = oneshot::channel();
        let lines = records.into_iter().map(|record| recorder.line(record)).collect();
        let gone = |()| Unrecorded("its thread has ended".to_owned());
        recorder.requests.send(WriteRequest { lines, unwritten, answer }).map_err(|_| gone(()))?;
        answered.await.unwrap_or_else(|_| Err(gone(())))
    }
}

impl Recorder {
    fn line(&self, record: AuditRecord) -> String {
        let identifier = record.identifier.as_deref().map(|identifier| (self.name_of)(identifier));
        serde_json::to_string(&AuditRecord { identifier, ..record }).expect("a record is text and numbers")
    }
}

/// Names are others' to give: none makes a line too long for the record.
fn short<S: Serializer>(name: &str, serializer: S) -> Result<S::Ok, S::Error> {
    match name.char_indices().nth(LONGEST_NAME) {
        None => serializer.serialize_str(name),
        Some((end, _)) => serializer.serialize_str(&format!("{}…", &name[..end])),
    }
}

#[expect(clippy::ref_option, reason = "serde passes a reference")]
fn short_if_any<S: Serializer>(name: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    short(name.as_deref().unwrap_or_default(), serializer)
}
