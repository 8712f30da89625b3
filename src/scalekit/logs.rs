//! What Scalekit wrote down of a run's tool calls. A preview endpoint: it may be absent, and a missing row proves nothing,
//! as nobody says how soon rows are written.

use serde_json::{Map, Value};

use super::{Error, Operation, Scalekit, text};

/// A tool call that Scalekit wrote down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCallLog {
    /// The tool's name.
    pub tool: String,
    /// The connection that ran it.
    pub connection: Option<String>,
    /// Whether it succeeded, and who failed where it did not.
    pub status: LogStatus,
    /// Scalekit's id of this run of the tool.
    pub execution_id: Option<String>,
    /// What was said of a failure.
    pub error: Option<String>,
    /// When it began (RFC 3339).
    pub started_at: Option<String>,
}

/// How a tool call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogStatus {
    /// The provider took the call and answered it.
    Success,
    /// The provider failed or refused.
    ProviderError,
    /// Scalekit failed.
    PlatformError,
    /// A word we do not know.
    Other(String),
}

impl Scalekit {
    /// The tool calls of a run (`agent_run_id`), or `None` where this Scalekit keeps no such logs.
    pub async fn tool_call_logs(&self, run_id: &str) -> Result<Option<Vec<ToolCallLog>>, Error> {
        let query = [("agent_run_id", run_id), ("page_size", "100")];
        match self.pages(Operation::Logs, "/api/v1/agentkit/tool_call_logs", &query, "tool_call_logs").await {
            Ok(rows) => Ok(Some(rows.iter().filter_map(Value::as_object).filter_map(read).collect())),
            Err(error) if matches!(error.details().status, Some(404 | 501)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn read(row: &Map<String, Value>) -> Option<ToolCallLog> {
    let status = match text(row, "status")?.as_str() {
        "success" => LogStatus::Success,
        "provider_error" => LogStatus::ProviderError,
        "platform_error" => LogStatus::PlatformError,
        other => LogStatus::Other(other.to_owned()),
    };
    Some(ToolCallLog {
        tool: text(row, "tool_name")?,
        connection: text(row, "connection_name"),
        status,
        execution_id: text(row, "execution_id"),
        error: text(row, "error_message").map(|message| crate::http::excerpt(message.as_bytes())),
        started_at: text(row, "started_at"),
    })
}
