//! The tools of a user on a connection: from this process's memory, else from the cache that all workers share, else
//! from their source. A cache that fails is a miss and a warning, never a failed job.
//!
//! Most users of a connection have the same tools. What stands under a user's key is the name of a list, which is the
//! digest of its bytes; the list itself is stored once for all who have it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::warn;

use super::single_flight::SingleFlight;
use super::tool_error::ToolError;
use super::tool_source::{ListKeys, SourceList, ToolSources, ToolUser};
use crate::agent::effect::{Effect, effect_by_name};
use crate::agent::event::PinnedTool;
use crate::agent::tool::{Tool, is_named, rule_for};
use crate::cache::{Cache, CacheError};
use crate::job::{ConnectionName, Identifier, OfferedEffects};
use crate::key::{Key, digest};
use crate::metrics::Metrics;
use crate::retry::spread;

/// Form of the cached value: with the list itself, as earlier workers write it, or with its name. Another one is a miss,
/// as to them is the one that they do not know.
const WHOLE: u32 = 1;
const NAMED: u32 = 2;
/// Bytes of a list's name.
const NAME_BYTES: usize = 32;
/// How much longer than it should a list stays in the shared cache at most.
const SPREAD: f64 = 0.1;
/// What may be kept for less is not shared.
const SHORTEST: Duration = Duration::from_secs(1);

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
    /// An MCP server.
    Server,
}

impl FoundIn {
    /// As in metrics and listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Shared => "redis",
            Self::Scalekit => "scalekit",
            Self::Server => "mcp",
        }
    }
}

/// Why there is no list.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ToolCatalogError {
    /// There are no tools for this user on this connection.
    #[error("the tool list is empty")]
    Empty,
    /// Their source did not give the list.
    #[error(transparent)]
    Source(Arc<ToolError>),
}

#[derive(Serialize, Deserialize)]
struct Cached {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tools: Option<Vec<Tool>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    list: Option<String>,
    /// How long the source lets it be kept, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keep_milliseconds: Option<u64>,
}

/// A list as runs share it, with the operator's word on what its tools do.
pub(crate) type List = Arc<[Arc<Tool>]>;

/// A list in the process's own memory.
#[derive(Clone)]
struct Recent {
    tools: List,
    /// When it may not be used any more, where its source says so.
    ends_at: Option<Instant>,
}

impl Recent {
    fn new(tools: List, keep: Option<Duration>) -> Self {
        Self { tools, ends_at: keep.and_then(|keep| Instant::now().checked_add(keep)) }
    }

    fn is_over(&self) -> bool {
        self.ends_at.is_some_and(|end| end <= Instant::now())
    }
}

/// The tool lists of all users that this worker has seen lately.
pub struct ToolCatalog {
    config: RwLock<Arc<Config>>,
    sources: Arc<ToolSources>,
    cache: Arc<dyn Cache>,
    recent: moka::future::Cache<Key, Recent>,
    /// By name, so that users who have the same list share it here, too.
    lists: moka::future::Cache<String, List>,
    metrics: Arc<Metrics>,
}

impl ToolCatalog {
    /// A catalog without any list.
    pub fn new(config: Config, sources: Arc<ToolSources>, cache: Arc<dyn Cache>, metrics: Arc<Metrics>) -> Self {
        let recent = moka::future::Cache::builder()
            .max_capacity(config.memory_lists)
            .time_to_live(Duration::from_secs(config.memory_seconds))
            .build();
        let lists = moka::future::Cache::builder()
            .max_capacity(config.memory_lists)
            .time_to_idle(Duration::from_secs(config.cache_seconds))
            .build();
        Self { config: RwLock::new(Arc::new(config)), sources, cache, recent, lists, metrics }
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
        is_named(&config.deny, &tool.name, &tool.connection) || !config.effects_ceiling.allows(tool.effect)
    }

    /// All tools of `user` on `connection`, never an empty list, and where it was found. However many ask at once, one of them
    /// loads.
    pub async fn list(
        &self,
        user: ToolUser<'_>,
        connection: &ConnectionName,
    ) -> Result<(List, FoundIn), ToolCatalogError> {
        let keys = self.sources.list_keys(user, connection);
        let mut source = FoundIn::Process;
        if self.recent.get(&keys.own).await.is_some_and(|recent| recent.is_over()) {
            self.recent.invalidate(&keys.own).await;
        }
        let load = async {
            let (recent, found) = self.load(&keys, user, connection).await?;
            source = found;
            Ok(recent)
        };
        let recent = self
            .recent
            .try_get_with(keys.own.clone(), load)
            .await
            .map_err(|error: Arc<ToolCatalogError>| (*error).clone())?;
        self.metrics.tools_found(source.as_str());
        Ok((recent.tools, source))
    }

    /// Forgets the lists of a user on a connection, so that the next look-up asks their source.
    pub async fn forget(&self, identifier: &Identifier, connection: &ConnectionName) {
        let of = |reads_only| self.sources.list_keys(ToolUser { identifier, run: "", reads_only }, connection);
        let keys = [of(false), of(true)].into_iter().flat_map(|keys| [Some(keys.own), keys.public]);
        for key in keys.flatten().collect::<BTreeSet<_>>() {
            self.recent.invalidate(&key).await;
            if let Err(error) = self.cache.remove(&key).await {
                warn!(%error, "a tool list could not be removed from the cache");
            }
        }
    }

    async fn load(
        &self,
        keys: &ListKeys,
        user: ToolUser<'_>,
        connection: &ConnectionName,
    ) -> Result<(Recent, FoundIn), ToolCatalogError> {
        let cached = self.cached(keys).await;
        if let Ok(Some(recent)) = cached {
            return Ok((recent, FoundIn::Shared));
        }
        // Without the cache there is nobody to agree with.
        let flight = match cached {
            Ok(_) => SingleFlight::join(&*self.cache, &keys.own, || self.cached(keys)).await,
            Err(_) => SingleFlight::Leader(None),
        };
        if let SingleFlight::Follower(recent) = flight {
            return Ok((recent, FoundIn::Shared));
        }
        let result = match self.sources.list(user, connection).await {
            Ok(listed) if listed.tools.is_empty() => Err(ToolCatalogError::Empty),
            Ok(listed) => {
                let found = if keys.public.is_some() { FoundIn::Server } else { FoundIn::Scalekit };
                Ok((self.store(keys, listed).await, found))
            }
            Err(error) => Err(ToolCatalogError::Source(Arc::new(error))),
        };
        flight.finish(&*self.cache).await;
        result
    }

    async fn cached(&self, keys: &ListKeys) -> Result<Option<Recent>, CacheError> {
        for key in keys.public.iter().chain([&keys.own]) {
            if let Some(recent) = self.cached_under(key).await? {
                return Ok(Some(recent));
            }
        }
        Ok(None)
    }

    async fn cached_under(&self, key: &Key) -> Result<Option<Recent>, CacheError> {
        let cached = async {
            let Some(value) = self.cache.get(key).await? else { return Ok(None) };
            match serde_json::from_slice(&value) {
                Ok(Cached { version: WHOLE, tools: Some(tools), .. }) if !tools.is_empty() => {
                    Ok(Some(Recent::new(self.as_configured(tools), None)))
                }
                Ok(Cached { version: NAMED, list: Some(name), keep_milliseconds, .. }) => {
                    let keep = keep_milliseconds.map(Duration::from_millis);
                    Ok(self.named(name).await?.map(|tools| Recent::new(tools, keep)))
                }
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
            let connection = &tool.connection;
            let is_believed = config.trusted_hints.contains(connection) || self.sources.believes(connection);
            let effect = match rule_for(&tool.name, connection, |name| config.effects.get(name).copied()) {
                Some(effect) => effect,
                None if is_believed => tool.hinted.unwrap_or(tool.effect),
                None => tool.effect.max(effect_by_name(&tool.name)),
            };
            Arc::new(Tool { effect, hinted: None, ..tool })
        };
        tools.into_iter().filter(is_affordable).map(configured).collect()
    }

    /// First the list, then its name. The list stays for as long as any name of it could: whoever else names it only puts
    /// off its end. What may hardly be kept at all is not shared.
    async fn store(&self, keys: &ListKeys, listed: SourceList) -> Recent {
        let SourceList { tools, keep, is_public } = listed;
        let list = serde_json::to_vec(&tools).expect("tools are JSON types only");
        let name = digest(&list, NAME_BYTES);
        let keep_milliseconds = keep.map(|keep| u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
        let cached = Cached { version: NAMED, tools: None, list: Some(name.clone()), keep_milliseconds };
        let cached = serde_json::to_vec(&cached).expect("a name is a JSON type");
        let most = Duration::from_secs(self.config().cache_seconds);
        let key = keys.public.as_ref().filter(|_| is_public).unwrap_or(&keys.own);
        let ttl = keep.filter(|keep| *keep < most).unwrap_or_else(|| spread(most, key.as_str()));
        if ttl >= SHORTEST {
            let stored = async {
                self.cache.put(&list_key(&name), list.into(), most.mul_f64(1.0 + SPREAD)).await?;
                self.cache.put(key, cached.into(), ttl).await
            };
            if let Err(error) = stored.await {
                warn!(%error, "a tool list could not be cached");
            }
        }
        Recent::new(self.shared(name, tools).await, keep)
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
        let named = Cached { version: NAMED, tools: None, list: Some("name".to_owned()), keep_milliseconds: None };
        assert!(serde_json::from_slice::<EarlierCached>(&serde_json::to_vec(&named).unwrap()).is_err());
    }
}
