//! MCP servers as sources of tools.

mod config;

pub use self::config::{HintTrust, McpConfig};
