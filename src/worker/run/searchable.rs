//! The model's searches for further tools: nothing leaves for them, and they need no account.

use std::sync::Arc;

use tracing::{debug, warn};

use super::Attempt;
use crate::agent::event::Plan;
use crate::agent::message::AssistantMessage;
use crate::agent::search::{SEARCH_TOOLS, ToolIndex};
use crate::agent::tool::Tool;

/// All tools that a run may find; their index is made at the first search.
pub(super) struct Searchable {
    tools: Arc<[Arc<Tool>]>,
    index: Option<Arc<ToolIndex>>,
}

impl Searchable {
    pub(super) fn new(tools: Vec<Arc<Tool>>) -> Self {
        Self { tools: tools.into(), index: None }
    }

    pub(super) fn tools(&self) -> Arc<[Arc<Tool>]> {
        self.tools.clone()
    }
}

impl Attempt<'_> {
    /// What searches look in, where the model has searched and may.
    pub(super) async fn index_for(&mut self, message: &AssistantMessage) -> Option<Arc<ToolIndex>> {
        let searchable = self.searchable.as_mut()?;
        if !message.calls.iter().any(|call| call.name == SEARCH_TOOLS) {
            return None;
        }
        if searchable.index.is_none() {
            let tools = searchable.tools();
            // Thousands of tools with the texts of others take a while.
            match tokio::task::spawn_blocking(move || ToolIndex::new(tools)).await {
                Ok(index) => searchable.index = Some(Arc::new(index)),
                Err(error) => warn!(%error, "the tools cannot be searched"),
            }
        }
        searchable.index.clone()
    }

    /// Counts the searches among `plans`; what they found is offered with the next request.
    pub(super) fn searched(&mut self, plans: &[Plan]) {
        let finds = |plan: &Plan| match plan {
            Plan::Search { found, .. } => Some(found.len()),
            _ => None,
        };
        for found in plans.iter().filter_map(finds) {
            debug!(found, "search for tools");
            self.executor.metrics.tool_called(SEARCH_TOOLS, "read", "done", 0.0);
            if found > 0 {
                self.offer = None;
            }
        }
    }
}
