//! A tool as a run sees it: its name on both sides, whose connection runs it, and what it does to the world.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::effect::Effect;
use crate::job::ConnectionName;

/// A tool that a user may use through one connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tool {
    /// The name at Scalekit, up to 100 characters.
    pub name: String,
    /// The name a model accepts: 1 to 64 of `[A-Za-z0-9_-]`, unique within the run.
    pub model_name: String,
    /// The connection that runs it. Always the job's, never the model's word.
    pub connection: ConnectionName,
    /// What it does to the world.
    pub effect: Effect,
    /// What the model reads about it.
    pub description: String,
    /// JSON Schema of the arguments as the model sees it, already printed: an object schema with `properties`, without
    /// `schema_version` and `tool_version`.
    pub parameters: Arc<RawValue>,
}
