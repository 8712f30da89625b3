//! What becomes of a delivery: the one word that its handling ends in, and the table that turns an interruption of its run
//! into that word.

use std::time::Duration;

use crate::agent::event::{GivenUp, Pause};
use crate::agent::run::Run;
use crate::agent::turn::Conclusion;
use crate::job::InvalidJob;
use crate::queue::Destination;
use crate::reply::{ErrorCode, ErrorDetail, Reply};
use crate::retry::{Backoff, Policy, RetryDecision};
use crate::worker::message::wake_up::{Reason, WakeUp};
use crate::worker::rules::WorkerRules;
use crate::worker::run::interruption::Interruption;

/// Whoever was told to come later waits at least so long: the shortest wait tier.
const LEAST_RATE_LIMIT_WAIT: Duration = Duration::from_secs(1);
/// A journal that is down, or an audit record that cannot be written, is looked for again after this time.
pub(crate) const JOURNAL_WAIT: Duration = Duration::from_secs(5);
/// A run that another worker has, or that only a newer one can read, is looked at again after this time at the latest.
pub(crate) const HELD_WAIT: Duration = Duration::from_secs(30);
/// A message is left to a newer worker so often, which takes a day: longer than any upgrade of a fleet.
pub(crate) const LEFT_AT_MOST: u32 = 2880;
/// A reply whose queue takes nothing is sent again after this time, and after a tenth of its age as it grows older.
pub(crate) const REPLY_WAIT: Duration = Duration::from_secs(30);
const LONGEST_REPLY_WAIT: Duration = Duration::from_mins(10);

/// A run that was under way when the worker's credentials were refused comes again after this time, and waits then before it is
/// gone on with.
const CREDENTIALS_WAIT: Duration = Duration::from_secs(5);

/// Until a reply of this age is sent again.
pub(crate) fn reply_wait(age: Duration) -> Duration {
    (age / 10).clamp(REPLY_WAIT, LONGEST_REPLY_WAIT)
}

/// What becomes of a delivery. Nothing is done before [`super::Settler::settle`] does it.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a delivery that is not settled is redelivered"]
pub(crate) enum Disposition {
    /// The run has come to its end: the reply is confirmed, then the journal sealed, then the message acked.
    Finish(End),
    /// The same reply as before, to a caller that asks again.
    RepeatReply(Box<Reply>),
    /// The caller is told that the run of its id, if there is one, does not answer this message.
    Refuse {
        /// Tells the event from the run's own.
        mark: String,
        /// What the caller is told.
        error: ErrorDetail,
    },
    /// A wake-up takes the message's place.
    Defer(Deferral),
    /// Back to the queue at once, for another worker.
    Requeue {
        /// Journalled before as the end of the attempt, where the worker gives the run out of its hands in good order.
        end: Option<String>,
    },
    /// Kept for a person; the caller is told.
    DeadLetter(Undeliverable),
    /// Acked, as something better stands for it.
    DropStale(Stale),
}

impl Disposition {
    /// The decision without what is sent or kept: for log lines.
    pub(crate) fn outline(&self) -> String {
        match self {
            Self::Finish(_) => "the run ends".to_owned(),
            Self::RepeatReply(_) => "the reply is sent again".to_owned(),
            Self::Refuse { error, .. } => format!("refused: {}", error.code.as_str()),
            Self::Defer(Deferral::NextWakeUp { wait, pause, .. }) => {
                format!("deferred by {} ms: {}", wait.as_millis(), pause.as_str())
            }
            Self::Defer(Deferral::Unjournalled { wait, reason }) => {
                format!("deferred by {} ms without an entry: {}", wait.as_millis(), reason.as_str())
            }
            Self::Defer(_) => "deferred".to_owned(),
            Self::Requeue { .. } => "back to the queue".to_owned(),
            Self::DeadLetter(_) => "given up".to_owned(),
            Self::DropStale(stale) => format!("done with: {}", stale.as_str()),
        }
    }
}

/// How a run ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    Journalled(Box<Reply>),
    /// With this, which is still to be journalled; given up with a dead letter where a reason is there.
    Concluded(Conclusion, Option<GivenUp>),
}

/// What stands for the message until it comes again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Deferral {
    /// The message came before its time, which it keeps.
    NotDue {
        /// Until it is due.
        remaining: Duration,
    },
    /// The same message, for a worker that has a place for it.
    HandedOn {
        /// Where that worker finds it.
        to: Destination,
    },
    /// Only a newer worker can read it.
    Left,
    /// The same message, though the run is not this worker's to go on with.
    Same {
        /// Until it comes again.
        wait: Duration,
        /// What it says then instead of what it said.
        says: Option<Box<WakeUp>>,
    },
    /// The run's next wake-up, once the end of the attempt is journalled.
    NextWakeUp {
        /// Until it is due.
        wait: Duration,
        /// Why the attempt ended.
        pause: Pause,
        detail: String,
    },
    /// The run's message, though nothing can be journalled: it says what is known of the run, in case the journal does not
    /// any more when it comes.
    Unjournalled {
        /// Until it is due.
        wait: Duration,
        reason: Reason,
    },
}

/// What nobody can go on with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Undeliverable {
    /// The bytes are not a job.
    NotAJob(Box<InvalidJob>),
    /// Its producer may not send it.
    NotAllowed(Box<InvalidJob>),
    /// The journal of its run says what cannot be.
    Damaged(String),
    /// The broker gave it up, and nothing is known of a run.
    DeliveryLimit,
    /// Nobody signed what it says, and the journal does not know of it.
    Unfounded {
        /// Whether the journal knows a run of the job, which goes on without it.
        beside_a_run: bool,
    },
}

/// Why a message is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stale {
    /// A newer wake-up of the run is under way.
    Superseded,
    Ended,
    /// The reply is out, and the end of its journal was lost.
    Sealed,
    /// A digest's occurrence was published twice, and its definition or what it covers has changed: the first one counts.
    OtherOccurrence,
    /// A webhook's copy of a run that does not wait, or whose user is still waited for: never the run's only message.
    WebhookCopy,
}

impl Stale {
    /// In words, for log lines.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Superseded => "a newer wake-up is under way",
            Self::Ended => "the run has ended",
            Self::Sealed => "the reply is out",
            Self::OtherOccurrence => "the occurrence was published before",
            Self::WebhookCopy => "nothing has changed for the run",
        }
    }
}

impl Deferral {
    /// The same message again, about which nothing new is known.
    pub(crate) fn same(wait: Duration) -> Self {
        Self::Same { wait, says: None }
    }

    /// The same message again, which says this then.
    pub(crate) fn saying(wait: Duration, says: WakeUp) -> Self {
        Self::Same { wait, says: Some(Box::new(says)) }
    }
}

/// The budgets that a run uses up: attempts in a row that ended for want of something, and what is allowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budgets {
    transient: (u32, Policy),
    rate_limited: (u32, Policy),
}

impl Budgets {
    pub(crate) fn of(run: &Run, rules: &WorkerRules) -> Self {
        Self {
            transient: (run.transient_failures(), rules.transient),
            rate_limited: (run.rate_limited(), rules.rate_limited),
        }
    }
}

/// The table: what becomes of a message after its run was interrupted.
pub(crate) fn after_interruption(why: &Interruption, budgets: Budgets) -> Disposition {
    let next = |pause, wait| Disposition::Defer(Deferral::NextWakeUp { wait, pause, detail: why.to_string() });
    match why {
        Interruption::OwnershipLost | Interruption::Panicked(_) => Disposition::Requeue { end: None },
        // Whatever stands for the run in the broker comes again; the broker's trouble costs the job nothing.
        Interruption::Shutdown | Interruption::Unwitnessed(_) => Disposition::Requeue { end: Some(why.to_string()) },
        Interruption::Authorization { wait } => next(Pause::Authorization, *wait),
        Interruption::Approval { wait } => next(Pause::Approval, *wait),
        Interruption::ReplyNotTaken(_) => next(Pause::ContinueAsNew, REPLY_WAIT),
        Interruption::Credentials { .. } => next(Pause::ContinueAsNew, CREDENTIALS_WAIT),
        Interruption::Unrecorded(_) => next(Pause::ContinueAsNew, JOURNAL_WAIT),
        Interruption::RateLimited { wait: asked, .. } | Interruption::SourceAway { wait: Some(asked), .. } => {
            let (failures, policy) = budgets.rate_limited;
            let asked = (*asked).min(Duration::from_millis(policy.max_retry_after_milliseconds));
            match own_wait(failures, policy) {
                // On top of what was asked for: all who were told the same must not come back together, nor at once.
                Some(own) => next(Pause::RateLimited, (asked + own).max(LEAST_RATE_LIMIT_WAIT)),
                None => exhausted(failures + 1, why),
            }
        }
        Interruption::Transient { .. } | Interruption::SourceAway { wait: None, .. } => {
            let (failures, policy) = budgets.transient;
            match own_wait(failures, policy) {
                Some(wait) => next(Pause::Transient, wait),
                None => exhausted(failures + 1, why),
            }
        }
        Interruption::JournalUnavailable(_) => unjournalled(Reason::GivenBack),
        Interruption::JournalLost => unjournalled(Reason::JournalLost),
        Interruption::Damaged(problem) => Disposition::DeadLetter(Undeliverable::Damaged(problem.clone())),
        Interruption::Illegal(_) => {
            let error = ErrorDetail::new(ErrorCode::Internal, why.to_string())
                .hint("this is a fault of the worker; please report it with its log lines");
            Disposition::Finish(End::Concluded(Conclusion::failed(error), None))
        }
    }
}

/// The journal does not take anything, or not any more.
pub(crate) fn unjournalled(reason: Reason) -> Disposition {
    Disposition::Defer(Deferral::Unjournalled { wait: JOURNAL_WAIT, reason })
}

fn exhausted(attempts: u32, last: &Interruption) -> Disposition {
    let reason = match last {
        Interruption::RateLimited { reason, .. } => reason.clone(),
        last => last.to_string(),
    };
    let text = format!("gave up after {attempts} attempts in a row that failed; the last one: {reason}");
    let error = ErrorDetail::new(ErrorCode::AttemptsExhausted, text);
    let error = match last {
        Interruption::SourceAway { connection, .. } => error.connection(connection.as_str()),
        _ => error,
    };
    Disposition::Finish(End::Concluded(Conclusion::failed(error), None))
}

/// The wait after `failures` in a row and one more, unless the attempts are used up.
fn own_wait(failures: u32, policy: Policy) -> Option<Duration> {
    let mut backoff = Backoff::new(policy);
    let mut wait = None;
    for _ in 0..=failures {
        wait = Some(backoff.next(RetryDecision::Again)?);
    }
    wait
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

    fn after(why: &Interruption, failures: u32) -> Disposition {
        after_interruption(why, Budgets { transient: (failures, TRANSIENT), rate_limited: (failures, LIMITED) })
    }

    fn limited(asked: u64, failures: u32) -> Disposition {
        let wait = Duration::from_secs(asked);
        after(&Interruption::RateLimited { wait, reason: "busy".into(), outline: "busy".into() }, failures)
    }

    fn wait_of(disposition: &Disposition) -> Duration {
        match disposition {
            Disposition::Defer(Deferral::NextWakeUp { pause: Pause::RateLimited, wait, .. }) => *wait,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_shutdown_and_a_lost_run_put_the_message_back() {
        assert_eq!(after(&Interruption::OwnershipLost, 9), Disposition::Requeue { end: None });
        assert!(matches!(after(&Interruption::Shutdown, 9), Disposition::Requeue { end: Some(_) }));
    }

    #[test]
    fn a_caller_that_cannot_be_told_costs_its_run_nothing_and_is_tried_more_rarely_with_time() {
        for failures in [0, 1000] {
            let disposition = after(&Interruption::ReplyNotTaken("full".into()), failures);
            let Disposition::Defer(Deferral::NextWakeUp { wait, pause, .. }) = disposition else {
                panic!("{disposition:?}")
            };
            assert_eq!((wait, pause), (REPLY_WAIT, Pause::ContinueAsNew));
        }
        let unrecorded = after(&Interruption::Unrecorded("full".into()), 1000);
        assert!(matches!(unrecorded, Disposition::Defer(Deferral::NextWakeUp { wait: JOURNAL_WAIT, .. })));
        let waits = [0, 299, 600, 86_400].map(|age| reply_wait(Duration::from_secs(age)).as_secs());
        assert_eq!(waits, [30, 30, 60, 600]);
    }

    #[test]
    fn a_credential_that_is_refused_costs_no_run_an_attempt() {
        let why = Interruption::Credentials { reason: "no".into(), outline: "no".into() };
        for failures in [0, 1000] {
            let Disposition::Defer(Deferral::NextWakeUp { pause, .. }) = after(&why, failures) else { panic!() };
            assert_eq!(pause, Pause::ContinueAsNew);
        }
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
        assert!(
            matches!(limited(1, 98), Disposition::Defer(Deferral::NextWakeUp { .. })),
            "far more than transient failures"
        );
        let busy = Interruption::RateLimited { wait: Duration::ZERO, reason: "busy".into(), outline: "busy".into() };
        assert_eq!(limited(1, 99), exhausted(100, &busy));
    }

    #[test]
    fn transient_failures_are_counted_and_end() {
        let why = Interruption::transient("down".into());
        for failures in 0..2 {
            assert!(matches!(
                after(&why, failures),
                Disposition::Defer(Deferral::NextWakeUp { pause: Pause::Transient, .. })
            ));
        }
        assert_eq!(after(&why, 2), exhausted(3, &why));
    }

    #[test]
    fn without_the_journal_nothing_is_written_and_nothing_is_lost() {
        let away = Interruption::JournalUnavailable(String::new());
        assert_eq!(after(&away, 99), unjournalled(Reason::GivenBack));
        assert_eq!(after(&Interruption::JournalLost, 99), unjournalled(Reason::JournalLost));
    }

    #[test]
    fn a_bug_of_the_worker_fails_the_run_or_counts_as_a_crash_and_never_touches_the_journal() {
        assert_eq!(after(&Interruption::Panicked(String::new()), 0), Disposition::Requeue { end: None });
        let Disposition::Finish(End::Concluded(Conclusion::Failed(error), None)) =
            after(&Interruption::Illegal("delivered".into()), 0)
        else {
            panic!("the caller is owed an answer")
        };
        assert_eq!(error.code, ErrorCode::Internal);
        let damaged = after(&Interruption::Damaged("entry 3".into()), 0);
        assert_eq!(damaged, Disposition::DeadLetter(Undeliverable::Damaged("entry 3".into())));
    }
}
