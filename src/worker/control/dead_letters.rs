//! What people see of dead letters, and how one runs again.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::operator::{Operator, Reopen};
use super::runs::RunError;
use crate::agent::run::{BadJournal, Run};
use crate::encryption::{DecryptError, Encryption};
use crate::job::{Identifier, InvalidJob, Job, JobId};
use crate::journal::Journal;
use crate::queue::{DeadLetterQueue, Delivery, Destination, Message, QueueError};
use crate::worker::message::dead_letter::{
    DEAD_AT, DEAD_ATTEMPTS, DEAD_DETAIL, DEAD_REASON, DEAD_STEP, decrypted, letter_id, removed,
};
use crate::worker::message::fresh::{as_sent, fresh};
use crate::worker::message::sender::Senders;
use crate::worker::message::signature::HeaderKey;

/// What is known of a dead letter without its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct LetterFacts {
    /// The job's id where the body is a job, else what else names the message.
    pub(crate) id: String,
    /// When it was given up, else when it was first published.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub(crate) at: Option<Timestamp>,
    /// Why it was given up.
    pub(crate) reason: String,
    /// How often its run was taken up.
    pub(crate) attempts: Option<String>,
    /// What its run was at.
    pub(crate) step: Option<String>,
    /// What went wrong.
    pub(crate) detail: Option<String>,
    /// Why neither that nor the body can be read, where they are encrypted with another key than ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) locked: Option<String>,
    /// Size of the body.
    pub(crate) bytes: usize,
    /// The producer whose job it brings, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) producer: Option<String>,
    /// Its job's, where it names one.
    #[serde(skip)]
    pub(crate) run: Option<JobId>,
    /// The end user whose job it is, where it is one.
    #[serde(skip)]
    pub(crate) identifier: Option<Identifier>,
}

/// Reads dead letters as workers take them that meet them.
pub(crate) struct LetterReader {
    pub(crate) senders: Senders,
    pub(crate) header_key: HeaderKey,
    /// Jobs have at most so many.
    pub(crate) max_job_bytes: usize,
    /// Of their content.
    pub(crate) encryption: Encryption,
}

impl LetterReader {
    /// What the letter itself says.
    pub(crate) fn facts(&self, letter: &Message) -> LetterFacts {
        let bytes = letter.body.len();
        match self.opened(letter) {
            Ok(opened) => LetterFacts { bytes, ..self.facts_of_opened(&opened) },
            Err(error) => {
                let (id, locked) = (letter_id(letter), Some(error.to_string()));
                LetterFacts { id, locked, bytes, run: None, detail: None, ..self.facts_of_opened(letter) }
            }
        }
    }

    /// The letter as it was before it was encrypted, if it was.
    pub(crate) fn opened(&self, letter: &Message) -> Result<Message, DecryptError> {
        decrypted(letter.clone(), &self.encryption)
    }

    fn facts_of_opened(&self, letter: &Message) -> LetterFacts {
        let header = |name: &str| letter.properties.headers.get(name).filter(|text| !text.is_empty()).cloned();
        let by_broker = ByBroker::of(letter);
        let job = self.job(&self.taken(letter));
        let run = match &job {
            Ok(job) => Some(job.id()),
            Err(invalid) => invalid.id.clone(),
        };
        let named = letter.properties.message_id.clone().filter(|id| !id.is_empty());
        let named = || named.unwrap_or_else(|| crate::key::digest(&letter.body, 8));
        LetterFacts {
            id: run.as_ref().map_or_else(named, JobId::to_string),
            at: header(DEAD_AT).and_then(|at| at.parse().ok()).or(by_broker.at).or(letter.properties.timestamp),
            reason: header(DEAD_REASON).or(by_broker.reason).unwrap_or_else(|| "put there by somebody else".to_owned()),
            attempts: header(DEAD_ATTEMPTS),
            step: header(DEAD_STEP),
            detail: header(DEAD_DETAIL),
            locked: None,
            bytes: letter.body.len(),
            producer: run.as_ref().and_then(JobId::producer).map(str::to_owned),
            run,
            identifier: job.ok().map(|job| job.identifier),
        }
    }

    /// One that nobody vouches for, sent before anybody was asked to, is the operator's who replays it.
    fn taken(&self, letter: &Message) -> Message {
        self.senders.believed_of_letter(letter.clone(), &self.header_key)
    }

    fn job(&self, message: &Message) -> Result<Job, Box<InvalidJob>> {
        Job::from_slice(&message.body, &message.envelope(), self.max_job_bytes)
    }

    /// First the journal, then the message, then the letter: whatever fails in between, the letter can be replayed again.
    pub(crate) async fn replay(&self, operator: &Operator, letter: Delivery) -> Result<Replayed, NotReplayed> {
        let taken = self.taken(&self.opened(&letter.message)?);
        let mut message = fresh(&taken);
        let replayed = match self.job(&taken) {
            Err(_) => Replayed::NotAJob,
            Ok(job) => match operator.reopen(&job.id()).await {
                Ok(Reopen::Unknown) => Replayed::Anew,
                Ok(Reopen::Unfinished) => Replayed::GoesOn,
                Ok(Reopen::Reopened) => Replayed::Reopened,
                Ok(Reopen::Ended(run)) => {
                    message = as_sent(&message);
                    Replayed::Ended(run)
                }
                Err(RunError::BadJournal(error)) => return Err(NotReplayed::Damaged(error)),
                Err(RunError::Decrypt(error)) => return Err(NotReplayed::Locked(error)),
                Err(error) => return Err(NotReplayed::Run(error)),
            },
        };
        operator.runs.publisher.publish(&Destination::Jobs, message).await?;
        removed(letter).await.map_err(NotReplayed::NotRemoved)?;
        Ok(replayed)
    }
}

impl LetterFacts {
    /// What the journal knows better, for a letter that the broker made.
    pub(crate) async fn fill_in(&mut self, journal: &dyn Journal, now: Timestamp) {
        if self.attempts.is_some() {
            return;
        }
        let Some(id) = &self.run else { return };
        let Ok(Ok(Some(run))) = journal.read(id).await.map(|lines| Run::replay(&lines)) else { return };
        self.attempts = Some(run.attempts().to_string());
        self.step = Some(run.doing(now));
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

/// What became of a letter that was to run again: its message is in the job queue, and the letter is gone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Replayed {
    /// It is no job for this version.
    NotAJob,
    /// Nothing is known of an earlier run.
    Anew,
    /// Its run had not ended.
    GoesOn,
    /// Its run goes on where it had stopped.
    Reopened,
    /// Its run is not run again; the same reply is sent.
    Ended(Box<Run>),
}

/// Why a letter is left where it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReplayed {
    /// Nobody can go on with its run.
    #[error("send the job under a new id: {0}")]
    Damaged(BadJournal),
    /// It, or the journal of its run, cannot be decrypted.
    #[error("{0}")]
    Locked(#[from] DecryptError),
    /// Its run cannot be opened again now.
    #[error("{0}")]
    Run(RunError),
    /// The broker did not take its message.
    #[error("{0}")]
    Queue(#[from] QueueError),
    /// Its message is sent, and it is still there.
    #[error("it is sent, but the letter could not be removed: {0}")]
    NotRemoved(QueueError),
}

/// The dead letters of a worker that runs, for whoever asks it.
pub(crate) struct DeadLetterDesk {
    pub(crate) operator: Operator,
    pub(crate) letters: Arc<dyn DeadLetterQueue>,
    pub(crate) reader: LetterReader,
    /// Whoever looks has all letters in hand for a moment.
    pub(crate) one_at_a_time: tokio::sync::Mutex<()>,
}

impl DeadLetterDesk {
    /// How many are in nobody's hands.
    pub(crate) async fn count(&self) -> Result<u32, QueueError> {
        self.letters.count().await
    }

    /// All letters that `may_see` lets, oldest first.
    pub(crate) async fn list(
        &self,
        may_see: impl Fn(&LetterFacts) -> bool + Send + Sync,
    ) -> Result<Vec<LetterFacts>, NotReplayed> {
        let found = Mutex::new(Vec::new());
        {
            let _turn = self.one_at_a_time.lock().await;
            let look = |letter: &Message| {
                let facts = self.reader.facts(letter);
                if may_see(&facts) {
                    found.lock().unwrap_or_else(PoisonError::into_inner).push(facts);
                }
                false
            };
            self.letters.take(&look).await?;
        }
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        for facts in &mut found {
            facts.fill_in(&*self.operator.runs.journal, self.operator.runs.clock.now()).await;
        }
        Ok(found)
    }

    /// Lets the letters of this id run again that `may_see` lets; what became of the last, `None` where there is none.
    pub(crate) async fn replay(
        &self,
        id: &str,
        may_see: impl Fn(&LetterFacts) -> bool + Send + Sync,
    ) -> Result<Option<Replayed>, NotReplayed> {
        let _turn = self.one_at_a_time.lock().await;
        let wanted = |letter: &Message| {
            let facts = self.reader.facts(letter);
            facts.id == id && may_see(&facts)
        };
        let mut replayed = None;
        for letter in self.letters.take(&wanted).await? {
            replayed = Some(self.reader.replay(&self.operator, letter).await?);
        }
        Ok(replayed)
    }
}
