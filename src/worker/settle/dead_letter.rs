//! Dead letters: messages that are given up, each with its reason, for a person to look at.

use serde_json::Value;
use tracing::{debug, error, warn};

use super::disposition::{REPLY_WAIT, Undeliverable};
use super::{Exit, Settler, release};
use crate::agent::event::GivenUp;
use crate::job::{InvalidJob, Job};
use crate::queue::{Destination, Message, QueueError};
use crate::reply::{Account, ErrorCode, ErrorDetail, Failed, Reply, ReplyEvent};
use crate::worker::message::dead_letter::{DeadLetterReason, dead_letter, encrypted};
use crate::worker::message::fresh::fresh;
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::wake_up::{Reason, WakeUp};
use crate::worker::run::leased_run::LeasedRun;

impl Settler {
    /// Tells the caller where that is possible, and keeps the message.
    pub(super) async fn dead_letter(
        &self,
        delivery: &InFlightDelivery,
        job: Option<&Job>,
        run: Option<&LeasedRun>,
        what: Undeliverable,
    ) -> Exit {
        release(run).await;
        match (what, job) {
            (Undeliverable::NotAJob(invalid), _) => self.reject(delivery, &invalid, ErrorCode::InvalidJob).await,
            (Undeliverable::NotAllowed(invalid), _) => {
                self.reject(delivery, &invalid, ErrorCode::ProducerNotAllowed).await
            }
            (Undeliverable::Damaged(problem), Some(job)) => self.damaged(delivery, job, run, problem).await,
            (Undeliverable::DeliveryLimit, Some(job)) => self.delivery_limit_reached(delivery, job).await,
            (Undeliverable::Unfounded { beside_a_run }, Some(job)) => self.unfounded(delivery, job, beside_a_run).await,
            (Undeliverable::Damaged(_) | Undeliverable::DeliveryLimit | Undeliverable::Unfounded { .. }, None) => {
                Exit::Requeue
            }
        }
    }

    /// Makes the dead letter of a run that was given up; false where the broker did not confirm it.
    pub(super) async fn dead_letter_of_run(&self, run: &LeasedRun, delivery: &InFlightDelivery, why: &GivenUp) -> bool {
        // A letter that is replayed after its journal's time must not repeat what the run did.
        let generation = run.run().wake_up_generation().max(1);
        let letter = run.wake_up(generation, Reason::Poison).stamp(delivery.message());
        self.publish_dead_letter(delivery, letter, why, run.run().attempts()).await.is_ok()
    }

    /// The journal makes no sense, so nothing can be known of the run nor done for it.
    async fn damaged(&self, delivery: &InFlightDelivery, job: &Job, run: Option<&LeasedRun>, problem: String) -> Exit {
        let text = "the journal of the run is damaged; what it had done is not known";
        let hint = "check what the job did before sending it again under a new id; its message is a dead letter";
        let detail = ErrorDetail::new(ErrorCode::Internal, text).hint(hint);
        let reason = DeadLetterReason::DamagedJournal.as_str().to_owned();
        let step = run.map(|run| run.run().doing(self.clock.now())).unwrap_or_default();
        let why = GivenUp { reason, detail: problem, step };
        let attempts = run.map_or(0, |run| run.run().attempts());
        self.tell_and_keep(delivery, job, detail, fresh(delivery.message()), &why, attempts).await
    }

    /// The broker gave the message up before any run of it was journalled, or its journal is gone.
    async fn delivery_limit_reached(&self, delivery: &InFlightDelivery, job: &Job) -> Exit {
        let text = "the job's message was delivered as often as the broker allows, and nothing is known of a run";
        let detail = ErrorDetail::new(ErrorCode::AttemptsExhausted, text)
            .hint("the job is a dead letter now; look at it with `agentkit-worker dead show`");
        let reason = DeadLetterReason::DeliveryLimit.as_str().to_owned();
        let why = GivenUp { reason, detail: text.to_owned(), step: String::new() };
        let said = delivery.wake_up().cloned().unwrap_or_else(|| WakeUp::new(Reason::Unsaid));
        // Replayed, it must run.
        let letter = WakeUp { reason: Reason::Poison, due: None, ..said }.stamp(delivery.message());
        self.tell_and_keep(delivery, job, detail, letter, &why, 0).await
    }

    /// Its headers say that more was done for the job than the journal knows of. Forged, or of a version that did not sign
    /// them and whose journal is lost: in neither case is anything done for it.
    async fn unfounded(&self, delivery: &InFlightDelivery, job: &Job, beside_a_run: bool) -> Exit {
        let text = "the headers of the message say that a run of this job was at work, and its journal does not know of \
                    that: they are not a worker's, or the store lost the journal's data; nothing was done for the message";
        let hint = "leave out headers that begin with x-agentkit-; where the job may have run before, check what it did \
                    before sending it again under a new id";
        let detail = ErrorDetail::new(ErrorCode::Internal, text).hint(hint);
        let reason = DeadLetterReason::Unfounded.as_str().to_owned();
        let why = GivenUp { reason, detail: text.to_owned(), step: String::new() };
        // Without a run it is the end of the job: should that be known to have ended before, its caller has the event.
        let mark = if beside_a_run { why.reason.as_str() } else { Reply::RESULT };
        if !beside_a_run {
            self.note_digest_ended(job, detail.code.as_str()).await;
        }
        if let Err(error) = self.refuse(delivery, job, mark, detail).await {
            return self.reply_waits(delivery, None, REPLY_WAIT, &error).await;
        }
        Exit::once(self.publish_dead_letter(delivery, fresh(delivery.message()), &why, 0).await.is_ok())
    }

    /// Tells the caller, then keeps the message.
    async fn tell_and_keep(
        &self,
        delivery: &InFlightDelivery,
        job: &Job,
        detail: ErrorDetail,
        letter: Message,
        why: &GivenUp,
        attempts: u32,
    ) -> Exit {
        self.note_digest_ended(job, detail.code.as_str()).await;
        if let Err(error) = self.refuse(delivery, job, &why.reason, detail).await {
            return self.reply_waits(delivery, None, REPLY_WAIT, &error).await;
        }
        Exit::once(self.publish_dead_letter(delivery, letter, why, attempts).await.is_ok())
    }

    /// The bytes are not a job, or one that its producer may not send.
    async fn reject(&self, delivery: &InFlightDelivery, invalid: &InvalidJob, code: ErrorCode) -> Exit {
        warn!(problems = invalid.problems.len(), code = code.as_str(), "message is refused");
        debug!(problems = ?invalid.problems, "why it is refused");
        let detail = invalid.problems.join("; ");
        // Bytes that name no queue have nobody who waits for an answer.
        if invalid.reply_to.is_some() || code == ErrorCode::ProducerNotAllowed {
            let error = ErrorDetail::new(code, detail.clone());
            let account = Account::of_refused(error.code, Value::Null);
            let failed = Failed { error, text: None, account };
            // Without an id of its own the event is named after the bytes, so that a second delivery names it the same.
            let (now, event) = (self.clock.now(), ReplyEvent::Failed(Box::new(failed)));
            let reply = match &invalid.id {
                Some(id) => Reply::terminal(id, now, event),
                None => Reply::rejection(&crate::key::digest(&delivery.message().body, 16), now, event),
            };
            let correlation_id = invalid.correlation_id.clone();
            if let Err(error) = self.publish_reply(&reply, delivery, correlation_id, invalid.reply_to.clone()).await {
                return self.reply_waits(delivery, None, REPLY_WAIT, &error).await;
            }
        }
        let reason = match code {
            ErrorCode::ProducerNotAllowed => DeadLetterReason::ProducerNotAllowed,
            _ => DeadLetterReason::InvalidJob,
        };
        let why = GivenUp { reason: reason.as_str().to_owned(), detail, step: String::new() };
        let exit = match self.publish_dead_letter(delivery, fresh(delivery.message()), &why, 0).await {
            Ok(()) => Exit::Ack,
            Err(QueueError::TooLarge { .. }) => Exit::Reject,
            Err(_) => return Exit::Requeue,
        };
        self.metrics.job_ended(code.as_str(), 0);
        exit
    }

    /// Puts a message into the dead-letter queue.
    async fn publish_dead_letter(
        &self,
        delivery: &InFlightDelivery,
        letter: Message,
        why: &GivenUp,
        attempts: u32,
    ) -> Result<(), QueueError> {
        error!(message.id = letter.properties.message_id, reason = why.reason, "message given up");
        let mut letter = dead_letter(letter, why, attempts, self.clock.now());
        // Before it is encrypted: replayed, it is what was signed.
        self.rules.header_key.sign(&mut letter);
        let letter = encrypted(letter, &self.rules.encryption);
        match self.publish_as_it_is(delivery, &Destination::Dead, letter).await {
            Ok(_) => {}
            Err(error @ QueueError::TooLarge { .. }) => {
                warn!(%error, "the dead letter is left to the broker");
                self.metrics.dead_lettered(&why.reason);
                return Err(error);
            }
            Err(error) => {
                warn!(%error, "the dead letter was not confirmed");
                return Err(error);
            }
        }
        self.metrics.dead_lettered(&why.reason);
        Ok(())
    }
}
