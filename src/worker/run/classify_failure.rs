//! What a tool call that failed means once it is not repeated any more: an answer for the model, a call to be made again,
//! or a doubt. Two failures are looked into before they are believed.

use super::Executor;
use super::outbound_call::{CallEnd, OutboundCall};
use crate::agent::effect::{Effect, InDoubt, in_doubt};
use crate::agent::event::ToolOutcome;
use crate::scalekit::{Error, LogStatus};
use crate::worker::resources::tool_error::ToolError;

impl Executor {
    /// What a failure means for a call that is not repeated any more.
    pub(super) async fn classify_failure(&self, call: &OutboundCall, error: ToolError, attempts: u32) -> CallEnd {
        let ended = classify(call.tool.effect, self.looked_into(call, error).await, attempts);
        if matches!(ended, CallEnd::Outcome(ToolOutcome::Unknown { .. }))
            && let Some(settled) = self.settled_by_logs(call).await
        {
            return CallEnd::Outcome(settled);
        }
        ended
    }

    /// A provider says "forbidden" to whom a scope is missing, and to some whose authorization is gone: the account tells.
    async fn looked_into(&self, call: &OutboundCall, error: ToolError) -> ToolError {
        let ToolError::Scalekit(Error::Forbidden(details)) = error else { return error };
        let looked_into = match self.lost_status(&call.identifier, &call.tool.connection).await {
            Some(status) => Error::AuthorizationLost { code: status.to_string(), details },
            None => Error::Forbidden(details),
        };
        looked_into.into()
    }

    /// What Scalekit's own log of tool calls (preview) says of a call in doubt. A missing row proves nothing.
    pub(super) async fn settled_by_logs(&self, call: &OutboundCall) -> Option<ToolOutcome> {
        if !self.rules.settle_by_logs || call.tool.connection.mcp_server().is_some() {
            return None;
        }
        let known = call.known_executions.as_ref()?;
        let logs = self.scalekit.tool_call_logs(&call.run_id.unique()).await.ok()??;
        let mut rows = logs.into_iter().filter(|row| {
            row.tool == call.tool.name
                && row.connection.as_ref().is_none_or(|connection| connection == call.tool.connection.as_str())
                && !row.execution_id.as_ref().is_some_and(|id| known.contains(id))
        });
        // Two rows that could be it are as good as none.
        let (row, None) = (rows.next()?, rows.next()) else { return None };
        match row.status {
            LogStatus::Success => Some(ToolOutcome::Done {
                content: "The call was carried out; its result was lost on the way.".to_owned(),
                execution_id: row.execution_id,
            }),
            _ => None,
        }
    }
}

/// By the failure alone.
fn classify(effect: Effect, error: ToolError, attempts: u32) -> CallEnd {
    let execution_id = error.execution_id();
    if error.is_answer() {
        let message = answer(effect, &error);
        return CallEnd::Outcome(ToolOutcome::Failed { message, execution_id });
    }
    let tried = if attempts > 1 { format!(", tried {attempts} times") } else { String::new() };
    match in_doubt(effect, error.ran()) {
        InDoubt::Unknown => CallEnd::Outcome(ToolOutcome::Unknown { message: format!("{error}{tried}"), execution_id }),
        // The provider itself keeps failing, or what comes back is no answer: the model may find another way.
        InDoubt::RunAgain if error.is_the_tools_own() => {
            CallEnd::Outcome(ToolOutcome::Failed { message: format!("{error}{tried}"), execution_id })
        }
        InDoubt::RunAgain => CallEnd::NotRun(error),
    }
}

/// In the provider's words, which tell a model what to do better.
fn answer(effect: Effect, error: &ToolError) -> String {
    if error.is_unknown_tool() {
        return "the tool does not exist any more".to_owned();
    }
    let part = if effect != Effect::Read && error.is_half_done() { "; a part of it may have been done" } else { "" };
    format!("{error}{part}")
}
