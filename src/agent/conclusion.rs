//! From a run that came to its end to the reply that its caller gets.

use jiff::Timestamp;

use super::effect::Effect;
use super::state::{Conclusion, Run};
use crate::reply::{
    Account, Completed, EffectEntry, EffectState, Failed, Notice, Reply, ReplyEvent, Status, Timing, TotalUsage,
    retry_entries,
};

/// The terminal reply of `run` with this conclusion, made at `now`.
pub fn reply(run: &Run, conclusion: Conclusion, now: Timestamp) -> Reply {
    let event = match conclusion {
        Conclusion::Answered { text, output, stop_reason } => {
            let account = account(run, stop_reason, now);
            let in_doubt = account.effects.iter().any(|effect| effect.state == EffectState::Unknown);
            let status = if in_doubt { Status::CompletedWithUnknownEffects } else { Status::Completed };
            ReplyEvent::Completed(Box::new(Completed { text, output, status, account }))
        }
        Conclusion::Failed(error) => {
            let account = account(run, error.code.as_str(), now);
            ReplyEvent::Failed(Box::new(Failed { error: *error, text: run.last_text.clone(), account }))
        }
    };
    Reply::terminal(&run.job().id(), now, event)
}

/// What happened in the run up to `now`.
fn account(run: &Run, stop_reason: &str, now: Timestamp) -> Account {
    Account {
        stop_reason: stop_reason.to_owned(),
        steps: run.steps,
        tool_calls: run.calls_made,
        effects: effects(run),
        usage: TotalUsage { unknown: run.usage.unknown || run.asked, ..run.usage },
        model: run.answered_by.clone().or_else(|| Some(run.settings().model.clone())),
        timing: Timing {
            started_at: Some(run.started_at),
            finished_at: Some(now),
            working_milliseconds: run.working_milliseconds_at(now),
        },
        attempts: run.attempts(),
        retries: retry_entries(&run.retries),
        notices: notices(run, stop_reason),
        metadata: run.job().metadata.clone(),
    }
}

/// The ledger of everything that is more than reading.
fn effects(run: &Run) -> Vec<EffectEntry> {
    run.ledger
        .iter()
        .filter(|entry| entry.tool.effect != Effect::Read)
        .map(|entry| EffectEntry {
            tool: entry.tool.name.clone(),
            connection: entry.tool.connection.as_str().to_owned(),
            state: entry.state,
            execution_id: entry.execution_id.clone(),
            summary: entry.summary.clone(),
        })
        .collect()
}

fn notices(run: &Run, stop_reason: &str) -> Vec<Notice> {
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
    if stop_reason == "length" {
        notice("answer_cut", "the answer was cut at the model's output limit".to_owned());
    }
    if run.tools_left_out > 0 {
        let message = format!(
            "{} more tools were left out, as the model takes {} at most; name the ones you need in `tools.allow`",
            run.tools_left_out,
            run.pinned().len()
        );
        notice("tools_left_out", message);
    }
    notices
}
