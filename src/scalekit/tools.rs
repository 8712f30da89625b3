//! The tools a user can run through one connection.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Error, Operation, Scalekit, text};
use crate::job::{ConnectionName, Identifier};

/// A tool of a user's account.
#[derive(Debug, Clone, PartialEq)]
pub struct ScopedTool {
    /// `{name, description?, input_schema?, annotations?, …}`; only `name` is certain, and not empty.
    pub definition: Value,
    /// The account that runs it (`ca_…`).
    pub connected_account_id: Option<String>,
}

impl ScopedTool {
    /// The tool's name at Scalekit.
    pub fn name(&self) -> &str {
        self.definition.get("name").and_then(Value::as_str).unwrap_or_default()
    }
}

impl Scalekit {
    /// All tools of `identifier` through `connection`, in Scalekit's order, each name once. Scalekit gives ten unless
    /// asked for more, and refuses the call without a filter.
    pub async fn scoped_tools(
        &self,
        identifier: &Identifier,
        connection: &ConnectionName,
    ) -> Result<Vec<ScopedTool>, Error> {
        let page_size = self.config.page_size.to_string();
        let query = [
            ("identifier", identifier.as_str()),
            ("filter.connection_names", connection.as_str()),
            ("page_size", &page_size),
        ];
        let items = self.pages(Operation::ScopedTools, "/api/v1/tools/scoped", &query, "tools").await?;
        let listed = items.len();
        let mut names = BTreeSet::new();
        let tools: Vec<_> = items.into_iter().filter_map(read).collect();
        let nameless = listed - tools.len();
        if nameless > 0 {
            tracing::warn!(connection = connection.as_str(), nameless, "tools without a name are left out");
        }
        Ok(tools.into_iter().filter(|tool| names.insert(tool.name().to_owned())).collect())
    }
}

fn read(mut item: Value) -> Option<ScopedTool> {
    let definition = item.get_mut("tool")?.get_mut("definition")?.take();
    definition.get("name").and_then(Value::as_str).filter(|name| !name.is_empty())?;
    let connected_account_id = text(item.as_object()?, "connected_account_id");
    Some(ScopedTool { definition, connected_account_id })
}
