//! What to do with a message: one decision over its wake-up, what the claim found, and the run as its journal tells it.
//! Pure, so that it is tested as a table.

use std::time::Duration;

use jiff::Timestamp;

use crate::agent::event::{Event, GivenUp, Loss, Pause};
use crate::agent::run::{Run, Step};
use crate::agent::turn::Conclusion;
use crate::queue::DELIVERY_LIMIT;
use crate::reply::{ErrorCode, ErrorDetail};
use crate::worker::message::dead_letter::DeadLetterReason;
use crate::worker::message::wake_up::{Reason, WakeUp};
use crate::worker::rules::AfterLoss;
use crate::worker::settle::disposition::{Deferral, Disposition, End, HELD_WAIT, JOURNAL_WAIT, Stale, Undeliverable};

/// A message whose run is alive elsewhere waits so long at first: the run may just be giving its place back.
const HELD_FIRST: Duration = Duration::from_secs(1);
/// A run that workers died with comes again after this time where another one is under way.
pub(super) const SUSPECT_WAIT: Duration = Duration::from_secs(5);
/// A webhook's wake-up that meets a run in the middle of being parked looks again after this time.
pub(super) const WEBHOOK_BUSY: Duration = Duration::from_secs(1);

/// A message that was delivered so often before is given up in good order: the broker would drop it without a word to its
/// caller. Some deliveries are left for workers that die over that.
const LAST_DELIVERIES: u32 = DELIVERY_LIMIT - 2;

/// What the worker knows of a message, besides what the claim found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation<'a> {
    /// What its headers say; `None` for a job as its caller sent it.
    pub(super) wake_up: Option<&'a WakeUp>,
    /// How often the broker counted that it came back; `None` where it was in no worker's hands before.
    pub(super) delivered_before: Option<u32>,
    pub(super) digest: &'a str,
    /// Whether its job is an occurrence of a digest.
    pub(super) is_occurrence: bool,
    pub(super) now: Timestamp,
    /// Whether the worker stops.
    pub(super) stopping: bool,
    /// Workers in a row that may die with a run.
    pub(super) crash_limit: u32,
    /// Whether no other suspect of killing workers is under way in this process.
    pub(super) alone: bool,
    /// What becomes of a run whose journal the store lost.
    pub(super) after_loss: AfterLoss,
    /// How long an owner is given to say what it did.
    pub(super) orphan_wait: Duration,
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
        /// As its journal tells it, where that could be read.
        run: Option<&'a Run>,
    },
    /// Ours, and there is no journal.
    NoJournal {
        /// Whether there was one before.
        lost: bool,
    },
    /// Ours, and a newer worker's.
    NewerJournal,
    /// Encrypted with a key that only other workers have.
    Locked,
    /// Ours, and its journal says what cannot be.
    Damaged(&'a str),
    /// Ours, and the message, which nobody signed, says that more was done than the journal tells.
    Unfounded {
        /// What that tells.
        run: Option<&'a Run>,
    },
    Run(&'a Run),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Next {
    /// The delivery is settled; nothing is run.
    Settle(Disposition),
    /// The run is started, or started anew after its journal was lost.
    Begin {
        /// What may be lost with its journal; said in the journal and in the reply.
        loss: Option<Loss>,
        /// Not gone on with, but ended by this.
        end: Option<Conclusion>,
    },
    /// The run goes on, once these are journalled.
    Resume {
        /// What happened to it in between.
        first: Vec<Event>,
        /// Not gone on with, but ended by this.
        end: Option<Conclusion>,
    },
}

pub(super) fn decide(situation: Situation<'_>, found: Found<'_>) -> Next {
    let reason = situation.wake_up.map(|wake_up| &wake_up.reason);
    let settle = |disposition| Next::Settle(disposition);
    match found {
        Found::Unreachable if situation.stopping => settle(Disposition::Requeue { end: None }),
        Found::Unreachable => settle(Disposition::Defer(Deferral::same(JOURNAL_WAIT))),
        Found::LiveOwner { .. } if reason == Some(&Reason::Webhook) => {
            settle(Disposition::Defer(Deferral::same(WEBHOOK_BUSY)))
        }
        Found::LiveOwner { remaining, run } => {
            let seen_before = situation.wake_up.is_some_and(|wake_up| wake_up.saw_live_owner);
            let wait = if seen_before { remaining.clamp(HELD_FIRST, HELD_WAIT) } else { HELD_FIRST };
            settle(Disposition::Defer(Deferral::saying(wait, saw_alive(situation, run))))
        }
        Found::NewerJournal | Found::Locked => {
            settle(Disposition::Defer(Deferral::saying(HELD_WAIT, saw_alive(situation, None))))
        }
        Found::Unfounded { run } => {
            settle(Disposition::DeadLetter(Undeliverable::Unfounded { beside_a_run: run.is_some() }))
        }
        Found::Damaged(problem) => settle(Disposition::DeadLetter(Undeliverable::Damaged(problem.to_owned()))),
        Found::NoJournal { .. } if reason == Some(&Reason::DeliveryLimit) => {
            settle(Disposition::DeadLetter(Undeliverable::DeliveryLimit))
        }
        Found::NoJournal { .. } if reason == Some(&Reason::Seal) => settle(Disposition::DropStale(Stale::Sealed)),
        // Whoever had it when the store lost its data may still be at work.
        Found::NoJournal { lost: true } if generation(situation) == 0 && reason != Some(&Reason::Orphaned) => {
            let says = WakeUp { reason: Reason::Orphaned, ..saw_alive(situation, None) };
            settle(Disposition::Defer(Deferral::saying(situation.orphan_wait, says)))
        }
        Found::NoJournal { lost: false } => Next::Begin { loss: None, end: None },
        Found::NoJournal { lost: true } => {
            // Another message of this job may have been under way beside this one, and its run have come to an end: the
            // caller's second one, or one of ours whose predecessor could not be acked.
            let may_have_copies = situation.delivered_before.is_some() || reason == Some(&Reason::Orphaned);
            let loss = Some(if may_have_copies { Loss::Writes } else { Loss::Reads });
            Next::Begin { loss, end: end_after_loss(situation) }
        }
        Found::Run(run) => decide_run(situation, run),
    }
}

fn decide_run(situation: Situation<'_>, run: &Run) -> Next {
    // Generation 0: the caller's own message, deferred while the run was alive elsewhere; it is owed a reply.
    let wake_up = situation.wake_up.filter(|wake_up| wake_up.generation > 0);
    let reason = situation.wake_up.map_or(&Reason::Unsaid, |wake_up| &wake_up.reason);
    if run.digest() != situation.digest {
        return Next::Settle(if situation.is_occurrence {
            Disposition::DropStale(Stale::OtherOccurrence)
        } else {
            conflict(situation.digest, run)
        });
    }
    if wake_up.is_some_and(|wake_up| wake_up.generation < run.wake_up_generation()) {
        return Next::Settle(Disposition::DropStale(Stale::Superseded));
    }
    match (run.next(situation.now), reason) {
        // A copy of ours that comes after the end, or the caller asking again: the same reply, nothing is run.
        (Step::Done, _) => Next::Settle(match run.reply() {
            Some(reply) if wake_up.is_none() => Disposition::RepeatReply(Box::new(reply.clone())),
            _ => Disposition::DropStale(Stale::Ended),
        }),
        (Step::Deliver(reply), _) => Next::Settle(Disposition::Finish(End::Journalled(reply))),
        (_, Reason::Seal) => Next::Settle(Disposition::DropStale(Stale::Sealed)),
        _ if let Some(next) = lost_end(situation, run) => next,
        _ if is_copy(situation) && run.is_under_way() && *reason != Reason::Orphaned => {
            let says = WakeUp { reason: Reason::Orphaned, ..saw_alive(situation, Some(run)) };
            Next::Settle(Disposition::Defer(Deferral::saying(situation.orphan_wait, says)))
        }
        (_, Reason::JournalLost) => Next::Resume { first: vec![Event::JournalLost], end: end_after_loss(situation) },
        // Its last worker did not die with it.
        (_, Reason::GivenBack) if run.is_under_way() => {
            let detail = "the journal could not be reached".to_owned();
            Next::Resume { first: vec![Event::AttemptEnded { cause: Pause::JournalAway, detail }], end: None }
        }
        _ if situation.delivered_before >= Some(LAST_DELIVERIES) || *reason == Reason::DeliveryLimit => {
            Next::Settle(Disposition::Finish(give_up_at_the_delivery_limit(run, situation.now)))
        }
        _ if run.is_under_way() && run.crash_count() >= situation.crash_limit => {
            Next::Settle(Disposition::Finish(give_up(run, situation.now)))
        }
        _ if run.is_crash_suspect(situation.crash_limit) && !situation.alone => Next::Settle(suspect_waits()),
        _ => Next::Resume { first: Vec::new(), end: None },
    }
}

/// A journal that is shorter than the broker was told has lost its end: the call that it was told of is not made again.
fn lost_end(situation: Situation<'_>, run: &Run) -> Option<Next> {
    let wake_up = situation.wake_up?;
    let known = run.has_lost_entries() && wake_up.generation <= run.wake_up_generation();
    if known || wake_up.entries? <= run.sequence() {
        return None;
    }
    let generation = Event::WakeUpPublished { generation: wake_up.generation };
    let Some(call) = &wake_up.call else {
        return Some(Next::Resume { first: vec![generation, Event::JournalLost], end: end_after_loss(situation) });
    };
    let lost = Event::EndLost { call_id: call.id.clone(), tool: call.tool.clone() };
    let end = if run.knows_call(&call.id) { None } else { end_after_loss(situation) };
    Some(Next::Resume { first: vec![generation, lost], end })
}

/// Whether another message stands for the run, which was there before this one. That one comes by itself, and may know of calls
/// that the journal has lost.
fn is_copy(situation: Situation<'_>) -> bool {
    situation.wake_up.map_or(situation.delivered_before.is_none(), |wake_up| wake_up.is_copy)
}

fn generation(situation: Situation<'_>) -> u32 {
    situation.wake_up.map_or(0, |wake_up| wake_up.generation)
}

/// What a message says once it saw its run in other hands. Those may change something before it comes again, unknown to it:
/// should the run's journal be gone then, or shorter than it was seen, nobody can go on.
fn saw_alive(situation: Situation<'_>, run: Option<&Run>) -> WakeUp {
    let is_copy = is_copy(situation);
    let said = WakeUp { saw_live_owner: true, is_copy, ..WakeUp::said_by(situation.wake_up) };
    // Should that owner be missed later on, it is given time of its own.
    let said = if said.reason == Reason::Orphaned { WakeUp { reason: Reason::Unsaid, ..said } } else { said };
    match run.filter(|run| run.may_have_effects()) {
        Some(run) if Some(run.sequence()) > said.entries => {
            WakeUp { effects: true, entries: Some(run.sequence()), call: None, ..said }
        }
        Some(_) => WakeUp { effects: true, ..said },
        None => said,
    }
}

/// Not the message as it came: should the journal get lost meanwhile, the one that comes again knows that there was a run.
fn suspect_waits() -> Disposition {
    Disposition::Defer(Deferral::Unjournalled { wait: SUSPECT_WAIT, reason: Reason::Continue })
}

/// How a run ends whose journal is gone, where it must not start again.
fn end_after_loss(situation: Situation<'_>) -> Option<Conclusion> {
    let effects = situation.wake_up.is_some_and(|wake_up| wake_up.effects);
    if situation.after_loss == AfterLoss::Restart && !effects {
        return None;
    }
    let text = match situation.wake_up.and_then(|wake_up| wake_up.call.as_ref()) {
        Some(call) => {
            format!("the store lost how far this run was; the outcome of its call of `{}` is unknown", call.tool)
        }
        None => "the store lost how far this run was; what it had done is not known".to_owned(),
    };
    let error = ErrorDetail::new(ErrorCode::Internal, text)
        .hint("check what the job did before sending it again under a new id; Redis needs an append-only file");
    Some(Conclusion::failed(error))
}

/// The id belongs to another job: the caller is told under an event id of its own.
fn conflict(digest: &str, run: &Run) -> Disposition {
    let text = format!("the id `{}` was used before for a job with another body", run.job().id());
    Disposition::Refuse { mark: format!("conflict:{digest}"), error: ErrorDetail::new(ErrorCode::IdConflict, text) }
}

/// The worker died with this run again and again: it is not tried any more.
fn give_up(run: &Run, now: Timestamp) -> End {
    let text = format!("the worker died {} times in a row while it worked on this job", run.crash_count());
    let error = ErrorDetail::new(ErrorCode::AttemptsExhausted, text.clone())
        .hint("the job is a dead letter now; look at it with `agentkit-worker dead show`");
    let why = GivenUp { reason: DeadLetterReason::Poison.as_str().to_owned(), detail: text, step: run.doing(now) };
    End::Concluded(Conclusion::failed(error), Some(why))
}

/// However its deliveries ended, and whoever's fault that was: the broker counts them.
fn give_up_at_the_delivery_limit(run: &Run, now: Timestamp) -> End {
    let text = format!("the broker delivers a message {DELIVERY_LIMIT} times, and the run did not end within that");
    let error = ErrorDetail::new(ErrorCode::AttemptsExhausted, text.clone())
        .hint("the job is a dead letter now; look at it with `agentkit-worker dead show`");
    let reason = DeadLetterReason::DeliveryLimit.as_str().to_owned();
    End::Concluded(Conclusion::failed(error), Some(GivenUp { reason, detail: text, step: run.doing(now) }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::agent::event::Entry;
    use crate::job::{Envelope, Job};
    use crate::reply::{Reply, ReplyEvent};
    use crate::worker::message::wake_up::WitnessedCall;
    use crate::worker::rules::Defaults;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;
    const NEW: Found<'_> = Found::NoJournal { lost: false };
    const LOST: Found<'_> = Found::NoJournal { lost: true };

    fn job(prompt: &str) -> Job {
        let body = format!(r#"{{"id": "a", "prompt": "{prompt}", "identifier": "u", "connections": ["gmail"]}}"#);
        Job::from_slice(body.as_bytes(), &Envelope::default(), 1000).unwrap()
    }

    /// A run of `job("x")` to which `events` happened.
    fn run(events: Vec<Event>) -> Run {
        let mut run = Run::start(Defaults::default().started(&job("x").into(), "m"), NOW);
        for event in events {
            run.apply(Entry::new(NOW, event)).unwrap();
        }
        run
    }

    fn attempt() -> Event {
        Event::AttemptStarted { worker: "w".into(), alone: false }
    }

    fn attempt_alone() -> Event {
        Event::AttemptStarted { worker: "w".into(), alone: true }
    }

    fn reply() -> Reply {
        let error = ErrorDetail::new(ErrorCode::Cancelled, "cancelled");
        crate::agent::conclusion::reply(&run(Vec::new()), Conclusion::failed(error), NOW)
    }

    fn finished() -> Event {
        Event::Finished(Box::new(reply()))
    }

    fn wake_up(reason: Reason, generation: u32) -> WakeUp {
        WakeUp { generation, ..WakeUp::new(reason) }
    }

    fn decided(wake_up: Option<&WakeUp>, found: Found<'_>) -> Next {
        let digest = job("x").digest();
        decide(situation(wake_up, &digest), found)
    }

    fn situation<'a>(wake_up: Option<&'a WakeUp>, digest: &'a str) -> Situation<'a> {
        Situation {
            wake_up,
            delivered_before: None,
            digest,
            is_occurrence: false,
            now: NOW,
            stopping: false,
            crash_limit: 3,
            alone: true,
            after_loss: AfterLoss::Restart,
            orphan_wait: Duration::from_secs(40),
        }
    }

    fn settled(disposition: Disposition) -> Next {
        Next::Settle(disposition)
    }

    fn resumed(first: Vec<Event>) -> Next {
        Next::Resume { first, end: None }
    }

    fn all_reasons() -> Vec<Reason> {
        let mut reasons = vec![
            Reason::Unsaid,
            Reason::Authorization,
            Reason::Webhook,
            Reason::RateLimited,
            Reason::Transient,
            Reason::Continue,
            Reason::GivenBack,
            Reason::Seal,
            Reason::JournalLost,
            Reason::Orphaned,
            Reason::Operator,
            Reason::Poison,
        ];
        reasons.push(Reason::Other("of_tomorrow".into()));
        reasons
    }

    #[test]
    fn without_the_run_the_message_waits_or_goes_to_another_worker() {
        let writes = run(vec![attempt()]);
        let reads = {
            let body = br#"{"id": "a", "prompt": "x", "identifier": "u", "connections": ["gmail"], "tools": {"effects": "read"}}"#;
            let job = Job::from_slice(body, &Envelope::default(), 1000).unwrap();
            Run::start(Defaults::default().started(&job.into(), "m"), NOW)
        };
        let alive = |seconds, run| Found::LiveOwner { remaining: Duration::from_secs(seconds), run };
        let live = alive(12, None);
        let continued = wake_up(Reason::Continue, 1);
        let seen = WakeUp { saw_live_owner: true, ..continued.clone() };
        let seen_unsaid = WakeUp { saw_live_owner: true, is_copy: true, ..WakeUp::new(Reason::Unsaid) };
        let saw_two = WakeUp { effects: true, entries: Some(2), ..seen_unsaid.clone() };
        let deferred = |wait| settled(Disposition::Defer(Deferral::same(wait)));
        let saying = |wait, says: &WakeUp| settled(Disposition::Defer(Deferral::saying(wait, says.clone())));
        let table = [
            (None, Found::Unreachable, deferred(JOURNAL_WAIT)),
            (None, live, saying(HELD_FIRST, &seen_unsaid)),
            (None, alive(12, Some(&reads)), saying(HELD_FIRST, &seen_unsaid)),
            (None, alive(12, Some(&writes)), saying(HELD_FIRST, &saw_two)),
            (Some(continued), live, saying(HELD_FIRST, &seen)),
            (Some(seen.clone()), live, saying(Duration::from_secs(12), &seen)),
            (Some(seen.clone()), alive(u64::MAX, None), saying(HELD_WAIT, &seen)),
            (Some(seen.clone()), alive(0, None), saying(HELD_FIRST, &seen)),
            (Some(wake_up(Reason::Webhook, 1)), live, deferred(WEBHOOK_BUSY)),
            (None, Found::NewerJournal, saying(HELD_WAIT, &seen_unsaid)),
            (None, Found::Locked, saying(HELD_WAIT, &seen_unsaid)),
        ];
        for (wake_up, found, expected) in table {
            assert_eq!(decided(wake_up.as_ref(), found), expected, "{wake_up:?} {found:?}");
        }
        let digest = job("x").digest();
        let stopping = Situation { stopping: true, ..situation(None, &digest) };
        assert_eq!(decide(stopping, Found::Unreachable), settled(Disposition::Requeue { end: None }));
    }

    #[test]
    fn a_run_without_a_journal_begins_and_one_that_lost_it_begins_anew_only_where_it_wrote_nothing() {
        assert_eq!(decided(None, NEW), Next::Begin { loss: None, end: None });
        let clean = wake_up(Reason::Transient, 2);
        assert_eq!(decided(Some(&clean), LOST), Next::Begin { loss: Some(Loss::Reads), end: None });
        let wrote = WakeUp { effects: true, ..clean.clone() };
        let Next::Begin { loss: Some(_), end: Some(Conclusion::Failed(error)) } = decided(Some(&wrote), LOST) else {
            panic!("it may have written")
        };
        assert_eq!(error.code, ErrorCode::Internal);
        let digest = job("x").digest();
        let strict = Situation { after_loss: AfterLoss::Fail, ..situation(Some(&clean), &digest) };
        assert!(matches!(decide(strict, LOST), Next::Begin { loss: Some(_), end: Some(_) }));
        let seal = wake_up(Reason::Seal, 1);
        for lost in [true, false] {
            let sealed = settled(Disposition::DropStale(Stale::Sealed));
            assert_eq!(decided(Some(&seal), Found::NoJournal { lost }), sealed, "the reply is out");
        }
    }

    #[test]
    fn a_run_that_waits_goes_on_whatever_woke_it() {
        let paused = run(vec![attempt(), Event::AttemptEnded { cause: Pause::RateLimited, detail: String::new() }]);
        for reason in all_reasons() {
            let expected = match reason {
                Reason::Seal => settled(Disposition::DropStale(Stale::Sealed)),
                Reason::JournalLost => resumed(vec![Event::JournalLost]),
                _ => resumed(Vec::new()),
            };
            let wake_up = wake_up(reason, 1);
            assert_eq!(decided(Some(&wake_up), Found::Run(&paused)), expected, "{wake_up:?}");
        }
        assert_eq!(decided(None, Found::Run(&paused)), resumed(Vec::new()));
    }

    #[test]
    fn a_run_whose_worker_gave_it_back_is_not_taken_for_a_crash() {
        let under_way = run(vec![attempt(), attempt(), attempt()]);
        assert_eq!(under_way.crash_count(), 2, "three died, and in none it was alone suspected");
        let Next::Resume { first, end: None } = decided(Some(&wake_up(Reason::GivenBack, 1)), Found::Run(&under_way))
        else {
            panic!("it goes on")
        };
        assert!(matches!(first[..], [Event::AttemptEnded { cause: Pause::JournalAway, .. }]));
    }

    #[test]
    fn a_run_is_given_up_with_a_dead_letter_only_for_a_death_that_it_was_alone_suspected_of() {
        let digest = job("x").digest();
        let beside = |run: &Run| {
            let again = Situation { delivered_before: Some(1), alone: false, ..situation(None, &digest) };
            decide(again, Found::Run(run))
        };
        let waits =
            settled(Disposition::Defer(Deferral::Unjournalled { wait: SUSPECT_WAIT, reason: Reason::Continue }));
        let once = run(vec![attempt()]);
        assert_eq!(beside(&once), resumed(Vec::new()), "the first death makes no suspect");
        for deaths in 2..6 {
            let suspect = run(vec![attempt(); deaths]);
            assert_eq!(beside(&suspect), waits, "{deaths} deaths");
            let alone = Situation { delivered_before: Some(1), ..situation(None, &digest) };
            assert_eq!(decide(alone, Found::Run(&suspect)), resumed(Vec::new()), "{deaths} deaths, alone");
        }
        let alone = run(vec![attempt(), attempt(), attempt_alone()]);
        let Next::Settle(Disposition::Finish(End::Concluded(Conclusion::Failed(error), Some(why)))) = beside(&alone)
        else {
            panic!("it is given up")
        };
        assert_eq!((error.code, why.reason.as_str()), (ErrorCode::AttemptsExhausted, "poison"));
        assert_eq!(why.step, "checking the accounts");
        assert!(error.message.contains("died 3 times"), "{}", error.message);
    }

    #[test]
    fn a_limit_below_three_needs_a_death_alone_too_and_a_limit_of_one_the_first() {
        let digest = job("x").digest();
        let decided = |limit, events| {
            let run = run(events);
            let again = Situation { delivered_before: Some(1), ..situation(None, &digest) };
            let situation = Situation { crash_limit: limit, alone: false, ..again };
            decide(situation, Found::Run(&run))
        };
        let waits =
            settled(Disposition::Defer(Deferral::Unjournalled { wait: SUSPECT_WAIT, reason: Reason::Continue }));
        assert_eq!(decided(2, vec![attempt()]), waits);
        for given_up in [decided(2, vec![attempt(), attempt_alone()]), decided(1, vec![attempt()])] {
            assert!(matches!(given_up, Next::Settle(Disposition::Finish(End::Concluded(_, Some(_))))), "{given_up:?}");
        }
    }

    #[test]
    fn a_message_near_the_brokers_limit_is_given_up_unless_its_run_has_ended() {
        let digest = job("x").digest();
        let near = |count| Situation { delivered_before: Some(count), ..situation(None, &digest) };
        let paused = run(vec![attempt(), Event::AttemptEnded { cause: Pause::Shutdown, detail: String::new() }]);
        assert_eq!(decide(near(17), Found::Run(&paused)), resumed(Vec::new()));
        let Next::Settle(Disposition::Finish(End::Concluded(Conclusion::Failed(error), Some(why)))) =
            decide(near(18), Found::Run(&paused))
        else {
            panic!("it is given up")
        };
        assert_eq!((error.code, why.reason.as_str()), (ErrorCode::AttemptsExhausted, "delivery_limit"));
        let by_broker = wake_up(Reason::DeliveryLimit, 1);
        let given_up = decided(Some(&by_broker), Found::Run(&paused));
        assert_eq!(given_up, decide(near(18), Found::Run(&paused)));
        let kept = settled(Disposition::DeadLetter(Undeliverable::DeliveryLimit));
        for lost in [true, false] {
            assert_eq!(decided(Some(&by_broker), Found::NoJournal { lost }), kept);
        }
        let ended = run(vec![attempt(), finished()]);
        let deliver = settled(Disposition::Finish(End::Journalled(Box::new(reply()))));
        assert_eq!(decide(near(20), Found::Run(&ended)), deliver);
    }

    #[test]
    fn an_end_that_was_journalled_is_delivered_whoever_brings_the_message() {
        let ended = run(vec![attempt(), finished()]);
        for reason in all_reasons() {
            let wake_up = wake_up(reason, 1);
            let expected = settled(Disposition::Finish(End::Journalled(Box::new(reply()))));
            assert_eq!(decided(Some(&wake_up), Found::Run(&ended)), expected, "{wake_up:?}");
        }
    }

    #[test]
    fn after_the_end_a_caller_gets_the_same_reply_again_and_a_copy_of_ours_vanishes() {
        let delivered = run(vec![attempt(), finished(), Event::Delivered]);
        let again = settled(Disposition::RepeatReply(Box::new(reply())));
        assert_eq!(decided(None, Found::Run(&delivered)), again);
        assert_eq!(
            decided(Some(&wake_up(Reason::Unsaid, 0)), Found::Run(&delivered)),
            again,
            "deferred before it ended"
        );
        for reason in all_reasons() {
            let wake_up = wake_up(reason, 1);
            let stale = settled(Disposition::DropStale(Stale::Ended));
            assert_eq!(decided(Some(&wake_up), Found::Run(&delivered)), stale, "{wake_up:?}");
        }
    }

    #[test]
    fn a_copy_that_is_older_than_the_journal_knows_vanishes_whatever_it_says() {
        let third = run(vec![attempt(), Event::WakeUpPublished { generation: 3 }]);
        for reason in all_reasons() {
            let stale = settled(Disposition::DropStale(Stale::Superseded));
            assert_eq!(decided(Some(&wake_up(reason.clone(), 2)), Found::Run(&third)), stale, "{reason:?}");
            let present = decided(Some(&wake_up(reason.clone(), 3)), Found::Run(&third));
            assert_ne!(present, stale, "{reason:?}");
        }
    }

    #[test]
    fn another_job_of_the_same_id_is_refused_and_another_form_of_an_occurrence_dropped() {
        let digest = job("y").digest();
        let mut marks = BTreeSet::new();
        for run in [run(Vec::new()), run(vec![attempt(), finished(), Event::Delivered])] {
            let Next::Settle(Disposition::Refuse { mark, error }) = decide(situation(None, &digest), Found::Run(&run))
            else {
                panic!("it is refused")
            };
            assert_eq!(error.code, ErrorCode::IdConflict);
            marks.insert(mark);
            let occurrence = Situation { is_occurrence: true, ..situation(None, &digest) };
            let dropped = settled(Disposition::DropStale(Stale::OtherOccurrence));
            assert_eq!(decide(occurrence, Found::Run(&run)), dropped);
        }
        assert_eq!(marks.len(), 1, "the same refusal has the same event id");
    }

    #[test]
    fn a_damaged_journal_makes_a_dead_letter() {
        let damaged = settled(Disposition::DeadLetter(Undeliverable::Damaged("entry 3".into())));
        assert_eq!(decided(None, Found::Damaged("entry 3")), damaged);
        assert!(matches!(reply().event, ReplyEvent::Failed(_)));
    }

    #[test]
    fn a_message_that_says_what_no_journal_knows_makes_a_dead_letter_and_changes_no_run() {
        let run = run(vec![attempt()]);
        for (run, beside_a_run) in [(None, false), (Some(&run), true)] {
            let kept = settled(Disposition::DeadLetter(Undeliverable::Unfounded { beside_a_run }));
            assert_eq!(decided(Some(&wake_up(Reason::Seal, 1)), Found::Unfounded { run }), kept);
        }
    }

    fn witnessed(generation: u32, entries: u64) -> WakeUp {
        let call = Some(WitnessedCall { id: "c1".into(), tool: "gmail_send_message".into() });
        WakeUp { effects: true, entries: Some(entries), call, ..wake_up(Reason::Continue, generation) }
    }

    #[test]
    fn a_journal_that_is_shorter_than_the_broker_was_told_has_lost_its_end_and_the_call_is_not_made_again() {
        let run = run(vec![attempt(), Event::AccountsReady]);
        assert_eq!(run.sequence(), 3);
        for entries in [0, 3] {
            assert_eq!(decided(Some(&witnessed(1, entries)), Found::Run(&run)), resumed(Vec::new()), "{entries}");
        }
        let Next::Resume { first, end: Some(Conclusion::Failed(error)) } =
            decided(Some(&witnessed(1, 4)), Found::Run(&run))
        else {
            panic!("the turn of the call is lost, too: nobody can go on")
        };
        let lost = Event::EndLost { call_id: "c1".into(), tool: "gmail_send_message".into() };
        assert_eq!(first, [Event::WakeUpPublished { generation: 1 }, lost.clone()]);
        assert!(error.message.contains("`gmail_send_message` is unknown"), "{}", error.message);
        assert_eq!(run.check(&first), Ok(()));
    }

    #[test]
    fn a_loss_that_is_known_is_not_found_again_by_an_older_copy_but_a_second_loss_is() {
        let lost = Event::EndLost { call_id: "c1".into(), tool: "gmail_send_message".into() };
        let run = run(vec![attempt(), lost, Event::WakeUpPublished { generation: 2 }]);
        assert_eq!(decided(Some(&witnessed(2, 9)), Found::Run(&run)), resumed(Vec::new()));
        assert!(
            matches!(decided(Some(&witnessed(3, 9)), Found::Run(&run)), Next::Resume { first, .. } if first.len() == 2)
        );
    }

    #[test]
    fn a_message_that_was_delivered_before_the_store_lost_its_data_waits_for_its_owner_and_then_begins_anew() {
        let wait = Duration::from_secs(40);
        let again = WakeUp { saw_live_owner: true, is_copy: true, ..wake_up(Reason::Orphaned, 0) };
        assert_eq!(decided(None, LOST), settled(Disposition::Defer(Deferral::saying(wait, again.clone()))));
        assert_eq!(decided(Some(&again), LOST), Next::Begin { loss: Some(Loss::Writes), end: None });
    }

    #[test]
    fn a_run_begun_anew_makes_no_write_where_another_message_of_it_may_have_been_under_way() {
        let digest = job("x").digest();
        let wake_up = wake_up(Reason::Transient, 2);
        let decided =
            |delivered_before| decide(Situation { delivered_before, ..situation(Some(&wake_up), &digest) }, LOST);
        assert_eq!(decided(None), Next::Begin { loss: Some(Loss::Reads), end: None });
        assert_eq!(decided(Some(1)), Next::Begin { loss: Some(Loss::Writes), end: None });
    }

    #[test]
    fn a_copy_gives_the_message_time_that_stands_for_a_run_whose_worker_is_gone() {
        let digest = job("x").digest();
        let (under_way, paused) = (
            run(vec![attempt()]),
            run(vec![attempt(), Event::AttemptEnded { cause: Pause::Shutdown, detail: String::new() }]),
        );
        let seen = WakeUp { saw_live_owner: true, is_copy: true, ..WakeUp::new(Reason::Unsaid) };
        for copy in [None, Some(&seen)] {
            let Next::Settle(Disposition::Defer(Deferral::Same { wait, says: Some(says) })) =
                decided(copy, Found::Run(&under_way))
            else {
                panic!("{copy:?} knows nothing of what the journal may have lost")
            };
            assert_eq!((wait, &says.reason), (Duration::from_secs(40), &Reason::Orphaned));
            assert_eq!(decided(Some(&says), Found::Run(&under_way)), resumed(Vec::new()), "nothing else came");
            assert_eq!(decided(copy, Found::Run(&paused)), resumed(Vec::new()), "nobody misses a worker");
            let elsewhere = Found::LiveOwner { remaining: Duration::ZERO, run: None };
            let Next::Settle(Disposition::Defer(Deferral::Same { says: Some(again), .. })) =
                decided(Some(&says), elsewhere)
            else {
                panic!("it is not ours")
            };
            assert_eq!(again.reason, Reason::Unsaid, "the next owner is given time, too");
        }
        let redelivered = Situation { delivered_before: Some(1), ..situation(None, &digest) };
        assert_eq!(decide(redelivered, Found::Run(&under_way)), resumed(Vec::new()), "it stood for the run");
        let Next::Settle(Disposition::Defer(Deferral::Same { says: Some(says), .. })) =
            decide(redelivered, Found::LiveOwner { remaining: Duration::ZERO, run: None })
        else {
            panic!("it is not ours")
        };
        assert_eq!(decided(Some(&says), Found::Run(&under_way)), resumed(Vec::new()), "and still does");
    }

    #[test]
    fn a_copy_that_saw_its_run_at_work_does_not_go_on_with_less_than_it_saw() {
        let (long, short) = (run(vec![attempt(), Event::AccountsReady]), run(vec![attempt()]));
        let elsewhere = Found::LiveOwner { remaining: Duration::ZERO, run: Some(&long) };
        for before in [None, Some(wake_up(Reason::Continue, 1)), Some(witnessed(1, 2))] {
            let Next::Settle(Disposition::Defer(Deferral::Same { says: Some(says), .. })) =
                decided(before.as_ref(), elsewhere)
            else {
                panic!("it is not ours")
            };
            let waited = WakeUp { reason: Reason::Orphaned, ..*says.clone() };
            let says_then = if says.is_copy { &waited } else { &*says };
            assert_eq!(decided(Some(says_then), Found::Run(&long)), resumed(Vec::new()), "nothing is missing");
            let ended = |next| match next {
                Next::Begin { loss: Some(_), end } | Next::Resume { end, .. } => end.is_some(),
                _ => false,
            };
            assert!(ended(decided(Some(&says), Found::Run(&short))), "{says:?}");
            let orphaned = WakeUp { reason: Reason::Orphaned, ..*says };
            assert!(ended(decided(Some(&orphaned), LOST)), "{orphaned:?}");
        }
        let knows_more = witnessed(1, 9);
        let Next::Settle(Disposition::Defer(Deferral::Same { says: Some(says), .. })) =
            decided(Some(&knows_more), elsewhere)
        else {
            panic!("it is not ours")
        };
        assert_eq!(*says, WakeUp { saw_live_owner: true, ..knows_more }, "what it knew it knows on");
    }
}
