//! Where a connection's tools come from.

use schemars::JsonSchema;
use serde::Deserialize;

/// How one of Scalekit's connections is reached, `[connections.NAME]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionConfig {
    /// By which of Scalekit's doors.
    pub source: ScalekitDoor,
}

/// By which door Scalekit's tools are listed and run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScalekitDoor {
    /// REST, with the environment's credentials.
    #[default]
    Scalekit,
    /// The connection's MCP server, with a token for one user and one run, which may not write where the run may not.
    ScalekitMcp,
}
