//! What a decision means for the run that it names: something to be journalled, nothing, or a refusal. First come, first
//! served: what stands is never changed.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::approvals::Asked;
use super::effect::CallKey;
use super::event::Settled;
use super::state::Run;
use crate::decision::{Decision, Door, Ruling, Verdict, arguments_digest};
use crate::schema::{MAX_DEPTH, Schema, depth};

/// Edited arguments that are longer are refused.
const MOST_ARGUMENT_BYTES: usize = 1 << 20;

/// Why a decision changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// It cannot be read.
    #[error("the decision cannot be read: {0}")]
    Unreadable(String),
    /// The broker vouches for nobody who may decide.
    #[error("the broker vouches for no user (`user_id`) that may decide; see `deciders` in config/producers.toml")]
    NotADecider,
    /// No such approval waits, or ever did.
    #[error("the run knows no such approval")]
    Unknown,
    /// The run has ended.
    #[error("the run has ended")]
    Ended,
    /// It is about other arguments than those that wait.
    #[error("the call that waits has other arguments than the decision names")]
    OtherArguments,
    /// The same was decided before.
    #[error("the same was decided before")]
    Already,
    /// Something else was decided before.
    #[error("another decision stands: {}", .0.as_str())]
    AlreadyDecided(Verdict),
    /// It came too late.
    #[error("the time to decide is over")]
    Expired,
    /// Arguments may not be changed.
    #[error("the arguments of this call may not be changed")]
    NotEditable,
    /// The changed arguments cannot be used.
    #[error("the changed arguments cannot be used: {0}")]
    InvalidArguments(String),
}

impl Objection {
    /// Its name, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::NotADecider => "not_a_decider",
            Self::Unknown => "unknown",
            Self::Ended => "ended",
            Self::OtherArguments => "other_arguments",
            Self::Already => "already",
            Self::AlreadyDecided(_) => "already_decided",
            Self::Expired => "expired",
            Self::NotEditable => "not_editable",
            Self::InvalidArguments(_) => "invalid_arguments",
        }
    }
}

/// What is to be journalled of `decision`, which came by `door`.
pub fn rule(run: &Run, decision: &Decision, door: Door, now: Timestamp) -> Result<Settled, Objection> {
    if let Some(past) = run.approvals().decided(&decision.approval) {
        let edit = match &decision.ruling {
            Ruling::Edit(arguments) => Some(arguments_digest(arguments)),
            Ruling::Approve | Ruling::Deny => None,
        };
        return Err(match past.verdict {
            _ if past.arguments_digest != decision.arguments_digest => Objection::OtherArguments,
            Verdict::Expired => Objection::Expired,
            verdict if verdict == decision.ruling.verdict() && past.edit == edit => Objection::Already,
            verdict => Objection::AlreadyDecided(verdict),
        });
    }
    let asked = run.approvals().waits(&decision.approval).ok_or(Objection::Unknown)?;
    if asked.call.arguments_digest != decision.arguments_digest {
        return Err(Objection::OtherArguments);
    }
    if run.reply().is_some() {
        return Err(Objection::Ended);
    }
    if now >= asked.until {
        return Err(Objection::Expired);
    }
    let arguments = match &decision.ruling {
        Ruling::Approve | Ruling::Deny => None,
        Ruling::Edit(arguments) => {
            check_edit(run, asked, arguments)?;
            Some(arguments.clone())
        }
    };
    Ok(Settled {
        approval: decision.approval.clone(),
        verdict: decision.ruling.verdict(),
        door,
        by: decision.by.clone(),
        reason: decision.reason.clone(),
        arguments,
    })
}

fn check_edit(run: &Run, asked: &Asked, arguments: &Map<String, Value>) -> Result<(), Objection> {
    if !run.settings().approval.edit {
        return Err(Objection::NotEditable);
    }
    let invalid = |problem: String| Err(Objection::InvalidArguments(problem));
    let Some((tool, ..)) = run.planned(&asked.call.call_id) else { return Err(Objection::Unknown) };
    let value = Value::Object(arguments.clone());
    if depth(&value) > MAX_DEPTH {
        return invalid(format!("they are nested deeper than {MAX_DEPTH} levels"));
    }
    if value.to_string().len() > MOST_ARGUMENT_BYTES {
        return invalid(format!("they have more than {MOST_ARGUMENT_BYTES} bytes"));
    }
    if asked.call.arguments_schema.is_null() {
        return invalid("the tool's schema is not known".to_owned());
    }
    // What the worker cannot read it does not check the model's own arguments against either: the other side decides.
    if let Ok(schema) = Schema::compile(&asked.call.arguments_schema) {
        let problems = schema.problems(&value);
        if !problems.is_empty() {
            return invalid(problems.join("; "));
        }
    }
    let key = CallKey::new(tool.connection.as_str(), &tool.name, arguments);
    if run.is_fenced(&key) || run.approvals().denied(&key) {
        return invalid("the very same call may have been made before in this run, or was denied".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use serde_json::json;

    use super::super::event::{AskedCall, Event, Pause};
    use super::super::run::Step;
    use super::super::script::{Script, says, wants};
    use super::super::state::Conclusion;
    use super::*;
    use crate::approval::{OnExpiry, Writes};
    use crate::reply::{EffectState, ErrorCode, ReplyEvent};

    const READ: &str = "gmail_fetch_mails";
    const WRITE: &str = "gmail_send_message";

    fn schema() -> Value {
        json!({"type": "object", "required": ["to"], "properties": {"to": {"type": "string"}}})
    }

    fn careful(change: impl FnOnce(&mut super::super::approval::ApprovalRules)) -> Script {
        Script::ready(|started| {
            let rules = &mut started.settings.approval;
            (rules.writes, rules.edit, rules.wait_seconds) = (Writes::Untrusted, true, 3600);
            change(rules);
        })
    }

    /// A run that has read and wants two mails sent; a person was asked about both.
    fn waiting(change: impl FnOnce(&mut super::super::approval::ApprovalRules)) -> Script {
        let mut script = careful(change);
        script.model(wants(&[("r1", READ, "{}")])).start("r1").done("r1", "mails");
        script.model(wants(&[("w1", WRITE, r#"{"to": "a"}"#), ("w2", WRITE, r#"{"to": "b"}"#)]));
        ask(&mut script, &["w1", "w2"]);
        script
    }

    fn ask(script: &mut Script, expected: &[&str]) {
        let Step::AskApproval(calls) = script.next() else { panic!("{:?}", script.next()) };
        assert_eq!(calls, expected);
        let asked: Vec<AskedCall> = calls.iter().map(|call| script.run.approval_of(call, schema()).unwrap()).collect();
        let until = script.now + SignedDuration::from_secs(3600);
        script.event(Event::ApprovalAsked { calls: asked, until });
    }

    fn decision(script: &Script, call: usize, ruling: Ruling) -> Decision {
        let asked = &script.run.approvals().asked()[call].call;
        Decision {
            job: script.run.job().id(),
            approval: asked.id.clone(),
            arguments_digest: asked.arguments_digest.clone(),
            ruling,
            reason: Some("because".into()),
            by: Some("ann".into()),
        }
    }

    fn ruled(script: &Script, decision: &Decision) -> Result<Settled, Objection> {
        rule(&script.run, decision, Door::Amqp, script.now)
    }

    fn decide(script: &mut Script, call: usize, ruling: Ruling) {
        let settled = ruled(script, &decision(script, call, ruling)).unwrap();
        script.event(Event::ApprovalDecided(Box::new(settled)));
    }

    fn edit(to: &Value) -> Ruling {
        Ruling::Edit(json!({ "to": to }).as_object().unwrap().clone())
    }

    #[test]
    fn nothing_waits_before_anything_is_read_and_all_that_waits_in_a_turn_is_asked_at_once() {
        let mut script = careful(|_| {});
        script.model(wants(&[
            ("w0", WRITE, r#"{"to": "x"}"#),
            ("r1", READ, "{}"),
            ("w1", WRITE, r#"{"to": "a"}"#),
            ("r2", READ, r#"{"page": 2}"#),
            ("m1", "gmail_mark_read", "{}"),
        ]));
        assert_eq!(script.batch(), ["w0"], "nothing was read yet");
        script.start("w0").done("w0", "sent");
        assert_eq!(script.batch(), ["r1"], "what stands before it is read first");
        script.start("r1").done("r1", "mails");
        ask(&mut script, &["w1", "m1"]);
        assert_eq!(script.next(), Step::AwaitApproval);
        assert!(script.try_event(Event::ToolStarted { call_id: "w1".into() }).is_err(), "nothing leaves meanwhile");
        assert_eq!(script.run.approvals().read_before(), [READ]);
    }

    #[test]
    fn what_is_read_before_a_write_is_known_also_while_another_call_waits() {
        let mut script = careful(|rules| rules.tools = ["gmail_mark_*".to_owned()].into());
        script.model(wants(&[("m1", "gmail_mark_read", "{}"), ("r1", READ, "{}"), ("w1", WRITE, r#"{"to": "a"}"#)]));
        ask(&mut script, &["m1", "w1"]);
        let again: Vec<AskedCall> = vec![script.run.approval_of("w1", schema()).unwrap()];
        let until = script.now + SignedDuration::from_secs(7200);
        assert!(script.try_event(Event::ApprovalAsked { calls: again, until }).is_err(), "nobody is asked twice");
    }

    #[test]
    fn a_run_without_rules_asks_nobody() {
        let mut script = Script::ready(|_| {});
        script.model(wants(&[("r1", READ, "{}"), ("w1", WRITE, r#"{"to": "a"}"#)])).start("r1").done("r1", "mails");
        assert_eq!(script.batch(), ["w1"]);
    }

    #[test]
    fn an_approved_call_is_made_once_all_are_decided_and_the_accounts_were_looked_at_again() {
        let mut script = waiting(|_| {});
        script.pause(Pause::Approval);
        decide(&mut script, 0, Ruling::Approve);
        assert_eq!(script.next(), Step::AwaitApproval, "the other one still waits");
        decide(&mut script, 1, Ruling::Approve);
        assert_eq!(script.next(), Step::CheckAccounts);
        script.attempt().event(Event::AccountsReady);
        assert_eq!(script.batch(), ["w1"]);
        script.start("w1").done("w1", "sent");
        assert_eq!(script.batch(), ["w2"]);
        script.start("w2").done("w2", "sent").model(says("done"));
        let account = script.account();
        let states: Vec<_> = account.effects.iter().map(|effect| effect.state).collect();
        assert_eq!(states, [EffectState::Done, EffectState::Done]);
        assert_eq!(account.approvals.len(), 2);
        assert_eq!((account.approvals[0].door, account.approvals[0].by.as_deref()), (Door::Amqp, Some("ann")));
    }

    #[test]
    fn a_denied_call_has_one_answer_is_not_made_again_and_stands_in_the_ledger() {
        let mut script = waiting(|_| {});
        decide(&mut script, 0, Ruling::Deny);
        decide(&mut script, 1, Ruling::Deny);
        assert_eq!(script.next(), Step::CallModel);
        let answers: Vec<_> = script.results().into_iter().filter(|(id, _)| *id == "w1").collect();
        assert_eq!(answers.len(), 1);
        assert!(answers[0].1.contains("denied by a person, who said: because"), "{answers:?}");
        assert!(!script.run.has_effects(), "nothing was done");
        script.model(wants(&[("w3", WRITE, r#"{"to": "a"}"#)]));
        assert_eq!(script.next(), Step::CallModel, "the very same call is refused, and nobody is asked again");
        script.model(says("it was not allowed"));
        let account = script.account();
        let effects: Vec<_> = account.effects.iter().map(|effect| (effect.summary.as_str(), effect.state)).collect();
        assert_eq!(effects, [("to: a", EffectState::Denied), ("to: b", EffectState::Denied)]);
        assert_eq!(account.tool_calls, 1, "denied calls are none");
    }

    #[test]
    fn an_edited_call_is_made_with_what_was_edited_and_the_model_is_told() {
        let mut script = waiting(|_| {});
        decide(&mut script, 0, edit(&json!("c")));
        decide(&mut script, 1, Ruling::Deny);
        script.attempt().event(Event::AccountsReady);
        assert_eq!(script.batch(), ["w1"]);
        let (_, arguments, _) = script.run.planned("w1").unwrap();
        assert_eq!(arguments["to"], "c");
        script.start("w1").done("w1", "sent");
        let answer = script.results().into_iter().find(|(id, _)| *id == "w1").unwrap().1;
        assert!(answer.contains(r#"{"to":"c"}"#) && answer.ends_with("sent"), "{answer}");
        script.model(says("done"));
        assert_eq!(script.account().effects.iter().filter(|effect| effect.summary == "to: c").count(), 1);
    }

    #[test]
    fn what_nobody_decides_in_time_is_denied_or_fails_the_run() {
        for (on_expiry, fails) in [(OnExpiry::Deny, false), (OnExpiry::Fail, true)] {
            let mut script = waiting(|rules| rules.on_expiry = on_expiry);
            script.pause(Pause::Approval);
            assert_eq!(script.next(), Step::AwaitApproval);
            let late = decision(&script, 0, Ruling::Approve);
            script.asleep(3600);
            assert_eq!(ruled(&script, &late), Err(Objection::Expired));
            let Step::ExpireApprovals(expired) = script.next() else { panic!("{:?}", script.next()) };
            assert_eq!(expired.len(), 2);
            script.attempt();
            let events: Vec<Event> = expired.iter().map(|id| expiry(id)).collect();
            assert_eq!(script.run.check(&events), Ok(()), "in one append");
            for event in events {
                script.event(event);
            }
            assert_eq!(ruled(&script, &late), Err(Objection::Expired));
            if fails {
                assert_eq!(script.failure(), ErrorCode::ApprovalExpired);
                let ReplyEvent::Failed(failed) = script.reply().event else { panic!("it failed") };
                assert_eq!(failed.account.approvals.len(), 2);
            } else {
                assert_eq!(script.next(), Step::CallModel);
            }
        }
    }

    fn expiry(approval: &str) -> Event {
        let (verdict, door) = (Verdict::Expired, Door::Expiry);
        let approval = approval.to_owned();
        Event::ApprovalDecided(Box::new(Settled { approval, verdict, door, by: None, reason: None, arguments: None }))
    }

    #[test]
    fn the_first_decision_stands_and_no_other_changes_anything() {
        let mut script = waiting(|_| {});
        let foreign = |change: &dyn Fn(&mut Decision)| {
            let mut decision = decision(&script, 0, Ruling::Approve);
            change(&mut decision);
            ruled(&script, &decision).unwrap_err()
        };
        assert_eq!(foreign(&|decision| decision.approval = "ap_x".into()), Objection::Unknown);
        let other = |decision: &mut Decision| decision.arguments_digest = "sha256:0".into();
        assert_eq!(foreign(&other), Objection::OtherArguments);
        let (approve, deny) = (decision(&script, 0, Ruling::Approve), decision(&script, 0, Ruling::Deny));
        decide(&mut script, 0, Ruling::Approve);
        assert_eq!(ruled(&script, &approve), Err(Objection::Already));
        assert_eq!(ruled(&script, &deny), Err(Objection::AlreadyDecided(Verdict::Approve)));
        let mut stale = approve.clone();
        other(&mut stale);
        assert_eq!(ruled(&script, &stale), Err(Objection::OtherArguments), "it is not the same");
        let again = Settled { verdict: Verdict::Deny, ..ruled(&script, &decision(&script, 1, Ruling::Deny)).unwrap() };
        let again = Settled { approval: approve.approval.clone(), ..again };
        assert!(script.try_event(Event::ApprovalDecided(Box::new(again))).is_err(), "not even in the journal");
        decide(&mut script, 1, Ruling::Deny);
        script.attempt().event(Event::AccountsReady).start("w1").done("w1", "sent").model(says("done"));
        assert_eq!(ruled(&script, &approve), Err(Objection::Already), "also when its turn is over");
        assert_eq!(ruled(&script, &deny), Err(Objection::AlreadyDecided(Verdict::Approve)));
    }

    #[test]
    fn the_same_edit_again_is_known_and_another_one_is_not_the_same() {
        let mut script = waiting(|_| {});
        let (first, second) = (edit(&json!("c")), edit(&json!("d")));
        let (again, other) = (decision(&script, 0, first.clone()), decision(&script, 0, second));
        decide(&mut script, 0, first);
        assert_eq!(ruled(&script, &again), Err(Objection::Already));
        assert_eq!(ruled(&script, &other), Err(Objection::AlreadyDecided(Verdict::Edit)));
    }

    #[test]
    fn a_decision_about_one_turns_call_is_none_about_the_next_ones_of_the_same_name() {
        let mut script = careful(|_| {});
        script.model(wants(&[("r1", READ, "{}")])).start("r1").done("r1", "mails");
        let mut decisions = Vec::new();
        for to in ["a", "b"] {
            script.model(wants(&[("call_0", WRITE, &json!({ "to": to }).to_string())]));
            ask(&mut script, &["call_0"]);
            decisions.push(decision(&script, 0, Ruling::Approve));
            for earlier in &decisions[..decisions.len() - 1] {
                assert_eq!(ruled(&script, earlier), Err(Objection::Already), "it is about the turn before");
            }
            assert!(ruled(&script, &decisions[decisions.len() - 1]).is_ok());
            decide(&mut script, 0, Ruling::Approve);
            script.attempt().event(Event::AccountsReady).start("call_0").done("call_0", "sent");
        }
        assert_ne!(decisions[0].approval, decisions[1].approval);
    }

    #[test]
    fn edits_that_may_not_be_are_refused() {
        let strict = waiting(|rules| rules.edit = false);
        assert_eq!(ruled(&strict, &decision(&strict, 0, edit(&json!("c")))), Err(Objection::NotEditable));
        let script = waiting(|_| {});
        let mut deep = json!("c");
        (0..100).for_each(|_| deep = json!([deep]));
        for to in [json!(7), deep, json!("x".repeat(2 << 20))] {
            let refused = ruled(&script, &decision(&script, 0, edit(&to)));
            assert!(matches!(refused, Err(Objection::InvalidArguments(_))), "{refused:?}");
        }
        let nothing = decision(&script, 0, Ruling::Edit(Map::new()));
        assert!(matches!(ruled(&script, &nothing), Err(Objection::InvalidArguments(_))));
    }

    #[test]
    fn a_call_that_was_denied_or_is_in_doubt_cannot_be_edited_into_another() {
        let mut script = waiting(|_| {});
        decide(&mut script, 0, Ruling::Deny);
        let same = ruled(&script, &decision(&script, 1, edit(&json!("a"))));
        assert!(matches!(same, Err(Objection::InvalidArguments(_))), "{same:?}");
        // An edited call counts as what it was edited to.
        let mut script = waiting(|_| {});
        decide(&mut script, 0, edit(&json!("c")));
        decide(&mut script, 1, Ruling::Deny);
        script.attempt().event(Event::AccountsReady).start("w1").unknown("w1");
        script.model(wants(&[("w3", WRITE, r#"{"to": "c"}"#), ("w4", WRITE, r#"{"to": "a"}"#)]));
        ask(&mut script, &["w4"]);
        let in_doubt = ruled(&script, &decision(&script, 0, edit(&json!("c"))));
        assert!(matches!(in_doubt, Err(Objection::InvalidArguments(_))), "{in_doubt:?}");
    }

    #[test]
    fn a_run_that_was_ended_meanwhile_takes_no_decision() {
        let mut script = waiting(|_| {});
        let approve = decision(&script, 0, Ruling::Approve);
        let cancelled = Conclusion::failed(crate::reply::ErrorDetail::new(ErrorCode::Cancelled, "by a person"));
        let reply = super::super::conclusion::reply(&script.run, cancelled, script.now);
        script.event(Event::Finished(Box::new(reply)));
        assert_eq!(ruled(&script, &approve), Err(Objection::Ended));
    }

    #[test]
    fn waiting_for_a_person_is_no_work_and_costs_no_attempt() {
        let mut script = waiting(|_| {});
        script.pause(Pause::Approval);
        let worked = script.run.working_milliseconds_at(script.now);
        script.asleep(3000);
        decide(&mut script, 0, Ruling::Approve);
        assert_eq!(script.run.working_milliseconds_at(script.now), worked);
        assert_eq!(script.run.transient_failures(), 0);
    }
}
