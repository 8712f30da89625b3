//! Runs one tool on the world of an account's owner, and keeps the log: the same work whichever door it was asked at.

use serde_json::{Map, Value};

use super::accounts::Account;
use super::catalogue::Tool;
use super::shared::Shared;
use super::state::State;
use super::tool_calls::ToolCall;
use super::world::{self, Effect, ProviderError};

/// One call of a tool on an account that can be used.
pub(super) struct ExecutionOrder<'a> {
    pub(super) tool: &'a Tool,
    pub(super) account: Account,
    pub(super) params: Map<String, Value>,
    /// Empty where the caller named no run.
    pub(super) agent_run_id: &'a str,
    /// The door, as the log names it: `API` or `MCP`.
    pub(super) source: &'static str,
}

/// What became of it.
pub(super) struct Execution {
    pub(super) execution_id: String,
    pub(super) outcome: Result<Value, ProviderError>,
}

/// Runs the call; what changed the world is kept among its effects.
pub(super) fn execute(shared: &Shared, state: &mut State, order: ExecutionOrder<'_>) -> Execution {
    let ExecutionOrder { tool, account, params, agent_run_id, source } = order;
    let now = shared.now();
    let execution_id = (320_000_000_000 + state.next_number()).to_string();
    let outcome = check(tool, &params).and_then(|()| {
        let world = state.world(&account.identifier, now);
        let before = world.clone();
        let data = world::run(world, &tool.name, &params, now)?;
        if *world != before {
            let effect = Effect { tool: tool.name.clone(), params, execution_id: execution_id.clone(), at: now };
            world.effects.push(effect);
        }
        Ok(data)
    });
    state.accounts.mark_used(&account, now);
    state.tool_calls.push(ToolCall {
        execution_id: execution_id.clone(),
        account,
        tool_name: tool.name.clone(),
        agent_run_id: agent_run_id.to_owned(),
        source,
        status: if outcome.is_ok() { "success" } else { "provider_error" },
        error: outcome.as_ref().err().cloned(),
        started_at: now,
    });
    Execution { execution_id, outcome }
}

/// Loose, as the real service is: what is required must be there, and numbers must be numbers.
fn check(tool: &Tool, params: &Map<String, Value>) -> Result<(), ProviderError> {
    let schema = tool.input_schema();
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if params.get(name).is_none_or(|value| value.is_null() || value == "") {
            let message = if name.ends_with("_id") || name == "id" {
                format!("path templating failed: missing value for \"input.{name}\"")
            } else {
                format!("missing or invalid {name} parameter")
            };
            return Err(ProviderError::bad_parameters(message));
        }
    }
    for (name, value) in params {
        let wanted = &schema["properties"][name]["type"];
        let fits = match wanted.as_str() {
            Some("integer" | "number") => value.is_number() || value.is_null(),
            Some("array") => value.is_array() || value.is_null(),
            _ => true,
        };
        if !fits {
            return Err(ProviderError::bad_parameters(format!("missing or invalid {name} parameter")));
        }
    }
    Ok(())
}
