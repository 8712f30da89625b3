//! Putting a job off: a wake-up with a delay is confirmed by the broker before the delivery is acked.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Worker;
use super::charge::Charge;
use super::hold::Hold;
use super::settlement::{HELD_WAIT, JOURNAL_WAIT};
use super::wake_up::{self, WakeUp, due};
use crate::agent::event::{Event, Pause};
use crate::agent::run::Run;
use crate::job::JobId;
use crate::queue::{Destination, QueueError};

impl Worker {
    /// Publishes the run's next wake-up, journals that the broker has it, acks.
    pub(super) async fn wake_up(&self, hold: &mut Hold, mut charge: Charge, pause: Pause, wait: Duration) {
        let run = hold.run();
        // A wake-up that stands for the run's delivery was counted, but not journalled.
        let turn = run.wake_up_turn().max(charge.turn()) + 1;
        let reason = match pause {
            Pause::Authorization => wake_up::AUTHORIZATION,
            Pause::RateLimited => wake_up::RATE_LIMITED,
            Pause::Transient => wake_up::TRANSIENT,
            Pause::ContinueAsNew | Pause::Shutdown | Pause::JournalAway => wake_up::CONTINUE,
        };
        let wake_up = WakeUp { turn, effects: run.has_effects(), ..WakeUp::new(reason) };
        if let Err(error) = self.publish_wake_up(&charge, wake_up, wait).await {
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

    /// Keeps the charge of a run under way until it has `ended`. A delivery that must not be held any longer is exchanged
    /// for a wake-up: it keeps the job in the broker, and finds the run alive each time it comes.
    pub(super) async fn keep(&self, mut charge: Charge, job: &JobId, ended: &CancellationToken) -> Charge {
        let mut due = charge.due();
        while charge.is_delivery() {
            tokio::select! {
                biased;
                () = ended.cancelled() => break,
                () = tokio::time::sleep_until(due) => {}
            }
            self.exchange(&mut charge, job).await;
            due = tokio::time::Instant::now() + HELD_WAIT;
        }
        charge
    }

    /// Without the broker's confirm the delivery is kept.
    async fn exchange(&self, charge: &mut Charge, job: &JobId) {
        // Counted as a wake-up, so that a lost journal is noticed.
        let turn = charge.turn().max(1);
        // What the run starts from now on cannot be written into this wake-up any more.
        let run = self.journal.read(job).await.ok().and_then(|lines| Run::replay(&lines).ok()?);
        let effects = run.is_none_or(|run| run.may_have_effects());
        let wake_up = WakeUp { turn, effects, ..WakeUp::new(wake_up::CONTINUE) };
        match self.publish_wake_up(charge, wake_up, HELD_WAIT).await {
            Ok(()) => {
                info!(job.id = %job, "the run goes on without its delivery; a wake-up stands for it");
                charge.ack().await;
            }
            Err(error) => warn!(job.id = %job, %error, "the wake-up was not confirmed; the delivery is held on"),
        }
    }

    /// The same message again later: its run is not ours, so nothing is known beyond what the message says.
    pub(super) async fn later(&self, charge: Charge, wait: Duration, change: impl FnOnce(WakeUp) -> WakeUp) {
        let wake_up = WakeUp::of(&charge.message).unwrap_or_else(|| WakeUp::new(""));
        self.put_off(charge, change(WakeUp { due: None, ..wake_up }), wait).await;
    }

    /// The run's message again later, though nothing can be journalled: it says what we know of the run, in case the
    /// journal does not any more when it comes.
    pub(super) async fn give_back(&self, hold: &Hold, charge: Charge, wait: Duration, reason: &str) {
        let turn = hold.run().wake_up_turn().max(charge.turn()).max(1);
        hold.release().await;
        let wake_up = WakeUp { turn, effects: hold.run().has_effects(), ..WakeUp::new(reason) };
        self.put_off(charge, wake_up, wait).await;
    }

    /// The same, as the journal cannot be reached.
    pub(super) async fn without_journal(&self, hold: &Hold, charge: Charge) {
        self.give_back(hold, charge, JOURNAL_WAIT, wake_up::GIVEN_BACK).await;
    }

    /// The message again later, as this wake-up; one that is due already keeps its time.
    pub(super) async fn put_off(&self, mut charge: Charge, wake_up: WakeUp, wait: Duration) {
        match self.publish_wake_up(&charge, wake_up, wait).await {
            Ok(()) => charge.ack().await,
            Err(error) => {
                warn!(%error, "the message could not be put off and goes back to the queue");
                charge.put_back().await;
            }
        }
    }

    async fn publish_wake_up(&self, charge: &Charge, wake_up: WakeUp, wait: Duration) -> Result<(), QueueError> {
        let due = wake_up.due.or_else(|| (!wait.is_zero()).then(|| due(self.clock.now(), wait)));
        let message = WakeUp { due, ..wake_up }.stamp(&charge.message);
        let destination = if wait.is_zero() { Destination::Jobs } else { Destination::Wait(wait) };
        self.publish(charge, &destination, message).await.map(|_| ())
    }
}
