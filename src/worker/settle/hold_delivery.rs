//! Holding the delivery of a run that is under way, and exchanging it for a wake-up where it must not be held any longer,
//! or where the run is about to change something.

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Settler;
use super::disposition::HELD_WAIT;
use crate::agent::run::Run;
use crate::job::JobId;
use crate::queue::QueueError;
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::wake_up::{Reason, WakeUp};
use crate::worker::message::witness::{Testimonies, Testimony};

/// Counts a run that goes on without its delivery, for as long as it lives: the broker sends another message in its place.
struct WithoutDelivery(watch::Sender<usize>);

impl WithoutDelivery {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for WithoutDelivery {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Settler {
    /// Ready while runs go on without their deliveries.
    pub(crate) async fn has_runs_without_delivery(&self) {
        if self.without_delivery.subscribe().wait_for(|count| *count > 0).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Holds the delivery of a run until it has `ended`. One that is held for too long is exchanged for a wake-up: that keeps
    /// the job in the broker, and finds the run alive each time it comes. So is each before a call that is more than
    /// reading leaves.
    pub(crate) async fn hold(
        &self,
        mut delivery: InFlightDelivery,
        job: &JobId,
        mut testimonies: Testimonies,
        ended: &CancellationToken,
    ) -> InFlightDelivery {
        let mut due = delivery.due();
        let mut without = None;
        loop {
            if !delivery.is_unsettled() {
                without.get_or_insert_with(|| WithoutDelivery::new(&self.without_delivery));
            }
            tokio::select! {
                biased;
                () = ended.cancelled() => return delivery,
                testimony = testimonies.next() => delivery = self.witness(delivery, testimony).await,
                () = tokio::time::sleep_until(due), if delivery.is_unsettled() => {
                    delivery = self.exchange(delivery, job).await;
                    due = Instant::now() + HELD_WAIT;
                }
            }
        }
    }

    /// A wake-up that knows of the call takes the place of whatever stands for the run. Where that is not certain, the call
    /// must not leave.
    async fn witness(&self, mut delivery: InFlightDelivery, testimony: Testimony) -> InFlightDelivery {
        let generation = testimony.generation.max(delivery.generation()) + 1;
        let wake_up = WakeUp {
            generation,
            effects: true,
            entries: Some(testimony.entries),
            call: Some(testimony.call.clone()),
            ..WakeUp::new(Reason::Continue)
        };
        let mut result = self.publish_wake_up(&delivery, wake_up.clone(), HELD_WAIT).await;
        if result.is_ok() {
            result = delivery.replace(wake_up).await;
        }
        if let Err(error) = &result {
            warn!(%error, tool = testimony.call.tool, "a call that is more than reading waits: the broker is not its witness");
        }
        testimony.answer(result.map(|()| generation));
        delivery
    }

    /// Without the broker's confirm the delivery is kept.
    async fn exchange(&self, mut delivery: InFlightDelivery, job: &JobId) -> InFlightDelivery {
        // Counted as a wake-up, so that a lost journal is noticed.
        let generation = delivery.generation().max(1);
        // What the run starts from now on is written into another wake-up, but this one may come all the same.
        let run = self.journal.read(job).await.ok().and_then(|lines| Run::replay(&lines).ok()?);
        let effects = run.as_ref().is_none_or(Run::may_have_effects);
        let known = run.as_ref().map(|run| WakeUp::of_run(run, generation, Reason::Continue));
        let known = known.unwrap_or_else(|| WakeUp { generation, ..WakeUp::new(Reason::Continue) });
        let wake_up = WakeUp { effects, ..known };
        let exchanged: Result<(), QueueError> = match self.publish_wake_up(&delivery, wake_up.clone(), HELD_WAIT).await
        {
            Ok(()) => {
                info!("the run goes on without its delivery; a wake-up stands for it");
                delivery.replace(wake_up).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = exchanged {
            warn!(%error, "the wake-up was not confirmed, or the delivery not acked; it comes again");
        }
        delivery
    }
}
