//! A cache in this process's memory, for the embedded mode.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::{Cache, CacheError};
use crate::clock::SharedClock;
use crate::key::Key;

/// Values in memory, up to a number of bytes (keys included).
///
/// Where a value finds no room, those that would expire first are dropped for it.
#[derive(Debug)]
pub struct MemoryCache {
    clock: SharedClock,
    most_bytes: usize,
    contents: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    values: HashMap<Key, Value>,
    bytes: usize,
}

#[derive(Debug)]
struct Value {
    bytes: Bytes,
    expires_at: Timestamp,
}

impl MemoryCache {
    /// A cache of up to `most_bytes` bytes.
    pub fn new(clock: SharedClock, most_bytes: usize) -> Self {
        Self { clock, most_bytes, contents: Mutex::default() }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, contents: &mut Contents, key: &Key, bytes: Bytes, ttl: Duration) -> Result<(), CacheError> {
        contents.remove(key);
        let needed = weight(key, &bytes);
        if needed > self.most_bytes {
            return Err(CacheError(format!("a value of {needed} bytes is larger than the cache")));
        }
        contents.shrink_to(self.most_bytes - needed);
        let ttl = SignedDuration::try_from(ttl).unwrap_or(SignedDuration::MAX);
        let expires_at = self.clock.now().saturating_add(ttl).unwrap_or(Timestamp::MAX);
        contents.values.insert(key.clone(), Value { bytes, expires_at });
        contents.bytes += needed;
        Ok(())
    }
}

#[async_trait]
impl Cache for MemoryCache {
    async fn get(&self, key: &Key) -> Result<Option<Bytes>, CacheError> {
        Ok(self.contents().live(key, self.clock.now()))
    }

    async fn put(&self, key: &Key, value: Bytes, ttl: Duration) -> Result<(), CacheError> {
        self.store(&mut self.contents(), key, value, ttl)
    }

    async fn put_if_absent(&self, key: &Key, value: Bytes, ttl: Duration) -> Result<bool, CacheError> {
        let mut contents = self.contents();
        if contents.live(key, self.clock.now()).is_some() {
            return Ok(false);
        }
        self.store(&mut contents, key, value, ttl)?;
        Ok(true)
    }

    async fn remove(&self, key: &Key) -> Result<(), CacheError> {
        self.contents().remove(key);
        Ok(())
    }
}

impl Contents {
    fn live(&self, key: &Key, now: Timestamp) -> Option<Bytes> {
        self.values.get(key).filter(|value| value.expires_at > now).map(|value| value.bytes.clone())
    }

    fn remove(&mut self, key: &Key) {
        if let Some(value) = self.values.remove(key) {
            self.bytes -= weight(key, &value.bytes);
        }
    }

    fn shrink_to(&mut self, most_bytes: usize) {
        while self.bytes > most_bytes {
            let first = self.values.iter().min_by_key(|(_, value)| value.expires_at);
            let first = first.map(|(key, _)| key.clone()).expect("bytes are counted, so there is a value");
            self.remove(&first);
        }
    }
}

fn weight(key: &Key, bytes: &Bytes) -> usize {
    key.as_str().len() + bytes.len()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::ManualClock;

    #[tokio::test]
    async fn a_full_cache_drops_what_expires_first_and_refuses_what_can_never_fit() {
        let cache = MemoryCache::new(Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH)), 25);
        let [soon, late, new] = ["s", "l", "n"].map(|name| Key::new(&[name]));
        let value = Bytes::from_static(&[7; 10]);
        cache.put(&late, value.clone(), Duration::from_mins(1)).await.unwrap();
        cache.put(&soon, value.clone(), Duration::from_secs(1)).await.unwrap();
        cache.put(&soon, value.clone(), Duration::from_secs(1)).await.unwrap();
        assert_eq!(cache.get(&late).await.unwrap().as_ref(), Some(&value), "the same key takes its room only once");

        cache.put(&new, value.clone(), Duration::from_secs(30)).await.unwrap();
        assert_eq!(cache.get(&soon).await.unwrap(), None);
        assert!(cache.get(&late).await.unwrap().is_some());

        assert!(cache.put(&new, Bytes::from_static(&[7; 100]), Duration::from_secs(30)).await.is_err());
        assert_eq!(cache.get(&new).await.unwrap(), None, "an old value never outlives a newer one");
        cache.remove(&late).await.unwrap();
        assert_eq!(cache.contents().bytes, 0);
    }
}
