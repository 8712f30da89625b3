//! `execute_tool`: chooses the account and runs the tool on it.

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
use crate::sandbox::execution::{Execution, ExecutionOrder, execute};
use crate::sandbox::shared::Shared;
use crate::sandbox::state::State;
use crate::sandbox::world::ProviderError;

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
    let order = ExecutionOrder {
        tool,
        account,
        params: call.params.clone().unwrap_or_default(),
        agent_run_id: &call.agent_run_id,
        source: "API",
    };
    let Execution { execution_id, outcome } = execute(shared, &mut state, order);
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
