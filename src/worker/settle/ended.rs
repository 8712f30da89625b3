//! The line that a job's end is worth.

use tracing::{debug, info, warn};

use crate::money::Amount;
use crate::reply::{Account, EffectState, Reply, ReplyEvent};

/// Says how a job ended and what it took: to operators, who are to see from one line what went wrong and what to do. The words
/// of others are for `debug` alone.
pub(super) fn say_ended(outcome: &str, working_milliseconds: u64, reply: &Reply) {
    let (account, error) = match &reply.event {
        ReplyEvent::Completed(completed) => (&completed.account, None),
        ReplyEvent::Failed(failed) => (&failed.account, Some(&failed.error)),
        _ => return info!(outcome, working_milliseconds, "job ended"),
    };
    let Account { steps, tool_calls, attempts, usage, .. } = account;
    let (input_tokens, output_tokens) = (usage.input_tokens, usage.output_tokens);
    let cost_usd = usage.cost.amount().map(Amount::usd);
    let retries: u32 = account.retries.iter().map(|retry| retry.count).sum();
    let unknown: Vec<&str> = account
        .effects
        .iter()
        .filter(|effect| effect.state == EffectState::Unknown)
        .map(|effect| effect.tool.as_str())
        .collect();
    let unknown = (!unknown.is_empty()).then(|| unknown.join(", "));
    let Some(error) = error else {
        if let Some(unknown) = unknown {
            let hint =
                "whether these calls did anything is not known: look before the job is sent again under a new id";
            return warn!(
                outcome,
                unknown_effects = unknown,
                hint,
                steps,
                tool_calls,
                input_tokens,
                output_tokens,
                cost_usd,
                retries,
                attempts,
                working_milliseconds,
                "job ended"
            );
        }
        return info!(
            outcome,
            steps,
            tool_calls,
            input_tokens,
            output_tokens,
            cost_usd,
            retries,
            attempts,
            working_milliseconds,
            "job ended"
        );
    };
    warn!(
        outcome,
        hint = error.hint,
        connection = error.connection,
        tool = error.tool,
        execution.id = error.execution_id,
        unknown_effects = unknown,
        steps,
        tool_calls,
        input_tokens,
        output_tokens,
        cost_usd,
        retries,
        attempts,
        working_milliseconds,
        "job ended"
    );
    debug!(message = error.message, "why the job failed");
}
