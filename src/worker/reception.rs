//! From a delivery to a run in our hands: is it due, is it a job, whose is the run, how far has it come.

use std::time::Duration;

use tracing::{info, warn};

use super::Worker;
use super::hold::Hold;
use super::interruption::Interruption;
use super::parking::{WEBHOOK, WEBHOOK_BUSY};
use super::settlement::{AUTHORIZATION, HELD_WAIT, waited};
use super::wake_up::WakeUp;
use crate::agent::event::{Event, SCHEMA_VERSION, Settings, Started};
use crate::agent::run::{BadJournal, Run, Step};
use crate::job::{Envelope, Job};
use crate::journal::{Take, TakeMode};
use crate::queue::{Delivery, Message};
use crate::reply::{ErrorCode, ErrorDetail, Failed, Reply, ReplyEvent};

impl Worker {
    /// Deals with one delivery from beginning to end; when it returns, the delivery is settled.
    pub(super) async fn handle(&self, mut delivery: Delivery) {
        let now = self.clock.now();
        let wake_up = WakeUp::of(&delivery.message);
        if let Some(remaining) = wake_up.as_ref().and_then(|wake_up| wake_up.remaining(now)) {
            return self.put_off(delivery, remaining).await;
        }
        let job = match Job::from_slice(&delivery.message.body, &envelope(&delivery.message), self.rules.max_job_bytes)
        {
            Ok(job) => job,
            Err(invalid) => return self.reject(delivery, &invalid).await,
        };
        match &wake_up {
            None => {
                if let Some(seconds) = waited(&delivery.message, now) {
                    self.metrics.queue_waited(seconds);
                }
                let derived_id = job.has_derived_id();
                info!(job.id = %job.id(), job.identifier = %job.identifier, redelivered = delivery.redelivered, derived_id, "job received");
            }
            Some(wake_up) if [AUTHORIZATION, WEBHOOK].contains(&wake_up.reason.as_str()) => {
                let Some(ready) = self.look(&job, delivery, wake_up).await else { return };
                delivery = ready;
            }
            Some(_) => {}
        }
        let taken = self.journal.take(&job.id(), &self.rules.name, self.rules.lifetimes.lease, TakeMode::Polite).await;
        let (epoch, lines) = match taken {
            Ok(Take::Taken { epoch, entries }) => (epoch, entries),
            Ok(Take::Held { owner, remaining }) => {
                info!(job.id = %job.id(), owner, "the run is alive elsewhere");
                if wake_up.is_some_and(|wake_up| wake_up.reason == WEBHOOK) {
                    return self.later(delivery, WEBHOOK_BUSY, WEBHOOK).await;
                }
                let wait = remaining.clamp(Duration::from_secs(1), HELD_WAIT);
                return self.later(delivery, wait, "held").await;
            }
            Err(error) => {
                warn!(job.id = %job.id(), %error, "the job waits for the journal");
                return self.later(delivery, Duration::from_secs(5), "journal").await;
            }
        };
        let hold = |run| Hold::new(self.journal.clone(), self.clock.clone(), self.rules.lifetimes, epoch, run);
        match Run::replay(&lines) {
            Ok(Some(run)) => self.resume(hold(run), &job, delivery, wake_up).await,
            Ok(None) => {
                let started = Event::Started(Box::new(self.started(&job)));
                let (journal, clock) = (self.journal.clone(), self.clock.clone());
                match Hold::start(journal, clock, self.rules.lifetimes, epoch, started).await {
                    Ok(hold) => self.work(hold, &job, delivery).await,
                    Err(Interruption::OwnershipLost) => self.put_back(delivery).await,
                    Err(error) => {
                        warn!(job.id = %job.id(), %error, "the job waits for the journal");
                        self.later(delivery, Duration::from_secs(5), "journal").await;
                    }
                }
            }
            Err(BadJournal::Newer { found }) => {
                warn!(job.id = %job.id(), found, ours = SCHEMA_VERSION, "the journal is a newer worker's; left untouched");
                if let Err(error) = self.journal.renew(&job.id(), epoch, Duration::ZERO).await {
                    warn!(%error, "the lease could not be given back and runs out by itself");
                }
                self.later(delivery, HELD_WAIT, "newer_journal").await;
            }
            Err(error) => self.bury(delivery, "damaged_journal", &error.to_string(), 0).await,
        }
    }

    /// A run that somebody had before us.
    async fn resume(&self, mut hold: Hold, job: &Job, delivery: Delivery, wake_up: Option<WakeUp>) {
        let run = hold.run();
        if run.digest() != job.digest() {
            hold.release().await;
            return self.conflict(job, delivery).await;
        }
        if let Some(wake_up) = &wake_up
            && wake_up.turn < run.wake_up_turn()
        {
            info!(job.id = %job.id(), turn = wake_up.turn, "a newer wake-up of the run is under way; this copy is done with");
            hold.release().await;
            return self.ack(delivery).await;
        }
        match run.next(self.clock.now()) {
            // A copy of ours that comes after the end, or the caller asking again: the same reply, nothing is run.
            Step::Done if wake_up.is_some() => {
                hold.release().await;
                self.ack(delivery).await;
            }
            Step::Done => {
                let Some(reply) = run.reply().cloned() else { return self.put_back(delivery).await };
                hold.release().await;
                info!(job.id = %job.id(), "the job has its reply already; it is sent again");
                if self.send_reply(&reply, &delivery.message, job).await {
                    self.ack(delivery).await;
                } else {
                    self.put_back(delivery).await;
                }
            }
            Step::Deliver(reply) => self.deliver(&mut hold, job, delivery, &reply).await,
            _ if run.strikes() + 1 >= self.rules.strikes && run.is_under_way() => {
                self.poison(hold, job, delivery).await;
            }
            _ => self.work(hold, job, delivery).await,
        }
    }

    /// Goes on with a run that is ours.
    async fn work(&self, mut hold: Hold, job: &Job, delivery: Delivery) {
        let worker = self.rules.name.clone();
        let began = async {
            hold.record(vec![Event::AttemptStarted { worker }]).await?;
            let keeper = hold.keeper();
            let work = self.executor.execute(&mut hold, &delivery.message, &self.stop);
            tokio::select! {
                biased;
                result = work => result,
                lost = keeper => Err(lost),
                () = tokio::time::sleep(self.rules.hold_at_most) => Err(Interruption::ContinueAsNew),
            }
        };
        match began.await {
            Ok(reply) => self.deliver(&mut hold, job, delivery, &reply).await,
            Err(why) => self.interrupted(&mut hold, job, delivery, why).await,
        }
    }

    /// The worker died with this run again and again: it is not tried any more.
    async fn poison(&self, mut hold: Hold, job: &Job, delivery: Delivery) {
        let attempts = hold.run().attempts();
        let text = format!("the worker died {} times in a row while it worked on this job", hold.run().strikes() + 1);
        let detail = ErrorDetail::new(ErrorCode::AttemptsExhausted, text.clone())
            .hint("the job was put aside as a dead letter; look at it with `agentkit-worker dead show`");
        let conclusion = crate::agent::turn::Conclusion::failed(detail);
        let reply = crate::agent::conclusion::reply(hold.run(), conclusion, self.clock.now());
        if let Err(error) = hold.record(vec![Event::Finished(Box::new(reply.clone()))]).await {
            warn!(job.id = %job.id(), %error, "the run's end could not be journalled");
            return self.put_back(delivery).await;
        }
        if !self.send_reply(&reply, &delivery.message, job).await {
            return self.put_back(delivery).await;
        }
        if let Err(error) = hold.record(vec![Event::Delivered]).await {
            warn!(job.id = %job.id(), %error, "the journal could not be sealed");
        }
        hold.release().await;
        self.metrics.job_ended(ErrorCode::AttemptsExhausted.as_str(), 0);
        self.bury(delivery, "poison", &text, attempts).await;
    }

    /// The id belongs to another job: the caller is told under an event id of its own.
    async fn conflict(&self, job: &Job, delivery: Delivery) {
        warn!(job.id = %job.id(), "the id was used for a different job");
        let text = format!("the id `{}` was used before for a job with another body", job.id());
        let account = crate::reply::Account { metadata: job.metadata.clone(), ..Default::default() };
        let error = ErrorDetail::new(ErrorCode::IdConflict, text);
        let event = ReplyEvent::Failed(Box::new(Failed { error, text: None, account }));
        let reply = Reply::interim(&job.id(), &format!("conflict:{}", job.digest()), self.clock.now(), event);
        if !self.send_reply(&reply, &delivery.message, job).await {
            return self.put_back(delivery).await;
        }
        self.metrics.job_ended(ErrorCode::IdConflict.as_str(), 0);
        self.ack(delivery).await;
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
        Started { schema: SCHEMA_VERSION, job: job.clone(), digest: job.digest(), settings }
    }
}

fn envelope(message: &Message) -> Envelope {
    Envelope {
        message_id: message.properties.message_id.clone(),
        correlation_id: message.properties.correlation_id.clone(),
        reply_to: message.properties.reply_to.clone(),
    }
}
