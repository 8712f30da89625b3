//! The cache that all workers share: plain Redis keys with an expiry.

use std::collections::BTreeSet;
use std::time::Duration;

use ::redis::cmd;
use async_trait::async_trait;
use bytes::Bytes;

use super::{Cache, CacheError};
use crate::key::Key;
use crate::redis_client::{RedisClient, Unavailable};

/// Values in Redis under the client's key prefix.
#[derive(Debug)]
pub struct RedisCache(RedisClient);

impl RedisCache {
    /// A cache kept through `client`.
    pub fn new(client: RedisClient) -> Self {
        Self(client)
    }

    /// Removes all values whose keys begin with these parts and have more; says how many there were.
    pub async fn erase(&self, first: &[&str], for_real: bool) -> Result<u64, CacheError> {
        let (mut scan, mut found) = (self.0.scan(&format!("{}:", Key::new(first))).await?, BTreeSet::new());
        while let Some(keys) = scan.next().await? {
            for key in keys {
                if for_real {
                    self.0.query::<()>(cmd("DEL").arg(&key)).await?;
                }
                found.insert(key);
            }
        }
        Ok(found.len() as u64)
    }
}

#[async_trait]
impl Cache for RedisCache {
    async fn get(&self, key: &Key) -> Result<Option<Bytes>, CacheError> {
        Ok(self.0.query(cmd("GET").arg(self.0.full_key(key))).await?)
    }

    async fn put(&self, key: &Key, value: Bytes, ttl: Duration) -> Result<(), CacheError> {
        let mut command = cmd("SET");
        command.arg(self.0.full_key(key)).arg(&*value).arg("PX").arg(milliseconds(ttl));
        Ok(self.0.query(&command).await?)
    }

    /// Not repeated over a new connection: where the answer to the first command was lost, the second would say
    /// `false` although the value is ours. On a cluster the crate may repeat it all the same.
    async fn put_if_absent(&self, key: &Key, value: Bytes, ttl: Duration) -> Result<bool, CacheError> {
        let mut command = cmd("SET");
        command.arg(self.0.full_key(key)).arg(&*value).arg("NX").arg("PX").arg(milliseconds(ttl));
        let stored: Option<String> = self.0.query_once(&command).await?;
        Ok(stored.is_some())
    }

    async fn remove(&self, key: &Key) -> Result<(), CacheError> {
        Ok(self.0.query(cmd("DEL").arg(self.0.full_key(key))).await?)
    }
}

impl From<Unavailable> for CacheError {
    fn from(error: Unavailable) -> Self {
        Self(error.0)
    }
}

/// Redis refuses an expiry of 0 and one that overflows its clock.
fn milliseconds(ttl: Duration) -> u64 {
    const CENTURY: u128 = 1000 * 3600 * 24 * 365 * 100;
    u64::try_from(ttl.as_millis().clamp(1, CENTURY)).expect("a century in milliseconds fits")
}
