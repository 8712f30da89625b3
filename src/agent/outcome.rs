//! What came of a tool call.

use serde::{Deserialize, Serialize};

/// The one outcome of a tool call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolOutcome {
    /// It ran, and this is the result as the model sees it.
    Done {
        /// The result, cut to size.
        content: String,
        /// Scalekit's id of the execution.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        execution_id: Option<String>,
    },
    /// It ran and failed, or was refused on the other side; nothing was done.
    Failed {
        /// What the model is told.
        message: String,
        /// Scalekit's id of the execution.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        execution_id: Option<String>,
    },
    /// It may have run. Only writes end so.
    Unknown {
        /// Why no answer is known, in a sentence that reads on in the reply.
        message: String,
        /// Scalekit's id of the execution.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        execution_id: Option<String>,
    },
}
