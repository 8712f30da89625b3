//! Which routes belong together.

use serde::{Deserialize, Serialize};

/// Routes that are counted, and hit by faults, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RouteGroup {
    /// `POST /oauth/token`.
    Token,
    /// `GET …/connected_accounts/details`.
    Details,
    /// `POST …/connected_accounts/magic_link`.
    MagicLink,
    /// The other routes below `…/connected_accounts`.
    Accounts,
    /// `GET …/tools/scoped`.
    Scoped,
    /// `GET …/tools` and `…/tools/available`.
    Tools,
    /// `POST …/execute_tool`.
    Execute,
    /// `POST …/mcp/connections/{name}/tokens`.
    McpToken,
    /// `tools/list` at an MCP server.
    McpList,
    /// `tools/call` at an MCP server.
    McpCall,
    /// Whatever else is asked of an MCP server: discovery, handshakes, the end of sessions.
    Mcp,
    /// `GET …/agentkit/tool_call_logs`.
    Logs,
    /// What is asked of models: everything below `/v1` but the list of them.
    Model,
    /// `GET /v1/models` and what is below.
    Models,
    /// The page behind a magic link.
    Consent,
}

impl RouteGroup {
    /// The group of a path, and of the method that a message to an MCP server names; the routes that steer the stand-ins
    /// have none.
    pub(super) fn of(path: &str, rpc_method: Option<&str>) -> Option<Self> {
        let group = match path {
            "/oauth/token" => Self::Token,
            "/api/v1/connected_accounts/details" => Self::Details,
            "/api/v1/connected_accounts/magic_link" => Self::MagicLink,
            "/api/v1/tools/scoped" => Self::Scoped,
            "/api/v1/execute_tool" => Self::Execute,
            _ if path.starts_with("/api/v1/connected_accounts") => Self::Accounts,
            _ if path.starts_with("/api/v1/tools") => Self::Tools,
            _ if path.starts_with("/api/v1/agentkit/tool_call_logs") => Self::Logs,
            _ if path.starts_with("/api/v1/mcp/connections/") => Self::McpToken,
            _ if path.starts_with("/mcp/") => match rpc_method {
                Some("tools/list") => Self::McpList,
                Some("tools/call") => Self::McpCall,
                _ => Self::Mcp,
            },
            _ if path.starts_with("/v1/models") => Self::Models,
            _ if path.starts_with("/v1/") => Self::Model,
            _ if path.starts_with("/magicLink/") => Self::Consent,
            _ => return None,
        };
        Some(group)
    }

    /// Whether its requests are messages to an MCP server, and answered in that protocol's form.
    pub(super) fn is_mcp(self) -> bool {
        matches!(self, Self::McpList | Self::McpCall | Self::Mcp)
    }
}
