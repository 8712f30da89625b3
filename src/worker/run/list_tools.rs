//! Finding the tools that a run may use, pinning them, and offering them to the model.

use std::sync::Arc;

use tracing::{debug, warn};

use super::Attempt;
use super::interruption::Interruption;
use super::searchable::Searchable;
use crate::agent::event::{Event, PinnedTool};
use crate::agent::selection::{Selected, keep_most_relevant, searchable, select};
use crate::agent::tool::Tool;
use crate::job::{ConnectionName, Identifier};
use crate::reply::{ErrorCode, ErrorDetail};
use crate::worker::resources::offers::Offer;
use crate::worker::resources::tool_catalog::{FoundIn, ToolCatalogError};
use crate::worker::resources::tool_source::ToolUser;

impl Attempt<'_> {
    /// Finds the run's tools and pins them.
    pub(super) async fn list_tools(&mut self) -> Result<(), Interruption> {
        self.progress("tools", None);
        let Some(listed) = self.all_tools().await? else { return Ok(()) };
        let executor = self.executor;
        let (job, profile) = (self.run().job(), executor.llm.profile(self.run().model()));
        let rules = executor.tool_catalog.config();
        let (deny, ceiling) = (&rules.deny, rules.effects_ceiling);
        let selected = select(listed, &job.tools, deny, ceiling, &job.prompt, profile.tool_cap);
        let searches = selected.finds > 0;
        if selected.tools.is_empty() {
            return self.fail(nothing_allowed(&selected)).await;
        }
        if selected.left_out > 0 {
            warn!(
                tools = selected.tools.len(),
                left_out = selected.left_out,
                searches,
                "more tools than the model takes"
            );
        }
        debug!(tools = selected.tools.len(), "tools listed");
        let offer = executor.offers.of(&profile, selected.tools, searches).await;
        let (tools, left_out, finds) = (offer.pinned.clone(), selected.left_out, selected.finds);
        self.leased.note(vec![Event::ToolsListed { tools, left_out, finds }])?;
        self.offer = Some(offer);
        self.searchable = searches.then(|| Searchable::new(selected.searchable));
        Ok(())
    }

    /// All tools of all connections, or `None` where the run has come to its end for want of them.
    async fn all_tools(&mut self) -> Result<Option<Vec<Arc<Tool>>>, Interruption> {
        let (identifier, run_id) = (self.run().job().identifier.clone(), self.run().job().id());
        let (run, reads_only) = (run_id.unique(), self.reads_only());
        let user = ToolUser { identifier: &identifier, run: &run, reads_only };
        let mut all = Vec::new();
        for connection in self.run().job().connections.clone() {
            match self.executor.tool_catalog.list(user, &connection).await {
                Ok((tools, source)) => {
                    let source = FoundIn::as_str(source);
                    debug!(%connection, tools = tools.len(), source, "tool list");
                    all.extend(tools.iter().cloned());
                }
                Err(ToolCatalogError::Empty) => {
                    self.fail(empty_list(&connection, &identifier)).await?;
                    return Ok(None);
                }
                Err(ToolCatalogError::Source(error)) => {
                    match Box::pin(self.account_trouble(&[(connection.clone(), &error)])).await? {
                        true => return Ok(None),
                        false => return Err(Interruption::of_source(&connection, &error)),
                    }
                }
            }
        }
        Ok(Some(all))
    }

    /// The pinned tools with their definitions; found again after a change of worker, and after the model found more.
    pub(super) async fn offer(&mut self) -> Result<Option<&Arc<Offer>>, Interruption> {
        if self.offer.is_none() {
            let searches = self.run().search().is_some();
            if searches && self.searchable.is_none() {
                let Some(listed) = self.all_tools().await? else { return Ok(None) };
                let (rules, allowed) = (self.executor.tool_catalog.config(), &self.run().job().tools);
                let tools = searchable(listed, allowed, &rules.deny, rules.effects_ceiling);
                self.searchable = Some(Searchable::new(tools));
            }
            let listed = match &self.searchable {
                Some(searchable) => searchable.tools(),
                None => match self.all_tools().await? {
                    Some(listed) => listed.into(),
                    None => return Ok(None),
                },
            };
            let pinned = self.run().pinned();
            let catalog = &self.executor.tool_catalog;
            let defined = |pinned: &[PinnedTool]| -> Vec<Arc<Tool>> {
                let allowed = pinned.iter().filter(|pinned| !catalog.forbids(pinned));
                allowed.filter_map(|pinned| define(pinned, &listed)).collect()
            };
            let (first, found) = pinned.split_at(self.run().search().map_or(pinned.len(), |room| room.first));
            let (mut tools, mut finds) = (defined(first), defined(found));
            if tools.len() + finds.len() < pinned.len() {
                let missing = pinned.len() - tools.len() - finds.len();
                warn!(missing, "pinned tools are gone, or forbidden now");
            }
            let profile = self.executor.llm.profile(self.run().model());
            // The latest finds are what the model works with: they stay where another one takes fewer tools.
            let cap = profile.tool_cap.saturating_sub(usize::from(searches));
            let finds = finds.split_off(finds.len().saturating_sub(cap));
            let left_out = keep_most_relevant(&mut tools, &self.run().job().prompt, cap - finds.len());
            if left_out > 0 {
                warn!(tools = tools.len(), left_out, "more tools than the model takes");
            }
            tools.extend(finds);
            self.offer = Some(self.executor.offers.of(&profile, tools, searches).await);
        }
        Ok(self.offer.as_ref())
    }
}

fn define(pinned: &PinnedTool, listed: &[Arc<Tool>]) -> Option<Arc<Tool>> {
    let tool = listed.iter().find(|tool| tool.name == pinned.name && tool.connection == pinned.connection)?;
    if (tool.effect, &tool.model_name) == (pinned.effect, &pinned.model_name) {
        return Some(tool.clone());
    }
    // What is known of it now may be worse than what was believed then.
    let (model_name, effect) = (pinned.model_name.clone(), pinned.effect.max(tool.effect));
    Some(Arc::new(Tool { model_name, effect, ..Tool::clone(tool) }))
}

fn empty_list(connection: &ConnectionName, identifier: &Identifier) -> ErrorDetail {
    if connection.mcp_server().is_some() {
        let text = format!("the MCP server of connection `{connection}` lists no tools for `{identifier}`");
        let hint = "check the server, and what the headers of its section in the configuration let the worker see";
        return ErrorDetail::new(ErrorCode::NoTools, text).hint(hint).connection(connection.as_str());
    }
    ErrorDetail::new(
        ErrorCode::NoTools,
        format!("connection `{connection}` lists no tools for `{identifier}`, although its account is ACTIVE"),
    )
    .hint("check under AgentKit > Connections that this connection has tools; the account itself is connected")
    .connection(connection.as_str())
}

fn nothing_allowed(selected: &Selected) -> ErrorDetail {
    if selected.offered == 0 {
        let text = "all of the user's tools were left out, as checking calls by their schemas would take too much";
        return ErrorDetail::new(ErrorCode::NoTools, text)
            .hint("the log names each tool and what is wrong with its schema; whoever defines the tools must mend it");
    }
    ErrorDetail::new(
        ErrorCode::NoTools,
        format!(
            "none of the user's {} tools is allowed by the job's `tools` and the operator's rules",
            selected.offered
        ),
    )
    .hint("correct `tools.allow`, `tools.deny` and `tools.effects`, or the operator's `tools.effects_ceiling`; `agentkit-worker tools` lists the names")
}
