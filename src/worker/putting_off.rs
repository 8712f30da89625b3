//! Putting a job off: a wake-up with a delay is confirmed by the broker before the delivery is acked.

use std::time::Duration;

use tracing::{info, warn};

use super::Worker;
use super::charge::Charge;
use super::hold::Hold;
use super::settlement::{HELD_WAIT, JOURNAL_WAIT};
use super::wake_up::{WakeUp, due};
use crate::agent::event::{Event, Pause};
use crate::queue::{Destination, Message, QueueError};

/// Why the wake-up of a run comes that is under way: to stand for its delivery.
const CONTINUE: &str = "continue";
/// Why a parked run waits, as a header and a label.
pub(super) const AUTHORIZATION: &str = "authorization";

impl Worker {
    /// Publishes the run's next wake-up, journals that the broker has it, acks.
    pub(super) async fn wake_up(&self, hold: &mut Hold, mut charge: Charge, pause: Pause, wait: Duration) {
        let turn = hold.run().wake_up_turn() + 1;
        let reason = match pause {
            Pause::Authorization => AUTHORIZATION,
            Pause::RateLimited => "rate_limited",
            Pause::Transient => "transient",
            Pause::ContinueAsNew | Pause::Shutdown => CONTINUE,
        };
        if let Err(error) = self.publish_wake_up(&charge.message, turn, reason, wait, hold.run().has_effects()).await {
            warn!(%error, "the wake-up was not confirmed; the message goes back to the queue");
            hold.release().await;
            return charge.put_back().await;
        }
        if let Err(error) = hold.record(vec![Event::WakeUpPublished { turn }]).await {
            warn!(%error, "the wake-up could not be journalled; two copies of it may come");
        }
        hold.release().await;
        charge.ack().await;
    }

    /// The journal is gone under our hands: whoever takes the run up next decides, and must know what we know.
    pub(super) async fn begin_again(&self, hold: &Hold, mut charge: Charge) {
        let (turn, effects) = (hold.run().wake_up_turn().max(1), hold.run().has_effects());
        match self.publish_wake_up(&charge.message, turn, "journal_lost", JOURNAL_WAIT, effects).await {
            Ok(()) => charge.ack().await,
            Err(error) => {
                warn!(%error, "the wake-up was not confirmed; the message goes back to the queue");
                charge.put_back().await;
            }
        }
    }

    /// Puts a wake-up in the place of a delivery that must not be held any longer; the run goes on meanwhile. Without the
    /// broker's confirm the delivery is kept.
    pub(super) async fn exchange(&self, mut charge: Charge) -> Charge {
        let turn = WakeUp::of(&charge.message).map_or(0, |wake_up| wake_up.turn);
        // Counted as a wake-up, so that a lost journal is noticed; what the run has done by then is not known here.
        match self.publish_wake_up(&charge.message, turn.max(1), CONTINUE, HELD_WAIT, true).await {
            Ok(()) => {
                info!(
                    job.id = charge.message.properties.message_id,
                    "the run goes on without its delivery; a wake-up stands for it"
                );
                charge.ack().await;
            }
            Err(error) => warn!(%error, "the wake-up was not confirmed; the delivery is held on"),
        }
        charge
    }

    /// The same message again later, as nothing can be or need be journalled now.
    pub(super) async fn later(&self, mut charge: Charge, wait: Duration, reason: &str) {
        let (turn, effects) = WakeUp::of(&charge.message).map_or((0, false), |wake_up| (wake_up.turn, wake_up.effects));
        match self.publish_wake_up(&charge.message, turn, reason, wait, effects).await {
            Ok(()) => charge.ack().await,
            Err(error) => {
                warn!(%error, "the message could not be put off and goes back to the queue");
                charge.put_back().await;
            }
        }
    }

    async fn publish_wake_up(
        &self,
        message: &Message,
        turn: u32,
        reason: &str,
        wait: Duration,
        effects: bool,
    ) -> Result<(), QueueError> {
        let due = (!wait.is_zero()).then(|| due(self.clock.now(), wait));
        let message = WakeUp { turn, reason: reason.to_owned(), due, effects }.stamp(message);
        let destination = if wait.is_zero() { Destination::Jobs } else { Destination::Wait(wait) };
        self.publisher.publish(&destination, message).await.map(|_| ())
    }

    /// A message that came too early: on to the next wait, unchanged.
    pub(super) async fn put_off(&self, mut charge: Charge, remaining: Duration) {
        let message = charge.message.clone();
        let stamped = WakeUp::of(&message).map_or_else(|| message.clone(), |wake_up| wake_up.stamp(&message));
        match self.publisher.publish(&Destination::Wait(remaining), stamped).await {
            Ok(_) => charge.ack().await,
            Err(error) => {
                warn!(%error, "the message could not be put off and goes back to the queue");
                charge.put_back().await;
            }
        }
    }
}
