//! Of many workers that miss the same value one makes it, the leader; the others follow, for a while.

use std::time::Duration;

use bytes::Bytes;
use tracing::debug;

use crate::cache::{Cache, CacheError};
use crate::key::Key;

/// A leader holds the others off for so long at most: longer than Scalekit usually takes, short enough that a worker that
/// died meanwhile is not missed.
const LONGEST: Duration = Duration::from_secs(5);
/// How often followers look whether the value has come.
const LOOK: Duration = Duration::from_millis(50);

/// Who makes the value.
pub(super) enum SingleFlight<T> {
    /// We do; [`SingleFlight::finish`] is to be called afterwards.
    Leader(Option<Key>),
    /// Another worker made it.
    Follower(T),
}

impl<T> SingleFlight<T> {
    /// Waits for the value at `key`, which was missing a moment ago, or says that we have to make it. `look` reads it.
    pub(super) async fn join<F>(cache: &dyn Cache, key: &Key, look: impl Fn() -> F) -> Self
    where
        F: Future<Output = Result<Option<T>, CacheError>>,
    {
        let mark = Key::new(&["loading", key.as_str()]);
        match cache.put_if_absent(&mark, Bytes::from_static(b"1"), LONGEST).await {
            Ok(true) => return Self::Leader(Some(mark)),
            Ok(false) => {}
            Err(_) => return Self::Leader(None),
        }
        let waited = tokio::time::timeout(LONGEST, async {
            loop {
                tokio::time::sleep(LOOK).await;
                match look().await {
                    Ok(Some(value)) => return Self::Follower(value),
                    Ok(None) if matches!(cache.get(&mark).await, Ok(Some(_))) => {}
                    _ => return Self::Leader(None),
                }
            }
        });
        waited.await.unwrap_or(Self::Leader(None))
    }

    /// The value is where the followers look for it, or could not be made.
    pub(super) async fn finish(self, cache: &dyn Cache) {
        if let Self::Leader(Some(mark)) = self
            && let Err(error) = cache.remove(&mark).await
        {
            debug!(%error, "a loading mark could not be removed and runs out by itself");
        }
    }
}
