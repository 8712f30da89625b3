//! What each server offers: its tools, and what calling them does.

use serde_json::{Map, Value, json};

use super::messages::{INVALID_PARAMS, McpRefusal};
use crate::sandbox::accounts::Account;
use crate::sandbox::authorization;
use crate::sandbox::catalogue::Tool;
use crate::sandbox::execution::{ExecutionOrder, execute};
use crate::sandbox::mcp_state::McpGrant;
use crate::sandbox::shared::Shared;
use crate::sandbox::state::State;

/// One of the servers, as the caller may use it.
#[derive(Debug)]
pub(super) enum McpServer {
    /// The operator's own: one register for all callers.
    Crm,
    /// Scalekit's for one connection: the world of the token's user.
    Connection(McpGrant),
}

impl McpServer {
    /// Whose sessions are whose: the server, and the user where it tells users apart.
    pub(super) fn owner(&self) -> String {
        match self {
            Self::Crm => "crm".to_owned(),
            Self::Connection(grant) => format!("{} {} {}", grant.connector, grant.read_only, grant.identifier),
        }
    }

    /// Its own name, for people.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Crm => "sandbox-crm",
            Self::Connection(grant) => &grant.connector,
        }
    }

    /// Who may keep its list of tools: everybody, or the user alone who asked for it.
    pub(super) fn cache_scope(&self) -> &'static str {
        match self {
            Self::Crm => "public",
            Self::Connection(_) => "private",
        }
    }

    /// The tools that this caller sees, always in the same order.
    pub(super) fn tools(&self, shared: &Shared, state: &State) -> Vec<Value> {
        match self {
            Self::Crm => state.mcp.crm.tools(state.mcp.settings.more_tools),
            Self::Connection(grant) => granted(shared, grant).map(definition).collect(),
        }
    }

    /// Calls a tool: a result, which may say that the tool failed. Refuses tools that the caller does not see.
    pub(super) fn call(
        &self,
        shared: &Shared,
        state: &mut State,
        name: &str,
        arguments: Map<String, Value>,
    ) -> Result<Value, McpRefusal> {
        let unknown = || McpRefusal::new(200, INVALID_PARAMS, format!("Unknown tool: {name}"));
        match self {
            Self::Crm => {
                let tools = self.tools(shared, state);
                let tool = tools.iter().find(|tool| tool["name"] == name).ok_or_else(unknown)?;
                let now = shared.now();
                Ok(state.mcp.crm.run(tool, arguments, now))
            }
            Self::Connection(grant) => {
                let tool = granted(shared, grant).find(|tool| tool.name == name).ok_or_else(unknown)?;
                Ok(call_for(shared, state, grant, tool, arguments))
            }
        }
    }
}

fn granted<'a>(shared: &'a Shared, grant: &McpGrant) -> impl Iterator<Item = &'a Tool> {
    let provider = shared.catalogue.connection(&grant.connector).map(|connection| connection.provider.as_str());
    let read_only = grant.read_only;
    let tools = shared.catalogue.tools().iter();
    tools.filter(move |tool| Some(tool.provider.as_str()) == provider && (!read_only || tool.is_read_only()))
}

/// A definition of the catalogue, in MCP's words.
fn definition(tool: &Tool) -> Value {
    let own = &tool.entry["definition"];
    let mut definition = json!({"name": tool.name, "inputSchema": {"type": "object"}});
    for (ours, theirs) in [("title", "display_name"), ("description", "description"), ("inputSchema", "input_schema")] {
        if !own[theirs].is_null() {
            definition[ours] = own[theirs].clone();
        }
    }
    if tool.is_read_only() {
        definition["annotations"] = json!({"readOnlyHint": true});
    }
    definition
}

fn call_for(shared: &Shared, state: &mut State, grant: &McpGrant, tool: &Tool, params: Map<String, Value>) -> Value {
    let account = authorization::account(shared, state, &grant.connector, &grant.identifier);
    let Some(account) = account.filter(Account::is_active) else {
        return text("connected account is not active", true);
    };
    let order = ExecutionOrder { tool, account, params, agent_run_id: "", source: "MCP" };
    match execute(shared, state, order).outcome {
        // What a server behind Scalekit answered has MCP's form already.
        Ok(data) if data["content"].is_array() => data,
        Ok(data) => text(&data.to_string(), false),
        Err(error) => text(&error.message, true),
    }
}

fn text(words: &str, is_error: bool) -> Value {
    json!({"content": [{"type": "text", "text": words}], "isError": is_error})
}
