//! Holding the message of a run that is under way, and exchanging it for a newer one where it must not be held any longer,
//! or where the run is about to change something: the message in hand knows the most of the run, and the one before it is
//! gone.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Settler;
use crate::agent::run::Run;
use crate::job::JobId;
use crate::queue::QueueError;
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::wake_up::{Reason, WakeUp};
use crate::worker::message::witness::{Testimonies, Testimony};

/// Counts a run whose delivery was exchanged, for as long as it lives: the broker sends another one in its place.
struct Exchanged(watch::Sender<usize>);

impl Exchanged {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for Exchanged {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Settler {
    /// Ready while runs go on whose deliveries were exchanged.
    pub(crate) async fn has_exchanged(&self) {
        if self.exchanged.subscribe().wait_for(|count| *count > 0).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Holds the message of a run until it has `ended`. One that is held for too long is exchanged, and so is each before a
    /// call that is more than reading leaves.
    pub(crate) async fn hold(
        &self,
        mut delivery: InFlightDelivery,
        job: &JobId,
        mut testimonies: Testimonies,
        ended: &CancellationToken,
    ) -> InFlightDelivery {
        let mut exchanged = None;
        loop {
            tokio::select! {
                biased;
                () = ended.cancelled() => return delivery,
                testimony = testimonies.next() => Box::pin(self.witness(&mut delivery, testimony)).await,
                () = tokio::time::sleep_until(delivery.due()), if delivery.is_in_hand() => {
                    Box::pin(self.renew(&mut delivery, job)).await;
                }
            }
            exchanged.get_or_insert_with(|| Exchanged::new(&self.exchanged));
        }
    }

    /// A message that knows of the call takes the place of the one that stands for the run. Where that is not certain, the
    /// call must not leave.
    async fn witness(&self, delivery: &mut InFlightDelivery, testimony: Testimony) {
        let generation = testimony.generation.max(delivery.generation()).saturating_add(1);
        let wake_up = WakeUp {
            generation,
            effects: true,
            entries: Some(testimony.entries),
            call: Some(testimony.call.clone()),
            ..WakeUp::new(Reason::Continue)
        };
        let result = self.exchange(delivery, wake_up).await;
        if let Err(error) = &result {
            warn!(%error, tool = testimony.call.tool, "a call that is more than reading waits: the broker is not its witness");
        }
        testimony.answer(result.map(|()| generation));
    }

    /// Without the broker's confirm the delivery is kept.
    async fn renew(&self, delivery: &mut InFlightDelivery, job: &JobId) {
        let run = self.journal.read(job).await.ok().and_then(|lines| Run::replay(&lines).ok()?);
        let Some(run) = run else {
            // A message that knows nothing of the run would be stale, or worse, believed.
            return delivery.hold_on(self.rules.hold_at_most / 10);
        };
        // Counted as a wake-up, so that a lost journal is noticed.
        let generation = run.wake_up_generation().max(1);
        let wake_up = WakeUp::of_run(&run, generation, Reason::Continue).knowing(delivery.wake_up());
        match self.exchange(delivery, wake_up).await {
            Ok(()) => info!("the delivery of the run was held for long; a wake-up stands for it"),
            Err(error) => {
                warn!(%error, "the message of the run could not be exchanged and is held on");
                delivery.hold_on(self.rules.hold_at_most / 10);
            }
        }
    }

    async fn exchange(&self, delivery: &mut InFlightDelivery, wake_up: WakeUp) -> Result<(), QueueError> {
        let message = wake_up.stamp(delivery.message());
        let held = self.publish_held(delivery, message).await?;
        delivery.replace(held, self.rules.hold_at_most, &self.rules.header_key).await
    }
}
