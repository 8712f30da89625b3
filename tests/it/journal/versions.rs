//! Journals of every schema version that was ever written can be read and lead to the same state. The files in
//! `tests/data/journal` are kept for ever as they are.

use std::collections::BTreeSet;

use agentkit_worker::internals::agent::conclusion;
use agentkit_worker::internals::agent::effect::CallKey;
use agentkit_worker::internals::agent::event::{Entry, Event, SettledEffect};
use agentkit_worker::internals::agent::message::Message;
use agentkit_worker::internals::agent::run::{BadJournal, Run, Step};
use agentkit_worker::internals::agent::settlement::NotSettled;
use agentkit_worker::money::ModelCost;
use agentkit_worker::reply::{ReplyEvent, Settlement};
use jiff::Timestamp;
use serde_json::{Value, json};

const FINISHED: &str = include_str!("../../data/journal/v1-finished.ndjson");
const CUT: &str = include_str!("../../data/journal/v1-cut.ndjson");
const PUT_ASIDE: &str = include_str!("../../data/journal/v2-put-aside.ndjson");
const APPROVALS: &str = include_str!("../../data/journal/v4-approvals.ndjson");
const SETTLED: &str = include_str!("../../data/journal/v5-settled.ndjson");
const MODELS: &str = include_str!("../../data/journal/v6-models.ndjson");
const COMPACTED: &str = include_str!("../../data/journal/v6-compacted.ndjson");
const END_LOST: &str = include_str!("../../data/journal/v3-end-lost.ndjson");

fn lines(journal: &str) -> Vec<String> {
    journal.lines().map(str::to_owned).collect()
}

fn replay(lines: &[String]) -> Run {
    Run::replay(lines).expect("kept journals can be read").expect("kept journals are not empty")
}

fn at(line: &str) -> Timestamp {
    serde_json::from_str::<Entry>(line).unwrap().at
}

fn send(to: &str) -> CallKey {
    CallKey::new("gmail", "gmail_send_message", json!({"to": to, "subject": "Thanks"}).as_object().unwrap())
}

#[test]
fn an_entry_is_written_as_it_was_read_also_of_an_older_version() {
    for line in [FINISHED, PUT_ASIDE, END_LOST, APPROVALS, SETTLED, MODELS, COMPACTED].into_iter().flat_map(lines) {
        let entry: Entry = serde_json::from_str(&line).unwrap();
        let written: Value = serde_json::to_value(entry).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(&line).unwrap());
    }
}

/// All kinds but the operator's `reopened`, which a test of its own appends.
const KINDS: usize = 24;

#[test]
fn every_kind_of_event_is_kept() {
    let kept = [FINISHED, CUT, PUT_ASIDE, END_LOST, APPROVALS, SETTLED, MODELS, COMPACTED]
        .iter()
        .flat_map(|journal| journal.lines());
    let events: Vec<Event> = kept.map(|line| serde_json::from_str::<Entry>(line).unwrap().event).collect();
    let names: BTreeSet<_> = events.iter().map(Event::name).collect();
    assert_eq!(names.len(), KINDS, "{names:?}");
    for event in events {
        // Whoever adds a kind keeps a journal that has it, and counts it above.
        match event {
            Event::Started(_)
            | Event::AttemptStarted { .. }
            | Event::AttemptEnded { .. }
            | Event::WakeUpPublished { .. }
            | Event::AccountsReady
            | Event::AuthorizationRequested { .. }
            | Event::ApprovalAsked { .. }
            | Event::ApprovalDecided(_)
            | Event::ToolsListed { .. }
            | Event::ModelAsked
            | Event::ModelReplied { .. }
            | Event::ModelSwitched { .. }
            | Event::HistoryCompacted { .. }
            | Event::Retried { .. }
            | Event::ToolStarted { .. }
            | Event::ToolNotRun { .. }
            | Event::ToolFinished { .. }
            | Event::JournalLost
            | Event::EndLost { .. }
            | Event::GivenUp(_)
            | Event::Finished(_)
            | Event::Delivered
            | Event::EffectSettled(_)
            | Event::SettlementDelivered { .. }
            | Event::Reopened => {}
        }
    }
}

#[test]
fn a_run_of_version_2_that_was_put_aside_keeps_its_reasons_and_can_be_opened_again() {
    let lines = lines(PUT_ASIDE);
    let run = replay(&lines);
    let now = at(&lines[lines.len() - 1]);
    assert_eq!(run.next(now), Step::Done);
    let given_up = run.given_up().expect("it was put aside");
    assert_eq!((given_up.reason.as_str(), given_up.step.is_empty()), ("poison", false));
    let ReplyEvent::Failed(failed) = &run.reply().unwrap().event else { panic!("it failed") };
    assert_eq!(failed.error.code.as_str(), "attempts_exhausted");
    let undelivered = replay(&lines[..lines.len() - 1]);
    assert!(matches!(undelivered.next(now), Step::Deliver(_)) && undelivered.given_up().is_some());
    let reopened = serde_json::to_string(&Entry::new(now, Event::Reopened)).unwrap();
    let reopened = replay(&[lines.clone(), vec![reopened]].concat());
    assert_eq!((reopened.given_up(), reopened.reply()), (None, None));
    assert_eq!(reopened.next(now), Step::SettleDoubt("c3".into()), "what was in doubt still is");
}

#[test]
fn a_run_of_version_3_that_lost_its_end_knows_the_call_that_it_must_not_repeat() {
    let lines = lines(END_LOST);
    let run = replay(&lines);
    let now = at(&lines[lines.len() - 1]);
    assert!(run.has_lost_entries());
    assert_eq!(run.next(now), Step::SettleDoubt("c3".into()));
    let older = &lines[..lines.len() - 1];
    assert!(older.iter().all(|line| !line.contains(r#""schema":3"#)), "an older worker goes on with all but the loss");
}

#[test]
fn a_run_of_version_4_keeps_what_was_decided_and_what_still_waits() {
    let lines = lines(APPROVALS);
    let run = replay(&lines);
    let now = at(&lines[lines.len() - 1]);
    assert_eq!(run.next(now), Step::Done);
    let ReplyEvent::Completed(completed) = &run.reply().unwrap().event else { panic!("it completed") };
    let decided: Vec<_> = completed.account.approvals.iter().map(|approval| approval.decision.as_str()).collect();
    assert_eq!(decided, ["edit", "deny", "expired"]);
    let waiting = lines.iter().position(|line| line.contains("approval_decided")).unwrap();
    let before = replay(&lines[..waiting]);
    assert_eq!(before.next(at(&lines[waiting])), Step::AwaitApproval);
    let older = lines.iter().take_while(|line| !line.contains("approval_asked"));
    assert!(older.into_iter().all(|line| line.contains(r#""schema":2"#)), "an older worker goes on up to the question");
    assert!(lines[waiting].contains(r#""schema":4"#));
}

#[test]
fn a_run_of_version_5_knows_what_a_person_said_of_it() {
    let lines = lines(SETTLED);
    let said = |settlement| SettledEffect { call_id: "c3".to_owned(), settlement, by: "bea".to_owned() };
    let run = replay(&lines);
    assert_eq!(run.may_settle(&said(Settlement::NotDone)), Err(NotSettled::Already));
    assert!(matches!(run.may_settle(&said(Settlement::Done)), Err(NotSettled::Otherwise { .. })));
    assert_eq!(run.untold_settlement("c3"), None);
    let untold = replay(&lines[..lines.len() - 1]).untold_settlement("c3").unwrap();
    assert_eq!(json!(untold)["data"]["effect"]["state"], "not_done");
    let before = replay(&lines[..lines.len() - 2]);
    assert_eq!(before.may_settle(&said(Settlement::Done)), Ok(()));
    assert_eq!(before.reply(), run.reply());
}

#[test]
fn a_run_of_version_6_goes_on_with_the_model_that_took_over() {
    let lines = lines(MODELS);
    let run = replay(&lines);
    assert_eq!(run.next(at(&lines[lines.len() - 1])), Step::CallModel);
    assert_eq!(run.model(), "house/llama");
    let asked: Vec<_> = run.models_asked().into_iter().map(|used| (used.model, used.calls, used.reason)).collect();
    let expected = [
        ("gpt-4o".to_owned(), 1, Some("model_gone".to_owned())),
        ("gpt-6-luna".to_owned(), 0, Some("unavailable".to_owned())),
        ("house/llama".to_owned(), 0, None),
    ];
    assert_eq!(asked, expected);
    let older = lines.iter().take_while(|line| !line.contains("model_switched"));
    assert!(older.into_iter().all(|line| line.contains(r#""schema":2"#)), "an older worker goes on up to the switch");
}

#[test]
fn a_run_of_version_6_goes_on_without_what_was_left_out() {
    let lines = lines(COMPACTED);
    let run = replay(&lines);
    assert_eq!((run.next(at(&lines[lines.len() - 1])), run.results_left_out()), (Step::CallModel, 1));
    let told = run.messages().iter().find_map(|message| match message {
        Message::ToolResult { call_id, content } if call_id == "c1" => Some(content),
        _ => None,
    });
    assert!(told.is_some_and(|told| told.contains("gmail_fetch_mails") && !told.contains("ann")), "{told:?}");
}

#[test]
fn a_line_of_a_newer_worker_is_refused_wherever_it_stands_and_whatever_it_says() {
    for newer in [
        r#"{"schema":7,"at":"2026-11-24T08:00:00Z","event":"delivered"}"#,
        r#"{"schema":7,"at":"2026-11-24T08:00:00Z","event":{"unheard_of":{"by":"us"}}}"#,
    ] {
        let journal = [lines(CUT), vec![newer.to_owned()]].concat();
        assert_eq!(Run::replay(&journal), Err(BadJournal::Newer { found: 7 }));
    }
}

#[test]
fn a_finished_run_of_version_1_is_done_and_its_reply_is_the_one_it_was() {
    let lines = lines(FINISHED);
    let run = replay(&lines);
    let now = at(&lines[lines.len() - 1]);
    assert_eq!(run.next(now), Step::Done);
    let Event::Finished(kept) = serde_json::from_str::<Entry>(&lines[lines.len() - 2]).unwrap().event else {
        panic!("the last entry but one is the end")
    };
    assert_eq!(replay(&lines[..lines.len() - 1]).next(now), Step::Deliver(kept.clone()));
    let before = replay(&lines[..lines.len() - 2]);
    let Step::Finish(conclusion) = before.next(kept.time) else { panic!("the answer was given") };
    let mut made = conclusion::reply(&before, *conclusion, kept.time);
    let ReplyEvent::Completed(completed) = &mut made.event else { panic!("the run completed") };
    completed.account.effects.iter_mut().for_each(|effect| assert!(effect.call_id.take().is_some()));
    let account = &mut completed.account;
    assert_eq!(std::mem::replace(&mut account.usage.cost, ModelCost::Unsaid), ModelCost::Unknown);
    let unpriced = account.notices.extract_if(.., |notice| notice.code == "cost_unknown");
    assert_eq!(unpriced.count(), 1);
    assert_eq!(made, *kept, "but for what replies have said since then");
    let ReplyEvent::Completed(completed) = kept.event else { panic!("the run completed") };
    let states: Vec<_> = completed.account.effects.iter().map(|effect| json!(effect.state)).collect();
    assert_eq!(states, ["unknown", "done", "failed", "done"]);
}

#[test]
fn a_run_of_version_1_that_was_cut_goes_on_where_it_stood() {
    let lines = lines(CUT);
    let run = replay(&lines);
    let now = at(&lines[lines.len() - 1]);
    assert_eq!(run.next(now), Step::SettleDoubt("c3".into()));
    assert_eq!(
        (run.steps(), run.attempts(), run.wake_up_generation(), run.crash_count()),
        (1, 2, 1, 1),
        "its second worker is gone"
    );
    assert_eq!((run.sequence(), run.pinned().len(), run.authorizations_requested()), (17, 3, 1));
    assert_eq!(run.digest(), run.job().digest(), "the job still has the digest that it had");
    let before = replay(&lines[..lines.len() - 1]);
    assert_eq!(before.next(now), Step::CallTools(vec!["c3".into()]));
    let unanswered = replay(&lines[..11]);
    assert_eq!(unanswered.next(now), Step::CallTools(vec!["c1".into(), "c2".into()]));
}

#[test]
fn the_fences_of_version_1_still_stand() {
    let run = replay(&lines(FINISHED));
    assert!(run.is_fenced(&send("ann@example.com")), "the names of calls are the ones they were");
    assert!(!run.is_fenced(&send("bob@example.com")));
}
