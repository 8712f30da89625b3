//! The cache edge: values that may vanish at any time and are made again then.
//!
//! Two implementations, [`mod@redis`] shared by all workers and [`memory`] for the embedded mode, pass one contract test
//! suite. A cache that fails is a miss; it never fails a job.

pub mod memory;
pub mod redis;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::key::Key;

/// The cache did not do what it was asked. Callers go on as after a miss and say so.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cache unavailable: {0}")]
pub struct CacheError(pub String);

/// A store of values with an age limit.
#[async_trait]
pub trait Cache: Send + Sync {
    /// The value, unless there is none or it is too old.
    async fn get(&self, key: &Key) -> Result<Option<Bytes>, CacheError>;
    /// Stores a value for `ttl`.
    async fn put(&self, key: &Key, value: Bytes, ttl: Duration) -> Result<(), CacheError>;
    /// Stores a value for `ttl` where there is none, in one atomic step; says whether it did. Serves as a short lock, and
    /// as nothing else: where the answer was lost on its way, `false` may be said of a value that is ours, and whoever
    /// relies on it waits for nobody until `ttl` is over.
    async fn put_if_absent(&self, key: &Key, value: Bytes, ttl: Duration) -> Result<bool, CacheError>;
    /// Removes a value.
    async fn remove(&self, key: &Key) -> Result<(), CacheError>;
}
