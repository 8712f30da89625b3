//! Dead letters: messages that are given up, each with its reason, for a person to look at.

use tracing::{error, warn};

use super::Worker;
use super::charge::Charge;
use super::hold::Hold;
use super::publishing::message_of;
use super::settlement::fresh;
use super::wake_up::WakeUp;
use crate::agent::event::Aside;
use crate::agent::run::Run;
use crate::job::{InvalidJob, Job};
use crate::queue::{Destination, Message};
use crate::reply::{Account, ErrorCode, ErrorDetail, Failed, Reply, ReplyEvent};

/// Header of a dead letter: why it was given up.
pub const DEAD_REASON: &str = "x-agentkit-dead-reason";
/// Header of a dead letter: how often it was tried.
pub const DEAD_ATTEMPTS: &str = "x-agentkit-dead-attempts";
/// Header of a dead letter: the last step that is known.
pub const DEAD_STEP: &str = "x-agentkit-dead-step";
/// Header of a dead letter: what went wrong, for people.
pub const DEAD_DETAIL: &str = "x-agentkit-dead-detail";
/// Header of a dead letter: when it was given up (RFC 3339).
pub const DEAD_AT: &str = "x-agentkit-dead-at";

/// The reason of a run that its workers died over.
pub(super) const POISON: &str = "poison";
/// The reason of a run whose journal says what cannot be.
const DAMAGED: &str = "damaged_journal";
/// Characters of a letter's detail.
const LONGEST_DETAIL: usize = 500;

impl Worker {
    /// Makes the dead letter of a run that was put aside; false where the broker did not confirm it.
    pub(super) async fn bury_run(&self, hold: &Hold, charge: &Charge, aside: &Aside) -> bool {
        let run = hold.run();
        // A letter that is replayed after its journal's time must not repeat what the run did.
        let (turn, effects) = (run.wake_up_turn().max(1), run.has_effects());
        let letter = WakeUp { turn, effects, ..WakeUp::new(&aside.reason) }.stamp(&charge.message);
        self.bury(charge, letter, aside, run.attempts()).await
    }

    /// The journal makes no sense, so nothing can be known of the run nor done for it: the caller is told, and the message
    /// is kept.
    pub(super) async fn bury_damaged(&self, job: &Job, mut charge: Charge, problem: &str, run: Option<&Run>) {
        if !charge.is_delivery() {
            // The wake-up that stands for the run brings us here again, with a message to bury.
            return;
        }
        let text = "the journal of the run is damaged; what it had done is not known";
        let hint = "check what the job did before sending it again under a new id; its message is a dead letter";
        let detail = ErrorDetail::new(ErrorCode::Internal, text).hint(hint);
        let step = run.map(|run| run.doing(self.clock.now())).unwrap_or_default();
        let aside = Aside { reason: DAMAGED.to_owned(), detail: problem.to_owned(), step };
        let attempts = run.map_or(0, Run::attempts);
        let letter = fresh(&charge.message);
        if self.refuse(&charge, job, DAMAGED, detail).await && self.bury(&charge, letter, &aside, attempts).await {
            charge.ack().await;
        } else {
            charge.put_back().await;
        }
    }

    /// The bytes are not a job: tell the caller where that is possible, and keep them as a dead letter.
    pub(super) async fn reject(&self, mut charge: Charge, invalid: &InvalidJob) {
        warn!(problems = invalid.problems.len(), first = invalid.problems.first(), "message is not a job");
        let detail = invalid.problems.join("; ");
        if let Some(to) = &invalid.reply_to {
            let error = ErrorDetail::new(ErrorCode::InvalidJob, detail.clone());
            let account = Account { stop_reason: error.code.as_str().to_owned(), ..Account::default() };
            let failed = Failed { error, text: None, account };
            // Without an id of its own the event is named after the bytes, so that a second delivery names it the same.
            let id =
                invalid.id.clone().map_or_else(|| crate::key::digest(&charge.message.body, 16), |id| id.to_string());
            let reply = Reply::rejection(&id, self.clock.now(), ReplyEvent::Failed(Box::new(failed)));
            let traceparent = charge.message.properties.headers.get("traceparent");
            let message = message_of(&reply, invalid.correlation_id.clone(), traceparent);
            if !self.publish_reply(&reply, &charge, message, Some(to.clone())).await {
                return charge.put_back().await;
            }
        }
        let aside = Aside { reason: ErrorCode::InvalidJob.as_str().to_owned(), detail, step: String::new() };
        if !self.bury(&charge, fresh(&charge.message), &aside, 0).await {
            return charge.put_back().await;
        }
        self.metrics.job_ended(ErrorCode::InvalidJob.as_str(), 0);
        charge.ack().await;
    }

    /// Puts a message into the dead-letter queue; false where the broker did not confirm it.
    async fn bury(&self, charge: &Charge, mut letter: Message, aside: &Aside, attempts: u32) -> bool {
        error!(job.id = letter.properties.message_id, reason = aside.reason, "message given up");
        let detail = aside.detail.chars().filter(|character| !character.is_control()).take(LONGEST_DETAIL).collect();
        letter.properties.headers.extend([
            (DEAD_REASON.to_owned(), aside.reason.clone()),
            (DEAD_ATTEMPTS.to_owned(), attempts.to_string()),
            (DEAD_STEP.to_owned(), aside.step.clone()),
            (DEAD_DETAIL.to_owned(), detail),
            (DEAD_AT.to_owned(), self.clock.now().to_string()),
        ]);
        match self.publish(charge, &Destination::Dead, letter).await {
            Ok(_) => self.metrics.dead_lettered(&aside.reason),
            Err(error) => {
                warn!(%error, "the dead letter was not confirmed");
                return false;
            }
        }
        true
    }
}
