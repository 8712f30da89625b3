//! `execute_tool`: chooses the account, checks the parameters, runs the tool on the identifier's world, keeps the log.

use std::sync::Arc;

use axum::Json;
use axum::extract;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::errors::{Answer, Refusal};
use super::fields::{Body, identifier, read, required};
use crate::sandbox::accounts::Account;
use crate::sandbox::authorization;
use crate::sandbox::catalogue::Tool;
use crate::sandbox::shared::Shared;
use crate::sandbox::state::State;
use crate::sandbox::tool_calls::ToolCall;
use crate::sandbox::world::{self, Effect, ProviderError};

/// The request's body; unknown fields are dropped silently, as the real service does.
#[derive(Debug, Deserialize)]
pub(super) struct Call {
    tool_name: Option<String>,
    connector: Option<String>,
    identifier: Option<String>,
    connected_account_id: Option<String>,
    params: Option<Map<String, Value>>,
    #[serde(default)]
    agent_run_id: String,
}

/// Runs the call and answers `{data, execution_id}`.
pub(super) async fn execute_tool(extract::State(shared): extract::State<Arc<Shared>>, body: Body<Call>) -> Answer {
    run(&shared, &read(body)?).map(Json)
}

fn run(shared: &Shared, call: &Call) -> Result<Value, Refusal> {
    let name = required("tool_name", call.tool_name.as_deref())?;
    if call.agent_run_id.len() > 255 {
        return Err(Refusal::field("agent_run_id", "longer than 255 characters", "max_len"));
    }
    let Some(tool) = shared.catalogue.tool(name) else {
        return Err(unknown_tool(name));
    };
    let mut state = shared.lock();
    let account = chosen_account(shared, &mut state, call, tool)?;
    if account.provider != tool.provider {
        return Err(unknown_tool(name));
    }
    if !account.is_active() {
        return Err(Refusal::invalid("connected account is not active"));
    }
    let now = shared.now();
    let execution_id = (320_000_000_000 + state.next_number()).to_string();
    let params = call.params.clone().unwrap_or_default();
    let outcome = check(tool, &params).and_then(|()| {
        let world = state.world(&account.identifier, now);
        let before = world.clone();
        let data = world::run(world, name, &params, now)?;
        if *world != before {
            world.effects.push(Effect { tool: name.to_owned(), params, execution_id: execution_id.clone(), at: now });
        }
        Ok(data)
    });
    state.accounts.mark_used(&account, shared.now());
    let status = if outcome.is_ok() { "success" } else { "provider_error" };
    state.tool_calls.push(ToolCall {
        execution_id: execution_id.clone(),
        account,
        tool_name: name.to_owned(),
        agent_run_id: call.agent_run_id.clone(),
        status,
        error: outcome.as_ref().err().cloned(),
        started_at: now,
    });
    match outcome {
        Ok(data) if data.is_array() => Ok(json!({"data": {"array": data}, "execution_id": execution_id})),
        Ok(data) => Ok(json!({"data": data, "execution_id": execution_id})),
        Err(error) => Err(tool_error(error, &execution_id)),
    }
}

fn tool_error(error: ProviderError, execution_id: &str) -> Refusal {
    let ProviderError { status, code, message } = error;
    let more = json!({"tool_error_info": {
        "execution_id": execution_id, "tool_error_message": message, "tool_error_code": code,
    }});
    Refusal::new(status, "TOOL_ERROR", message).with(more)
}

fn unknown_tool(name: &str) -> Refusal {
    let resource = json!({"resource_info": {"resource_name": name, "description": "tool not found"}});
    Refusal::new(400, "RESOURCE_NOT_FOUND", "tool not found").with(resource)
}

fn chosen_account(shared: &Shared, state: &mut State, call: &Call, tool: &Tool) -> Result<Account, Refusal> {
    let not_found = || Refusal::not_found("connected account not found");
    if let Some(id) = call.connected_account_id.as_deref().filter(|id| !id.is_empty()) {
        let account = state.accounts.by_id(id).cloned();
        return account.ok_or_else(|| Refusal::new(500, "INTERNAL_ERROR", "internal error"));
    }
    if call.identifier.as_deref().is_none_or(str::is_empty) {
        return Err(Refusal::invalid("identifier or connected_account_id is required"));
    }
    let identifier = identifier(call.identifier.as_deref())?;
    if let Some(connector) = call.connector.as_deref().filter(|connector| !connector.is_empty()) {
        return authorization::account(shared, state, connector, identifier).ok_or_else(not_found);
    }
    let mut fitting = state.accounts.of(identifier).filter(|account| account.provider == tool.provider);
    match (fitting.next(), fitting.next()) {
        (None, _) => Err(not_found()),
        (Some(account), None) => Ok(account.clone()),
        (Some(_), Some(_)) => Err(Refusal::invalid("multiple connected accounts found")),
    }
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
