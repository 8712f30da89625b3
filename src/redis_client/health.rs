//! Whether Redis takes writes: looked at all the time, so that nobody has to lose a call over it first.

use std::sync::Mutex;
use std::time::Duration;

use redis::cmd;
use tracing::{info, warn};

use super::{RedisClient, Unavailable, lock};
use crate::key::Key;

/// Between two looks. With [`ANSWER_WITHIN`] that is less than two seconds from a fault to its being seen, and back.
const LOOK_EVERY: Duration = Duration::from_millis(700);
/// A Redis that takes longer than this for a small write is taken for one that does not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// How long the key of the looks is kept.
const KEPT_MILLISECONDS: u64 = 60_000;

/// What the last look found.
#[derive(Default)]
pub(super) struct Health(Mutex<Option<String>>);

impl RedisClient {
    /// What keeps Redis from taking writes, as the last look found; nothing before the first one.
    pub fn problem(&self) -> Option<String> {
        lock(&self.0.health.0).clone()
    }

    /// Goes on looking; never ends.
    pub async fn keep_watch(&self) {
        loop {
            let look = self.look();
            tokio::pin!(look);
            match tokio::time::timeout(ANSWER_WITHIN, &mut look).await {
                Ok(found) => self.note(found.err().map(|error| words(&error))),
                Err(_) => {
                    self.note(Some(format!("Redis does not answer within {} s", ANSWER_WITHIN.as_secs())));
                    // To its own end, which gives up a connection that is dead.
                    let found = look.await;
                    self.note(found.err().map(|error| words(&error)));
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A write as small as can be, whatever the breaker says: what it finds out holds for that, too.
    async fn look(&self) -> Result<(), Unavailable> {
        let key = self.full_key(&Key::new(&["health"]));
        let mut write = cmd("PSETEX");
        write.arg(key).arg(KEPT_MILLISECONDS).arg(1);
        let write = &write;
        self.call_anyway(true, |mut link| async move { write.query_async(&mut link).await }).await
    }

    fn note(&self, found: Option<String>) {
        let before = std::mem::replace(&mut *lock(&self.0.health.0), found.clone());
        match (before, found) {
            (None, Some(problem)) => warn!("{problem}; jobs wait"),
            (Some(_), None) => info!("Redis takes writes again"),
            _ => {}
        }
        if self.problem().is_none() {
            self.0.fullness.passed();
        }
    }
}

/// A failure in words that say what is to be done about it.
fn words(error: &Unavailable) -> String {
    let said = error.0.to_ascii_lowercase();
    let is = |parts: &[&str]| parts.iter().any(|part| said.contains(part));
    if error.is_full() {
        "Redis is full (maxmemory): give it more memory, or another eviction policy its other data".to_owned()
    } else if is(&["wrongpass", "noauth", "authentication failed", "invalid password", "invalid username"]) {
        format!("Redis refuses the worker's user or password (redis.url): {error}")
    } else if is(&["noperm"]) {
        format!("Redis allows its user too little (deploy/README.md names the rights): {error}")
    } else if is(&["loading"]) {
        "Redis is still loading its data".to_owned()
    } else if is(&["readonly", "read only"]) {
        format!("Redis is a replica, or takes reads only: {error}")
    } else if is(&["misconf", "noreplicas"]) {
        format!("Redis takes no writes: {error}")
    } else {
        format!("Redis does not answer: {error}")
    }
}
