//! A Redis that is down, killed, frozen, read-only, full or emptied costs time within bounds and never a wrong answer.

use std::time::Duration;

use agentkit_worker::internals::cache::Cache;
use agentkit_worker::internals::cache::redis::RedisCache;
use agentkit_worker::internals::journal::redis::RedisJournal;
use agentkit_worker::internals::journal::{Append, Claim, ClaimMode, FencingToken, Journal, JournalError, Remains};
use agentkit_worker::internals::key::Key;
use agentkit_worker::internals::redis_client::{Config, RedisClient};
use agentkit_worker::job::JobId;
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::support::proxy::Proxy;
use crate::support::redis::Redis;
use crate::support::shortly;

const LEASE: Duration = Duration::from_secs(30);
/// How long a call may take that meets a dead or frozen Redis: 650 ms, with room for a busy test machine.
const BOUND: Duration = Duration::from_millis(900);

fn job() -> JobId {
    JobId::new("a").unwrap()
}

/// A journal whose client skips a failing Redis for a moment only.
fn quick_journal(redis: &Redis) -> RedisJournal {
    let config = Config { breaker_open_milliseconds: 50, ..redis.config() };
    RedisJournal::new(RedisClient::new(&config).unwrap())
}

async fn take(journal: &RedisJournal) -> (FencingToken, Vec<String>) {
    match journal.claim(&job(), "one", LEASE, ClaimMode::IfFree).await {
        Ok(Claim::Granted { token, entries }) => (token, entries),
        other => panic!("{other:?}"),
    }
}

async fn append(journal: &RedisJournal, token: FencingToken, sequence: u64, entry: &str) -> Result<(), JournalError> {
    let entries = [entry.to_owned()];
    journal
        .append(
            &job(),
            Append { token, sequence, entries: &entries, lease: LEASE, retain: LEASE, remains: None, index: None },
        )
        .await
}

async fn within_bound<T>(call: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let answer = call.await;
    assert!(start.elapsed() < BOUND, "took {:?}", start.elapsed());
    answer
}

#[tokio::test]
async fn a_redis_that_is_down_at_the_start_is_used_once_it_is_up() {
    let mut redis = Redis::stopped(&[]);
    let journal = quick_journal(&redis);
    let cache = RedisCache::new(redis.client());
    for _ in 0..10 {
        let answer = within_bound(journal.read(&job())).await;
        assert!(matches!(answer, Err(JournalError::Unavailable(_))), "{answer:?}");
        assert!(within_bound(cache.get(&Key::new(&["a"]))).await.is_err());
    }
    redis.restart().await;
    let (token, _) = shortly("the journal is available", async || {
        let taken = journal.claim(&job(), "one", LEASE, ClaimMode::IfFree).await.ok()?;
        let Claim::Granted { token, entries } = taken else { panic!("{taken:?}") };
        Some((token, entries))
    })
    .await;
    append(&journal, token, 0, "x").await.unwrap();
}

#[tokio::test]
async fn a_redis_killed_while_a_run_is_written_loses_no_acknowledged_append_and_keeps_no_second_copy() {
    let mut redis = Redis::start().await;
    let journal = quick_journal(&redis);
    let (token, _) = take(&journal).await;
    let (written, mut progress) = watch::channel(0_u64);
    let writer = async {
        for sequence in 0..3000 {
            let entry = sequence.to_string();
            shortly("the append succeeds", async || match append(&journal, token, sequence, &entry).await {
                Ok(()) => Some(()),
                Err(JournalError::Unavailable(_)) => None,
                Err(other) => panic!("{sequence}: {other}"),
            })
            .await;
            written.send_replace(sequence);
        }
    };
    let killer = async {
        for reached in [500, 1500] {
            progress.wait_for(|written| *written >= reached).await.unwrap();
            redis.kill();
            redis.restart().await;
        }
    };
    tokio::join!(writer, killer);
    let expected: Vec<String> = (0..3000).map(|sequence| sequence.to_string()).collect();
    assert!(journal.read(&job()).await.unwrap() == expected);
    assert_eq!(take(&journal).await.1.len(), 3000);
}

#[tokio::test]
async fn calls_to_a_frozen_redis_fail_in_time_and_an_append_that_happened_all_the_same_is_recognised() {
    let redis = Redis::start().await;
    let journal = quick_journal(&redis);
    let (token, _) = take(&journal).await;
    append(&journal, token, 0, "x").await.unwrap();
    redis.freeze();
    let answer = within_bound(append(&journal, token, 1, "y")).await;
    assert!(matches!(answer, Err(JournalError::Unavailable(_))), "{answer:?}");
    for _ in 0..7 {
        assert!(within_bound(journal.read(&job())).await.is_err());
    }
    redis.thaw();
    let happened = shortly("the frozen append happens", async || {
        journal.read(&job()).await.ok().filter(|entries| entries.len() == 2)
    })
    .await;
    assert_eq!(happened, ["x", "y"]);
    append(&journal, token, 1, "y").await.unwrap();
    assert_eq!(journal.read(&job()).await.unwrap(), ["x", "y"]);
}

#[tokio::test]
async fn many_calls_to_a_frozen_redis_at_once_wait_no_longer_than_one() {
    let redis = Redis::start().await;
    let client = redis.client();
    client.ping().await.unwrap();
    redis.freeze();
    for _ in 0..2 {
        let calls = (0..200).map(|_| {
            let client = client.clone();
            tokio::spawn(async move { within_bound(client.ping()).await.unwrap_err() })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
    }
    assert!(!client.status().available);
}

#[tokio::test]
async fn the_breaker_opens_after_five_failures_and_closes_when_redis_is_back() {
    let mut redis = Redis::start().await;
    let client = RedisClient::new(&Config { breaker_open_milliseconds: 1000, ..redis.config() }).unwrap();
    client.ping().await.unwrap();
    redis.kill();
    for _ in 0..5 {
        assert!(client.status().available);
        let failure = client.ping().await.unwrap_err();
        assert!(!failure.to_string().contains("skipped"), "{failure}");
    }
    assert!(!client.status().available);
    assert!(client.status().failure.is_some());
    let skipped = client.ping().await.unwrap_err();
    assert!(skipped.to_string().contains("skipped after 5 failures"), "{skipped}");
    redis.restart().await;
    shortly("the breaker closes", async || client.ping().await.ok()).await;
    assert!(client.status().available);
    assert_eq!(client.status().failure, None);
}

#[tokio::test]
async fn a_restart_between_two_calls_goes_unnoticed() {
    let mut redis = Redis::start().await;
    let journal = RedisJournal::new(redis.client());
    let (token, _) = take(&journal).await;
    redis.kill();
    redis.restart().await;
    append(&journal, token, 0, "x").await.unwrap();
    redis.command(&["SCRIPT", "FLUSH"]);
    redis.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    append(&journal, token, 1, "y").await.unwrap();
    assert_eq!(journal.read(&job()).await.unwrap(), ["x", "y"]);
}

#[tokio::test]
async fn a_read_only_replica_is_reported_as_unavailable_and_still_read() {
    let redis = Redis::start().await;
    let journal = RedisJournal::new(redis.client());
    let client = redis.client();
    let (token, _) = take(&journal).await;
    append(&journal, token, 0, "x").await.unwrap();
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    for _ in 0..10 {
        let answer = append(&journal, token, 1, "y").await;
        assert!(
            matches!(&answer, Err(JournalError::Unavailable(text)) if text.to_lowercase().contains("read")),
            "{answer:?}"
        );
        let answer = journal.claim(&job(), "two", LEASE, ClaimMode::Steal).await;
        assert!(matches!(answer, Err(JournalError::Unavailable(_))), "{answer:?}");
    }
    assert_eq!(journal.read(&job()).await.unwrap(), ["x"]);
    assert_eq!(client.facts().await.unwrap()[0].role, "slave");
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    append(&journal, token, 1, "y").await.unwrap();
}

#[tokio::test]
async fn a_full_redis_is_reported_as_unavailable_and_takes_nothing_by_half() {
    let redis = Redis::start().await;
    let journal = RedisJournal::new(redis.client());
    let (token, _) = take(&journal).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let answer = append(&journal, token, 0, "x").await;
    assert!(matches!(&answer, Err(JournalError::Unavailable(text)) if text.contains("OOM")), "{answer:?}");
    assert_eq!(journal.read(&job()).await.unwrap(), Vec::<String>::new());
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    append(&journal, token, 0, "x").await.unwrap();
}

#[tokio::test]
async fn a_full_redis_takes_what_belongs_to_a_run_that_has_begun_and_no_new_one() {
    let redis = Redis::start().await;
    let client = redis.client();
    let journal = RedisJournal::new(client.clone());
    let (first, _) = take(&journal).await;
    append(&journal, first, 0, "x").await.unwrap();
    assert!(!client.is_full());
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    append(&journal, first, 1, "y").await.unwrap();
    assert!(client.is_full());
    journal.renew(&job(), first, Duration::ZERO).await.unwrap();
    let (second, entries) = take(&journal).await;
    assert_eq!(entries, ["x", "y"]);
    assert!(matches!(append(&journal, first, 2, "z").await, Err(JournalError::OwnershipLost)));
    let remains = Some(Remains { entries: &entries, retain: LEASE });
    let end = ["end".to_owned()];
    let end = Append { token: second, sequence: 2, entries: &end, lease: LEASE, retain: LEASE, remains, index: None };
    journal.append(&job(), end).await.unwrap();
    assert_eq!(redis.command(&["EXISTS", "agentkit:sealed:{a}"]), "1");
    let new = journal.claim(&JobId::new("new").unwrap(), "one", LEASE, ClaimMode::IfFree).await;
    assert!(matches!(&new, Err(JournalError::Unavailable(text)) if text.contains("OOM")), "{new:?}");
    assert_eq!(redis.command(&["EXISTS", "agentkit:run:{new}"]), "0");
}

/// A journal of six megabytes, its token, and another way to it that takes three seconds for them; each answer is waited for
/// for so many milliseconds.
async fn large_run_behind_a_slow_link(
    redis: &Redis,
    patience: u64,
) -> (Proxy, RedisJournal, FencingToken, Vec<String>) {
    let direct = RedisJournal::new(redis.client());
    let (token, _) = take(&direct).await;
    let expected: Vec<String> = (0..6).map(|number| format!("{number}é").repeat(1 << 18)).collect();
    for (sequence, entry) in (0..).zip(&expected) {
        append(&direct, token, sequence, entry).await.unwrap();
    }
    let proxy = Proxy::to(&format!("127.0.0.1:{}", redis.port())).await;
    proxy.slow(2000);
    let url = format!("redis://{}", proxy.address()).into();
    let config = Config { url, response_timeout_milliseconds: patience, ..redis.config() };
    (proxy, RedisJournal::new(RedisClient::new(&config).unwrap()), token, expected)
}

#[tokio::test]
async fn a_run_of_megabytes_is_claimed_and_read_over_a_link_that_needs_seconds_for_it() {
    let redis = Redis::start().await;
    let patience = redis.config().response_timeout_milliseconds;
    let (_proxy, slow, _, expected) = large_run_behind_a_slow_link(&redis, patience).await;
    assert!(slow.read(&job()).await.unwrap() == expected);
    assert!(take(&slow).await.1 == expected);
}

#[tokio::test]
async fn a_run_that_is_taken_while_it_is_read_belongs_to_who_took_it() {
    let redis = Redis::start().await;
    let (_proxy, slow, first, expected) = large_run_behind_a_slow_link(&redis, 10_000).await;
    let direct = RedisJournal::new(redis.client());
    let read = async {
        let id = job();
        tokio::join!(slow.read(&id), slow.claim(&id, "one", LEASE, ClaimMode::IfFree))
    };
    let epoch = || redis.command(&["HGET", "agentkit:run:{a}", "epoch"]);
    let thief = async {
        shortly("the slow claim is made", async || (epoch() != first.0.to_string()).then_some(())).await;
        let claim = direct.claim(&job(), "two", LEASE, ClaimMode::Steal).await.unwrap();
        let Claim::Granted { token, entries } = claim else { panic!("{claim:?}") };
        assert!(entries == expected);
        append(&direct, token, 6, "more").await.unwrap();
    };
    let ((read, claimed), ()) = tokio::join!(read, thief);
    assert!(matches!(claimed, Err(JournalError::OwnershipLost)), "{:?}", claimed.map(drop));
    let read = read.unwrap();
    assert!(read[..6] == expected, "{} entries", read.len());
}

#[tokio::test]
async fn a_redis_emptied_in_the_middle_of_a_run_is_noticed_and_the_epoch_still_rises() {
    let redis = Redis::start().await;
    let journal = RedisJournal::new(redis.client());
    let (token, _) = take(&journal).await;
    append(&journal, token, 0, "x").await.unwrap();
    redis.command(&["FLUSHALL"]);
    let answer = append(&journal, token, 1, "y").await;
    assert!(matches!(answer, Err(JournalError::Lost)), "{answer:?}");
    let (again, entries) = take(&journal).await;
    assert!(again > token);
    assert_eq!(entries, Vec::<String>::new());
    let answer = append(&journal, token, 1, "y").await;
    assert!(matches!(answer, Err(JournalError::OwnershipLost)), "{answer:?}");
}

#[tokio::test]
async fn a_cluster_node_finds_every_key_declared_and_in_one_slot() {
    let redis = Redis::start_with(&["--cluster-enabled", "yes"]).await;
    redis.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    shortly("the cluster is formed", async || {
        redis.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok").then_some(())
    })
    .await;
    let journal = RedisJournal::new(redis.client());
    let (token, _) = take(&journal).await;
    append(&journal, token, 0, "x").await.unwrap();
    journal.renew(&job(), token, LEASE).await.unwrap();
    assert_eq!(journal.read(&job()).await.unwrap(), ["x"]);
    assert_eq!(redis.command(&["CLUSTER", "KEYSLOT", "agentkit:run:{a}"]), redis.command(&["CLUSTER", "KEYSLOT", "a"]));
    assert_eq!(redis.command(&["EXISTS", "agentkit:run:{a}"]), "1");
}

#[tokio::test]
async fn foreign_data_under_a_runs_key_is_reported_and_never_taken_for_a_run() {
    let redis = Redis::start().await;
    let journal = RedisJournal::new(redis.client());
    let hashes: [&[&str]; 4] = [
        &["length", "2", "0", "x"],
        &["length", "-1"],
        &["length", "99999999999999999999999"],
        &["length", "1", "0", "\u{e9}", "epoch", "x"],
    ];
    redis.command(&["SET", "agentkit:run:{a}", "text"]);
    assert!(matches!(journal.read(&job()).await, Err(JournalError::Unavailable(_))));
    assert!(matches!(journal.claim(&job(), "one", LEASE, ClaimMode::IfFree).await, Err(JournalError::Unavailable(_))));
    for hash in &hashes[..3] {
        redis.command(&["DEL", "agentkit:run:{a}"]);
        redis.command(&[&["HSET", "agentkit:run:{a}"], *hash].concat());
        assert!(matches!(journal.read(&job()).await, Err(JournalError::Unavailable(_))), "{hash:?}");
    }
    redis.command(&[&["HSET", "agentkit:run:{a}"], hashes[3]].concat());
    assert_eq!(take(&journal).await.1, ["é"]);
}

#[tokio::test]
async fn a_refused_password_is_tried_again_and_never_shown() {
    let redis = Redis::start().await;
    let url = redis.config().url.expose_secret().replace("redis://", "redis://:hunter2@");
    let config = Config { url: url.into(), breaker_failures: 100, ..Config::default() };
    let client = RedisClient::new(&config).unwrap();
    let failure = client.ping().await.unwrap_err();
    let shown = format!("{failure} {failure:?} {client:?} {config:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    redis.command(&["CONFIG", "SET", "requirepass", "hunter2"]);
    client.ping().await.unwrap();
}

#[tokio::test]
async fn a_plain_server_behind_a_tls_address_fails_in_time() {
    let redis = Redis::start().await;
    let url = redis.config().url.expose_secret().replace("redis://", "rediss://");
    let client = RedisClient::new(&Config { url: url.into(), ..Config::default() }).unwrap();
    within_bound(client.ping()).await.unwrap_err();
}

#[tokio::test]
async fn the_facts_of_a_server_are_told() {
    let redis = Redis::start_with(&["--appendonly", "no", "--maxmemory-policy", "allkeys-lru"]).await;
    let [facts] = &redis.client().facts().await.unwrap()[..] else { panic!("one server") };
    assert!(facts.version.starts_with(|first: char| first.is_ascii_digit()), "{facts:?}");
    assert_eq!(
        (facts.role.as_str(), facts.append_only, facts.eviction_policy.as_str()),
        ("master", false, "allkeys-lru")
    );
    let facts = &Redis::start().await.client().facts().await.unwrap()[0];
    assert_eq!((facts.append_only, facts.eviction_policy.as_str()), (true, "noeviction"));
    assert_eq!(facts.cluster, None);
}
