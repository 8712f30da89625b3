//! Of many workers that miss the same value one makes it, and the others wait for it, for a while.

use std::time::Duration;

use bytes::Bytes;
use tracing::debug;

use crate::cache::{Cache, CacheError};
use crate::key::Key;

/// Who makes a value holds the others off for so long at most: longer than Scalekit usually takes, short enough that a
/// worker that died meanwhile is not missed.
const LONGEST: Duration = Duration::from_secs(5);
/// How often the others look whether the value has come.
const LOOK: Duration = Duration::from_millis(50);

/// Whose turn it is.
pub(super) enum Flight<T> {
    /// We make the value; [`Flight::landed`] is to be called afterwards.
    Ours(Option<Key>),
    /// Another worker made it.
    Theirs(T),
}

impl<T> Flight<T> {
    /// Waits for the value at `key`, which was missing a moment ago, or says that we have to make it. `look` reads it.
    pub(super) async fn board<F>(cache: &dyn Cache, key: &Key, look: impl Fn() -> F) -> Self
    where
        F: Future<Output = Result<Option<T>, CacheError>>,
    {
        let mark = Key::new(&["loading", key.as_str()]);
        match cache.put_if_absent(&mark, Bytes::from_static(b"1"), LONGEST).await {
            Ok(true) => return Self::Ours(Some(mark)),
            Ok(false) => {}
            Err(_) => return Self::Ours(None),
        }
        let waited = tokio::time::timeout(LONGEST, async {
            loop {
                tokio::time::sleep(LOOK).await;
                match look().await {
                    Ok(Some(value)) => return Self::Theirs(value),
                    Ok(None) if matches!(cache.get(&mark).await, Ok(Some(_))) => {}
                    _ => return Self::Ours(None),
                }
            }
        });
        waited.await.unwrap_or(Self::Ours(None))
    }

    /// The value is where the others look for it, or could not be made.
    pub(super) async fn landed(self, cache: &dyn Cache) {
        if let Self::Ours(Some(mark)) = self
            && let Err(error) = cache.remove(&mark).await
        {
            debug!(%error, "a loading mark could not be removed and runs out by itself");
        }
    }
}
