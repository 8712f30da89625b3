//! Journals of every schema version that was ever written can be read and lead to the same state. The files in
//! `tests/data/journal` are kept for ever as they are.

use std::collections::BTreeSet;

use agentkit_worker::agent::conclusion;
use agentkit_worker::agent::effect::CallKey;
use agentkit_worker::agent::event::{Entry, Event};
use agentkit_worker::agent::run::{Run, Step};
use agentkit_worker::reply::ReplyEvent;
use jiff::Timestamp;
use serde_json::{Value, json};

const FINISHED: &str = include_str!("../data/journal/v1-finished.ndjson");
const CUT: &str = include_str!("../data/journal/v1-cut.ndjson");

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
fn an_entry_of_version_1_is_written_as_it_was_read() {
    for line in lines(FINISHED) {
        let entry: Entry = serde_json::from_str(&line).unwrap();
        let written: Value = serde_json::to_value(entry).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(&line).unwrap());
    }
}

#[test]
fn every_kind_of_event_is_kept() {
    let names = FINISHED.lines().map(|line| serde_json::from_str::<Entry>(line).unwrap().event.name());
    let names: BTreeSet<_> = names.collect();
    assert_eq!(names.len(), 15, "{names:?}");
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
    assert_eq!(conclusion::reply(&before, *conclusion, kept.time), *kept);
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
    assert_eq!((run.steps(), run.attempts(), run.wake_up_turn(), run.strikes()), (1, 2, 1, 0));
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
