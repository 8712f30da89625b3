//! The one way in which a run ends.

use std::time::Duration;

use tracing::warn;

use super::disposition::{End, JOURNAL_WAIT, reply_wait};
use super::ended::say_ended;
use super::{Exit, Settler};
use crate::agent::conclusion;
use crate::agent::event::Event;
use crate::clock::milliseconds_between;
use crate::digest_store::Fired;
use crate::job::Job;
use crate::reply::{Reply, ReplyEvent};
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::wake_up::Reason;
use crate::worker::run::interruption::Interruption;
use crate::worker::run::leased_run::LeasedRun;

impl Settler {
    /// Journals the end where that is still to be done, then delivers it.
    pub(super) async fn finish(&self, delivery: &InFlightDelivery, job: &Job, run: &mut LeasedRun, end: End) -> Exit {
        let (conclusion, given_up) = match end {
            End::Journalled(reply) => return self.deliver(delivery, job, run, &reply).await,
            End::Concluded(conclusion, given_up) => (conclusion, given_up),
        };
        let reply = conclusion::reply(run.run(), conclusion, self.clock.now());
        let mut events: Vec<Event> = given_up.map(Event::GivenUp).into_iter().collect();
        events.push(Event::Finished(Box::new(reply.clone())));
        match run.record(events).await {
            Ok(()) => self.deliver(delivery, job, run, &reply).await,
            Err(error) => self.not_journalled(delivery, run, &error).await,
        }
    }

    /// Publishes the run's reply, and its dead letter where it was given up, seals its journal, acks; in that order.
    /// Wherever it is cut off, the next one begins here again.
    async fn deliver(&self, delivery: &InFlightDelivery, job: &Job, run: &mut LeasedRun, reply: &Reply) -> Exit {
        if let Err(error) = self.send_reply(reply, delivery, job, Some(run.run().attempts())).await {
            let age = Duration::from_millis(milliseconds_between(reply.time, self.clock.now()));
            return self.reply_waits(delivery, Some(run), reply_wait(age), &error).await;
        }
        if let Some(why) = run.run().given_up()
            && !self.dead_letter_of_run(run, delivery, why).await
        {
            run.release().await;
            return Exit::Requeue;
        }
        let outcome = match &reply.event {
            ReplyEvent::Failed(failed) => failed.error.code.as_str(),
            ReplyEvent::AuthorizationRequired(_) => "authorization_required",
            _ => "completed",
        };
        let working = run.run().working_milliseconds_at(self.clock.now());
        // Before the journal is sealed: whoever comes after this one would not note it any more.
        let noted = self.note_digest_ended(job, outcome).await;
        let tried_before = delivery.wake_up().is_some_and(|wake_up| wake_up.reason == Reason::GivenBack);
        // Tried again once, after the store had time: a note that cannot be made must not send the reply round and round.
        if !noted && !tried_before {
            return self.defer_unjournalled(delivery, run, JOURNAL_WAIT, Reason::GivenBack).await;
        }
        // A run that has ended waits for nobody; before somebody else may have it.
        self.parked.unpark(run.run()).await;
        if let Err(error) = run.seal().await {
            warn!(%error, "the journal could not be sealed; the same reply may be sent again");
            match error {
                Interruption::JournalUnavailable(_) => {
                    return self.defer_unjournalled(delivery, run, JOURNAL_WAIT, Reason::Seal).await;
                }
                Interruption::OwnershipLost => return Exit::Requeue,
                // There is nothing left to be sealed.
                _ => {}
            }
        }
        self.metrics.job_ended(outcome, working);
        let cost = reply.event.account().and_then(|account| account.usage.cost.amount());
        if let (Some(fired), Some(cost)) = (Fired::of(job), cost) {
            self.metrics.digest_cost(&fired.digest, cost);
        }
        say_ended(outcome, working, reply);
        Exit::Ack
    }

    /// Notes how a digest's job ended: `since` moves with success, and the next occurrence may be fired. Once for each
    /// occurrence, however often it is asked for; false where the store did not take it.
    pub(super) async fn note_digest_ended(&self, job: &Job, outcome: &str) -> bool {
        let Some(fired) = Fired::of(job) else { return true };
        match self.digests.ended(&fired, outcome == "completed").await {
            // Once when it begins, and then ever more rarely.
            Ok(failures @ (3 | 10 | 100 | 1000)) => {
                warn!(digest = fired.digest, failures, outcome, "jobs of this digest fail, one after another");
            }
            Ok(_) => {}
            Err(error) => {
                warn!(digest = fired.digest, %error, "the end of a digest's job waits to be noted");
                return false;
            }
        }
        true
    }
}
