//! From what became of a run to what becomes of its message: the reply, the wake-up, the ack, in the order in which
//! nothing can get lost.

use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use super::Worker;
use super::charge::Charge;
use super::hold::Hold;
use super::interruption::Interruption;
use super::wake_up::{CONTINUE, GIVEN_BACK, JOURNAL_LOST, SEAL, WakeUp};
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
/// Whoever was told to come later waits at least so long: the shortest wait tier.
const LEAST_RATE_LIMIT_WAIT: Duration = Duration::from_secs(1);
/// A journal that is down is looked for again after this time.
pub(super) const JOURNAL_WAIT: Duration = Duration::from_secs(5);
/// A run that another worker holds is looked at again after this time at the latest.
pub(super) const HELD_WAIT: Duration = Duration::from_secs(30);
/// What becomes of a message whose run was interrupted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The run is not ours: back to the queue, not a word more.
    PutBack,
    /// Journal the end of the attempt, back to the queue at once, for another worker.
    Return,
    /// Journal why, publish a wake-up, ack.
    WakeUp {
        /// Journalled as the end of the attempt.
        pause: Pause,
        /// Until the wake-up is due.
        wait: Duration,
    },
    /// The journal cannot be reached: publish a wake-up that says what is known, ack.
    WithoutJournal,
    /// The journal is gone: publish a wake-up that says what is still known, ack.
    BeginAgain,
    /// Something that should pass failed too often: end the run.
    GiveUp {
        /// How often in a row.
        attempts: u32,
        /// The last failure.
        reason: String,
    },
    /// The journal makes no sense: dead letter.
    Bury(String),
}

/// The budgets that a run uses up: attempts in a row that ended for want of something, and what is allowed.
#[derive(Debug, Clone, Copy)]
pub struct Budgets {
    /// Something failed that should pass.
    pub transient: (u32, Policy),
    /// Somebody asked to come later.
    pub rate_limited: (u32, Policy),
}

/// The table: what becomes of a message after an interruption.
pub fn settle(interruption: &Interruption, budgets: Budgets) -> Settlement {
    match interruption {
        Interruption::OwnershipLost => Settlement::PutBack,
        Interruption::Shutdown => Settlement::Return,
        Interruption::Authorization { wait } => Settlement::WakeUp { pause: Pause::Authorization, wait: *wait },
        Interruption::RateLimited { wait: asked, reason } => {
            let (failures, policy) = budgets.rate_limited;
            let asked = (*asked).min(Duration::from_millis(policy.max_retry_after_milliseconds));
            match own_wait(failures, policy) {
                // On top of what was asked for: all who were told the same must not come back together, nor at once.
                Some(own) => {
                    Settlement::WakeUp { pause: Pause::RateLimited, wait: (asked + own).max(LEAST_RATE_LIMIT_WAIT) }
                }
                None => Settlement::GiveUp { attempts: failures + 1, reason: reason.clone() },
            }
        }
        Interruption::JournalUnavailable(_) => Settlement::WithoutJournal,
        Interruption::JournalLost => Settlement::BeginAgain,
        Interruption::Damaged(problem) => Settlement::Bury(problem.clone()),
        Interruption::Transient { reason } => {
            let (failures, policy) = budgets.transient;
            match own_wait(failures, policy) {
                Some(wait) => Settlement::WakeUp { pause: Pause::Transient, wait },
                None => Settlement::GiveUp { attempts: failures + 1, reason: reason.clone() },
            }
        }
    }
}

/// The wait after `failures` in a row and one more, unless the attempts are used up.
fn own_wait(failures: u32, policy: Policy) -> Option<Duration> {
    let mut waits = Waits::new(policy);
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
        let run = hold.run();
        let budgets = Budgets {
            transient: (run.transient_failures(), self.rules.transient),
            rate_limited: (run.rate_limited(), self.rules.rate_limited),
        };
        let settlement = settle(&why, budgets);
        info!(job.id = %job.id(), job.attempt = run.attempts(), %why, ?settlement, "run interrupted");
        match settlement {
            Settlement::PutBack => charge.put_back().await,
            Settlement::Return => self.return_to_queue(hold, job, charge, &why).await,
            Settlement::WakeUp { pause, wait } => {
                let end = Event::AttemptEnded { cause: pause, detail: why.to_string() };
                match hold.record(vec![end]).await {
                    Ok(()) => self.wake_up(hold, charge, pause, wait).await,
                    Err(Interruption::OwnershipLost) => charge.put_back().await,
                    Err(_) => self.without_journal(hold, charge).await,
                }
            }
            Settlement::WithoutJournal => self.without_journal(hold, charge).await,
            Settlement::BeginAgain => self.give_back(hold, charge, JOURNAL_WAIT, JOURNAL_LOST).await,
            Settlement::GiveUp { attempts, reason } => {
                let text = format!("gave up after {attempts} attempts in a row that failed; the last one: {reason}");
                let conclusion = Conclusion::failed(ErrorDetail::new(ErrorCode::AttemptsExhausted, text));
                self.end(hold, job, charge, conclusion, None).await;
            }
            Settlement::Bury(problem) => {
                hold.release().await;
                self.bury_damaged(job, charge, &problem, Some(hold.run())).await;
            }
        }
    }

    /// The message goes back to the queue at once, at no cost to the job.
    async fn return_to_queue(&self, hold: &mut Hold, job: &Job, charge: Charge, why: &Interruption) {
        let end = Event::AttemptEnded { cause: Pause::Shutdown, detail: why.to_string() };
        match hold.record(vec![end]).await {
            Ok(()) if charge.is_delivery() => {
                hold.release().await;
                charge.put_back().await;
            }
            // The wake-up that stands for the run comes half a minute later at worst; this one comes now.
            Ok(()) => self.give_back(hold, charge, Duration::ZERO, CONTINUE).await,
            Err(Interruption::OwnershipLost) => charge.put_back().await,
            Err(error) => {
                warn!(job.id = %job.id(), %error, "the end of the attempt could not be journalled");
                self.give_back(hold, charge, Duration::ZERO, GIVEN_BACK).await;
            }
        }
    }

    /// The one way in which a run ends: publishes its reply, and its dead letter where it was put aside, seals its journal,
    /// acks; in that order. Wherever it is cut off, the next one begins here again.
    pub(super) async fn deliver(&self, hold: &mut Hold, job: &Job, mut charge: Charge, reply: &Reply) {
        let confirmed = self.send_reply(reply, &charge, job).await
            && match hold.run().aside() {
                Some(aside) => self.bury_run(hold, &charge, aside).await,
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
                Interruption::JournalUnavailable(_) => return self.give_back(hold, charge, JOURNAL_WAIT, SEAL).await,
                Interruption::OwnershipLost => return charge.put_back().await,
                // There is nothing left to be sealed.
                _ => {}
            }
        }
        self.executor.unpark(hold.run()).await;
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
            Err(_) => self.without_journal(hold, charge).await,
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
    const LIMITED: Policy = Policy {
        attempts: 100,
        initial_milliseconds: 1000,
        max_milliseconds: 60_000,
        max_retry_after_milliseconds: 3_600_000,
    };

    fn settled(why: &Interruption, failures: u32) -> Settlement {
        settle(why, Budgets { transient: (failures, TRANSIENT), rate_limited: (failures, LIMITED) })
    }

    fn limited(asked: u64, failures: u32) -> Settlement {
        let wait = Duration::from_secs(asked);
        settled(&Interruption::RateLimited { wait, reason: "busy".into() }, failures)
    }

    fn wait_of(settlement: &Settlement) -> Duration {
        match settlement {
            Settlement::WakeUp { pause: Pause::RateLimited, wait } => *wait,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_shutdown_and_a_lost_run_put_the_message_back() {
        assert_eq!(settled(&Interruption::OwnershipLost, 9), Settlement::PutBack);
        assert_eq!(settled(&Interruption::Shutdown, 9), Settlement::Return);
    }

    #[test]
    fn a_rate_limit_is_waited_for_as_asked_and_a_little_longer_by_chance() {
        let waits: Vec<Duration> = (0..200).map(|_| wait_of(&limited(40, 0))).collect();
        let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        assert!(*least >= Duration::from_secs(40) && *most <= Duration::from_secs(41), "{least:?} {most:?}");
        assert!(most.saturating_sub(*least) > Duration::from_millis(500), "they would all come back together");
    }

    #[test]
    fn a_rate_limit_that_asks_for_no_wait_is_no_busy_loop_and_one_for_ever_is_cut() {
        for failures in 0..50 {
            assert!(wait_of(&limited(0, failures)) >= Duration::from_secs(1));
        }
        let longest = (0..200).map(|_| wait_of(&limited(0, 20))).max().unwrap();
        assert!(longest > Duration::from_secs(30), "those who are told again and again come more rarely: {longest:?}");
        assert!(wait_of(&limited(u64::MAX, 0)) <= Duration::from_secs(3601));
    }

    #[test]
    fn rate_limits_have_a_budget_of_their_own() {
        assert!(matches!(limited(1, 98), Settlement::WakeUp { .. }), "far more than transient failures");
        assert_eq!(limited(1, 99), Settlement::GiveUp { attempts: 100, reason: "busy".into() });
    }

    #[test]
    fn transient_failures_are_counted_and_end() {
        let why = Interruption::Transient { reason: "down".into() };
        for failures in 0..2 {
            assert!(matches!(settled(&why, failures), Settlement::WakeUp { pause: Pause::Transient, .. }));
        }
        assert_eq!(settled(&why, 2), Settlement::GiveUp { attempts: 3, reason: "down".into() });
    }

    #[test]
    fn without_the_journal_nothing_is_written_and_nothing_is_lost() {
        let away = Interruption::JournalUnavailable(String::new());
        assert_eq!(settled(&away, 99), Settlement::WithoutJournal);
        assert_eq!(settled(&Interruption::JournalLost, 99), Settlement::BeginAgain);
    }
}
