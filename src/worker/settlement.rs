//! From what became of a run to what becomes of its message: the reply, the wake-up, the ack, in the order in which
//! nothing can get lost.

use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use super::Worker;
use super::charge::Charge;
use super::hold::Hold;
use super::interruption::Interruption;
use super::wake_up::WakeUp;
use crate::agent::conclusion;
use crate::agent::event::{Aside, Event, Pause};
use crate::agent::turn::Conclusion;
use crate::digest_store::Fired;
use crate::job::Job;
use crate::queue::Message;
use crate::reply::{ErrorCode, ErrorDetail, Reply, ReplyEvent};
use crate::retry::{Policy, Verdict, Waits};

/// A rate limit that does not say when to come back.
pub const RATE_LIMIT_WAIT: Duration = Duration::from_secs(30);
/// A journal that is down is looked for again after this time.
pub(super) const JOURNAL_WAIT: Duration = Duration::from_secs(5);
/// A run that another worker holds is looked at again after this time at the latest.
pub(super) const HELD_WAIT: Duration = Duration::from_secs(30);
/// What becomes of a message whose run was interrupted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Back to the queue, for another worker, at once.
    PutBack,
    /// Journal why, publish a wake-up, ack.
    WakeUp {
        /// Journalled as the end of the attempt.
        pause: Pause,
        /// Until the wake-up is due.
        wait: Duration,
    },
    /// Publish a wake-up without a word in the journal (it cannot be reached, or is not ours to write), ack.
    Later(Duration),
    /// The journal is gone: publish a wake-up that says what is still known, ack.
    BeginAgain,
    /// Something that should pass failed too often: end the run with this message.
    GiveUp(String),
    /// The journal makes no sense: dead letter.
    Bury(String),
}

/// The table: what becomes of a message after an interruption, `failures` transient ones in a row counted.
pub fn settle(interruption: &Interruption, failures: u32, transient: Policy) -> Settlement {
    match interruption {
        Interruption::Shutdown | Interruption::OwnershipLost => Settlement::PutBack,
        Interruption::Authorization { wait } => Settlement::WakeUp { pause: Pause::Authorization, wait: *wait },
        Interruption::RateLimited { wait, .. } => Settlement::WakeUp { pause: Pause::RateLimited, wait: *wait },
        Interruption::JournalUnavailable(_) => Settlement::Later(JOURNAL_WAIT),
        Interruption::JournalLost => Settlement::BeginAgain,
        Interruption::Damaged(problem) => Settlement::Bury(problem.clone()),
        Interruption::Transient { reason } => match transient_wait(failures, transient) {
            Some(wait) => Settlement::WakeUp { pause: Pause::Transient, wait },
            None => Settlement::GiveUp(reason.clone()),
        },
    }
}

/// The wait after `failures` transient failures in a row and one more, unless the attempts are used up.
fn transient_wait(failures: u32, transient: Policy) -> Option<Duration> {
    let mut waits = Waits::new(transient);
    let mut wait = None;
    for _ in 0..=failures {
        wait = Some(waits.next(Verdict::Again)?);
    }
    wait
}

/// `message` without what the broker and others added: a wake-up stays that wake-up, due now, any other a job as its
/// caller sent it.
pub fn fresh(message: &Message) -> Message {
    if let Some(wake_up) = WakeUp::of(message) {
        return WakeUp { due: None, ..wake_up }.stamp(message);
    }
    as_sent(message)
}

/// `message` as its caller sent it.
pub fn as_sent(message: &Message) -> Message {
    let mut message = message.clone();
    message.properties.headers.retain(|name, _| name == "traceparent");
    message
}

impl Worker {
    /// Settles a delivery whose run was interrupted.
    pub(super) async fn interrupted(&self, hold: &mut Hold, job: &Job, charge: Charge, why: Interruption) {
        let settlement = settle(&why, hold.run().transient_failures(), self.rules.transient);
        info!(job.id = %job.id(), job.attempt = hold.run().attempts(), %why, ?settlement, "run interrupted");
        match settlement {
            Settlement::PutBack => {
                if why == Interruption::Shutdown {
                    let end = Event::AttemptEnded { cause: Pause::Shutdown, detail: why.to_string() };
                    if let Err(error) = hold.record(vec![end]).await {
                        warn!(job.id = %job.id(), %error, "the end of the attempt could not be journalled");
                    }
                    hold.release().await;
                }
                charge.put_back().await;
            }
            Settlement::WakeUp { pause, wait } => {
                let end = Event::AttemptEnded { cause: pause, detail: why.to_string() };
                match hold.record(vec![end]).await {
                    Ok(()) => self.wake_up(hold, charge, pause, wait).await,
                    Err(Interruption::OwnershipLost) => charge.put_back().await,
                    Err(_) => self.later(charge, JOURNAL_WAIT, "journal").await,
                }
            }
            Settlement::Later(wait) => self.later(charge, wait, "journal").await,
            Settlement::BeginAgain => self.begin_again(hold, charge).await,
            Settlement::GiveUp(reason) => self.give_up(hold, job, charge, &reason).await,
            Settlement::Bury(problem) => {
                hold.release().await;
                self.bury_damaged(job, charge, &problem, Some(hold.run())).await;
            }
        }
    }

    /// The one way in which a run ends: publishes its reply, and its dead letter where it was put aside, seals its journal,
    /// acks; in that order. Wherever it is cut off, the next one begins here again.
    pub(super) async fn deliver(&self, hold: &mut Hold, job: &Job, mut charge: Charge, reply: &Reply) {
        let confirmed = self.send_reply(reply, &charge.message, job).await
            && match hold.run().aside() {
                Some(aside) => self.bury_run(hold, &charge.message, aside).await,
                None => true,
            };
        if !confirmed {
            hold.release().await;
            return charge.put_back().await;
        }
        let outcome = match &reply.event {
            ReplyEvent::Failed(failed) => failed.error.code.as_str(),
            ReplyEvent::AuthorizationRequired(_) => "authorization_required",
            ReplyEvent::Completed(_) | ReplyEvent::Progress(_) => "completed",
        };
        let working = hold.run().working_milliseconds_at(self.clock.now());
        if let Err(error) = hold.record(vec![Event::Delivered]).await {
            warn!(job.id = %job.id(), %error, "the journal could not be sealed; the same reply may be sent again");
            match error {
                Interruption::JournalUnavailable(_) => return self.later(charge, JOURNAL_WAIT, "seal").await,
                Interruption::OwnershipLost => return charge.put_back().await,
                // There is nothing left to be sealed.
                _ => {}
            }
        }
        self.digest_ended(job, outcome).await;
        hold.release().await;
        self.metrics.job_ended(outcome, working);
        info!(
            job.id = %job.id(),
            job.identifier = %job.identifier,
            job.attempt = hold.run().attempts(),
            outcome,
            working_milliseconds = working,
            "job ended"
        );
        charge.ack().await;
    }

    /// Notes how a digest's job ended: `since` moves with success. Best effort; without it the next one covers more.
    pub(super) async fn digest_ended(&self, job: &Job, outcome: &str) {
        let Some(fired) = Fired::of(job) else { return };
        match self.executor.digests.ended(&fired, outcome == "completed").await {
            // Once when it begins, and then ever more rarely.
            Ok(failures @ (3 | 10 | 100 | 1000)) => {
                warn!(digest = fired.digest, failures, outcome, "jobs of this digest fail, one after another");
            }
            Ok(_) => {}
            Err(error) => warn!(digest = fired.digest, %error, "the end of a digest's job could not be noted"),
        }
    }

    /// Ends a run whose attempts are used up, with a reply that says what kept failing.
    async fn give_up(&self, hold: &mut Hold, job: &Job, charge: Charge, reason: &str) {
        let attempts = hold.run().transient_failures() + 1;
        let text = format!("gave up after {attempts} attempts in a row that failed; the last one: {reason}");
        self.end(hold, job, charge, Conclusion::failed(ErrorDetail::new(ErrorCode::AttemptsExhausted, text)), None)
            .await;
    }

    /// Ends a run from outside: its end is journalled, then delivered.
    pub(super) async fn end(
        &self,
        hold: &mut Hold,
        job: &Job,
        charge: Charge,
        conclusion: Conclusion,
        aside: Option<Aside>,
    ) {
        let reply = conclusion::reply(hold.run(), conclusion, self.clock.now());
        let mut events: Vec<Event> = aside.map(Event::PutAside).into_iter().collect();
        events.push(Event::Finished(Box::new(reply.clone())));
        match hold.record(events).await {
            Ok(()) => self.deliver(hold, job, charge, &reply).await,
            Err(Interruption::OwnershipLost) => charge.put_back().await,
            Err(_) => self.later(charge, JOURNAL_WAIT, "journal").await,
        }
    }
}

/// Seconds from when a message was first published to `now`, where it says so.
pub(super) fn waited(message: &Message, now: Timestamp) -> Option<f64> {
    let published = message.properties.timestamp?;
    #[expect(clippy::cast_precision_loss, reason = "a message does not wait for 2^53 ms")]
    let seconds = crate::clock::milliseconds_between(published, now) as f64 / 1000.0;
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSIENT: Policy =
        Policy { attempts: 3, initial_milliseconds: 1000, max_milliseconds: 60_000, max_retry_after_milliseconds: 0 };

    #[test]
    fn a_shutdown_and_a_lost_run_put_the_message_back() {
        for why in [Interruption::Shutdown, Interruption::OwnershipLost] {
            assert_eq!(settle(&why, 9, TRANSIENT), Settlement::PutBack);
        }
    }

    #[test]
    fn a_rate_limit_costs_no_attempt_however_often_it_comes() {
        let wait = Duration::from_secs(40);
        let why = Interruption::RateLimited { wait, reason: String::new() };
        assert_eq!(settle(&why, 99, TRANSIENT), Settlement::WakeUp { pause: Pause::RateLimited, wait });
    }

    #[test]
    fn transient_failures_are_counted_and_end() {
        let why = Interruption::Transient { reason: "down".into() };
        for failures in 0..2 {
            assert!(matches!(settle(&why, failures, TRANSIENT), Settlement::WakeUp { pause: Pause::Transient, .. }));
        }
        assert_eq!(settle(&why, 2, TRANSIENT), Settlement::GiveUp("down".into()));
    }

    #[test]
    fn without_the_journal_nothing_is_written_and_nothing_is_lost() {
        let away = Interruption::JournalUnavailable(String::new());
        assert_eq!(settle(&away, 99, TRANSIENT), Settlement::Later(JOURNAL_WAIT));
        assert_eq!(settle(&Interruption::JournalLost, 99, TRANSIENT), Settlement::BeginAgain);
    }
}
