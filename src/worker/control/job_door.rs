//! Jobs that come in by HTTP: taken, looked at, cancelled. The very same message as a caller's own goes into the queue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, instrument, warn};

use super::operator::{Cancel, Operator};
use super::runs::{RunError, Runs};
use super::settling::SettleOutcome;
use super::standing::{JobStanding, WaitingLink};
use crate::agent::event::SettledEffect;
use crate::agent::run::{BadJournal, Run};
use crate::job::{Envelope, InvalidJob, Job, JobId, ProducerName};
use crate::journal::{Announced, JournalError};
use crate::queue::{Destination, Message, QueueError};
use crate::reply::{ErrorCode, Reply, ReplyEvent};
use crate::worker::message::sender::SentBy;
use crate::worker::resources::admission::{Admission, Unwelcome, read_job};
use crate::worker::resources::magic_links::MagicLinks;
use crate::worker::rules::Defaults;

/// What is noted of a job before it is published is forgotten after this time, unless the broker has confirmed it: longer than
/// that takes.
const UNCONFIRMED: Duration = Duration::from_mins(2);
/// Whoever waits for the broker is answered after this time; the publishing goes on.
const PUBLISH_WITHIN: Duration = Duration::from_secs(10);

/// Takes jobs, tells how they stand, cancels them.
pub(crate) struct JobDoor {
    pub(crate) operator: Operator,
    pub(crate) admission: Admission,
    /// What jobs leave open, for those that are cancelled before a worker has begun them.
    pub(crate) defaults: Defaults,
    pub(crate) magic_links: Arc<MagicLinks>,
    pub(crate) max_job_bytes: usize,
    /// Publishing goes on where whoever sent the job does not wait for it.
    pub(crate) tracker: TaskTracker,
}

/// What is known of a job before its run has begun.
#[derive(Serialize, Deserialize)]
struct Note {
    digest: String,
    job: Job,
}

/// A job that was taken.
#[derive(Debug)]
pub(crate) enum Submitted {
    /// The broker has it, or a run of it is under way.
    Queued,
    /// It has had its reply before.
    Ended(Box<Reply>),
}

/// Why a job was not taken, cancelled or looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotDone {
    /// There is no such job, or it is nobody's business.
    #[error("there is no such job: its id is wrong, or it was kept long enough")]
    Unknown,
    /// Its producer may not send it.
    #[error("{}", .0.join("; "))]
    NotAllowed(Vec<String>),
    /// Nobody may send it.
    #[error("not a job: {}", .0.join("; "))]
    Invalid(Vec<String>),
    /// The id belongs to another job.
    #[error("the id `{0}` was used before for a job with another body")]
    Conflict(JobId),
    /// The message would be larger than the broker takes.
    #[error("the job is larger than a message may be")]
    TooLarge,
    /// It has ended before, and not by being cancelled.
    #[error("the job has ended before")]
    Ended,
    /// Its journal says what cannot be.
    #[error("{0}")]
    Damaged(BadJournal),
    /// A service is away, or the job is in other hands for a moment. The same again does no harm.
    #[error("not now: {0}")]
    NotNow(String),
}

impl From<RunError> for NotDone {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Unknown(_) => Self::Unknown,
            RunError::BadJournal(error) if !matches!(error, BadJournal::Newer { .. }) => Self::Damaged(error),
            error => Self::NotNow(error.to_string()),
        }
    }
}

impl From<JournalError> for NotDone {
    fn from(error: JournalError) -> Self {
        RunError::from(error).into()
    }
}

impl JobDoor {
    /// Reads a job of the holder of this token; `id` counts where the body has none.
    pub(crate) async fn read(&self, body: &Bytes, id: Option<String>, token: &str) -> Result<Job, Box<InvalidJob>> {
        let envelope = Envelope { message_id: id, producer: self.producer(token), ..Envelope::default() };
        read_job(body, envelope, self.max_job_bytes).await
    }

    /// The run that the holder of this token means by an id: a producer's are its own, another token's those that are no
    /// producer's.
    pub(crate) fn run_of(&self, token: &str, id: &str) -> Option<JobId> {
        let id = JobId::new(id)?;
        Some(self.producer(token).map_or(id.clone(), |producer| id.of_producer(&producer)))
    }

    fn producer(&self, token: &str) -> Option<ProducerName> {
        self.admission.senders.producers.of_token(token).and_then(|(name, _)| ProducerName::new(name))
    }

    /// Takes a job from the holder of a token, with the headers of its trace. At the return the broker has it, or it needs no
    /// publishing. The same job again is published again, as long as nobody has begun it: that runs nothing twice.
    #[instrument(level = "error", name = "job", skip_all, fields(job.id = %job.id(), job.identifier = %job.identifier))]
    pub(crate) async fn submit(
        self: &Arc<Self>,
        job: Job,
        token: &str,
        trace: BTreeMap<String, String>,
    ) -> Result<Submitted, NotDone> {
        self.admission.examine(&SentBy::Token(token), &job).map_err(|unwelcome| match unwelcome {
            Unwelcome::NotAllowed(objections) => NotDone::NotAllowed(objections),
            Unwelcome::Invalid(problems) => NotDone::Invalid(problems),
        })?;
        let digest = job.digest();
        match self.runs().read(&job.id()).await {
            Ok(run) if run.digest() != digest => return Err(NotDone::Conflict(job.id())),
            Ok(run) => match run.reply() {
                Some(reply) => return Ok(Submitted::Ended(Box::new(reply.clone()))),
                // Whoever names a queue is owed a reply there, by a message of their own.
                None if job.reply_to.is_none() => return Ok(Submitted::Queued),
                None => {}
            },
            Err(RunError::Unknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let mut message = Message::of_job(&job, Some(self.runs().clock.now()));
        message.properties.headers.extend(trace);
        let id = job.id();
        let note = serde_json::to_string(&Note { digest: digest.clone(), job }).expect("a job is JSON types only");
        let door = self.clone();
        let publishing = self.tracker.spawn(async move { door.publish(&id, note, &digest, message).await });
        match tokio::time::timeout(PUBLISH_WITHIN, publishing).await {
            Ok(Ok(published)) => published.map(|()| Submitted::Queued),
            Ok(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            Err(_) => Err(NotDone::NotNow("the broker has not confirmed the job yet".to_owned())),
        }
    }

    /// Notes the job, publishes it, and notes it for as long as it may wait: so it is known from the confirm on, and one that
    /// was cut off in between is soon forgotten.
    async fn publish(&self, run: &JobId, mut note: String, digest: &str, message: Message) -> Result<(), NotDone> {
        let journal = &self.runs().journal;
        match journal.announce(run, &note, UNCONFIRMED).await? {
            Announced::Kept | Announced::Begun => {}
            Announced::Other(kept) => {
                let same = serde_json::from_str::<Note>(&kept).is_ok_and(|kept| kept.digest == digest);
                if !same {
                    return Err(NotDone::Conflict(run.clone()));
                }
                note = kept;
            }
        }
        if let Err(error) = self.runs().publisher.publish(&Destination::Jobs, message).await {
            warn!(%error, "a job that came by HTTP was not published");
            let is_certain = matches!(error, QueueError::TooLarge { .. } | QueueError::NotTaken { .. });
            if is_certain && let Err(error) = journal.withdraw(run, &note, UNCONFIRMED).await {
                debug!(%error, "the note of the job stays for a moment");
            }
            return Err(match error {
                QueueError::TooLarge { .. } => NotDone::TooLarge,
                error => NotDone::NotNow(error.to_string()),
            });
        }
        journal.announce(run, &note, self.runs().lifetimes.unfinished).await?;
        info!("a job came by HTTP");
        Ok(())
    }

    /// How a job stands.
    pub(crate) async fn look(&self, run: &JobId) -> Result<JobStanding, NotDone> {
        for _ in 0..2 {
            let lines = self.runs().journal.read(run).await?;
            if let Some(standing) = JobStanding::read(&lines).map_err(RunError::from)? {
                return Ok(standing);
            }
            if let Some(note) = self.note(run).await? {
                return Ok(JobStanding::queued(&note.job));
            }
            // Its run may have begun in between.
        }
        Err(NotDone::Unknown)
    }

    /// Adds the links by which its user authorizes what a job waits for.
    pub(crate) async fn add_links(&self, standing: &mut JobStanding) {
        let Some(waiting) = &mut standing.waiting else { return };
        for connection in &waiting.connections {
            if let Some(known) = self.magic_links.known(&standing.identifier, connection).await {
                let (link, expires_at) = (known.url, known.expires_at);
                waiting.links.push(WaitingLink { connection: connection.clone(), link, expires_at });
            }
        }
    }

    /// The entries of its journal, or what remains of them; none before its run has begun.
    pub(crate) async fn entries(&self, run: &JobId) -> Result<Vec<String>, NotDone> {
        Ok(self.runs().journal.read(run).await?)
    }

    /// How many entries its journal has.
    pub(crate) async fn length(&self, run: &JobId) -> Result<u64, NotDone> {
        Ok(self.runs().journal.length(run).await?)
    }

    /// Ends a job with `failed/cancelled`, also where no worker has begun it; to cancel it twice is no failure.
    pub(crate) async fn cancel(&self, run: &JobId) -> Result<(), NotDone> {
        let cancelled = match self.operator.cancel(run).await {
            Err(RunError::Unknown(_)) => {
                let note = self.note(run).await?.ok_or(NotDone::Unknown)?;
                let started = self.defaults.started(&note.job.into(), &self.admission.llm.config().model);
                return Ok(self.operator.cancel_before_the_first_attempt(started).await?);
            }
            cancelled => cancelled?,
        };
        match cancelled {
            Cancel::UnderWay | Cancel::Waiting => Ok(()),
            Cancel::Ended(run) if was_cancelled(&run) => Ok(()),
            Cancel::Ended(_) => Err(NotDone::Ended),
        }
    }

    /// Says what became of an effect that was unknown at the run's end, and tells the caller.
    pub(crate) async fn settle(&self, run: &JobId, effect: &SettledEffect) -> Result<SettleOutcome, NotDone> {
        Ok(self.operator.settle(run, effect).await?)
    }

    fn runs(&self) -> &Runs {
        &self.operator.runs
    }

    async fn note(&self, run: &JobId) -> Result<Option<Note>, NotDone> {
        let note = self.runs().journal.announced(run).await?;
        Ok(note.and_then(|note| serde_json::from_str(&note).ok()))
    }
}

fn was_cancelled(run: &Run) -> bool {
    let event = run.reply().map(|reply| &reply.event);
    matches!(event, Some(ReplyEvent::Failed(failed)) if failed.error.code == ErrorCode::Cancelled)
}
