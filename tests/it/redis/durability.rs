//! What a run's journal has survived before a write leaves: nothing, a sync to the disk, the loss of the master.

use std::time::Duration;

use agentkit_worker::Config as WorkerConfig;
use agentkit_worker::internals::journal::redis::RedisJournal;
use agentkit_worker::internals::journal::{Append, Claim, ClaimMode, FencingToken, Journal, JournalError};
use agentkit_worker::internals::redis_client::{Config, Durability, RedisClient};
use agentkit_worker::job::JobId;
use futures_util::future::join_all;

use crate::support::broker::Broker;
use crate::support::program::Program;
use crate::support::redis::Redis;
use crate::support::redis_cluster::RedisCluster;
use crate::support::redis_journal_worker::{RedisJournalWorker, notices};
use crate::support::sandbox_peer::SandboxPeer;
use crate::support::scripted_model::{ScriptedModel, turn};
use crate::support::{eventually, shortly};

const LEASE: Duration = Duration::from_secs(30);

fn job(name: &str) -> JobId {
    JobId::new(name).unwrap()
}

fn journal(config: Config, durability: Durability) -> RedisJournal {
    RedisJournal::new(RedisClient::new(&Config { durability, ..config }).unwrap())
}

/// Claims a run and appends one entry.
async fn begin(journal: &RedisJournal, name: &str) -> FencingToken {
    let Claim::Granted { token, .. } = journal.claim(&job(name), "one", LEASE, ClaimMode::IfFree).await.unwrap() else {
        panic!("{name} is held");
    };
    let entries = ["x".to_owned()];
    let append =
        Append { token, sequence: 0, entries: &entries, lease: LEASE, retain: LEASE, remains: None, index: None };
    journal.append(&job(name), append).await.unwrap();
    token
}

async fn secure(journal: &RedisJournal, name: &str, token: FencingToken) -> Result<(), JournalError> {
    journal.secure(&job(name), token, 1, LEASE).await
}

#[track_caller]
fn assert_unmet(answer: Result<(), JournalError>, parts: &[&str]) {
    let Err(JournalError::Unavailable(why)) = answer else { panic!("{answer:?}") };
    for part in ["redis.durability = ", "is not met", "or set redis.durability = \"default\""].iter().chain(parts) {
        assert!(why.contains(part), "{part:?} is missing in {why}");
    }
}

fn replicas(config: &mut WorkerConfig) {
    config.redis.durability = Durability::Replicas;
    config.worker.lease_seconds = 3;
}

/// Whether the server has WAITAOF.
async fn syncs_when_asked(config: &Config) -> bool {
    let facts = RedisClient::new(config).unwrap().facts().await.unwrap().remove(0);
    let mut numbers = facts.version.split('.').map(|number| number.parse::<u32>().unwrap());
    facts.product == "Valkey" || (numbers.next(), numbers.next()) >= (Some(7), Some(2))
}

#[tokio::test]
async fn what_asks_for_nothing_waits_for_nothing() {
    let mut redis = Redis::start().await;
    let journal = journal(redis.config(), Durability::Default);
    let token = begin(&journal, "a").await;
    redis.kill();
    secure(&journal, "a", token).await.unwrap();
}

#[tokio::test]
async fn entries_are_safe_once_a_replica_has_them_and_only_those_of_their_owner_that_are_there() {
    let redis = Redis::start().await;
    let journal = journal(redis.config(), Durability::Replicas);
    let token = begin(&journal, "a").await;
    let no_replica = &["not within 2 s", "connect a replica"];
    assert_unmet(secure(&journal, "a", token).await, no_replica);
    let replica = redis.start_replica().await;
    secure(&journal, "a", token).await.unwrap();
    assert_eq!(replica.command(&["HGET", "agentkit:run:{a}", "0"]), "x");
    replica.freeze();
    assert_unmet(secure(&journal, "a", token).await, no_replica);
    replica.thaw();
    shortly("the replica is back", async || secure(&journal, "a", token).await.ok()).await;

    let missing = journal.secure(&job("a"), token, 2, LEASE).await;
    assert!(matches!(missing, Err(JournalError::Lost)), "{missing:?}");
    journal.claim(&job("a"), "two", LEASE, ClaimMode::Steal).await.unwrap();
    let stolen = secure(&journal, "a", token).await;
    assert!(matches!(stolen, Err(JournalError::OwnershipLost)), "{stolen:?}");
}

#[tokio::test]
async fn runs_do_not_wait_for_each_other_and_lost_connections_are_made_good() {
    let redis = Redis::start().await;
    let replica = redis.start_replica().await;
    let journal = journal(redis.config(), Durability::Replicas);
    let names: Vec<String> = (0..64).map(|number| format!("job-{number}")).collect();
    let tokens = join_all(names.iter().map(|name| begin(&journal, name))).await;
    for _ in 0..2 {
        replica.freeze();
        // Behind each other they would take two minutes.
        let all = shortly("all have waited", async || {
            Some(join_all(names.iter().zip(&tokens).map(|(name, token)| secure(&journal, name, *token))).await)
        });
        all.await.into_iter().for_each(|answer| assert_unmet(answer, &[]));
        replica.thaw();
        shortly("the replica is back", async || secure(&journal, &names[0], tokens[0]).await.ok()).await;
        let all = join_all(names.iter().zip(&tokens).map(|(name, token)| secure(&journal, name, *token))).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        redis.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    }
}

#[tokio::test]
async fn a_redis_that_is_full_makes_what_it_has_safe_all_the_same() {
    let redis = Redis::start().await;
    let _replica = redis.start_replica().await;
    let journal = journal(redis.config(), Durability::Replicas);
    let token = begin(&journal, "a").await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    secure(&journal, "a", token).await.unwrap();
}

#[tokio::test]
async fn of_a_cluster_the_node_that_has_the_run_is_asked() {
    let mut cluster = RedisCluster::start().await;
    let replica = cluster.add_replica_of(2).await;
    let journal = journal(cluster.config(), Durability::Replicas);
    let names: Vec<String> = (0..100).map(|number| format!("job-{number}")).collect();
    let key = |name: &str| format!("agentkit:run:{{{name}}}");
    let of = |node| names.iter().find(|name| cluster.owner(&key(name)) == node).unwrap();
    let (with, without) = (of(2), of(0));
    let (one, two) = (begin(&journal, with).await, begin(&journal, without).await);
    secure(&journal, with, one).await.unwrap();
    assert_unmet(secure(&journal, without, two).await, &["connect a replica"]);
    cluster.nodes[replica].freeze();
    assert_unmet(secure(&journal, with, one).await, &[]);
    cluster.nodes[replica].thaw();
    // A run is asked for where it lies by now.
    cluster.begin_move(&key(without), 0, 2);
    cluster.move_key(&key(without), 0, 2);
    shortly("the moved run is safe", async || secure(&journal, without, two).await.ok()).await;
    cluster.end_move(&key(without), 2);
    secure(&journal, without, two).await.unwrap();
}

#[tokio::test]
async fn a_write_leaves_only_once_a_replica_knows_of_it_and_goes_on_by_itself() {
    let with_replica = |frozen: bool| async move {
        let model = ScriptedModel::start([turn::send_mail(), turn::text("sent")]).await;
        let mut worker = RedisJournalWorker::start(&model, replicas).await;
        let replica = if frozen { Some(worker.start_replica().await) } else { None };
        replica.iter().for_each(Redis::freeze);
        worker.publish(&[]).await;
        let journal = || worker.redis_command(&["HVALS", "agentkit:run:{job-1}"]);
        eventually("the write does not leave", || async { journal().contains("not_secured").then_some(()) }).await;
        worker.idle().await;
        assert_eq!(worker.mails().await, 0);
        replica.iter().for_each(Redis::thaw);
        let _replica = if frozen { replica } else { Some(worker.start_replica().await) };
        let data = worker.reply("agentkit.job.completed").await;
        assert_eq!(data["text"], "sent", "{data:#}");
        assert_eq!(worker.mails().await, 1);
        assert_eq!(worker.queue.dead_letters(), []);
        model.finish();
    };
    tokio::join!(with_replica(false), with_replica(true));
}

#[tokio::test]
async fn a_replica_that_takes_the_masters_place_knows_of_the_write_and_it_is_not_made_again() {
    let model = ScriptedModel::start([turn::send_mail(), turn::hang(), turn::text("done")]).await;
    let mut worker = RedisJournalWorker::start(&model, replicas).await;
    let replica = worker.start_replica().await;
    worker.publish(&[]).await;
    model.wait_for_requests(2).await;
    worker.kill_worker(1).await;
    worker.kill_redis();
    assert_eq!(replica.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    let journal = replica.command(&["HVALS", "agentkit:run:{job-1}"]);
    assert!(journal.contains("tool_started"), "{journal}");
    worker.move_to(replica);
    let _next = worker.start_replica().await;
    worker.start_worker();
    let data = worker.reply("agentkit.job.completed").await;
    assert_eq!((data["text"].as_str(), data["effects"].as_array().unwrap().len()), (Some("done"), 1), "{data:#}");
    assert!(!notices(&data).contains(&"journal_lost"), "{data:#}");
    assert_eq!(worker.mails().await, 1);
    model.finish();
}

#[tokio::test]
async fn a_write_leaves_once_its_start_is_on_the_disk_or_never_where_redis_cannot_say_so() {
    let syncs = syncs_when_asked(&Redis::start().await.config()).await;
    let script = [turn::send_mail(), turn::text("sent")].into_iter().take(if syncs { 2 } else { 1 });
    let model = ScriptedModel::start(script).await;
    let mut worker = RedisJournalWorker::start(&model, |config| config.redis.durability = Durability::Fsync).await;
    let config = worker.redis.lock().unwrap().config();
    let journal = journal(config, Durability::Fsync);
    let token = begin(&journal, "a").await;
    let needs = &["it takes Redis 7.2 or any Valkey", "appendonly yes"];
    // The server of the tests leaves it to its machine when it syncs, so nothing is ever known to be on the disk.
    assert_unmet(secure(&journal, "a", token).await, needs);
    worker.redis_command(&["CONFIG", "SET", "appendfsync", "everysec"]);
    worker.publish(&[]).await;
    if syncs {
        let data = worker.reply("agentkit.job.completed").await;
        assert_eq!((data["text"].as_str(), worker.mails().await), (Some("sent"), 1));
        secure(&journal, "a", token).await.unwrap();
        worker.redis_command(&["CONFIG", "SET", "appendonly", "no"]);
        assert_unmet(secure(&journal, "a", token).await, needs);
    } else {
        let journal = || worker.redis_command(&["HVALS", "agentkit:run:{job-1}"]);
        eventually("the write does not leave", || async { journal().contains("not_secured").then_some(()) }).await;
        worker.idle().await;
        assert_eq!(worker.mails().await, 0);
    }
    model.finish();
}

#[tokio::test]
async fn the_doctor_knows_what_redis_cannot_give() {
    let redis = Redis::start_with(&["--appendfsync", "everysec"]).await;
    let peer = SandboxPeer::start().await;
    peer.activate("gmail", "user_123").await;
    let amqp = Broker::shared().await.config();
    let doctor = async |durability: &str, url: &str| {
        let program = Program::of_service(&peer.sandbox, &amqp, url).set("CONNECTION_NAME", "gmail");
        program.set("AGENTKIT_WORKER__REDIS__DURABILITY", durability).run(&["doctor"]).await
    };
    let found = async |durability: &str, code: i32, part: &str| {
        let output = doctor(durability, &redis.url()).await;
        assert!(output.stdout.contains(part), "{part} is missing in {}", output.all());
        assert_eq!(output.code, Some(code), "{}", output.all());
    };
    found("default", 0, "ok      Redis durability: redis.durability is default").await;
    found("replicas", 1, "BROKEN  Redis durability: redis.durability is replicas, and no replica is connected").await;
    let _replica = redis.start_replica().await;
    found("replicas", 0, "ok      Redis durability: redis.durability is replicas").await;
    if syncs_when_asked(&redis.config()).await {
        found("fsync", 0, "ok      Redis durability: redis.durability is fsync").await;
        redis.command(&["CONFIG", "SET", "appendonly", "no"]);
        found("fsync", 1, "BROKEN  Redis durability: redis.durability is fsync, and there is no append-only file")
            .await;
    } else {
        found("fsync", 1, "has no WAITAOF").await;
    }
    let unknown = doctor("always", &redis.url()).await;
    assert_eq!(unknown.code, Some(64), "{}", unknown.all());
    assert!(unknown.stderr.contains("redis.durability"), "{}", unknown.all());
}
