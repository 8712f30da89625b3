//! An effect of which a person said what became of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::reply::Settlement;

/// What a person said of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettledEffect {
    /// The model's id of the call.
    pub call_id: String,
    /// What became of it.
    pub settlement: Settlement,
    /// Who said so.
    pub by: String,
}

/// The same, as the run keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeptSettlement {
    pub(super) said: SettledEffect,
    pub(super) at: Timestamp,
    /// Whether the caller was told.
    pub(super) told: bool,
}
