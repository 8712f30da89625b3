//! The log of tool calls.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::accounts::Account;
use super::world::ProviderError;

#[derive(Debug)]
pub(super) struct ToolCall {
    pub(super) execution_id: String,
    pub(super) account: Account,
    pub(super) tool_name: String,
    pub(super) agent_run_id: String,
    /// The door that it came by: `API` or `MCP`.
    pub(super) source: &'static str,
    /// `success` or `provider_error`.
    pub(super) status: &'static str,
    pub(super) error: Option<ProviderError>,
    pub(super) started_at: Timestamp,
}

impl ToolCall {
    /// A row of the call log.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "id": format!("tcl_{}", self.execution_id), "connected_account_id": self.account.id,
            "connection_id": self.account.connection_id, "connection_name": self.account.connector,
            "provider": self.account.provider, "identifier": self.account.identifier, "source": self.source,
            "execution_id": self.execution_id, "tool_name": self.tool_name, "status": self.status, "error_tier": "",
            "error_code": self.error.as_ref().map_or("", |error| error.code),
            "error_message": self.error.as_ref().map_or("", |error| error.message.as_str()),
            "duration_ms": "1", "started_at": self.started_at, "agent_run_id": self.agent_run_id,
        })
    }
}
