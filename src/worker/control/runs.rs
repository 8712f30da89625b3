//! Runs in the hands of whoever is no worker: read, claimed for a moment, woken.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::agent::event::Started;
use crate::agent::run::{BadJournal, Run};
use crate::audit::{Audit, AuditEvent, AuditRecord, Unrecorded, Unwritten};
use crate::clock::SharedClock;
use crate::encryption::DecryptError;
use crate::job::{Job, JobId};
use crate::journal::{Claim, ClaimMode, Journal, JournalError};
use crate::parking::{Parking, WaitsFor};
use crate::queue::{Destination, Message, Published, Publisher, QueueError};
use crate::reply::Reply;
use crate::worker::message::posting::addressed;
use crate::worker::message::reply_message::reply_message;
use crate::worker::message::signature::HeaderKey;
use crate::worker::message::wake_up::{Reason, WakeUp};
use crate::worker::resources::parked_index::message;
use crate::worker::rules::Lifetimes;
use crate::worker::run::interruption::Interruption;
use crate::worker::run::lease::Lease;
use crate::worker::run::leased_run::LeasedRun;

/// Whoever dies in between keeps a run from its workers for so long at most.
const LEASE: Duration = Duration::from_secs(5);

/// What runs are reached by. The lease in `lifetimes` does not matter.
#[derive(Clone)]
pub struct Runs {
    /// How far they are.
    pub journal: Arc<dyn Journal>,
    /// Wake-ups.
    pub publisher: Arc<dyn Publisher>,
    /// The messages of runs that wait.
    pub parking: Arc<dyn Parking>,
    /// What entries are dated by.
    pub clock: SharedClock,
    /// How long journals are kept.
    pub lifetimes: Lifetimes,
    /// Signs what wake-ups say.
    pub header_key: HeaderKey,
    /// Of what is done to them.
    pub audit: Audit,
    /// As the owner of a lease.
    pub name: String,
}

/// Why nothing was done to a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no journal of this id.
    #[error(
        "no run `{0}` is known: the id is wrong, the job still waits in the job queue for its first worker, or its journal \
         was kept long enough"
    )]
    Unknown(JobId),
    /// The journal cannot be read by this version.
    #[error("{0}")]
    BadJournal(#[from] BadJournal),
    /// A worker took the run meanwhile.
    #[error("a worker has the run at this moment; try again")]
    Busy,
    /// The journal cannot be reached.
    #[error("journal unavailable: {0}")]
    Unavailable(String),
    /// The journal cannot be decrypted.
    #[error("the journal of the run cannot be read: {0}")]
    Decrypt(#[from] DecryptError),
    /// The audit record did not take its line.
    #[error(transparent)]
    Unrecorded(#[from] Unrecorded),
    /// The broker did not confirm the wake-up. What was journalled stays; the run's own wake-up still comes.
    #[error("the wake-up was not confirmed: {0}")]
    Queue(#[from] QueueError),
    /// The broker did not confirm what the caller is to be told.
    #[error("it is journalled, and the caller could not be told: {0}; the same again tells it")]
    NotTold(QueueError),
}

impl From<JournalError> for RunError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Unavailable(reason) => Self::Unavailable(reason),
            JournalError::OwnershipLost | JournalError::Lost => Self::Busy,
            JournalError::Decrypt(error) => Self::Decrypt(error),
        }
    }
}

impl From<Interruption> for RunError {
    fn from(error: Interruption) -> Self {
        match error {
            Interruption::JournalUnavailable(reason) => Self::Unavailable(reason),
            Interruption::Unrecorded(reason) => Self::Unrecorded(Unrecorded(reason)),
            _ => Self::Busy,
        }
    }
}

impl Runs {
    /// The run, as its journal tells it.
    pub(super) async fn read(&self, id: &JobId) -> Result<Run, RunError> {
        replay(id, &self.journal.read(id).await?)
    }

    /// Writes down what is about to be done to the run.
    pub(super) async fn record(&self, run: &Run, event: AuditEvent) -> Result<(), Unrecorded> {
        let of_run = AuditRecord::new(self.clock.now(), event, run.job());
        let line = AuditRecord { by: Some(self.name.clone()), ..of_run };
        self.audit.record(vec![line], Unwritten::Drop).await
    }

    /// The run in our hands.
    pub(super) async fn claim(&self, id: &JobId, mode: ClaimMode) -> Result<LeasedRun, RunError> {
        let asked = Instant::now();
        let (token, lines) = match self.journal.claim(id, &self.name, LEASE, mode).await? {
            Claim::Granted { token, entries } => (token, entries),
            Claim::Held { .. } => return Err(RunError::Busy),
        };
        let lease = Lease::new(self.journal.clone(), id.clone(), self.name.clone(), token, LEASE, asked);
        match replay(id, &lines) {
            Ok(run) => Ok(LeasedRun::new(lease, self.clock.clone(), self.lifetimes, self.audit.clone(), run)),
            Err(error) => {
                lease.release().await;
                Err(error)
            }
        }
    }

    /// Begins a run that no worker has begun, without an attempt; busy where one has, or does just now.
    pub(super) async fn begin(&self, started: Started) -> Result<LeasedRun, RunError> {
        let (id, asked) = (started.job.id(), Instant::now());
        let claim = self.journal.claim(&id, &self.name, LEASE, ClaimMode::IfFree).await?;
        let Claim::Granted { token, entries } = claim else { return Err(RunError::Busy) };
        let lease = Lease::new(self.journal.clone(), id, self.name.clone(), token, LEASE, asked);
        if !entries.is_empty() {
            lease.release().await;
            return Err(RunError::Busy);
        }
        Ok(LeasedRun::start(lease, self.clock.clone(), self.lifetimes, self.audit.clone(), started, Vec::new()).await?)
    }

    /// Publishes a wake-up, by the message that the run waits with where that is known: it says where replies go and whose
    /// trace they belong to. Too much is harmless: a copy of a run that is alive elsewhere waits, and one that comes after the
    /// end is dropped.
    pub(super) async fn wake(&self, run: &Run) -> Result<(), QueueError> {
        let wake_up = WakeUp::of_run(run, run.wake_up_generation().max(1), Reason::Operator);
        let message = self.parked_message(run).await.unwrap_or_else(|| Message::of_job(run.job(), None));
        let mut message = wake_up.stamp(&message);
        self.header_key.sign(&mut message);
        self.publisher.publish(&Destination::Urgent, message).await.map(drop)
    }

    /// Publishes what the caller of an ended run is still to be told, for where its reply went.
    pub(super) async fn tell(&self, run: &Run, reply: &Reply) -> Result<(), QueueError> {
        let job = run.job();
        let mut message = reply_message(reply, &Message::default(), job);
        self.header_key.sign(&mut message);
        let (to, message) = addressed(message, job, &self.header_key);
        let published = self.publisher.publish(&to, message).await?;
        if published == Published::FellBack {
            warn!("the reply queue does not exist; the caller is told in the common reply queue");
        }
        Ok(())
    }

    async fn parked_message(&self, run: &Run) -> Option<Message> {
        let job = run.job();
        let parked = self.parking.find(&job.identifier, &job.id()).await;
        let parked = parked.inspect_err(|error| warn!(%error, "a run is woken without its caller's trace")).ok()??;
        let message = message(&parked, job)?;
        let read = Job::from_slice(&message.body, &message.envelope(), usize::MAX).ok()?;
        (read.id() == job.id() && read.digest() == run.digest()).then_some(message)
    }

    /// The run waits for no approval any more.
    pub(super) async fn unpark(&self, run: &Run) {
        let job = run.job();
        if let Err(error) = self.parking.unpark(&job.identifier, &job.id(), WaitsFor::Approval).await {
            warn!(%error, "a run is still counted among those that wait, until it ends");
        }
    }
}

fn replay(id: &JobId, lines: &[String]) -> Result<Run, RunError> {
    Run::replay(lines)?.ok_or_else(|| RunError::Unknown(id.clone()))
}
