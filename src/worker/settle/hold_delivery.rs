//! Holding the delivery of a run that is under way, and exchanging it for a wake-up where it must not be held any longer.

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Settler;
use super::disposition::HELD_WAIT;
use crate::agent::run::Run;
use crate::job::JobId;
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::wake_up::{Reason, WakeUp};

impl Settler {
    /// Holds the delivery of a run until it has `ended`. One that is held for too long is exchanged for a wake-up: that keeps
    /// the job in the broker, and finds the run alive each time it comes.
    pub(crate) async fn hold(
        &self,
        mut delivery: InFlightDelivery,
        job: &JobId,
        ended: &CancellationToken,
    ) -> InFlightDelivery {
        let mut due = delivery.due();
        while delivery.is_unsettled() {
            tokio::select! {
                biased;
                () = ended.cancelled() => break,
                () = tokio::time::sleep_until(due) => {}
            }
            delivery = self.exchange(delivery, job).await;
            due = Instant::now() + HELD_WAIT;
        }
        delivery
    }

    /// Without the broker's confirm the delivery is kept.
    async fn exchange(&self, delivery: InFlightDelivery, job: &JobId) -> InFlightDelivery {
        // Counted as a wake-up, so that a lost journal is noticed.
        let generation = delivery.generation().max(1);
        // What the run starts from now on cannot be written into this wake-up any more.
        let run = self.journal.read(job).await.ok().and_then(|lines| Run::replay(&lines).ok()?);
        let effects = run.is_none_or(|run| run.may_have_effects());
        let wake_up = WakeUp { generation, effects, ..WakeUp::new(Reason::Continue) };
        match self.publish_wake_up(&delivery, wake_up, HELD_WAIT).await {
            Ok(()) => {
                info!("the run goes on without its delivery; a wake-up stands for it");
                delivery.replaced().await
            }
            Err(error) => {
                warn!(%error, "the wake-up was not confirmed; the delivery is held on");
                delivery
            }
        }
    }
}
