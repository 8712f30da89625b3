//! Magic links, remembered so that ten jobs of one user give one link.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::single_flight::SingleFlight;
use crate::cache::{Cache, CacheError};
use crate::clock::after;
use crate::clock::{SharedClock, milliseconds_between};
use crate::encryption::{Binding, Encryption};
use crate::job::{ConnectionName, Identifier};
use crate::key::Key;
use crate::scalekit::{self, Scalekit};

/// A link that runs out sooner than this is not handed out again.
const MARGIN: Duration = Duration::from_secs(60);
/// A link without a known end is handed out again for so long.
const DEFAULT: Duration = Duration::from_secs(300);
/// Links in the process's own memory, where those who ask at the same time meet. They stay there only as long as the shared
/// cache does not have them: in there another worker can forget them.
const IN_MEMORY: u64 = 10_000;

/// A link and how long it can be used.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct RememberedLink {
    pub(crate) url: String,
    /// When it ends, where Scalekit says so.
    pub(crate) expires_at: Option<Timestamp>,
    /// Handed out again up to here.
    good_until: Timestamp,
}

/// The links that were handed out lately.
pub(crate) struct MagicLinks {
    scalekit: Arc<Scalekit>,
    cache: Arc<dyn Cache>,
    clock: SharedClock,
    encryption: Encryption,
    recent: moka::future::Cache<Key, Found>,
}

/// A link, and whether the shared cache has it.
#[derive(Clone)]
struct Found {
    link: RememberedLink,
    shared: bool,
}

impl MagicLinks {
    /// No links yet. In the cache they are encrypted by `encryption`.
    pub(crate) fn new(
        scalekit: Arc<Scalekit>,
        cache: Arc<dyn Cache>,
        clock: SharedClock,
        encryption: Encryption,
    ) -> Self {
        let recent = moka::future::Cache::builder().max_capacity(IN_MEMORY).time_to_live(DEFAULT).build();
        Self { scalekit, cache, clock, encryption, recent }
    }

    /// The link that this user was given last for this connection, while it works; else a new one. However many ask at
    /// once, in this process and in others, one link is made.
    pub(crate) async fn get(
        &self,
        identifier: &Identifier,
        connection: &ConnectionName,
        state: &str,
    ) -> Result<RememberedLink, Arc<scalekit::Error>> {
        let key = key(identifier, connection);
        if self.recent.get(&key).await.is_some_and(|found| !self.is_good(&found.link)) {
            self.recent.invalidate(&key).await;
        }
        let find = self.find_or_make(&key, identifier, connection, state);
        let found = self.recent.try_get_with(key.clone(), find).await?;
        if found.shared {
            self.recent.invalidate(&key).await;
        }
        Ok(found.link)
    }

    /// The same, where all workers know of one: none is made.
    pub(crate) async fn known(&self, identifier: &Identifier, connection: &ConnectionName) -> Option<RememberedLink> {
        self.remembered(&key(identifier, connection)).await.ok()?
    }

    /// Forgets a link that the user has used: should the account be lost again, it would help nobody.
    pub(crate) async fn forget(&self, identifier: &Identifier, connection: &ConnectionName) {
        let key = key(identifier, connection);
        self.recent.invalidate(&key).await;
        if let Err(error) = self.cache.remove(&key).await {
            warn!(%error, "a used magic link could not be forgotten");
        }
    }

    async fn find_or_make(
        &self,
        key: &Key,
        identifier: &Identifier,
        connection: &ConnectionName,
        state: &str,
    ) -> Result<Found, scalekit::Error> {
        let flight = match self.remembered(key).await {
            Ok(Some(link)) => return Ok(Found { link, shared: true }),
            Ok(None) => SingleFlight::join(&*self.cache, key, || self.remembered(key)).await,
            Err(_) => SingleFlight::Leader(None),
        };
        if let SingleFlight::Follower(link) = flight {
            return Ok(Found { link, shared: true });
        }
        let made = self.make(identifier, connection, state).await;
        let shared = match &made {
            Ok(link) => self.remember(key, link).await,
            Err(_) => false,
        };
        flight.finish(&*self.cache).await;
        Ok(Found { link: made?, shared })
    }

    async fn make(
        &self,
        identifier: &Identifier,
        connection: &ConnectionName,
        state: &str,
    ) -> Result<RememberedLink, scalekit::Error> {
        let fresh = self.scalekit.magic_link(identifier, connection, state).await?;
        let end = fresh.expires_at.unwrap_or_else(|| after(self.clock.now(), DEFAULT));
        let good_until = end.saturating_sub(MARGIN).unwrap_or(Timestamp::MIN);
        Ok(RememberedLink { url: fresh.expose().to_owned(), expires_at: fresh.expires_at, good_until })
    }

    /// One that cannot be decrypted is none.
    async fn remembered(&self, key: &Key) -> Result<Option<RememberedLink>, CacheError> {
        let Some(value) = self.cache.get(key).await? else { return Ok(None) };
        let link = self.encryption.decrypt(|| place(key), value.into());
        let link = link.inspect_err(|error| warn!(%error, "a magic link is made anew"));
        let link = link.ok().and_then(|link| serde_json::from_slice(&link).ok());
        Ok(link.filter(|link| self.is_good(link)))
    }

    /// Whether the shared cache has the link now.
    async fn remember(&self, key: &Key, link: &RememberedLink) -> bool {
        let ttl = Duration::from_millis(milliseconds_between(self.clock.now(), link.good_until));
        if ttl.is_zero() {
            return false;
        }
        let value = serde_json::to_vec(link).expect("a link is text");
        let value = self.encryption.encrypt(&place(key), &value).into_owned();
        let put = self.cache.put(key, value.into(), ttl).await;
        if let Err(error) = &put {
            warn!(%error, "a magic link could not be remembered; another job of the user may get another one");
        }
        put.is_ok()
    }

    fn is_good(&self, link: &RememberedLink) -> bool {
        self.clock.now() < link.good_until
    }
}

/// The key names the user and the connection.
fn place(key: &Key) -> Binding {
    Binding::new("link", &[&key.to_string()])
}

fn key(identifier: &Identifier, connection: &ConnectionName) -> Key {
    Key::new(&["link", identifier.as_str(), connection.as_str()])
}
