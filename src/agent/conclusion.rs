//! From a run that came to its end to the reply that its caller gets.

use jiff::Timestamp;

use super::state::{Conclusion, Run};
use crate::reply::{
    Account, COST_UNKNOWN, Completed, EffectEntry, EffectState, ErrorDetail, Failed, Notice, Reply, ReplyEvent, Status,
    Timing, TotalUsage, retry_entries,
};

/// Ends that are the answer to the last request, or come before it leaves: it is not to be paid.
const REFUSED: [&str; 4] = ["model_rejected", "model_quota", "token_limit", "budget_exceeded"];

/// The terminal reply of `run` with this conclusion, made at `now`.
pub fn reply(run: &Run, conclusion: Conclusion, now: Timestamp) -> Reply {
    let rules = &run.settings().answer;
    let event = match conclusion {
        Conclusion::Answered { text, output, stop_reason } => {
            let output = output.map(|output| rules.value(output));
            let text = match &output {
                // It is the same once more, as text.
                Some(output) if !rules.keeps_all() => output.to_string(),
                _ => rules.text(text),
            };
            let account = account(run, stop_reason, now);
            let in_doubt = account.effects.iter().any(|effect| effect.state == EffectState::Unknown);
            let status = if in_doubt { Status::CompletedWithUnknownEffects } else { Status::Completed };
            ReplyEvent::Completed(Box::new(Completed { text, output, status, account }))
        }
        Conclusion::Failed(error) => {
            let account = account(run, error.code.as_str(), now);
            // The model's words may stand in it, too.
            let error = ErrorDetail { message: rules.text(error.message), ..*error };
            ReplyEvent::Failed(Box::new(Failed {
                error,
                text: run.last_text.clone().map(|text| rules.text(text)),
                account,
            }))
        }
    };
    let reply = Reply::terminal(&run.job().id(), now, event);
    match run.reopened {
        0 => reply,
        // A caller that drops replies whose id it has seen must not drop this one.
        times => Reply { id: format!("{}:{}", reply.id, times + 1), ..reply },
    }
}

/// What happened in the run up to `now`.
fn account(run: &Run, stop_reason: &str, now: Timestamp) -> Account {
    let asked = run.asked && !REFUSED.contains(&stop_reason);
    Account {
        stop_reason: stop_reason.to_owned(),
        steps: run.steps,
        tool_calls: run.calls_made,
        effects: effects(run),
        approvals: run.approvals.outcomes().to_vec(),
        usage: TotalUsage { unknown: run.usage.unknown || asked, cost: run.cost_where(asked), ..run.usage },
        model: run.answered_by.clone().or_else(|| Some(run.model().to_owned())),
        models: run.models_asked(),
        timing: Timing {
            started_at: Some(run.started_at),
            finished_at: Some(now),
            working_milliseconds: run.working_milliseconds_at(now),
        },
        attempts: run.attempts(),
        retries: retry_entries(&run.retries),
        notices: notices(run, stop_reason, asked),
        metadata: run.job().metadata.clone(),
    }
}

/// The ledger of everything that is more than reading.
fn effects(run: &Run) -> Vec<EffectEntry> {
    run.ledger.iter().filter(|entry| entry.is_effect()).map(EffectEntry::from).collect()
}

fn notices(run: &Run, stop_reason: &str, asked: bool) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut notice = |code: &str, message: String| notices.push(Notice { code: code.to_owned(), message });
    if stop_reason == "answered" && run.calls_made == 0 && !run.pinned().is_empty() {
        let message = format!(
            "the model answered without calling any of its {} tools; if it should have, say in the prompt what to fetch, \
             and check with `agentkit-worker tools` that the tools have telling descriptions",
            run.pinned().len()
        );
        notice("answered_without_tools", message);
    }
    if run.journal_lost {
        let message = "the store lost how far this run was before; whatever it had done before that is not listed here";
        notice("journal_lost", message.to_owned());
    }
    if let Some(message) = run.unknown_cost(asked) {
        notice(COST_UNKNOWN, message);
    }
    let left = run.models_asked().into_iter().filter_map(|used| Some(format!("{} ({})", used.model, used.reason?)));
    let left: Vec<String> = left.collect();
    if !left.is_empty() {
        notice("model_fallback", format!("{} went on in the place of {}", run.model(), left.join(", ")));
    }
    if run.results_left_out() > 0 {
        let message = format!(
            "{} tool results were left out of the conversation on the way, the oldest first, so that it fitted the model; it was \
             told which, and could call again",
            run.results_left_out()
        );
        notice("history_compacted", message);
    }
    if stop_reason == "length" {
        notice("answer_cut", "the answer was cut at the model's output limit".to_owned());
    }
    if run.tools_left_out > 0 && run.search.is_some() {
        let message = format!(
            "{} more tools could be found by `search_tools` alone, as the model takes no more at a time; name the ones you need \
             in `tools.allow` to have them offered from the start",
            run.tools_left_out
        );
        notice("tools_left_out", message);
    } else if run.tools_left_out > 0 {
        let message = format!(
            "{} more tools were left out, as the model takes {} at most; name the ones you need in `tools.allow`",
            run.tools_left_out,
            run.pinned().len()
        );
        notice("tools_left_out", message);
    }
    notices
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::event::Event;
    use super::super::links::LinkPolicy;
    use super::super::message::Finish;
    use super::super::script::{Script, says, wants};
    use super::*;
    use crate::reply::ErrorCode;
    use crate::schema::Schema;

    fn notices(script: &Script) -> Vec<String> {
        script.account().notices.into_iter().map(|notice| notice.code).collect()
    }

    #[test]
    fn the_ledger_says_of_each_write_what_became_of_it() {
        let mut script = Script::ready(|_| {});
        script.model(wants(&[
            ("r1", "gmail_fetch_mails", "{}"),
            ("w1", "gmail_send_message", r#"{"to": "a", "body": {"html": "x"}}"#),
            ("w2", "gmail_send_message", r#"{"to": "b"}"#),
            ("w3", "gmail_send_message", r#"{"to": "c"}"#),
            ("w4", "gmail_send_message", r#"{"to": "d"}"#),
        ]));
        script.start("r1").done("r1", "mails").start("w1").done("w1", "sent");
        script.start("w2").failed("w2", "no such user").start("w3").unknown("w3");
        script.model(says("sent one"));
        let reply = script.reply();
        let ReplyEvent::Completed(completed) = &reply.event else { panic!("{reply:?}") };
        assert_eq!(completed.status, Status::CompletedWithUnknownEffects);
        let effects: Vec<_> =
            completed.account.effects.iter().map(|effect| (effect.summary.as_str(), effect.state)).collect();
        let expected = [("to: a", EffectState::Done), ("to: b", EffectState::Failed), ("to: c", EffectState::Unknown)];
        assert_eq!(effects, expected, "reads and calls that never started are no effects");
        assert_eq!(completed.account.effects[0].execution_id.as_deref(), Some("x-w1"));
        assert_eq!(completed.account.tool_calls, 4);
        let problems = Schema::compile(&Reply::schema()).unwrap().problems(&serde_json::to_value(&reply).unwrap());
        assert_eq!(problems, Vec::<String>::new());
    }

    #[test]
    fn an_unknown_read_is_no_unknown_effect() {
        let mut script = Script::ready(|_| {});
        script.model(wants(&[("r1", "gmail_fetch_mails", "{}")])).start("r1").unknown("r1").model(says("done"));
        let ReplyEvent::Completed(completed) = script.reply().event else { panic!("the run failed") };
        assert_eq!(completed.status, Status::Completed);
    }

    #[test]
    fn a_write_that_is_still_out_when_the_run_ends_is_unknown() {
        let mut script = Script::ready(|_| {});
        script.model(wants(&[("w1", "gmail_send_message", r#"{"to": "a"}"#)])).start("w1");
        let cancelled = Conclusion::failed(ErrorDetail::new(ErrorCode::Cancelled, "cancelled by a person"));
        let ReplyEvent::Failed(failed) = reply(&script.run, cancelled, script.now).event else { panic!("no failure") };
        assert_eq!(failed.account.effects[0].state, EffectState::Unknown);
        assert_eq!(failed.account.stop_reason, "cancelled");
    }

    #[test]
    fn a_failure_tells_all_that_is_known() {
        let mut script =
            Script::ready(|started| Arc::make_mut(&mut started.job).metadata = serde_json::json!({"order": 7}));
        let mut turn = wants(&[("c1", "gmail_fetch_mails", "{}")]);
        turn.message.text = Some("let me look".into());
        turn.model = Some("model-1-0601".into());
        script.model(turn).start("c1");
        script.event(Event::Retried { call: "gmail_fetch_mails".into(), reason: "503".into() });
        script.event(Event::Retried { call: "gmail_fetch_mails".into(), reason: "503".into() });
        script.done("c1", "mails").event(Event::ModelAsked).asleep(1000);
        let ReplyEvent::Failed(failed) = script.reply().event else { panic!("no failure") };
        assert_eq!((failed.error.code, failed.text.as_deref()), (ErrorCode::DeadlineExceeded, Some("let me look")));
        let account = failed.account;
        assert_eq!((account.steps, account.tool_calls, account.attempts), (1, 1, 1));
        assert_eq!(account.model.as_deref(), Some("model-1-0601"));
        assert_eq!(account.metadata["order"], 7);
        assert_eq!((account.retries.len(), account.retries[0].count), (1, 2));
        assert_eq!((account.usage.model_calls, account.usage.unknown), (1, true), "the last question cost something");
        assert_eq!(account.timing.started_at, Some(Timestamp::UNIX_EPOCH));
        assert_eq!(account.timing.finished_at, Some(script.now));
        assert_eq!(account.timing.working_milliseconds, script.run.working_milliseconds_at(script.now));
    }

    #[test]
    fn an_answer_without_any_call_is_noticed() {
        let mut script = Script::ready(|_| {});
        script.model(says("I cannot read mails"));
        assert_eq!(notices(&script), ["answered_without_tools"]);
        let mut script = Script::ready(|_| {});
        script.model(wants(&[("c1", "gmail_fetch_mails", "{}")])).start("c1").done("c1", "5").model(says("5"));
        assert_eq!(notices(&script), [""; 0]);
    }

    #[test]
    fn a_cut_answer_and_tools_left_out_are_noticed() {
        let mut script = Script::new(|_| {});
        let tools = script.toolset.tools().iter().map(|tool| tool.pinned()).collect();
        script.attempt().event(Event::AccountsReady).event(Event::ToolsListed { tools, left_out: 173, finds: 0 });
        let mut cut = says("once upon");
        cut.finish = Finish::Length;
        script.model(cut);
        assert_eq!(notices(&script), ["answer_cut", "tools_left_out"]);
        assert_eq!(script.account().stop_reason, "length");
    }

    #[test]
    fn links_in_what_the_caller_gets_are_as_the_run_began() {
        let links = "[a](https://evil.org/x)";
        let mut script = Script::ready(|started| started.settings.answer.links = LinkPolicy::Strip);
        script.model(says(links));
        let ReplyEvent::Completed(completed) = script.reply().event else { panic!("no answer") };
        assert_eq!(completed.text, "a");
        let mut script = Script::ready(|started| started.settings.answer.links = LinkPolicy::Strip);
        let mut refusal = says(links);
        refusal.finish = Finish::Refusal(links.to_owned());
        script.model(refusal);
        let ReplyEvent::Failed(failed) = script.reply().event else { panic!("no refusal") };
        assert_eq!((failed.error.message.as_str(), failed.text), ("a", None));
        let mut script = Script::ready(|started| {
            started.settings.answer.links = LinkPolicy::Strip;
            Arc::make_mut(&mut started.job).output_schema = Some(serde_json::json!({"type": "object"}));
        });
        script.model(says(&serde_json::json!({ "t": links }).to_string()));
        let ReplyEvent::Completed(completed) = script.reply().event else { panic!("no answer") };
        assert_eq!((completed.output, completed.text.as_str()), (Some(serde_json::json!({"t": "a"})), r#"{"t":"a"}"#));
    }

    #[test]
    fn the_same_run_makes_the_same_reply() {
        let mut script = Script::ready(|_| {});
        script.model(says("done"));
        assert_eq!(script.reply(), script.reply());
        assert_eq!(script.reply().id, "j:result");
    }
}
