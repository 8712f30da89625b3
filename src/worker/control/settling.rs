//! Settling effects: a person says what became of one that was unknown when the run ended.

use tracing::{info, instrument};

use super::operator::Operator;
use super::runs::RunError;
use crate::agent::event::{Event, SettledEffect};
use crate::agent::settlement::NotSettled;
use crate::job::JobId;
use crate::journal::ClaimMode;
use crate::worker::run::interruption::Interruption;
use crate::worker::run::leased_run::LeasedRun;

/// What came of [`Operator::settle`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettleOutcome {
    /// It is journalled, and the caller was told.
    Settled,
    /// Nothing was changed: it had been settled so before, and the caller was told.
    Already,
    /// Nothing was changed.
    Refused(NotSettled),
}

impl Operator {
    /// Journals what became of an effect and tells the caller, where its reply went and confirmed. Where only the caller is
    /// still to be told, that is done.
    #[instrument(level = "error", name = "job", skip_all, fields(job.id = %id))]
    pub async fn settle(&self, id: &JobId, said: &SettledEffect) -> Result<SettleOutcome, RunError> {
        let run = self.runs.read(id).await?;
        if let Some(settle) = nothing_to_do(run.may_settle(said), run.untold_settlement(&said.call_id).is_some()) {
            return Ok(settle);
        }
        let mut leased = self.runs.claim(id, ClaimMode::IfFree).await?;
        let result = self.settle_claimed(&mut leased, said).await;
        leased.release().await;
        result
    }

    async fn settle_claimed(&self, leased: &mut LeasedRun, said: &SettledEffect) -> Result<SettleOutcome, RunError> {
        let may_settle = leased.run().may_settle(said);
        let untold = leased.run().untold_settlement(&said.call_id).is_some();
        if let Some(settle) = nothing_to_do(may_settle.clone(), untold) {
            return Ok(settle);
        }
        if may_settle.is_ok() {
            record(leased, Event::EffectSettled(Box::new(said.clone()))).await?;
            info!(call = said.call_id, state = said.settlement.as_str(), "an effect is settled");
        }
        if let Some(reply) = leased.run().untold_settlement(&said.call_id) {
            leased.lease().assure().await?;
            self.runs.tell(leased.run(), &reply).await.map_err(RunError::NotTold)?;
            record(leased, Event::SettlementDelivered { call_id: said.call_id.clone() }).await?;
        }
        Ok(SettleOutcome::Settled)
    }
}

fn nothing_to_do(may_settle: Result<(), NotSettled>, untold: bool) -> Option<SettleOutcome> {
    match may_settle {
        Ok(()) => None,
        Err(NotSettled::Already) if untold => None,
        Err(NotSettled::Already) => Some(SettleOutcome::Already),
        Err(refused) => Some(SettleOutcome::Refused(refused)),
    }
}

/// Where the run's journal is gone and only its remains are there, a journal begins with them.
async fn record(leased: &mut LeasedRun, event: Event) -> Result<(), RunError> {
    match leased.record(vec![event.clone()]).await {
        Err(Interruption::JournalLost) => {}
        recorded => return Ok(recorded?),
    }
    *leased = leased.of_remains().await?.ok_or(RunError::Busy)?;
    // They are kept before the append that was refused, and know of it then.
    if leased.run().check(std::slice::from_ref(&event)).is_err() {
        return Ok(());
    }
    Ok(leased.record(vec![event]).await?)
}
