//! Redis behind Sentinel: its master dies, hangs, comes back as a replica or is moved, and runs go on at the next one.

use std::collections::BTreeMap;
use std::time::Duration;

use agentkit_worker::internals::journal::redis::RedisJournal;
use agentkit_worker::internals::journal::{Append, Claim, ClaimMode, FencingToken, Journal, JournalError};
use agentkit_worker::internals::redis_client::{Config, RedisClient};
use agentkit_worker::job::JobId;
use serde_json::Value;
use tokio::time::Instant;

use crate::support::broker::Broker;
use crate::support::proxied_service::ProxiedService;
use crate::support::redis::Redis;
use crate::support::redis_sentinels::RedisSentinels;
use crate::support::{eventually, shortly};

const LEASE: Duration = Duration::from_secs(30);

fn job() -> JobId {
    JobId::new("a").unwrap()
}

async fn take(journal: &RedisJournal) -> FencingToken {
    match journal.claim(&job(), "one", LEASE, ClaimMode::IfFree).await {
        Ok(Claim::Granted { token, .. }) => token,
        other => panic!("{other:?}"),
    }
}

async fn append(journal: &RedisJournal, token: FencingToken, sequence: u64, entry: &str) -> Result<(), JournalError> {
    let entries = [entry.to_owned()];
    let append = Append { token, sequence, entries: &entries, lease: LEASE, retain: LEASE, remains: None, index: None };
    journal.append(&job(), append).await
}

/// Returns once the replica has as many entries.
async fn replicated(replica: &Redis, length: &str) {
    shortly("the replica has it", async || {
        (replica.command(&["HGET", "agentkit:run:{a}", "length"]) == length).then_some(())
    })
    .await;
}

#[tokio::test]
async fn any_sentinel_is_enough_and_silent_ones_cost_no_time() {
    let mut redis = RedisSentinels::start().await;
    redis.client().ping().await.unwrap();
    redis.sentinels[0].freeze();
    redis.sentinels[1].kill();
    let client = redis.client();
    client.ping().await.unwrap();
    assert_eq!(client.facts().await.unwrap()[0].role, "master");
    let answers = client.sentinels().await;
    let master = format!("127.0.0.1:{}", redis.servers[0].port());
    assert_eq!(answers.iter().map(|(_, answer)| answer.is_ok()).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(answers[2].1.as_ref().unwrap(), &master);

    let url = redis.sentinels[2].url();
    let nobody = Config { sentinel: "nobody".to_owned(), url: url.clone().into(), ..Config::default() };
    let failure = RedisClient::new(&nobody).unwrap().ping().await.unwrap_err().to_string();
    assert!(failure.contains("knows no master of the name redis.sentinel"), "{failure}");
    redis.sentinels[2].kill();
    redis.client().ping().await.unwrap_err();
}

#[tokio::test]
async fn the_password_is_for_the_master_too_and_a_sentinel_may_want_none() {
    let redis = RedisSentinels::start().await;
    for server in &redis.servers {
        server.command(&["CONFIG", "SET", "requirepass", "hunter2"]);
    }
    let url = redis.url().replace("redis://", "redis://:hunter2@");
    let config = Config { url: url.into(), ..redis.config() };
    RedisClient::new(&config).unwrap().ping().await.unwrap();
    for sentinel in &redis.sentinels {
        sentinel.command(&["ACL", "SETUSER", "default", "resetpass", ">hunter2"]);
        assert!(sentinel.command(&["PING"]).contains("NOAUTH"));
    }
    RedisClient::new(&config).unwrap().ping().await.unwrap();
    let failure = redis.client().ping().await.unwrap_err();
    assert!(!failure.to_string().contains("hunter2"), "{failure}");
}

#[tokio::test]
async fn a_run_goes_on_at_the_replica_that_takes_the_place_of_a_dead_or_frozen_master() {
    for frozen in [false, true] {
        let mut redis = RedisSentinels::start().await;
        let journal = RedisJournal::new(redis.client());
        let token = take(&journal).await;
        append(&journal, token, 0, "x").await.unwrap();
        replicated(&redis.servers[1], "1").await;
        if frozen {
            redis.servers[0].freeze();
        } else {
            redis.servers[0].kill();
        }
        let answer = append(&journal, token, 1, "y").await;
        assert!(matches!(answer, Err(JournalError::Unavailable(_))), "{answer:?}");
        eventually("the run goes on", async || append(&journal, token, 1, "y").await.ok()).await;
        redis.until_master(1).await;
        if frozen {
            redis.servers[0].thaw();
        } else {
            redis.servers[0].restart().await;
        }
        redis.until_replica(0).await;
        append(&journal, token, 2, "z").await.unwrap();
        assert_eq!(journal.read(&job()).await.unwrap(), ["x", "y", "z"], "frozen: {frozen}");
        replicated(&redis.servers[0], "3").await;
    }
}

#[tokio::test]
async fn a_connection_whose_master_has_become_a_replica_is_left_within_the_call() {
    let redis = RedisSentinels::start().await;
    let journal = RedisJournal::new(redis.client());
    let token = take(&journal).await;
    append(&journal, token, 0, "x").await.unwrap();
    replicated(&redis.servers[1], "1").await;
    redis.move_by_hand(0, 1);
    append(&journal, token, 1, "y").await.unwrap();
    let errors = redis.servers[0].command(&["INFO", "errorstats"]);
    assert!(errors.contains("errorstat_READONLY:count=1"), "{errors}");
    assert_eq!(journal.read(&job()).await.unwrap(), ["x", "y"]);
}

#[tokio::test]
async fn no_job_is_lost_and_no_write_made_twice_while_masters_die_and_hang_under_load() {
    under_load("default").await;
}

#[tokio::test]
async fn nor_where_writes_wait_for_the_replica() {
    under_load("replicas").await;
}

async fn under_load(durability: &str) {
    let service = ProxiedService::new(Broker::shared().await).await;
    let mut redis = RedisSentinels::start().await;
    let settings = [("REDIS__SENTINEL", "main"), ("REDIS__DURABILITY", durability), ("WORKER__CONCURRENCY", "5")];
    let program = service.program(&settings).set("REDIS_URL", &redis.url());
    let worker = program.worker().await;
    service.peer.fault(serde_json::json!({"on": "execute", "kind": "delay", "delay_ms": 200, "times": 1000})).await;
    let mut sent = 0;
    let mut send = async |count: u32| {
        for _ in 0..count {
            let id = format!("job-{sent}");
            let mail = serde_json::json!({"to": "bob@example.com", "subject": id, "body": "hello"});
            service.send(&id, &format!("Call gmail_send_message with {mail}")).await;
            sent += 1;
        }
    };
    let under_way = async |count: u64| {
        shortly("writes are under way", async || (service.peer.count("execute").await >= count).then_some(())).await;
    };
    send(40).await;
    under_way(10).await;
    let fault = Instant::now();
    redis.servers[0].kill();
    redis.until_master(1).await;
    println!("the replica is master {:.1} s after the kill", fault.elapsed().as_secs_f64());
    redis.servers[0].restart().await;
    redis.until_replica(0).await;
    let before = service.peer.count("execute").await;
    send(40).await;
    under_way(before + 5).await;
    redis.servers[1].freeze();
    redis.until_master(0).await;
    redis.servers[1].thaw();
    redis.until_replica(1).await;

    let mut replies = BTreeMap::new();
    while replies.len() < 80 {
        let reply = service.reply().await;
        let id = reply["subject"].as_str().unwrap().to_owned();
        if let Some(first) = replies.insert(id, reply.clone()) {
            assert_eq!(first, reply, "a second reply that differs");
        }
    }
    let world = service.peer.world().await;
    let effects = world["effects"].as_array().unwrap().iter();
    let mut written: BTreeMap<&str, u32> = BTreeMap::new();
    for effect in effects {
        *written.entry(effect["params"]["subject"].as_str().unwrap()).or_default() += 1;
    }
    let unknown = |reply: &Value| reply["data"]["effects"][0]["state"] == "unknown" || notices_loss(reply);
    for (id, reply) in &replies {
        match written.get(id.as_str()) {
            Some(1) => {}
            None => assert!(unknown(reply), "lost without a word: {reply:#}"),
            Some(more) => panic!("{id} was written {more} times"),
        }
    }
    let in_doubt = replies.values().filter(|reply| unknown(reply)).count();
    println!("{durability}: 80 jobs, lost 0, written {}, twice 0, said to be in doubt {in_doubt}", written.len());
    worker.page("/readyz", 200).await;

    redis.sentinels[0].kill();
    let doctor = program.run(&["doctor", "--connection", "gmail"]).await;
    let master = format!("ok      Redis Sentinel: the master is 127.0.0.1:{}, say all of 2", redis.servers[0].port());
    for part in [&master, "warning Redis Sentinel 127.0.0.1:", "ok      Redis durability"] {
        assert!(doctor.all().contains(part), "{part} is missing in {}", doctor.all());
    }
    assert_eq!(doctor.code, Some(0), "{}", doctor.all());
}

fn notices_loss(reply: &Value) -> bool {
    let notices = reply["data"]["notices"].as_array().map(Vec::as_slice).unwrap_or_default();
    notices.iter().any(|notice| notice["code"] == "journal_lost")
}
