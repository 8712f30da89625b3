//! What every cache promises, asked of both; of the one in Redis on a cluster too.

use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::internals::cache::Cache;
use agentkit_worker::internals::cache::memory::MemoryCache;
use agentkit_worker::internals::cache::redis::RedisCache;
use agentkit_worker::internals::clock::ManualClock;
use agentkit_worker::internals::key::Key;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Barrier;

use crate::support::redis::AnyRedis;
use crate::support::shortly;

const TTL: Duration = Duration::from_mins(1);
const BRIEF: Duration = Duration::from_millis(150);

/// A cache under test, and how its time passes.
struct CacheUnderTest {
    cache: Arc<dyn Cache>,
    clock: Option<Arc<ManualClock>>,
    _redis: Option<AnyRedis>,
}

impl CacheUnderTest {
    fn memory() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
        Self { cache: Arc::new(MemoryCache::new(clock.clone(), 16 << 20)), clock: Some(clock), _redis: None }
    }

    async fn redis() -> Self {
        Self::on(AnyRedis::start().await)
    }

    async fn cluster() -> Self {
        Self::on(AnyRedis::cluster().await)
    }

    fn on(redis: AnyRedis) -> Self {
        Self { cache: Arc::new(RedisCache::new(redis.client())), clock: None, _redis: Some(redis) }
    }

    async fn until_gone(&self, key: &Key) {
        shortly("the value is too old", async || {
            if let Some(clock) = &self.clock {
                clock.advance(SignedDuration::from_millis(10));
            }
            self.get(key).await.is_none().then_some(())
        })
        .await;
    }

    async fn get(&self, key: &Key) -> Option<Bytes> {
        self.cache.get(key).await.unwrap()
    }
}

async fn a_value_comes_back_byte_for_byte_until_it_is_replaced_or_removed(subject: &CacheUnderTest) {
    let key = Key::new(&["tools", "a"]);
    assert_eq!(subject.get(&key).await, None);
    let large = Bytes::from((0..=255).cycle().take(1 << 20).collect::<Vec<u8>>());
    for value in [Bytes::from_static(b"\xff\x00\r\n"), Bytes::new(), large] {
        subject.cache.put(&key, value.clone(), TTL).await.unwrap();
        assert!(subject.get(&key).await == Some(value));
    }
    subject.cache.remove(&key).await.unwrap();
    subject.cache.remove(&key).await.unwrap();
    assert_eq!(subject.get(&key).await, None);
}

async fn a_value_vanishes_after_its_time(subject: &CacheUnderTest) {
    let (brief, lasting) = (Key::new(&["brief"]), Key::new(&["lasting"]));
    subject.cache.put(&lasting, "old".into(), BRIEF).await.unwrap();
    subject.cache.put(&lasting, "new".into(), Duration::MAX).await.unwrap();
    subject.cache.put(&brief, "value".into(), BRIEF).await.unwrap();
    subject.until_gone(&brief).await;
    assert_eq!(subject.get(&lasting).await, Some("new".into()), "a new value brings its own time");
    subject.cache.put(&lasting, "at once".into(), Duration::ZERO).await.unwrap();
    subject.until_gone(&lasting).await;
}

async fn of_many_who_put_where_there_is_none_exactly_one_does(subject: &CacheUnderTest) {
    let key = Key::new(&["lock"]);
    let start = Arc::new(Barrier::new(20));
    let tasks: Vec<_> = (0..20)
        .map(|number| {
            let (cache, key, start) = (subject.cache.clone(), key.clone(), start.clone());
            tokio::spawn(async move {
                start.wait().await;
                let value = Bytes::from(format!("{number}"));
                cache.put_if_absent(&key, value.clone(), TTL).await.unwrap().then_some(value)
            })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        winners.extend(task.await.unwrap());
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(subject.get(&key).await.as_ref(), winners.first());
}

async fn a_lock_is_free_again_after_its_time_or_its_removal(subject: &CacheUnderTest) {
    let key = Key::new(&["lock"]);
    assert!(subject.cache.put_if_absent(&key, "one".into(), BRIEF).await.unwrap());
    assert!(!subject.cache.put_if_absent(&key, "two".into(), TTL).await.unwrap());
    subject.until_gone(&key).await;
    assert!(subject.cache.put_if_absent(&key, "three".into(), TTL).await.unwrap());
    subject.cache.remove(&key).await.unwrap();
    assert!(subject.cache.put_if_absent(&key, "four".into(), TTL).await.unwrap());
    assert_eq!(subject.get(&key).await, Some("four".into()));
}

async fn hostile_key_parts_never_share_a_value(subject: &CacheUnderTest) {
    let long = "é".repeat(100);
    let parts = ["a:b", "a%3Ab", "../x", "x", "a\r\nb", "a\0b", "{x}", "*", " ", "a", "b", &long];
    let keys: Vec<Key> =
        parts.iter().flat_map(|one| parts.iter().map(|other| Key::new(&["tools", one, other]))).collect();
    for key in &keys {
        assert!(subject.cache.put_if_absent(key, key.to_string().into(), TTL).await.unwrap(), "{key}");
    }
    for key in &keys {
        assert_eq!(subject.get(key).await, Some(key.to_string().into()));
    }
}

#[tokio::test]
async fn all_of_it_holds_on_a_cluster() {
    a_value_comes_back_byte_for_byte_until_it_is_replaced_or_removed(&CacheUnderTest::cluster().await).await;
    a_value_vanishes_after_its_time(&CacheUnderTest::cluster().await).await;
    of_many_who_put_where_there_is_none_exactly_one_does(&CacheUnderTest::cluster().await).await;
    a_lock_is_free_again_after_its_time_or_its_removal(&CacheUnderTest::cluster().await).await;
    hostile_key_parts_never_share_a_value(&CacheUnderTest::cluster().await).await;
}

mod memory {
    use super::CacheUnderTest;

    #[tokio::test]
    async fn a_value_comes_back_byte_for_byte_until_it_is_replaced_or_removed() {
        super::a_value_comes_back_byte_for_byte_until_it_is_replaced_or_removed(&CacheUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn a_value_vanishes_after_its_time() {
        super::a_value_vanishes_after_its_time(&CacheUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn of_many_who_put_where_there_is_none_exactly_one_does() {
        super::of_many_who_put_where_there_is_none_exactly_one_does(&CacheUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn a_lock_is_free_again_after_its_time_or_its_removal() {
        super::a_lock_is_free_again_after_its_time_or_its_removal(&CacheUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn hostile_key_parts_never_share_a_value() {
        super::hostile_key_parts_never_share_a_value(&CacheUnderTest::memory()).await;
    }
}

mod redis {
    use super::CacheUnderTest;

    #[tokio::test]
    async fn a_value_comes_back_byte_for_byte_until_it_is_replaced_or_removed() {
        super::a_value_comes_back_byte_for_byte_until_it_is_replaced_or_removed(&CacheUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn a_value_vanishes_after_its_time() {
        super::a_value_vanishes_after_its_time(&CacheUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn of_many_who_put_where_there_is_none_exactly_one_does() {
        super::of_many_who_put_where_there_is_none_exactly_one_does(&CacheUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn a_lock_is_free_again_after_its_time_or_its_removal() {
        super::a_lock_is_free_again_after_its_time_or_its_removal(&CacheUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn hostile_key_parts_never_share_a_value() {
        super::hostile_key_parts_never_share_a_value(&CacheUnderTest::redis().await).await;
    }
}
