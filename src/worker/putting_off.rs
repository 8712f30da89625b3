//! Putting a job off: a wake-up with a delay is confirmed by the broker before the delivery is acked.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Worker;
use super::charge::Charge;
use super::hold::Hold;
use super::settlement::{HELD_WAIT, JOURNAL_WAIT};
use super::wake_up::{WakeUp, due};
use crate::agent::event::{Event, Pause};
use crate::agent::run::Run;
use crate::job::JobId;
use crate::queue::{Destination, Message, QueueError};

/// Why the wake-up of a run comes that is under way: to stand for its delivery.
pub(super) const CONTINUE: &str = "continue";
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

    /// Keeps the charge of a run under way until it has `ended`. A delivery that must not be held any longer is exchanged
    /// for a wake-up: it keeps the job in the broker, and finds the run alive each time it comes.
    pub(super) async fn keep(&self, mut charge: Charge, job: &JobId, ended: &CancellationToken) -> Charge {
        while charge.is_delivery() {
            tokio::select! {
                biased;
                () = ended.cancelled() => break,
                () = tokio::time::sleep(self.rules.hold_at_most) => {}
            }
            self.exchange(&mut charge, job).await;
        }
        charge
    }

    /// Without the broker's confirm the delivery is kept.
    async fn exchange(&self, charge: &mut Charge, job: &JobId) {
        // Counted as a wake-up, so that a lost journal is noticed.
        let turn = WakeUp::of(&charge.message).map_or(0, |wake_up| wake_up.turn).max(1);
        // What it starts from now on cannot be written into this wake-up any more.
        let run = self.journal.read(job).await.ok().and_then(|lines| Run::replay(&lines).ok()?);
        let effects = run.is_none_or(|run| run.may_have_effects());
        match self.publish_wake_up(&charge.message, turn, CONTINUE, HELD_WAIT, effects).await {
            Ok(()) => {
                info!(job.id = %job, "the run goes on without its delivery; a wake-up stands for it");
                charge.ack().await;
            }
            Err(error) => warn!(job.id = %job, %error, "the wake-up was not confirmed; the delivery is held on"),
        }
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
        self.publish(&destination, message).await.map(|_| ())
    }

    /// A message that came too early: on to the next wait, unchanged.
    pub(super) async fn put_off(&self, mut charge: Charge, remaining: Duration) {
        let message = charge.message.clone();
        let stamped = WakeUp::of(&message).map_or_else(|| message.clone(), |wake_up| wake_up.stamp(&message));
        match self.publish(&Destination::Wait(remaining), stamped).await {
            Ok(_) => charge.ack().await,
            Err(error) => {
                warn!(%error, "the message could not be put off and goes back to the queue");
                charge.put_back().await;
            }
        }
    }
}
