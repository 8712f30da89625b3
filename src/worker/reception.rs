//! From a delivery to a run in our hands: is it due, is it a job, whose is the run, how far has it come.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::burial::POISON;
use super::charge::Charge;
use super::hold::Hold;
use super::interruption::Interruption;
use super::lease::Lease;
use super::parking::WEBHOOK_BUSY;
use super::settlement::{HELD_WAIT, JOURNAL_WAIT, waited};
use super::wake_up::{AUTHORIZATION, CONTINUE, GIVEN_BACK, JOURNAL_LOST, ORPHANED, SEAL, WEBHOOK, WakeUp};
use super::{AfterLoss, Worker};
use crate::agent::event::{Aside, Event, Pause, SCHEMA_VERSION, Settings, Started};
use crate::agent::run::{BadJournal, Run, Step};
use crate::agent::turn::Conclusion;
use crate::digest_store::Fired;
use crate::job::{Envelope, Job};
use crate::journal::Take;
use crate::queue::{Delivery, Message};
use crate::reply::{ErrorCode, ErrorDetail};

/// A message whose run is alive elsewhere waits so long at first.
const HELD_FIRST: Duration = Duration::from_secs(1);
/// A message without a journal waits for its owner so long beyond the lease: what that has to say comes after
/// [`JOURNAL_WAIT`].
const ORPHAN_WAIT: Duration = Duration::from_secs(10);

impl Worker {
    /// Deals with one delivery from beginning to end; when it returns, the delivery is settled.
    pub(super) async fn handle(&self, delivery: Delivery) {
        let mut charge = Charge::new(delivery, self.rules.hold_at_most);
        let now = self.clock.now();
        let wake_up = WakeUp::of(&charge.message);
        if let Some(wake_up) = &wake_up
            && let Some(remaining) = wake_up.remaining(now)
        {
            return self.put_off(charge, wake_up.clone(), remaining).await;
        }
        let job = match Job::from_slice(&charge.message.body, &envelope(&charge.message), self.rules.max_job_bytes) {
            Ok(job) => job,
            Err(invalid) => return self.reject(charge, &invalid).await,
        };
        match &wake_up {
            None => {
                if let Some(seconds) = waited(&charge.message, now) {
                    self.metrics.queue_waited(seconds);
                }
                let derived_id = job.has_derived_id();
                info!(job.id = %job.id(), job.identifier = %job.identifier, redelivered = charge.redelivered, derived_id, "job received");
            }
            Some(wake_up) if self.is_orphaned(&job, wake_up).await => {
                let wait = self.rules.lifetimes.lease + ORPHAN_WAIT;
                return self.later(charge, wait, |wake_up| WakeUp { reason: ORPHANED.to_owned(), ..wake_up }).await;
            }
            Some(wake_up) if [AUTHORIZATION, WEBHOOK].contains(&wake_up.reason.as_str()) => {
                let Some(ready) = self.look(&job, charge, wake_up).await else { return };
                charge = ready;
            }
            Some(_) => {}
        }
        match self.take(&job.id(), &charge).await {
            Some((asked, Take::Taken { epoch, entries })) => {
                let length = self.rules.lifetimes.lease;
                let lease = Lease::new(self.journal.clone(), job.id(), epoch, length, asked);
                tokio::select! {
                    biased;
                    () = self.go_on(lease.clone(), &entries, &job, charge, wake_up) => {}
                    () = lease.keep(&self.takeovers) => {}
                }
            }
            Some((_, Take::Held { owner, remaining })) => {
                info!(job.id = %job.id(), owner, "the run is alive elsewhere");
                if wake_up.as_ref().is_some_and(|wake_up| wake_up.reason == WEBHOOK) {
                    return self.later(charge, WEBHOOK_BUSY, |wake_up| wake_up).await;
                }
                // The first look comes soon: the run may just be giving its place back.
                let met_before = wake_up.is_some_and(|wake_up| wake_up.met);
                let wait = if met_before { remaining.clamp(HELD_FIRST, HELD_WAIT) } else { HELD_FIRST };
                self.later(charge, wait, met).await;
            }
            None if self.stop.is_cancelled() => charge.put_back().await,
            None => self.later(charge, JOURNAL_WAIT, |wake_up| wake_up).await,
        }
    }

    /// Goes on with the run that `lines` tell of.
    async fn go_on(&self, lease: Arc<Lease>, lines: &[String], job: &Job, charge: Charge, wake_up: Option<WakeUp>) {
        match Run::replay(lines) {
            Ok(Some(run)) => {
                let hold = Hold::new(lease, self.clock.clone(), self.rules.lifetimes, run);
                self.resume(hold, job, charge, wake_up).await;
            }
            Ok(None) => self.begin(lease, job, charge, wake_up).await,
            Err(BadJournal::Newer { found }) => {
                warn!(job.id = %job.id(), found, ours = SCHEMA_VERSION, "the journal is a newer worker's; left untouched");
                lease.release().await;
                self.later(charge, HELD_WAIT, met).await;
            }
            Err(error) => {
                lease.release().await;
                self.bury_damaged(job, charge, &error.to_string(), None).await;
            }
        }
    }

    /// A run without a journal: a new one, or one whose journal the store lost.
    async fn begin(&self, lease: Arc<Lease>, job: &Job, mut charge: Charge, wake_up: Option<WakeUp>) {
        if wake_up.as_ref().is_some_and(|wake_up| wake_up.reason == SEAL) {
            info!(job.id = %job.id(), "the reply is out, and there is no journal left to be sealed");
            lease.release().await;
            return charge.ack().await;
        }
        let lost = self.journal_was_lost(&charge).await;
        let started = Started { journal_lost: lost, ..self.started(job) };
        match Hold::start(lease.clone(), self.clock.clone(), self.rules.lifetimes, started).await {
            Ok(hold) if lost => {
                let effects = wake_up.is_some_and(|wake_up| wake_up.effects);
                self.after_loss(hold, job, charge, effects).await;
            }
            Ok(hold) => self.work(hold, job, charge).await,
            Err(Interruption::OwnershipLost) => charge.put_back().await,
            Err(error) => {
                warn!(job.id = %job.id(), %error, "the job waits for the journal");
                lease.release().await;
                self.later(charge, JOURNAL_WAIT, |wake_up| wake_up).await;
            }
        }
    }

    /// The store lost how far the run was: said aloud, then the configured policy decides.
    async fn after_loss(&self, mut hold: Hold, job: &Job, charge: Charge, effects: bool) {
        self.metrics.journal_lost();
        warn!(job.id = %job.id(), effects, policy = ?self.rules.after_loss, "the journal of the run is gone: the store lost its data");
        if self.rules.after_loss == AfterLoss::Restart && !effects {
            return self.work(hold, job, charge).await;
        }
        self.end(&mut hold, job, charge, journal_lost(), None).await;
    }

    /// A run that somebody had before us.
    async fn resume(&self, mut hold: Hold, job: &Job, mut charge: Charge, wake_up: Option<WakeUp>) {
        let reason = wake_up.as_ref().map(|wake_up| wake_up.reason.clone()).unwrap_or_default();
        if reason == GIVEN_BACK && hold.run().is_under_way() {
            // Its last worker did not die with it.
            let detail = "the journal could not be reached".to_owned();
            let end = Event::AttemptEnded { cause: Pause::JournalAway, detail };
            if let Err(error) = hold.record(vec![end]).await {
                return self.interrupted(&mut hold, job, charge, error).await;
            }
        }
        let run = hold.run();
        if run.digest() != job.digest() {
            hold.release().await;
            if Fired::of(job).is_some() {
                // Published twice, and meanwhile its definition or what it covers has changed: the first one counts.
                return charge.ack().await;
            }
            return self.conflict(job, charge).await;
        }
        // Turn 0: the caller's own message, put off while the run was alive elsewhere; it is owed a reply.
        let wake_up = wake_up.filter(|wake_up| wake_up.turn > 0);
        if let Some(wake_up) = &wake_up
            && wake_up.turn < run.wake_up_turn()
        {
            info!(job.id = %job.id(), turn = wake_up.turn, "a newer wake-up of the run is under way; this copy is done with");
            hold.release().await;
            return charge.ack().await;
        }
        match run.next(self.clock.now()) {
            // A copy of ours that comes after the end, or the caller asking again: the same reply, nothing is run.
            Step::Done if wake_up.is_some() => {
                hold.release().await;
                charge.ack().await;
            }
            Step::Done => {
                let Some(reply) = run.reply().cloned() else { return charge.put_back().await };
                hold.release().await;
                info!(job.id = %job.id(), "the job has its reply already; it is sent again");
                if self.send_reply(&reply, &charge, job).await {
                    charge.ack().await;
                } else {
                    charge.put_back().await;
                }
            }
            Step::Deliver(reply) => self.deliver(&mut hold, job, charge, &reply).await,
            _ if reason == SEAL => {
                info!(job.id = %job.id(), "the reply is out; the store lost the end of its journal");
                hold.release().await;
                charge.ack().await;
            }
            _ if reason == JOURNAL_LOST => {
                let effects = wake_up.is_some_and(|wake_up| wake_up.effects);
                match hold.record(vec![Event::JournalLost]).await {
                    Ok(()) => self.after_loss(hold, job, charge, effects).await,
                    Err(error) => self.interrupted(&mut hold, job, charge, error).await,
                }
            }
            _ if run.strikes() + 1 >= self.rules.strikes && run.is_under_way() => {
                self.poison(hold, job, charge).await;
            }
            _ => self.work(hold, job, charge).await,
        }
    }

    /// Goes on with a run that is ours.
    async fn work(&self, mut hold: Hold, job: &Job, charge: Charge) {
        let (id, message, ended) = (job.id(), charge.message.clone(), CancellationToken::new());
        // Boxed: the future of a run is about 16 KB, and only runs under way shall take it.
        let began = Box::pin(async {
            // However it ends.
            let _ended = ended.clone().drop_guard();
            hold.record(vec![Event::AttemptStarted { worker: self.rules.name.clone() }]).await?;
            let lease = hold.lease().clone();
            tokio::select! {
                biased;
                result = self.executor.execute(&mut hold, &message, &self.stop) => result,
                lost = lease.lost() => Err(lost),
            }
        });
        let (result, charge) = tokio::join!(began, self.keep(charge, &id, &ended));
        match result {
            Ok(reply) => self.deliver(&mut hold, job, charge, &reply).await,
            Err(why) => self.interrupted(&mut hold, job, charge, why).await,
        }
    }

    /// The worker died with this run again and again: it is not tried any more.
    async fn poison(&self, mut hold: Hold, job: &Job, charge: Charge) {
        let step = hold.run().doing(self.clock.now());
        let text = format!("the worker died {} times in a row while it worked on this job", hold.run().strikes() + 1);
        let error = ErrorDetail::new(ErrorCode::AttemptsExhausted, text.clone())
            .hint("the job was put aside as a dead letter; look at it with `agentkit-worker dead show`");
        let aside = Aside { reason: POISON.to_owned(), detail: text, step };
        self.end(&mut hold, job, charge, Conclusion::failed(error), Some(aside)).await;
    }

    /// The id belongs to another job: the caller is told under an event id of its own.
    async fn conflict(&self, job: &Job, mut charge: Charge) {
        warn!(job.id = %job.id(), "the id was used for a different job");
        let text = format!("the id `{}` was used before for a job with another body", job.id());
        let error = ErrorDetail::new(ErrorCode::IdConflict, text);
        if self.refuse(&charge, job, &format!("conflict:{}", job.digest()), error).await {
            charge.ack().await;
        } else {
            charge.put_back().await;
        }
    }

    /// Whether a run that was alive elsewhere when this message came last has no journal any more. Who has it knows what
    /// it did, and says so once it finds the journal gone: a taker would know less.
    async fn is_orphaned(&self, job: &Job, wake_up: &WakeUp) -> bool {
        let was_alive = wake_up.met || wake_up.reason == CONTINUE;
        let said_already = [JOURNAL_LOST, ORPHANED].contains(&wake_up.reason.as_str());
        was_alive && !said_already && self.journal.read(&job.id()).await.is_ok_and(|lines| lines.is_empty())
    }

    /// What the configuration makes of a job.
    fn started(&self, job: &Job) -> Started {
        let defaults = &self.defaults;
        let limits = &defaults.limits;
        let settings = Settings {
            model: job.model.clone().unwrap_or_else(|| self.executor.llm.config().model.clone()),
            instructions: job.instructions.clone().unwrap_or_else(|| defaults.instructions.clone()),
            steps: job.limits.steps.unwrap_or(limits.steps).min(limits.steps_at_most),
            tool_calls: job.limits.tool_calls.unwrap_or(limits.tool_calls).min(limits.tool_calls_at_most),
            tokens: job.limits.tokens.unwrap_or(limits.tokens).min(limits.tokens_at_most),
            seconds: job.limits.seconds.unwrap_or(limits.seconds).min(limits.seconds_at_most),
            parallel_reads: defaults.parallel_reads,
            result_bytes: defaults.result_bytes,
            authorization_seconds: job.authorization.wait_seconds.unwrap_or(defaults.authorization_wait_seconds),
        };
        Started { schema: SCHEMA_VERSION, job: job.clone(), digest: job.digest(), settings, journal_lost: false }
    }
}

/// What the caller is told where a run whose journal is gone must not start again.
pub(super) fn journal_lost() -> Conclusion {
    let detail =
        ErrorDetail::new(ErrorCode::Internal, "the store lost how far this run was; what it had done is not known")
            .hint("check what the job did before sending it again under a new id; Redis needs an append-only file");
    Conclusion::failed(detail)
}

/// The message met a run of its job that is not ours to go on with.
fn met(wake_up: WakeUp) -> WakeUp {
    WakeUp { met: true, ..wake_up }
}

fn envelope(message: &Message) -> Envelope {
    Envelope {
        message_id: message.properties.message_id.clone(),
        correlation_id: message.properties.correlation_id.clone(),
        reply_to: message.properties.reply_to.clone(),
    }
}
