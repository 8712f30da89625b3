//! What a person says to a call that waits: journalled where it comes first, and then the run is woken. All doors lead here.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, instrument, warn};

use crate::agent::event::Event;
use crate::agent::ruling::{Objection, rule};
use crate::agent::run::{BadJournal, Run};
use crate::clock::SharedClock;
use crate::decision::{Decision, Door};
use crate::job::JobId;
use crate::journal::{Claim, ClaimMode, Journal, JournalError};
use crate::metrics::Metrics;
use crate::queue::{Destination, Message, Publisher};
use crate::retry::{Policy, RetryDecision, retry};
use crate::worker::message::signature::HeaderKey;
use crate::worker::message::wake_up::{Reason, WakeUp};
use crate::worker::rules::Lifetimes;
use crate::worker::run::interruption::Interruption;
use crate::worker::run::lease::Lease;
use crate::worker::run::leased_run::LeasedRun;

/// Whoever dies in between keeps a run from its workers for so long at most.
const LEASE: Duration = Duration::from_secs(5);
/// A run that is just being parked, or that another decision is made about, is free after a moment. About ten seconds.
const PATIENT: Policy =
    Policy { attempts: 30, initial_milliseconds: 50, max_milliseconds: 800, max_retry_after_milliseconds: 0 };

/// Makes decisions.
pub(crate) struct Decider {
    pub(crate) journal: Arc<dyn Journal>,
    /// Wake-ups.
    pub(crate) publisher: Arc<dyn Publisher>,
    pub(crate) clock: SharedClock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) lifetimes: Lifetimes,
    /// Signs what wake-ups say.
    pub(crate) header_key: HeaderKey,
    /// As the owner of a lease.
    pub(crate) name: String,
}

/// Why a decision was not journalled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotDecided {
    /// It changes nothing, however often it comes.
    #[error("{0}")]
    Refused(#[from] Objection),
    /// Not now: the run is in other hands, or a service is away. Whatever was journalled is found again.
    #[error("not now: {0}")]
    NotNow(String),
}

impl Decider {
    /// Journals the decision, where it is the first, and wakes the run once nothing of it waits any more. At the return
    /// both are safe; that it was journalled before is [`Objection::Already`], and then the run is woken again.
    #[instrument(level = "error", name = "job", skip_all, fields(job.id = %decision.job))]
    pub(crate) async fn decide(&self, decision: &Decision, door: Door) -> Result<(), NotDecided> {
        let again = |error: &NotDecided| match error {
            NotDecided::NotNow(_) => RetryDecision::Again,
            NotDecided::Refused(_) => RetryDecision::Stop,
        };
        let notice = |error: &NotDecided, attempt, _| {
            if attempt == 10 {
                warn!(%error, "a decision waits");
            }
        };
        retry(PATIENT, again, notice, || self.try_to_decide(decision, door)).await
    }

    /// The run, as its journal tells it.
    pub(crate) async fn run(&self, id: &JobId) -> Result<Run, NotDecided> {
        let lines = self.journal.read(id).await.map_err(unavailable)?;
        replay(&lines)
    }

    async fn try_to_decide(&self, decision: &Decision, door: Door) -> Result<(), NotDecided> {
        // Most that is refused needs no claim.
        let run = self.run(&decision.job).await?;
        if let Err(refusal) = rule(&run, decision, door, self.clock.now()) {
            if refusal == Objection::Already && !run.is_under_way() {
                self.wake(&run).await?;
            }
            return Err(refusal.into());
        }
        let mut leased = self.claim(&decision.job).await?;
        let settled = match rule(leased.run(), decision, door, self.clock.now()) {
            Ok(settled) => settled,
            Err(refusal) => {
                leased.release().await;
                return Err(refusal.into());
            }
        };
        let verdict = settled.verdict;
        let recorded = leased.record(vec![Event::ApprovalDecided(Box::new(settled))]).await;
        leased.release().await;
        recorded.map_err(|error| match error {
            Interruption::Illegal(_) | Interruption::Damaged(_) => Objection::Unknown.into(),
            error => NotDecided::NotNow(error.to_string()),
        })?;
        info!(decision = verdict.as_str(), door = door.as_str(), "a call that waited is decided about");
        self.metrics.approval_decided(verdict, door);
        self.wake(leased.run()).await
    }

    async fn claim(&self, id: &JobId) -> Result<LeasedRun, NotDecided> {
        let asked = Instant::now();
        let claimed = self.journal.claim(id, &self.name, LEASE, ClaimMode::IfFree).await;
        let (token, lines) = match claimed.map_err(unavailable)? {
            Claim::Granted { token, entries } => (token, entries),
            Claim::Held { .. } => return Err(NotDecided::NotNow("a worker has the run at this moment".to_owned())),
        };
        let lease = Lease::new(self.journal.clone(), id.clone(), self.name.clone(), token, LEASE, asked);
        match replay(&lines) {
            Ok(run) => Ok(LeasedRun::new(lease, self.clock.clone(), self.lifetimes, run)),
            Err(error) => {
                lease.release().await;
                Err(error)
            }
        }
    }

    /// Too much is harmless: a copy of a run that is alive elsewhere waits, and one that comes after the end is dropped.
    async fn wake(&self, run: &Run) -> Result<(), NotDecided> {
        if run.approvals().any_wait() || run.reply().is_some() {
            return Ok(());
        }
        let wake_up = WakeUp::of_run(run, run.wake_up_generation().max(1), Reason::Operator);
        let mut message = wake_up.stamp(&Message::of_job(run.job(), None));
        self.header_key.sign(&mut message);
        let published = self.publisher.publish(&Destination::Urgent, message).await;
        published.map(drop).map_err(|error| NotDecided::NotNow(format!("the run could not be woken yet: {error}")))
    }
}

fn replay(lines: &[String]) -> Result<Run, NotDecided> {
    match Run::replay(lines) {
        Ok(run) => run.ok_or_else(|| Objection::Unknown.into()),
        Err(error @ BadJournal::Newer { .. }) => Err(NotDecided::NotNow(error.to_string())),
        Err(error) => {
            warn!(%error, "the journal of the run that a decision is about is damaged");
            Err(Objection::Unknown.into())
        }
    }
}

fn unavailable(error: JournalError) -> NotDecided {
    NotDecided::NotNow(error.to_string())
}
