//! Users with hostile names never meet: not in the cache, not in the journal, not in a reply.

use std::collections::BTreeSet;
use std::sync::Arc;

use agentkit_worker::Shutdown;
use agentkit_worker::internals::app::{App, Backends};
use agentkit_worker::internals::cache::redis::RedisCache;
use agentkit_worker::internals::clock::{SharedClock, SystemClock};
use agentkit_worker::internals::journal::redis::RedisJournal;
use agentkit_worker::internals::key::digest;
use agentkit_worker::internals::queue::memory::MemoryQueue;
use agentkit_worker::internals::queue::{Destination, Message, Properties, Publisher};
use serde_json::{Value, json};

use crate::support::redis::Redis;
use crate::support::sandbox_peer::{SandboxPeer, config_of};
use crate::support::soon;

/// A worker with its journal and cache in a real Redis.
struct WorkerOnRedis {
    peer: SandboxPeer,
    redis: Redis,
    queue: MemoryQueue,
    shutdown: Shutdown,
}

impl WorkerOnRedis {
    async fn new(initial_status: Option<&str>) -> Self {
        let redis = Redis::start().await;
        let peer = SandboxPeer::start_with(|options| {
            options.initial_status = initial_status.map(str::to_owned);
            options.clock = Arc::new(SystemClock);
        })
        .await;
        let mut config = config_of(&peer.sandbox);
        config.redis = redis.config();
        let (queue, shutdown) = (MemoryQueue::new(1000), Shutdown::new());
        let clock: SharedClock = Arc::new(SystemClock);
        let backends = Backends {
            journal: Arc::new(RedisJournal::new(redis.client())),
            cache: Arc::new(RedisCache::new(redis.client())),
            ..Backends::memory(&queue, &clock)
        };
        let app = App::build(config, backends, clock, shutdown.clone()).unwrap();
        tokio::spawn(app.run());
        Self { peer, redis, queue, shutdown }
    }

    /// What follows `agentkit:start:` in the keys, but for the worker's own marks.
    fn keys(&self, start: &str) -> BTreeSet<String> {
        let keys = self.redis.command(&["--raw", "KEYS", "*"]);
        let keys = keys.lines().filter_map(|key| key.strip_prefix(&format!("agentkit:{start}:")));
        keys.filter(|key| !key.starts_with("{%00")).map(str::to_owned).collect()
    }

    /// The reply to a job, sent to a queue of its own.
    async fn run(&self, job: &Value, message_id: &str) -> Value {
        let mut inbox = self.queue.reply_inbox("answers");
        let properties = Properties {
            message_id: Some(message_id.to_owned()),
            reply_to: Some("answers".to_owned()),
            ..Properties::default()
        };
        let message = Message { body: job.to_string().into(), properties };
        self.queue.publisher().publish(&Destination::Jobs, message).await.unwrap();
        let reply = soon("a reply", inbox.next()).await.unwrap();
        serde_json::from_slice(&reply.body).unwrap()
    }
}

impl Drop for WorkerOnRedis {
    fn drop(&mut self) {
        self.shutdown.stop();
    }
}

fn hostile() -> [String; 9] {
    let plain = ["a:b", "a%3Ab", "a%253Ab", "../x", "a\nb", "{a}", "*", "a"];
    let [one, two, three, four, five, six, seven, eight] = plain.map(str::to_owned);
    [one, two, three, four, five, six, seven, eight, "é".repeat(100)]
}

#[tokio::test]
async fn hostile_identifiers_share_no_tool_list_no_journal_and_no_mailbox() {
    let worker = WorkerOnRedis::new(Some("ACTIVE")).await;
    let names = hostile();
    let job = |identifier: &str, prompt: String| json!({"identifier": identifier, "connections": ["gmail"], "prompt": prompt, "metadata": {"for": identifier}});
    for (index, name) in names.iter().enumerate() {
        let prompt = format!("Send an email to sam@example.com with subject Number{index} saying hello");
        // The job's id is as hostile as the user's.
        let reply = worker.run(&job(name, prompt), name).await;
        assert_eq!(reply["type"], "agentkit.job.completed", "{reply:#}");
        assert_eq!((&reply["subject"], &reply["data"]["metadata"]["for"]), (&json!(name), &json!(name)));
        assert_eq!(reply["data"]["effects"].as_array().unwrap().len(), 1, "{reply:#}");
    }
    assert_eq!(worker.peer.count("scoped").await, names.len() as u64, "nobody was given another's list");
    let lists = worker.keys("tools");
    assert_eq!(lists.len(), names.len(), "{lists:#?}");
    assert!(lists.contains("a%3Ab:gmail") && lists.contains("a%253Ab:gmail"), "{lists:#?}");
    assert!(lists.iter().all(|key| key.matches(':').count() == 1 && !key.contains(['/', '{', '*'])), "{lists:#?}");
    let runs = worker.keys("run");
    assert_eq!(runs.len(), names.len(), "{runs:#?}");

    for (index, call) in worker.peer.bodies("execute").await.iter().enumerate() {
        assert_eq!((&call["identifier"], &call["agent_run_id"]), (&json!(names[index]), &json!(names[index])));
        assert_eq!(call["params"]["subject"], json!(format!("Number{index}")));
    }
    for (index, name) in names.iter().enumerate() {
        let reply = worker.run(&job(name, "Fetch my last unread email".to_owned()), &format!("2-{index}")).await;
        assert_eq!(reply["data"]["metadata"]["for"], json!(name), "{index}: {reply:#}");
    }
    assert_eq!(worker.peer.count("scoped").await, names.len() as u64);
    assert_eq!(worker.keys("run").len(), 2 * names.len());
}

#[tokio::test]
async fn users_with_the_same_tools_share_one_stored_list_and_no_other_is_taken_for_it() {
    let worker = WorkerOnRedis::new(Some("ACTIVE")).await;
    let run = async |identifier: &str| {
        let job = json!({"identifier": identifier, "connections": ["gmail"], "prompt": "Fetch my last unread email"});
        let reply = worker.run(&job, identifier).await;
        assert_eq!(reply["type"], "agentkit.job.completed", "{identifier}: {reply:#}");
        worker.peer.count("scoped").await
    };
    for (index, name) in ["ann", "bob", "cid"].into_iter().enumerate() {
        assert_eq!(run(name).await, index as u64 + 1);
    }
    let [name] = &Vec::from_iter(worker.keys("toollist"))[..] else { panic!("{:?}", worker.keys("toollist")) };
    let list_key = format!("agentkit:toollist:{name}");
    let list = worker.redis.command(&["--raw", "GET", &list_key]);
    assert_eq!(*name, digest(&list, 32), "its name is what it says");
    let size: usize = worker.redis.command(&["STRLEN", "agentkit:tools:bob:gmail"]).parse().unwrap();
    assert!(size < 200 && list.len() > 20 * size, "{size} bytes name {} bytes", list.len());
    let lifetime = |key: &str| worker.redis.command(&["TTL", key]).parse::<u64>().unwrap();
    assert!(
        ["ann", "bob", "cid"]
            .iter()
            .all(|user| lifetime(&format!("agentkit:tools:{user}:gmail")) <= lifetime(&list_key))
    );

    let set = |key: &str, value: &str| assert_eq!(worker.redis.command(&["SET", key, value]), "OK");
    let of_user = |identifier: &str, cached: String| set(&format!("agentkit:tools:{identifier}:gmail"), &cached);
    let named = |name: &str| json!({"version": 2, "list": name}).to_string();
    of_user("as-before", format!(r#"{{"version":1,"tools":{list}}}"#));
    assert_eq!(run("as-before").await, 3, "what an earlier worker stored is read");
    // The worker does not have this one in its memory.
    let other = format!(" {list}");
    set(&format!("agentkit:toollist:{}", digest(&other, 32)), &other);
    of_user("elsewhere", named(&digest(&other, 32)));
    assert_eq!(run("elsewhere").await, 3, "what another worker stored is read");
    of_user("evicted", named(&digest("gone", 32)));
    assert_eq!(run("evicted").await, 4);
    set(&format!("agentkit:toollist:{}", digest("forged", 32)), &list);
    of_user("forged", named(&digest("forged", 32)));
    assert_eq!(run("forged").await, 5, "a list that is not what its name says is nobody's");
    of_user("of-tomorrow", json!({"version": 3, "list": name}).to_string());
    assert_eq!(run("of-tomorrow").await, 6);
}

#[tokio::test]
async fn hostile_identifiers_get_links_of_their_own_and_the_same_one_again() {
    let worker = WorkerOnRedis::new(None).await;
    let mut links = BTreeSet::new();
    for round in 0..2 {
        for (index, name) in hostile().iter().enumerate() {
            let job = json!({"identifier": name, "connections": ["gmail"], "prompt": "x", "authorization": {"wait_seconds": 0}});
            let reply = worker.run(&job, &format!("{round}-{index}")).await;
            assert_eq!(reply["type"], "agentkit.job.authorization_required", "{reply:#}");
            assert_eq!(reply["data"]["identifier"], json!(name));
            links.insert(reply["data"]["authorizations"][0]["link"].as_str().unwrap().to_owned());
        }
        assert_eq!(links.len(), hostile().len());
    }
    assert_eq!(worker.keys("link").len(), hostile().len());
}
