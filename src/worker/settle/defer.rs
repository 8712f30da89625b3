//! Deferring a job: a wake-up with a delay is confirmed by the broker before the delivery is acked.

use std::time::Duration;

use tracing::warn;

use super::disposition::{Deferral, HELD_WAIT};
use super::{Exit, Settler, release};
use crate::agent::event::{Event, Pause};
use crate::clock::after;
use crate::queue::{Destination, QueueError};
use crate::worker::message::fresh::handed_on;
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::version::left;
use crate::worker::message::wake_up::{Reason, WakeUp};
use crate::worker::run::leased_run::LeasedRun;

impl Settler {
    /// Puts into the broker what takes the message's place.
    pub(super) async fn defer(
        &self,
        delivery: &InFlightDelivery,
        run: &mut Option<LeasedRun>,
        deferral: Deferral,
    ) -> Exit {
        let said = || WakeUp::said_by(delivery.wake_up());
        match (deferral, run) {
            (Deferral::NextWakeUp { wait, pause, detail }, Some(run)) => {
                match run.record(vec![Event::AttemptEnded { cause: pause, detail }]).await {
                    Ok(()) => self.next_wake_up(delivery, run, pause, wait).await,
                    Err(error) => self.not_journalled(delivery, run, &error).await,
                }
            }
            (Deferral::Unjournalled { wait, reason }, Some(run)) => {
                self.defer_unjournalled(delivery, run, wait, reason).await
            }
            (Deferral::Same { wait, says }, run) => {
                release(run.as_ref()).await;
                let says = says.map_or_else(said, |says| *says);
                self.replace(delivery, WakeUp { due: None, ..says }, wait).await
            }
            (Deferral::Left, _) => {
                let (to, message) = (Destination::Wait(HELD_WAIT), left(delivery.message()));
                Exit::once(self.publish_as_it_is(delivery, &to, message).await.is_ok())
            }
            (Deferral::HandedOn { to }, _) => {
                let message = handed_on(delivery.message(), delivery.was_redelivered());
                Exit::once(self.publish(delivery, &to, message).await.is_ok())
            }
            (Deferral::NotDue { remaining: wait }, _)
            | (Deferral::NextWakeUp { wait, .. } | Deferral::Unjournalled { wait, .. }, None) => {
                self.replace(delivery, said(), wait).await
            }
        }
    }

    /// Publishes the run's next wake-up, then journals that the broker has it.
    async fn next_wake_up(
        &self,
        delivery: &InFlightDelivery,
        run: &mut LeasedRun,
        pause: Pause,
        wait: Duration,
    ) -> Exit {
        // A wake-up that stands for the run's delivery was counted, but not journalled.
        let generation = run.run().wake_up_generation().max(delivery.generation()).saturating_add(1);
        let reason = match pause {
            Pause::Authorization => Reason::Authorization,
            Pause::Approval => Reason::Approval,
            Pause::RateLimited => Reason::RateLimited,
            Pause::Transient => Reason::Transient,
            Pause::ContinueAsNew | Pause::Shutdown | Pause::JournalAway => Reason::Continue,
        };
        let wake_up = run.wake_up(generation, reason).knowing(delivery.wake_up());
        if let Err(error) = self.publish_wake_up(delivery, wake_up, wait).await {
            warn!(%error, "the wake-up was not confirmed; the message goes back to the queue");
            run.release().await;
            return Exit::Requeue;
        }
        if let Err(error) = run.record(vec![Event::WakeUpPublished { generation }]).await {
            warn!(%error, "the wake-up could not be journalled; two copies of it may come");
        }
        run.release().await;
        Exit::Ack
    }

    /// The run's message again later, though nothing can be journalled: it says what we know of the run.
    pub(super) async fn defer_unjournalled(
        &self,
        delivery: &InFlightDelivery,
        run: &LeasedRun,
        wait: Duration,
        reason: Reason,
    ) -> Exit {
        let generation = run.run().wake_up_generation().max(delivery.generation()).max(1);
        run.release().await;
        let wake_up = run.wake_up(generation, reason).knowing(delivery.wake_up());
        self.replace(delivery, wake_up, wait).await
    }

    async fn replace(&self, delivery: &InFlightDelivery, wake_up: WakeUp, wait: Duration) -> Exit {
        let published = self.publish_wake_up(delivery, wake_up, wait).await;
        if let Err(error) = &published {
            warn!(%error, "the message could not be deferred and goes back to the queue");
        }
        Exit::once(published.is_ok())
    }

    /// Publishes the message as this wake-up; one that is due already keeps its time.
    async fn publish_wake_up(
        &self,
        delivery: &InFlightDelivery,
        wake_up: WakeUp,
        wait: Duration,
    ) -> Result<(), QueueError> {
        let due = wake_up.due.or_else(|| (!wait.is_zero()).then(|| after(self.clock.now(), wait)));
        let message = WakeUp { due, ..wake_up }.stamp(delivery.message());
        let destination = if wait.is_zero() { Destination::Jobs } else { Destination::Wait(wait) };
        self.publish(delivery, &destination, message).await.map(|_| ())
    }
}
