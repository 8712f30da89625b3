//! The tools of a user on a connection: from this process's memory, else from the cache that all workers share, else
//! from Scalekit. A cache that fails is a miss and a warning, never a failed job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::single_flight::SingleFlight;
use crate::agent::effect::Effect;
use crate::agent::tool::Tool;
use crate::cache::{Cache, CacheError};
use crate::job::{ConnectionName, Identifier};
use crate::key::Key;
use crate::metrics::Metrics;
use crate::retry::spread;
use crate::scalekit::{self, Scalekit};

/// Form of the cached value; another one is a miss.
const VERSION: u32 = 1;

/// Rules for tools and their cache.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Seconds for which a list stays in the shared cache, give or take a tenth.
    pub cache_seconds: u64,
    /// Seconds for which a list stays in the process's own memory.
    pub memory_seconds: u64,
    /// Lists kept in the process's own memory at most.
    pub memory_lists: u64,
    /// Whether Scalekit's tool-call logs (preview) are asked what became of a call in doubt.
    pub settle_by_logs: bool,
    /// Tools that no job may use, whatever it asks for.
    pub deny: BTreeSet<String>,
    /// What a tool does to the world (`read`, `idempotent`, `write`), where its definition does not say it right.
    pub effects: BTreeMap<String, Effect>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cache_seconds: 600,
            memory_seconds: 30,
            memory_lists: 10_000,
            settle_by_logs: false,
            deny: BTreeSet::new(),
            effects: BTreeMap::new(),
        }
    }
}

/// Where a list was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundIn {
    Process,
    /// In the cache that all workers share.
    Shared,
    Scalekit,
}

impl FoundIn {
    /// As in metrics and listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Shared => "redis",
            Self::Scalekit => "scalekit",
        }
    }
}

/// Why there is no list.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ToolCatalogError {
    /// Scalekit lists no tools for this user on this connection.
    #[error("the tool list is empty")]
    Empty,
    /// Scalekit did not give the list.
    #[error(transparent)]
    Scalekit(Arc<scalekit::Error>),
}

#[derive(Serialize, Deserialize)]
struct Cached {
    version: u32,
    tools: Vec<Tool>,
}

/// The tool lists of all users that this worker has seen lately.
pub struct ToolCatalog {
    config: Config,
    scalekit: Arc<Scalekit>,
    cache: Arc<dyn Cache>,
    recent: moka::future::Cache<Key, Arc<Vec<Tool>>>,
    metrics: Arc<Metrics>,
}

impl ToolCatalog {
    /// A catalog without any list.
    pub fn new(config: Config, scalekit: Arc<Scalekit>, cache: Arc<dyn Cache>, metrics: Arc<Metrics>) -> Self {
        let recent = moka::future::Cache::builder()
            .max_capacity(config.memory_lists)
            .time_to_live(Duration::from_secs(config.memory_seconds))
            .build();
        Self { config, scalekit, cache, recent, metrics }
    }

    /// The operator's rules.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// All tools of `identifier` on `connection`, never an empty list, and where it was found. However many ask at once,
    /// one of them loads.
    pub async fn list(
        &self,
        identifier: &Identifier,
        connection: &ConnectionName,
    ) -> Result<(Vec<Tool>, FoundIn), ToolCatalogError> {
        let key = key(identifier, connection);
        let mut source = FoundIn::Process;
        let load = async {
            let (tools, found) = self.load(&key, identifier, connection).await?;
            source = found;
            Ok(Arc::new(tools))
        };
        let tools = self
            .recent
            .try_get_with(key.clone(), load)
            .await
            .map_err(|error: Arc<ToolCatalogError>| (*error).clone())?;
        self.metrics.tools_found(source.as_str());
        let mut tools = (*tools).clone();
        for tool in &mut tools {
            if let Some(effect) = self.config.effects.get(&tool.name) {
                tool.effect = *effect;
            }
        }
        Ok((tools, source))
    }

    /// Forgets a list, so that the next look-up asks Scalekit.
    pub async fn forget(&self, identifier: &Identifier, connection: &ConnectionName) {
        let key = key(identifier, connection);
        self.recent.invalidate(&key).await;
        if let Err(error) = self.cache.remove(&key).await {
            warn!(%error, "a tool list could not be removed from the cache");
        }
    }

    async fn load(
        &self,
        key: &Key,
        identifier: &Identifier,
        connection: &ConnectionName,
    ) -> Result<(Vec<Tool>, FoundIn), ToolCatalogError> {
        let cached = self.cached(key).await;
        if let Ok(Some(tools)) = cached {
            return Ok((tools, FoundIn::Shared));
        }
        // Without the cache there is nobody to agree with.
        let flight = match cached {
            Ok(_) => SingleFlight::join(&*self.cache, key, || self.cached(key)).await,
            Err(_) => SingleFlight::Leader(None),
        };
        if let SingleFlight::Follower(tools) = flight {
            return Ok((tools, FoundIn::Shared));
        }
        let definitions = self.scalekit.scoped_tools(identifier, connection).await;
        let tools = definitions.map(|definitions| {
            let none = BTreeMap::new();
            let tools =
                definitions.iter().filter_map(|scoped| Tool::from_definition(&scoped.definition, connection, &none));
            tools.collect::<Vec<_>>()
        });
        if let Ok(tools) = &tools
            && !tools.is_empty()
        {
            self.store(key, tools).await;
        }
        flight.finish(&*self.cache).await;
        match tools {
            Ok(tools) if tools.is_empty() => Err(ToolCatalogError::Empty),
            Ok(tools) => Ok((tools, FoundIn::Scalekit)),
            Err(error) => Err(ToolCatalogError::Scalekit(Arc::new(error))),
        }
    }

    async fn cached(&self, key: &Key) -> Result<Option<Vec<Tool>>, CacheError> {
        match self.cache.get(key).await {
            Ok(None) => Ok(None),
            Ok(Some(value)) => match serde_json::from_slice(&value) {
                Ok(Cached { version: VERSION, tools }) if !tools.is_empty() => Ok(Some(tools)),
                _ => Ok(None),
            },
            Err(error) => {
                warn!(%error, "tool lists are not cached");
                Err(error)
            }
        }
    }

    async fn store(&self, key: &Key, tools: &[Tool]) {
        let value = Cached { version: VERSION, tools: tools.to_vec() };
        let value = serde_json::to_vec(&value).expect("tools are JSON types only");
        let ttl = spread(Duration::from_secs(self.config.cache_seconds), key.as_str());
        if let Err(error) = self.cache.put(key, value.into(), ttl).await {
            warn!(%error, "a tool list could not be cached");
        }
    }
}

fn key(identifier: &Identifier, connection: &ConnectionName) -> Key {
    Key::new(&["tools", identifier.as_str(), connection.as_str()])
}
