//! A Redis Cluster whose slots move and whose nodes die or hang: runs go on, and what lies on other nodes is not held up
//! for long.

use std::collections::BTreeSet;
use std::time::Duration;

use agentkit_worker::internals::cache::Cache;
use agentkit_worker::internals::cache::redis::RedisCache;
use agentkit_worker::internals::digest_store::DigestStore;
use agentkit_worker::internals::digest_store::redis::RedisDigestStore;
use agentkit_worker::internals::journal::redis::RedisJournal;
use agentkit_worker::internals::journal::{Append, Claim, ClaimMode, FencingToken, Journal, JournalError};
use agentkit_worker::internals::key::Key;
use agentkit_worker::internals::redis_client::{Config, RedisClient};
use agentkit_worker::job::JobId;
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::broker::Broker;
use crate::support::proxied_service::ProxiedService;
use crate::support::redis::Redis;
use crate::support::redis_cluster::RedisCluster;
use crate::support::shortly;

const LEASE: Duration = Duration::from_secs(30);
/// How long a call may take that meets a dead or frozen node: 1300 ms, with room for a busy test machine.
const BOUND: Duration = Duration::from_millis(1800);

fn job(name: &str) -> JobId {
    JobId::new(name).unwrap()
}

fn key_of(job: &str) -> String {
    format!("agentkit:run:{{{job}}}")
}

/// A job for each node.
fn one_job_each(cluster: &RedisCluster) -> Vec<String> {
    let names: Vec<String> = (0..100).map(|number| format!("job-{number}")).collect();
    let of =
        |node| names.iter().find(|name| cluster.owner(&key_of(name)) == node).expect("a hundred reach all").clone();
    (0..3).map(of).collect()
}

async fn take(journal: &RedisJournal, name: &str) -> FencingToken {
    match journal.claim(&job(name), "one", LEASE, ClaimMode::IfFree).await {
        Ok(Claim::Granted { token, .. }) => token,
        other => panic!("{name}: {other:?}"),
    }
}

async fn append(
    journal: &RedisJournal,
    name: &str,
    token: FencingToken,
    sequence: u64,
    entry: &str,
) -> Result<(), JournalError> {
    let entries = [entry.to_owned()];
    journal
        .append(
            &job(name),
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

/// A client that skips a failing cluster for a moment only, and soon gives up its link.
fn quick(cluster: &RedisCluster) -> RedisClient {
    RedisClient::new(&Config { breaker_open_milliseconds: 200, ..cluster.config() }).unwrap()
}

#[tokio::test]
async fn a_run_goes_on_at_every_moment_of_its_slots_move_to_another_node() {
    let cluster = RedisCluster::start().await;
    let journal = RedisJournal::new(cluster.client());
    let key = key_of("a");
    let token = take(&journal, "a").await;
    append(&journal, "a", token, 0, "at home").await.unwrap();
    let from = cluster.owner(&key);
    let to = (from + 1) % 3;
    cluster.begin_move(&key, from, to);
    append(&journal, "a", token, 1, "before it moves").await.unwrap();
    cluster.move_key(&key, from, to);
    // The other node has not seen the script yet, and is asked as often as it takes to tell it.
    append(&journal, "a", token, 2, "after it moved").await.unwrap();
    journal.renew(&job("a"), token, LEASE).await.unwrap();
    assert!(cluster.answered(from, "ASK") >= 2, "each call was sent on");
    cluster.end_move(&key, to);
    append(&journal, "a", token, 3, "when all know").await.unwrap();
    assert_eq!(cluster.answered(from, "MOVED"), 1);
    append(&journal, "a", token, 4, "remembered").await.unwrap();
    assert_eq!(cluster.answered(from, "MOVED"), 1, "the new place is remembered");
    let all = ["at home", "before it moves", "after it moved", "when all know", "remembered"];
    assert_eq!(RedisJournal::new(cluster.client()).read(&job("a")).await.unwrap(), all);
    assert_eq!(journal.read(&job("a")).await.unwrap(), all);
}

#[tokio::test]
async fn a_script_whose_keys_are_on_their_way_waits_for_the_last_of_them() {
    let cluster = RedisCluster::start().await;
    let store = RedisDigestStore::new(cluster.client());
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let look = || store.look("morning", &[], now, now - SignedDuration::from_hours(1));
    let groups = ["g".to_owned()];
    store.look("morning", &groups, now, now).await.unwrap();
    let keys = ["state", "groups"].map(|part| format!("agentkit:digest:{{morning}}:{part}"));
    let from = cluster.owner(&keys[0]);
    let to = (from + 2) % 3;
    cluster.begin_move(&keys[0], from, to);
    cluster.move_key(&keys[0], from, to);
    let rest = async {
        shortly("the script is put off", async || (cluster.answered(from, "TRYAGAIN") > 0).then_some(())).await;
        cluster.move_key(&keys[1], from, to);
        cluster.end_move(&keys[0], to);
    };
    let (found, ()) = tokio::join!(look(), rest);
    found.unwrap();
    look().await.unwrap();
}

#[tokio::test]
async fn a_frozen_master_fails_its_own_runs_in_time_and_others_go_on_within_seconds() {
    let cluster = RedisCluster::start().await;
    let client = cluster.client();
    let journal = RedisJournal::new(client.clone());
    let jobs = one_job_each(&cluster);
    let mut epochs = Vec::new();
    for name in &jobs {
        epochs.push(take(&journal, name).await);
        append(&journal, name, epochs[epochs.len() - 1], 0, "x").await.unwrap();
    }
    cluster.nodes[1].freeze();
    let others = async |sequence| {
        shortly("runs of other nodes go on", async || {
            let (one, two) = tokio::join!(
                within_bound(append(&journal, &jobs[0], epochs[0], sequence, "x")),
                within_bound(append(&journal, &jobs[2], epochs[2], sequence, "x")),
            );
            one.and(two).ok()
        })
        .await;
    };
    // Longer than a link to the cluster is kept in spite of time-outs.
    let until = Instant::now() + Duration::from_secs(8);
    let (mut sequence, mut last) = (1, Instant::now());
    while Instant::now() < until {
        // More than open the breaker.
        let own = join_all((0..10).map(|_| within_bound(append(&journal, &jobs[1], epochs[1], 1, "y"))));
        tokio::pin!(own);
        let own = loop {
            tokio::select! {
                own = &mut own => break own,
                () = others(sequence) => (sequence, last) = (sequence + 1, Instant::now()),
            }
        };
        assert!(own.iter().all(|own| matches!(own, Err(JournalError::Unavailable(_)))), "{own:?}");
        assert!(last.elapsed() < Duration::from_secs(3), "others wait for the frozen one");
    }
    within_bound(client.facts()).await.unwrap_err();
    cluster.nodes[1].thaw();
    shortly("its runs go on", async || append(&journal, &jobs[1], epochs[1], 1, "y").await.ok()).await;
    client.ping().await.unwrap();
    assert!(client.status().available);
    assert_eq!(client.facts().await.unwrap().len(), 3);
    assert_eq!(journal.read(&job(&jobs[1])).await.unwrap(), ["x", "y"]);
}

#[tokio::test]
async fn the_runs_of_a_dead_or_frozen_master_go_on_at_the_replica_that_takes_its_place() {
    for frozen in [false, true] {
        let mut cluster = RedisCluster::start().await;
        let journal = RedisJournal::new(quick(&cluster));
        let name = &one_job_each(&cluster)[2];
        let replica = cluster.add_replica_of(2).await;
        let token = take(&journal, name).await;
        append(&journal, name, token, 0, "x").await.unwrap();
        shortly("the replica has the entry", async || {
            cluster.nodes[replica].command(&["INFO", "keyspace"]).contains("keys=1").then_some(())
        })
        .await;
        if frozen {
            cluster.nodes[2].freeze();
        } else {
            cluster.nodes[2].kill();
        }
        let answer = within_bound(append(&journal, name, token, 1, "y")).await;
        assert!(matches!(answer, Err(JournalError::Unavailable(_))), "{answer:?}");
        assert_eq!(cluster.nodes[replica].command(&["CLUSTER", "FAILOVER", "TAKEOVER"]), "OK");
        shortly("the run goes on", async || within_bound(append(&journal, name, token, 1, "y")).await.ok()).await;
        if frozen {
            cluster.nodes[2].thaw();
        } else {
            cluster.nodes[2].restart().await;
        }
        shortly("the run goes on still", async || append(&journal, name, token, 2, "z").await.ok()).await;
        assert_eq!(journal.read(&job(name)).await.unwrap(), ["x", "y", "z"], "frozen: {frozen}");
    }
}

#[tokio::test]
async fn a_cluster_that_is_all_gone_costs_little_time_and_is_found_again() {
    let mut cluster = RedisCluster::start().await;
    let client = quick(&cluster);
    let cache = RedisCache::new(client.clone());
    let key = Key::new(&["a"]);
    cache.put(&key, "x".into(), LEASE).await.unwrap();
    for node in &mut cluster.nodes {
        node.kill();
    }
    for _ in 0..20 {
        within_bound(cache.get(&key)).await.unwrap_err();
    }
    assert!(!client.status().available && client.status().failure.is_some());
    for node in &mut cluster.nodes {
        node.restart().await;
    }
    let found = shortly("the cluster is back", async || cache.get(&key).await.ok()).await;
    assert_eq!(found.as_deref(), Some(&b"x"[..]));
}

#[tokio::test]
async fn a_lost_connection_is_made_good_within_the_call() {
    let cluster = RedisCluster::start().await;
    let cache = RedisCache::new(cluster.client());
    let cut = || {
        for node in &cluster.nodes {
            node.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        }
    };
    let key = Key::new(&["a"]);
    cache.put(&key, "x".into(), LEASE).await.unwrap();
    cut();
    assert_eq!(cache.get(&key).await.unwrap().as_deref(), Some(&b"x"[..]));
    cut();
    let lock = Key::new(&["lock"]);
    assert!(cache.put_if_absent(&lock, "x".into(), LEASE).await.unwrap());
    assert!(!cache.put_if_absent(&lock, "x".into(), LEASE).await.unwrap());
}

#[tokio::test]
async fn a_client_with_the_wrong_idea_of_redis_says_so() {
    let cluster = RedisCluster::shared().await;
    let one = RedisClient::new(&cluster.nodes[0].config()).unwrap();
    let journal = RedisJournal::new(one.clone());
    let elsewhere = one_job_each(cluster).pop().unwrap();
    let failure = journal.read(&job(&elsewhere)).await.unwrap_err().to_string();
    assert!(failure.contains("this is a node of a redis cluster: set redis.cluster = true (Moved"), "{failure}");
    assert_eq!(one.facts().await.unwrap()[0].cluster.as_deref(), Some("ok"));

    let plain = Redis::start().await;
    let many = RedisClient::new(&Config { cluster: true, ..plain.config() }).unwrap();
    for failure in [many.ping().await.unwrap_err(), many.facts().await.unwrap_err()] {
        assert!(failure.to_string().ends_with("is no node of a redis cluster: unset redis.cluster"), "{failure}");
    }
}

#[tokio::test]
async fn one_start_node_is_enough_and_the_facts_of_every_master_are_told() {
    let cluster = RedisCluster::shared().await;
    let client = RedisClient::new(&Config { cluster: true, ..cluster.nodes[2].config() }).unwrap();
    assert!(client.status().available);
    let facts = client.facts().await.unwrap();
    let mut told: Vec<&str> = facts.iter().map(|facts| facts.server.as_str()).collect();
    told.sort_unstable();
    let mut servers: Vec<String> = cluster.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
    servers.sort_unstable();
    assert_eq!(told, servers);
    for facts in facts {
        assert_eq!((facts.role.as_str(), facts.cluster.as_deref()), ("master", Some("ok")));
        assert!(facts.append_only);
    }
}

#[tokio::test]
async fn a_worker_goes_on_while_slots_move_and_a_master_is_killed_and_started_again() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let mut cluster = RedisCluster::start().await;
    let program = service.program(&[("REDIS__CLUSTER", "true")]).set("REDIS_URL", &cluster.url());
    let worker = program.worker().await;
    let key = |job: &str| format!("{}:run:{{{job}}}", service.amqp.prefix);
    let read = "gmail_fetch_mails with {\"max_results\": 1}";
    let write = "gmail_send_message with {\"to\": \"bob@example.com\", \"subject\": \"hello\", \"body\": \"hello\"}";
    // Sends a job whose mail is sent and whose reading call is under way when this is over.
    let send = async |id: &str| {
        service
            .peer
            .fault(json!({"on": "execute", "tool": "gmail_fetch_mails", "kind": "delay", "delay_ms": 1000}))
            .await;
        let before = service.peer.count("execute").await;
        service.send(id, &format!("Call {write}, then call {read}")).await;
        shortly("the second call", async || (service.peer.count("execute").await == before + 2).then_some(())).await;
    };

    send("moved").await;
    let from = cluster.owner(&key("moved"));
    let to = (from + 1) % 3;
    cluster.begin_move(&key("moved"), from, to);
    cluster.move_key(&key("moved"), from, to);
    cluster.end_move(&key("moved"), to);
    assert_completed(&service.only_reply().await, "moved");
    assert!(cluster.answered(from, "MOVED") > 0, "the run was under way when its slot moved");

    send("killed").await;
    let master = cluster.owner(&key("killed"));
    cluster.nodes[master].kill();
    cluster.nodes[master].restart().await;
    assert_completed(&service.only_reply().await, "killed");
    assert_eq!(service.mails().await, 2, "each mail was sent once");

    cluster.until_in_order().await;
    let ids: Vec<String> = (0..6).map(|number| format!("job-{number}")).collect();
    let owners: BTreeSet<usize> = ids.iter().map(|id| cluster.owner(&key(id))).collect();
    assert_eq!(owners.len(), 3, "the jobs lie on all masters");
    for id in &ids {
        service.send(id, &format!("Call {read}")).await;
    }
    let mut answered = BTreeSet::new();
    for _ in &ids {
        let reply = service.reply().await;
        let id = reply["subject"].as_str().unwrap();
        assert_completed(&reply, id);
        answered.insert(id.to_owned());
    }
    assert_eq!(answered, ids.into_iter().collect());
    worker.page("/readyz", 200).await;

    let doctor = program.run(&["doctor", "--connection", "gmail"]).await.all();
    let first = format!("Redis 127.0.0.1:{} persistence: append-only file", cluster.nodes[0].port());
    for part in ["ok      Redis Cluster: 3 masters", &first] {
        assert!(doctor.contains(part), "{part} is missing in {doctor}");
    }
    let alone = service.program(&[]).set("REDIS_URL", &cluster.nodes[0].url());
    let doctor = alone.run(&["doctor", "--connection", "gmail"]).await;
    assert!(doctor.all().contains("BROKEN  Redis Cluster: this server is a node of one"), "{}", doctor.all());
    assert_eq!(doctor.code, Some(1));
}

#[track_caller]
fn assert_completed(reply: &Value, id: &str) {
    assert_eq!(
        (reply["subject"].as_str(), reply["data"]["status"].as_str()),
        (Some(id), Some("completed")),
        "{reply:#}"
    );
}
