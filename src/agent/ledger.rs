//! What a run has called.

use super::effect::Effect;
use super::event::PinnedTool;
use crate::reply::EffectState;

/// A tool call that started, for the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerEntry {
    /// The model's id of the call.
    pub call_id: String,
    /// Name, connection and effect, as pinned when the run listed its tools.
    pub tool: PinnedTool,
    /// The first four plain arguments, such as `to: ann@example.com, subject: Hi`, each shortened to 60 characters.
    pub summary: String,
    /// What is known; a call that is still out counts as unknown.
    pub state: EffectState,
    /// Scalekit's id of the execution.
    pub execution_id: Option<String>,
    /// Whether its outcome is still awaited.
    pub(super) open: bool,
}

impl LedgerEntry {
    /// Whether it is more than reading.
    pub(super) fn is_effect(&self) -> bool {
        self.tool.effect != Effect::Read
    }
}
