//! How a tool ends.

use serde_json::Value;

pub(super) type Outcome = Result<Value, ProviderError>;

/// A refusal by the service behind a tool.
#[derive(Debug, Clone)]
pub(in crate::sandbox) struct ProviderError {
    pub(in crate::sandbox) status: u16,
    pub(in crate::sandbox) code: &'static str,
    pub(in crate::sandbox) message: String,
}

impl ProviderError {
    pub(in crate::sandbox) fn bad_parameters(message: String) -> Self {
        Self { status: 400, code: "TOOL_EXEC_FAILED", message }
    }

    pub(super) fn not_found() -> Self {
        Self { status: 404, code: "NOT_FOUND", message: "the requested entity was not found".to_owned() }
    }

    pub(super) fn not_built(tool: &str) -> Self {
        Self { status: 500, code: "TOOL_EXEC_FAILED", message: format!("the sandbox has no {tool}") }
    }
}
