//! The tools of a user on a connection: from this process's memory, else from the cache that all workers share, else
//! from Scalekit. A cache that fails is a miss and a warning, never a failed job.
//!
//! Most users of a connection have the same tools. What stands under a user's key is the name of a list, which is the
//! digest of its bytes; the list itself is stored once for all who have it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::single_flight::SingleFlight;
use crate::agent::effect::{Effect, effect_by_name};
use crate::agent::event::PinnedTool;
use crate::agent::tool::Tool;
use crate::cache::{Cache, CacheError};
use crate::job::{ConnectionName, Identifier, OfferedEffects};
use crate::key::{Key, digest};
use crate::metrics::Metrics;
use crate::retry::spread;
use crate::scalekit::{self, Scalekit};

/// Form of the cached value: with the list itself, as earlier workers write it, or with its name. Another one is a miss,
/// as to them is the one that they do not know.
const WHOLE: u32 = 1;
const NAMED: u32 = 2;
/// Bytes of a list's name.
const NAME_BYTES: usize = 32;
/// How much longer than it should a list stays in the shared cache at most.
const SPREAD: f64 = 0.1;

/// Rules for tools and their cache.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
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
    /// Tools that no job may use, whatever it asks for; nor one that has begun.
    pub deny: BTreeSet<String>,
    /// The most that any job's tools may do.
    pub effects_ceiling: OfferedEffects,
    /// Connections whose tools do as little as they say of themselves; of others it is believed where they say more.
    pub trusted_hints: BTreeSet<ConnectionName>,
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
            effects_ceiling: OfferedEffects::All,
            trusted_hints: BTreeSet::new(),
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tools: Option<Vec<Tool>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    list: Option<String>,
}

/// A list as runs share it, with the operator's word on what its tools do.
pub(crate) type List = Arc<[Arc<Tool>]>;

/// The tool lists of all users that this worker has seen lately.
pub struct ToolCatalog {
    config: RwLock<Arc<Config>>,
    scalekit: Arc<Scalekit>,
    cache: Arc<dyn Cache>,
    recent: moka::future::Cache<Key, List>,
    /// By name, so that users who have the same list share it here, too.
    lists: moka::future::Cache<String, List>,
    metrics: Arc<Metrics>,
}

impl ToolCatalog {
    /// A catalog without any list.
    pub fn new(config: Config, scalekit: Arc<Scalekit>, cache: Arc<dyn Cache>, metrics: Arc<Metrics>) -> Self {
        let recent = moka::future::Cache::builder()
            .max_capacity(config.memory_lists)
            .time_to_live(Duration::from_secs(config.memory_seconds))
            .build();
        let lists = moka::future::Cache::builder()
            .max_capacity(config.memory_lists)
            .time_to_idle(Duration::from_secs(config.cache_seconds))
            .build();
        Self { config: RwLock::new(Arc::new(config)), scalekit, cache, recent, lists, metrics }
    }

    /// The operator's rules.
    pub fn config(&self) -> Arc<Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Other rules from now on, for runs under way as well. How long lists are kept stays as it was.
    pub fn reload(&self, config: Config) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        self.recent.invalidate_all();
        self.lists.invalidate_all();
    }

    /// Whether the operator forbids the tool, pinned as it may be.
    pub fn forbids(&self, tool: &PinnedTool) -> bool {
        let config = self.config();
        config.deny.contains(&tool.name) || !config.effects_ceiling.allows(tool.effect)
    }

    /// All tools of `identifier` on `connection`, never an empty list, and where it was found. However many ask at once,
    /// one of them loads.
    pub async fn list(
        &self,
        identifier: &Identifier,
        connection: &ConnectionName,
    ) -> Result<(List, FoundIn), ToolCatalogError> {
        let key = key(identifier, connection);
        let mut source = FoundIn::Process;
        let load = async {
            let (tools, found) = self.load(&key, identifier, connection).await?;
            source = found;
            Ok(tools)
        };
        let tools = self
            .recent
            .try_get_with(key.clone(), load)
            .await
            .map_err(|error: Arc<ToolCatalogError>| (*error).clone())?;
        self.metrics.tools_found(source.as_str());
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
    ) -> Result<(List, FoundIn), ToolCatalogError> {
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
            let tools = definitions.iter().filter_map(|scoped| Tool::from_definition(&scoped.definition, connection));
            tools.collect::<Vec<_>>()
        });
        let result = match tools {
            Ok(tools) if tools.is_empty() => Err(ToolCatalogError::Empty),
            Ok(tools) => Ok((self.store(key, tools).await, FoundIn::Scalekit)),
            Err(error) => Err(ToolCatalogError::Scalekit(Arc::new(error))),
        };
        flight.finish(&*self.cache).await;
        result
    }

    async fn cached(&self, key: &Key) -> Result<Option<List>, CacheError> {
        let cached = async {
            let Some(value) = self.cache.get(key).await? else { return Ok(None) };
            match serde_json::from_slice(&value) {
                Ok(Cached { version: WHOLE, tools: Some(tools), .. }) if !tools.is_empty() => {
                    Ok(Some(self.as_configured(tools)))
                }
                Ok(Cached { version: NAMED, list: Some(name), .. }) => self.named(name).await,
                _ => Ok(None),
            }
        };
        cached.await.inspect_err(|error| warn!(%error, "tool lists are not cached"))
    }

    /// The list of that name; one that says something else than it did is none.
    async fn named(&self, name: String) -> Result<Option<List>, CacheError> {
        if let Some(tools) = self.lists.get(&name).await {
            return Ok(Some(tools));
        }
        let Some(value) = self.cache.get(&list_key(&name)).await? else { return Ok(None) };
        match serde_json::from_slice::<Vec<Tool>>(&value) {
            Ok(tools) if digest(&value, NAME_BYTES) == name => Ok(Some(self.shared(name, tools).await)),
            _ => Ok(None),
        }
    }

    /// The list of that name, in one copy for all who have it.
    async fn shared(&self, name: String, tools: Vec<Tool>) -> List {
        self.lists.get_with(name, async { self.as_configured(tools) }).await
    }

    /// The cache holds what Scalekit says of a tool: workers of another configuration share it. Earlier versions believed its
    /// hints, and wrote them as its effect.
    fn as_configured(&self, tools: Vec<Tool>) -> List {
        let config = self.config();
        let configured = |tool: Tool| {
            let effect = match config.effects.get(&tool.name) {
                Some(effect) => *effect,
                None if config.trusted_hints.contains(&tool.connection) => tool.hinted.unwrap_or(tool.effect),
                None => tool.effect.max(effect_by_name(&tool.name)),
            };
            Arc::new(Tool { effect, hinted: None, ..tool })
        };
        tools.into_iter().filter(is_affordable).map(configured).collect()
    }

    /// First the list, then its name. The list stays for as long as any name of it could: whoever else names it only puts
    /// off its end.
    async fn store(&self, key: &Key, tools: Vec<Tool>) -> List {
        let list = serde_json::to_vec(&tools).expect("tools are JSON types only");
        let name = digest(&list, NAME_BYTES);
        let cached = Cached { version: NAMED, tools: None, list: Some(name.clone()) };
        let cached = serde_json::to_vec(&cached).expect("a name is a JSON type");
        let ttl = Duration::from_secs(self.config().cache_seconds);
        let stored = async {
            self.cache.put(&list_key(&name), list.into(), ttl.mul_f64(1.0 + SPREAD)).await?;
            self.cache.put(key, cached.into(), spread(ttl, key.as_str())).await
        };
        if let Err(error) = stored.await {
            warn!(%error, "a tool list could not be cached");
        }
        self.shared(name, tools).await
    }
}

/// A tool whose schema would take too much is offered to nobody.
fn is_affordable(tool: &Tool) -> bool {
    match tool.check_schema() {
        Ok(()) => true,
        Err(error) => {
            warn!(tool = tool.name, connection = %tool.connection, %error, "the tool is left out for its schema");
            false
        }
    }
}

fn list_key(name: &str) -> Key {
    Key::new(&["toollist", name])
}

fn key(identifier: &Identifier, connection: &ConnectionName) -> Key {
    Key::new(&["tools", identifier.as_str(), connection.as_str()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_an_earlier_worker_a_name_is_a_miss() {
        #[derive(Deserialize)]
        #[expect(dead_code, reason = "only its form counts")]
        struct EarlierCached {
            version: u32,
            tools: Vec<Tool>,
        }
        let named = Cached { version: NAMED, tools: None, list: Some("name".to_owned()) };
        assert!(serde_json::from_slice::<EarlierCached>(&serde_json::to_vec(&named).unwrap()).is_err());
    }
}
