//! What a person can do to a run from outside, while workers work: cancel it, wake it, open it again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{instrument, warn};

use crate::agent::conclusion;
use crate::agent::event::Event;
use crate::agent::run::{BadJournal, Run};
use crate::agent::turn::Conclusion;
use crate::clock::SharedClock;
use crate::job::JobId;
use crate::journal::{Claim, ClaimMode, Journal, JournalError};
use crate::queue::{Destination, Message, Publisher, QueueError};
use crate::reply::{ErrorCode, ErrorDetail};
use crate::worker::message::wake_up::{Reason, WakeUp};
use crate::worker::rules::Lifetimes;
use crate::worker::run::interruption::Interruption;
use crate::worker::run::lease::Lease;
use crate::worker::run::leased_run::LeasedRun;

/// As the owner of a lease.
const NAME: &str = "operator";
/// A command that dies in between keeps a run from its workers for so long at most.
const LEASE: Duration = Duration::from_secs(5);

/// Acts on runs.
pub struct Operator {
    journal: Arc<dyn Journal>,
    publisher: Arc<dyn Publisher>,
    clock: SharedClock,
    lifetimes: Lifetimes,
}

/// What came of [`Operator::cancel`].
#[derive(Debug, Clone, PartialEq)]
pub enum Cancel {
    /// It is cancelled; the worker that had the run stops and its message brings the reply to the caller.
    UnderWay,
    /// It is cancelled; a wake-up that brings the reply to the caller is on its way.
    Waiting,
    /// It had ended before; nothing was changed.
    Ended(Box<Run>),
}

/// What came of [`Operator::reopen`].
#[derive(Debug, Clone, PartialEq)]
pub enum Reopen {
    /// There is no journal: the job starts anew.
    Unknown,
    /// The run has not ended: its next message goes on with it.
    Unfinished,
    /// It was given up; now its next message goes on with it.
    Reopened,
    /// It has an end that stays: its next message only gets the same reply again.
    Ended(Box<Run>),
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
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
    /// The broker did not confirm the wake-up. What was journalled stays; the run's own wake-up still comes.
    #[error("the wake-up was not confirmed: {0}")]
    Queue(#[from] QueueError),
}

impl From<JournalError> for OperatorError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Unavailable(reason) => Self::Unavailable(reason),
            JournalError::OwnershipLost | JournalError::Lost => Self::Busy,
        }
    }
}

impl From<Interruption> for OperatorError {
    fn from(error: Interruption) -> Self {
        match error {
            Interruption::JournalUnavailable(reason) => Self::Unavailable(reason),
            _ => Self::Busy,
        }
    }
}

impl Operator {
    /// An operator of the runs in `journal`, whose jobs go through `publisher`. The lease in `lifetimes` does not matter.
    pub fn new(
        journal: Arc<dyn Journal>,
        publisher: Arc<dyn Publisher>,
        clock: SharedClock,
        lifetimes: Lifetimes,
    ) -> Self {
        Self { journal, publisher, clock, lifetimes: Lifetimes { lease: LEASE, ..lifetimes } }
    }

    /// Ends a run with `failed/cancelled`. The end is journalled here; the caller is told by the worker that gets the run's
    /// next message. A run that is under way needs none: its worker puts back the one it has, or a wake-up of at most half a
    /// minute stands for it already.
    #[instrument(level = "error", name = "job", skip_all, fields(job.id = %id))]
    pub async fn cancel(&self, id: &JobId) -> Result<Cancel, OperatorError> {
        let run = self.run(id).await?;
        if run.reply().is_some() {
            return Ok(Cancel::Ended(Box::new(run)));
        }
        let mut leased = self.claim(id, ClaimMode::Steal).await?;
        if leased.run().reply().is_some() {
            leased.release().await;
            return Ok(Cancel::Ended(Box::new(leased.run().clone())));
        }
        let error = ErrorDetail::new(ErrorCode::Cancelled, "an operator cancelled the job");
        let reply = conclusion::reply(leased.run(), Conclusion::failed(error), self.clock.now());
        leased.record(vec![Event::Finished(Box::new(reply))]).await?;
        leased.release().await;
        if leased.run().is_under_way() {
            return Ok(Cancel::UnderWay);
        }
        self.wake_up(leased.run()).await?;
        Ok(Cancel::Waiting)
    }

    /// Publishes a wake-up now, unless the run has ended. Too much is harmless: a copy of a run that is alive elsewhere
    /// waits, and one that comes after the end is dropped. Returns the run as it was.
    #[instrument(level = "error", name = "job", skip_all, fields(job.id = %id))]
    pub async fn resume(&self, id: &JobId) -> Result<Run, OperatorError> {
        let run = self.run(id).await?;
        if !run.is_delivered() {
            self.wake_up(&run).await?;
        }
        Ok(run)
    }

    /// Takes back the end of a run that was given up (`attempts_exhausted`), so that the next message of the same id goes
    /// on with it where it had stopped: nothing that was done is done again, and what is in doubt stays fenced off.
    #[instrument(level = "error", name = "job", skip_all, fields(job.id = %id))]
    pub async fn reopen(&self, id: &JobId) -> Result<Reopen, OperatorError> {
        let run = match self.run(id).await {
            Ok(run) => run,
            Err(OperatorError::Unknown(_)) => return Ok(Reopen::Unknown),
            Err(error) => return Err(error),
        };
        if !run.is_delivered() {
            return Ok(Reopen::Unfinished);
        }
        if !run.may_be_reopened() {
            return Ok(Reopen::Ended(Box::new(run)));
        }
        let mut leased = self.claim(id, ClaimMode::IfFree).await?;
        let result = leased.record(vec![Event::Reopened]).await;
        leased.release().await;
        result?;
        Ok(Reopen::Reopened)
    }

    async fn run(&self, id: &JobId) -> Result<Run, OperatorError> {
        Run::replay(&self.journal.read(id).await?)?.ok_or_else(|| OperatorError::Unknown(id.clone()))
    }

    async fn claim(&self, id: &JobId, mode: ClaimMode) -> Result<LeasedRun, OperatorError> {
        let asked = Instant::now();
        let (token, lines) = match self.journal.claim(id, NAME, LEASE, mode).await? {
            Claim::Granted { token, entries } => (token, entries),
            Claim::Held { .. } => return Err(OperatorError::Busy),
        };
        let replayed = Run::replay(&lines);
        if !matches!(replayed, Ok(Some(_)))
            && let Err(error) = self.journal.renew(id, token, Duration::ZERO).await
        {
            warn!(%error, "the lease could not be given back and runs out by itself");
        }
        let run = replayed?.ok_or_else(|| OperatorError::Unknown(id.clone()))?;
        let lease = Lease::new(self.journal.clone(), id.clone(), NAME.to_owned(), token, LEASE, asked);
        Ok(LeasedRun::new(lease, self.clock.clone(), self.lifetimes, run))
    }

    async fn wake_up(&self, run: &Run) -> Result<(), QueueError> {
        let wake_up = WakeUp::of_run(run, run.wake_up_generation().max(1), Reason::Operator);
        let message = Message::of_job(run.job(), None);
        self.publisher.publish(&Destination::Urgent, wake_up.stamp(&message)).await.map(drop)
    }
}
