//! What to do with a message: one decision over its wake-up, what the claim found, and the run as its journal tells it.
//! Pure, so that it is tested as a table.

use std::time::Duration;

use jiff::Timestamp;

use crate::agent::event::{Event, GivenUp, Pause};
use crate::agent::run::{Run, Step};
use crate::agent::turn::Conclusion;
use crate::reply::{ErrorCode, ErrorDetail};
use crate::worker::message::dead_letter::DeadLetterReason;
use crate::worker::message::wake_up::{Reason, WakeUp};
use crate::worker::rules::AfterLoss;
use crate::worker::settle::disposition::{Deferral, Disposition, End, HELD_WAIT, JOURNAL_WAIT, Stale, Undeliverable};

/// A message whose run is alive elsewhere waits so long at first: the run may just be giving its place back.
const HELD_FIRST: Duration = Duration::from_secs(1);
/// A webhook's wake-up that meets a run in the middle of being parked looks again after this time.
pub(super) const WEBHOOK_BUSY: Duration = Duration::from_secs(1);

/// What the worker knows of a message, besides what the claim found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    /// What its headers say; `None` for a job as its caller sent it.
    pub(super) wake_up: Option<&'a WakeUp>,
    /// The digest of its job.
    pub(super) digest: &'a str,
    /// Whether its job is an occurrence of a digest.
    pub(super) is_occurrence: bool,
    /// The present.
    pub(super) now: Timestamp,
    /// Whether the worker stops.
    pub(super) stopping: bool,
    /// Workers in a row that may die with a run.
    pub(super) crash_limit: u32,
    /// What becomes of a run whose journal the store lost.
    pub(super) after_loss: AfterLoss,
}

/// What the claim of the run found.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found<'a> {
    /// Nothing: the journal could not be reached for as long as the delivery may be held, or the worker stops.
    Unreachable,
    /// Another worker's lease.
    LiveOwner {
        /// How long that lasts unless renewed.
        remaining: Duration,
    },
    /// Ours, and there is no journal.
    NoJournal {
        /// Whether there was one before.
        lost: bool,
    },
    /// Ours, and a newer worker's.
    NewerJournal,
    /// Ours, and its journal says what cannot be.
    Damaged(&'a str),
    /// Ours.
    Run(&'a Run),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Next {
    /// The delivery is settled; nothing is run.
    Settle(Disposition),
    /// The run is started, or started anew after its journal was lost.
    Begin {
        /// Said in the journal and in the reply.
        journal_lost: bool,
        /// Not gone on with, but ended by this.
        end: Option<End>,
    },
    /// The run goes on, once these are journalled.
    Resume {
        /// What happened to it in between.
        first: Vec<Event>,
        /// Not gone on with, but ended by this.
        end: Option<End>,
    },
}

/// The table.
pub(super) fn decide(facts: Facts<'_>, found: Found<'_>) -> Next {
    let reason = facts.wake_up.map(|wake_up| &wake_up.reason);
    let settle = |disposition| Next::Settle(disposition);
    match found {
        Found::Unreachable if facts.stopping => settle(Disposition::Requeue { end: None }),
        Found::Unreachable => settle(Disposition::Defer(Deferral::same(JOURNAL_WAIT))),
        Found::LiveOwner { .. } if reason == Some(&Reason::Webhook) => {
            settle(Disposition::Defer(Deferral::same(WEBHOOK_BUSY)))
        }
        Found::LiveOwner { remaining } => {
            let seen_before = facts.wake_up.is_some_and(|wake_up| wake_up.saw_live_owner);
            settle(live_elsewhere(if seen_before { remaining.clamp(HELD_FIRST, HELD_WAIT) } else { HELD_FIRST }))
        }
        Found::NewerJournal => settle(live_elsewhere(HELD_WAIT)),
        Found::Damaged(problem) => settle(Disposition::DeadLetter(Undeliverable::Damaged(problem.to_owned()))),
        Found::NoJournal { .. } if reason == Some(&Reason::Seal) => settle(Disposition::DropStale(Stale::Sealed)),
        Found::NoJournal { lost } => {
            Next::Begin { journal_lost: lost, end: lost.then(|| end_after_loss(facts)).flatten() }
        }
        Found::Run(run) => decide_run(facts, run),
    }
}

fn decide_run(facts: Facts<'_>, run: &Run) -> Next {
    // Generation 0: the caller's own message, deferred while the run was alive elsewhere; it is owed a reply.
    let wake_up = facts.wake_up.filter(|wake_up| wake_up.generation > 0);
    let reason = facts.wake_up.map_or(&Reason::Unsaid, |wake_up| &wake_up.reason);
    if run.digest() != facts.digest {
        return Next::Settle(if facts.is_occurrence {
            Disposition::DropStale(Stale::OtherOccurrence)
        } else {
            conflict(facts.digest, run)
        });
    }
    if wake_up.is_some_and(|wake_up| wake_up.generation < run.wake_up_generation()) {
        return Next::Settle(Disposition::DropStale(Stale::Superseded));
    }
    match (run.next(facts.now), reason) {
        // A copy of ours that comes after the end, or the caller asking again: the same reply, nothing is run.
        (Step::Done, _) => Next::Settle(match run.reply() {
            Some(reply) if wake_up.is_none() => Disposition::RepeatReply(Box::new(reply.clone())),
            _ => Disposition::DropStale(Stale::Ended),
        }),
        (Step::Deliver(reply), _) => Next::Settle(Disposition::Finish(End::Journalled(reply))),
        (_, Reason::Seal) => Next::Settle(Disposition::DropStale(Stale::Sealed)),
        (_, Reason::JournalLost) => Next::Resume { first: vec![Event::JournalLost], end: end_after_loss(facts) },
        // Its last worker did not die with it.
        (_, Reason::GivenBack) if run.is_under_way() => {
            let detail = "the journal could not be reached".to_owned();
            Next::Resume { first: vec![Event::AttemptEnded { cause: Pause::JournalAway, detail }], end: None }
        }
        _ if run.is_under_way() && run.crash_count() + 1 >= facts.crash_limit => {
            Next::Settle(Disposition::Finish(give_up(run, facts.now)))
        }
        _ => Next::Resume { first: Vec::new(), end: None },
    }
}

/// The message saw a run of its job that is not ours to go on with.
fn live_elsewhere(wait: Duration) -> Disposition {
    Disposition::Defer(Deferral::Same { wait, reason: None, saw_live_owner: true })
}

/// How a run ends whose journal is gone, where it must not start again.
fn end_after_loss(facts: Facts<'_>) -> Option<End> {
    let effects = facts.wake_up.is_some_and(|wake_up| wake_up.effects);
    if facts.after_loss == AfterLoss::Restart && !effects {
        return None;
    }
    let text = "the store lost how far this run was; what it had done is not known";
    let error = ErrorDetail::new(ErrorCode::Internal, text)
        .hint("check what the job did before sending it again under a new id; Redis needs an append-only file");
    Some(End::Concluded(Conclusion::failed(error), None))
}

/// The id belongs to another job: the caller is told under an event id of its own.
fn conflict(digest: &str, run: &Run) -> Disposition {
    let text = format!("the id `{}` was used before for a job with another body", run.job().id());
    Disposition::Refuse { mark: format!("conflict:{digest}"), error: ErrorDetail::new(ErrorCode::IdConflict, text) }
}

/// The worker died with this run again and again: it is not tried any more.
fn give_up(run: &Run, now: Timestamp) -> End {
    let text = format!("the worker died {} times in a row while it worked on this job", run.crash_count() + 1);
    let error = ErrorDetail::new(ErrorCode::AttemptsExhausted, text.clone())
        .hint("the job was put aside as a dead letter; look at it with `agentkit-worker dead show`");
    let why = GivenUp { reason: DeadLetterReason::Poison.as_str().to_owned(), detail: text, step: run.doing(now) };
    End::Concluded(Conclusion::failed(error), Some(why))
}
