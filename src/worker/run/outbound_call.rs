//! A tool call on its way, and how it ended.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::agent::event::{PinnedTool, ToolOutcome};
use crate::job::{Identifier, JobId};
use crate::worker::resources::tool_error::ToolError;

/// One call with all that it needs; borrows nothing of the run, so that several can be under way.
pub(super) struct OutboundCall {
    /// The model's id of it.
    pub(super) call_id: String,
    pub(super) tool: PinnedTool,
    /// Checked against the tool's schema.
    pub(super) arguments: Map<String, Value>,
    /// Whose account runs it.
    pub(super) identifier: Identifier,
    pub(super) run_id: JobId,
    /// Whether its run may not change anything.
    pub(super) reads_only: bool,
    /// What is left of the run's time.
    pub(super) left: Duration,
    /// Bytes of its result that the model sees.
    pub(super) result_bytes: usize,
    /// See [`crate::agent::run::Run::known_executions`].
    pub(super) known_executions: Option<Vec<String>>,
}

/// How a call ended that was sent as often as it may be.
pub(super) enum CallEnd {
    Outcome(ToolOutcome),
    /// It did not run and can be made again, once what hinders it has passed.
    NotRun(ToolError),
}

impl CallEnd {
    /// As in logs and metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Outcome(ToolOutcome::Done { .. }) => "done",
            Self::Outcome(ToolOutcome::Failed { .. }) => "failed",
            Self::Outcome(ToolOutcome::Unknown { .. }) => "unknown",
            Self::NotRun(_) => "not_run",
        }
    }
}
