//! Finding runs, settling what became of their effects, and erasing what is kept of a user; by the program's own commands.

use std::sync::Arc;

use agentkit_worker::Client;
use agentkit_worker::internals::clock::SystemClock;
use agentkit_worker::internals::queue::amqp::{Config, ReplyInbox};
use agentkit_worker::job::Job;
use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::program::{CommandOutcome, Program};
use crate::support::redis::Redis;
use crate::support::sandbox_peer::SandboxPeer;
use crate::support::{eventually, soon};

const ALICE: &str = "alice:{1}@example.com";
const BOB: &str = "bob";
const SECRET: &str = "pineapple";

/// Everything that a worker needs, and the program.
struct Scene {
    amqp: Config,
    redis: Redis,
    peer: SandboxPeer,
    program: Program,
    client: Client,
    inbox: ReplyInbox,
}

impl Scene {
    async fn start() -> Self {
        let amqp = Broker::shared().await.config();
        let (redis, peer) = (Redis::start().await, SandboxPeer::with_active_accounts_in_real_time().await);
        let program = Program::of_service(&peer.sandbox, &amqp, &redis.url()).set("USER", "ann");
        let audit = program.folder().join("audit.jsonl");
        let program = program
            .set("AGENTKIT_WORKER__AUDIT__FILE", audit.to_str().unwrap())
            .set("AGENTKIT_WORKER__REDIS__KEY_PREFIX", &redis.config().key_prefix)
            .set("AGENTKIT_WORKER__AUTHORIZATION__POLL_SECONDS", "600")
            .set("AGENTKIT_WORKER__REDIS__RESPONSE_TIMEOUT_MILLISECONDS", "5000")
            .set("AGENTKIT_WORKER__REDIS__CONNECTION_TIMEOUT_MILLISECONDS", "5000");
        let client = Client::connect(amqp.clone(), Arc::new(SystemClock)).await.unwrap();
        let inbox = ReplyInbox::open(&amqp).await.unwrap();
        Self { amqp, redis, peer, program, client, inbox }
    }

    async fn send(&self, id: &str, identifier: &str, prompt: &str) {
        let job = json!({"id": id, "identifier": identifier, "connections": ["gmail"], "prompt": prompt,
            "reply_to": self.inbox.name(), "metadata": {"of": SECRET}});
        let job: Job = serde_json::from_value(job).unwrap();
        self.client.enqueue(&job).await.unwrap();
    }

    async fn reply(&mut self) -> Value {
        let message = soon("a reply", self.inbox.next()).await.unwrap();
        serde_json::from_slice(&message.body).unwrap()
    }

    /// Sends a job that reads, and waits for its end.
    async fn reads(&mut self, id: &str, identifier: &str) -> Value {
        self.send(id, identifier, &format!("{SECRET}: call gmail_fetch_mails with {{\"max_results\": 2}}")).await;
        self.reply().await
    }

    /// Sends a job whose write is unknown, and waits for its end; the call's id is in the reply.
    async fn doubts(&mut self, id: &str, identifier: &str) -> Value {
        self.peer.fault(json!({"on": "execute", "kind": "commit_then_reset"})).await;
        self.doubts_again(id, identifier).await
    }

    async fn doubts_again(&mut self, id: &str, identifier: &str) -> Value {
        let arguments = json!({"to": format!("{SECRET}@example.com"), "subject": "Hi", "body": "x"});
        self.send(id, identifier, &format!("call gmail_send_message with {arguments}")).await;
        let reply = self.reply().await;
        assert_eq!(reply["data"]["effects"][0]["state"], "unknown", "{reply:#}");
        reply
    }

    async fn run(&self, arguments: &[&str]) -> CommandOutcome {
        self.program.run(arguments).await
    }

    async fn rows(&self, arguments: &[&str]) -> Vec<Value> {
        let listed = self.run(&[&["jobs", "list", "--json"], arguments].concat()).await;
        assert_eq!(listed.code, Some(0), "{listed:?}");
        listed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The ids and states, once they are these; a reply is out before its run is sealed.
    async fn until_listed(&self, arguments: &[&str], expected: &[(&str, &str)]) {
        eventually(&format!("{expected:?}"), || async {
            let rows = self.rows(arguments).await;
            let found: Vec<_> =
                rows.iter().map(|row| (row["id"].as_str().unwrap(), row["state"].as_str().unwrap())).collect();
            (found == expected).then_some(())
        })
        .await;
    }

    /// Until a run's reply is sealed in its journal.
    async fn until_delivered(&self, id: &str) {
        let entries = format!("agentkit:run:{{{id}}}");
        eventually("the seal", || async {
            self.redis.command(&["HVALS", &entries]).contains("\"delivered\"").then_some(())
        })
        .await;
    }

    /// All keys of the store with all that they hold.
    fn kept(&self) -> Vec<String> {
        let dump = "local all = {} for _, key in ipairs(redis.call('KEYS', '*')) do \
            local kind = redis.call('TYPE', key).ok \
            local ask = {hash = {'HGETALL', key}, zset = {'ZRANGE', key, 0, -1}, string = {'GET', key}, set = {'SMEMBERS', key}} \
            local held = redis.call(unpack(ask[kind])) \
            all[#all + 1] = key .. ' ' .. (type(held) == 'table' and table.concat(held, ' ') or held) end return all";
        self.redis.command(&["EVAL", dump, "0"]).lines().map(str::to_owned).collect()
    }

    fn kept_with(&self, words: &[&str]) -> Vec<String> {
        self.kept().into_iter().filter(|line| words.iter().any(|word| line.contains(word))).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_are_listed_and_exported_and_an_unknown_effect_is_settled_by_a_person_once() {
    let mut scene = Scene::start().await;
    let lonely =
        scene.run(&["enqueue", "x", "--identifier", BOB, "--connection", "gmail", "--wait", "--timeout", "1"]).await;
    let nobody = format!("nobody consumes {}.jobs at 127.0.0.1:", scene.amqp.prefix);
    assert!(lonely.stderr.contains(&nobody) && lonely.stderr.contains("job cli-"), "{lonely:?}");
    let doctor = scene.run(&["doctor"]).await;
    assert!(doctor.stdout.contains("nobody consumes it at 127.0.0.1:"), "{doctor:?}");
    assert_eq!(scene.rows(&[]).await, [json!(null); 0]);

    let worker = scene.program.worker().await;
    eventually("the lonely job ends", || async {
        (scene.rows(&["--state", "completed"]).await.len() == 1).then_some(())
    })
    .await;
    scene.peer.set_account("gmail", "carol", "EXPIRED").await;
    scene.reads("one", ALICE).await;
    let doubtful = scene.doubts("two", ALICE).await;
    scene.send("three", "carol", SECRET).await;
    assert_eq!(scene.reply().await["type"], "agentkit.job.authorization_required");
    scene.until_listed(&["--identifier", ALICE], &[("two", "completed"), ("one", "completed")]).await;
    scene.until_listed(&["--state", "waiting", "--since", "1h"], &[("three", "waiting")]).await;
    let row = scene.rows(&["--identifier", "carol"]).await.remove(0);
    assert_eq!((&row["identifier"], row.as_object().unwrap().len()), (&json!("carol"), 4));
    let at = row["at"].as_str().unwrap();
    assert_eq!(scene.rows(&["--since", at]).await, std::slice::from_ref(&row));
    assert_eq!(scene.rows(&["--since", "2999-01-01T00:00:00Z"]).await, [json!(null); 0]);
    let first = scene.run(&["jobs", "list", "--limit", "1"]).await;
    assert!(first.stdout.contains("waiting    carol  three"), "{first:?}");
    let cursor = first.stderr.trim().strip_prefix("there are more: --cursor ").unwrap();
    let second = scene.rows(&["--limit", "1", "--cursor", cursor]).await;
    assert_eq!((second.len(), &second[0]["id"]), (1, &json!("two")));
    for nonsense in [["--state", "done"], ["--since", "soon"], ["--limit", "0"], ["--cursor", "?"]] {
        let refused = scene.run(&[&["jobs", "list"], &nonsense[..]].concat()).await;
        assert!(refused.code == Some(64) && refused.stderr.contains(nonsense[0]), "{refused:?}");
    }

    let shy = scene.run(&["jobs", "export", "two"]).await;
    let whole = scene.run(&["jobs", "export", "two", "--content"]).await;
    assert!(whole.stdout.contains(SECRET) && !shy.stdout.contains(SECRET), "{shy:?}");
    let [shy, whole] = [shy, whole].map(|export| serde_json::from_str::<Value>(&export.stdout).unwrap());
    assert_eq!(shy["entries"].as_array().unwrap().len(), whole["entries"].as_array().unwrap().len());
    assert_eq!(scene.run(&["jobs", "export", "nobody"]).await.code, Some(1));

    let call = doubtful["data"]["effects"][0]["call_id"].as_str().unwrap().to_owned();
    scene.until_delivered("two").await;
    let settle = async |scene: &Scene, call: &str, state: &str| {
        scene.run(&["jobs", "settle", "two", "--call", call, "--as", state]).await
    };
    assert_eq!(settle(&scene, "nobody", "done").await.code, Some(1));
    assert_eq!(settle(&scene, &call, "perhaps").await.code, Some(64));
    let settled = settle(&scene, &call, "not_done").await;
    assert_eq!(settled.code, Some(0), "{settled:?}");
    let told = scene.reply().await;
    assert_eq!((&told["type"], &told["subject"]), (&json!("agentkit.job.effect_settled"), &json!("two")));
    let effect = &told["data"]["effect"];
    assert_eq!(
        (&effect["state"], &effect["call_id"], &told["data"]["by"]),
        (&json!("not_done"), &json!(call), &json!("ann"))
    );
    assert_eq!(effect["tool"], doubtful["data"]["effects"][0]["tool"]);
    let audit = std::fs::read_to_string(scene.program.folder().join("audit.jsonl")).unwrap();
    let lines: Vec<&str> = audit.lines().filter(|line| line.contains("\"effect_settled\"")).collect();
    let recorded: Value = serde_json::from_str(lines[0]).unwrap();
    let said = ["job", "call", "tool", "outcome", "by"].map(|field| recorded[field].as_str().unwrap().to_owned());
    assert_eq!(
        (lines.len(), said.each_ref().map(String::as_str)),
        (1, ["two", &call, "gmail_send_message", "not_done", "ann"])
    );
    let again = settle(&scene, &call, "not_done").await;
    assert!(again.code == Some(0) && again.stdout.contains("as was said before"), "{again:?}");
    let otherwise = settle(&scene, &call, "done").await;
    assert!(otherwise.code == Some(1) && otherwise.stderr.contains("ann said before"), "{otherwise:?}");
    assert!(scene.run(&["jobs", "show", "two"]).await.stdout.contains("effect_settled"));

    // The journal's time is over: what remains of the run is enough, and nothing is run again.
    let doubtful = scene.doubts("four", ALICE).await;
    let call = doubtful["data"]["effects"][0]["call_id"].as_str().unwrap().to_owned();
    scene.until_delivered("four").await;
    scene.redis.command(&["DEL", "agentkit:run:{four}"]);
    for _ in 0..2 {
        let settled = scene.run(&["jobs", "settle", "four", "--call", &call, "--as", "done", "--by", "bea"]).await;
        assert_eq!(settled.code, Some(0), "{settled:?}");
        scene.redis.command(&["DEL", "agentkit:run:{four}"]);
    }
    let told = scene.reply().await;
    assert_eq!((&told["data"]["effect"]["state"], &told["data"]["by"]), (&json!("done"), &json!("bea")));
    let (calls, reply) = (scene.peer.count("execute").await, scene.doubts_again("four", ALICE).await);
    assert_eq!((&reply, scene.peer.count("execute").await), (&doubtful, calls), "nothing was told twice in between");
    scene.redis.command(&["DEL", "agentkit:run:{four}", "agentkit:sealed:{four}"]);
    let gone = scene.run(&["jobs", "settle", "four", "--call", &call, "--as", "done"]).await;
    assert!(gone.code == Some(1) && gone.stderr.contains("no run `four` is known"), "{gone:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_of_one_user_is_erased_and_all_of_another_ones_stays_and_works() {
    let mut scene = Scene::start().await;
    let worker = scene.program.worker().await;
    let theirs = scene.reads("of-bob", BOB).await;
    let hers = scene.reads("one", ALICE).await;
    scene.doubts("two", ALICE).await;
    for user in [ALICE, BOB] {
        scene.redis.command(&["HSET", "agentkit:digest:{morning}:recipients", user, "{\"f\":1}"]);
        let letter = json!({"id": format!("letter-{user}"), "identifier": user, "nonsense": SECRET, "reply_to": scene.inbox.name()});
        let channel = Broker::shared().await.connect().await.create_channel().await.unwrap();
        let (jobs, options) = (format!("{}.jobs", scene.amqp.prefix), BasicPublishOptions::default());
        let body = letter.to_string();
        channel
            .basic_publish("".into(), jobs.as_str().into(), options, body.as_bytes(), BasicProperties::default())
            .await
            .unwrap()
            .await
            .unwrap();
        assert_eq!(scene.reply().await["data"]["error"]["code"], "invalid_job");
    }
    scene.peer.set_account("gmail", ALICE, "EXPIRED").await;
    scene.send("three", ALICE, SECRET).await;
    assert_eq!(scene.reply().await["type"], "agentkit.job.authorization_required");
    scene.until_listed(&["--identifier", ALICE, "--state", "waiting"], &[("three", "waiting")]).await;
    scene.until_delivered("two").await;
    // A run that no list has, as of an earlier version.
    scene.redis.command(&["HDEL", "agentkit:run:{one}", "row"]);
    scene.redis.command(&["ZREM", "agentkit:index:{all}:completed", "one"]);
    let found = |outcome: &CommandOutcome| serde_json::from_str::<Value>(&outcome.stdout).unwrap();
    let before = scene.kept();

    let dry = scene.run(&["erase", ALICE, "--dry-run", "--json"]).await;
    let counts = found(&dry)["found"].clone();
    assert_eq!(dry.code, Some(1), "{dry:?}");
    for (kind, count) in [("runs", 2), ("dead_letters", 1), ("digest_memories", 1), ("cached_tool_lists", 1)] {
        assert_eq!(counts[kind], count, "{kind} in {counts:#}");
    }
    assert_eq!(scene.kept().len(), before.len(), "nothing was done");
    let erased = scene.run(&["erase", ALICE, "--json"]).await;
    assert_eq!((erased.code, &found(&erased)["found"]), (Some(1), &counts), "{erased:?}");
    let left = found(&erased)["left"].clone();
    assert_eq!((left.as_array().unwrap().len(), &left[0]["id"]), (1, &json!("three")), "{left:#}");
    assert!(left[0]["why"].as_str().unwrap().contains("waiting"), "{left:#}");
    scene.until_listed(&["--identifier", ALICE], &[("three", "waiting")]).await;

    let rest = scene.run(&["erase", ALICE, "--cancel", "--json"]).await;
    assert_eq!((rest.code, &found(&rest)["found"]["cancelled"]), (Some(0), &json!(1)), "{rest:?}");
    assert_eq!(found(&rest)["left"], json!([]));
    assert!(found(&rest)["unreached"].as_array().unwrap().len() > 2);
    assert_eq!(scene.reply().await["data"]["error"]["code"], "cancelled");
    eventually("what expires by itself", || async { scene.kept_with(&["loading"]).is_empty().then_some(()) }).await;
    let still = scene.kept_with(&["alice"]);
    assert_eq!(still, [""; 0], "of the user");
    let secrets = scene.kept_with(&[SECRET]);
    assert!(!secrets.is_empty() && secrets.iter().all(|line| line.contains("of-bob")), "{secrets:#?}");
    let nothing = scene.run(&["erase", ALICE]).await;
    assert!(nothing.code == Some(0) && nothing.stdout.contains("erased: 0 runs"), "{nothing:?}");

    // The same job is not run again; the other user has lost nothing.
    scene.peer.set_account("gmail", ALICE, "ACTIVE").await;
    let calls = scene.peer.count("execute").await;
    let tombstone = scene.reads("one", ALICE).await;
    assert_eq!((&tombstone["id"], &tombstone["type"]), (&hers["id"], &hers["type"]));
    assert_eq!(tombstone["data"]["notices"][0]["code"], "erased", "{tombstone:#}");
    assert_eq!(scene.reads("of-bob", BOB).await, theirs);
    assert_eq!(scene.peer.count("execute").await, calls);
    scene.until_listed(&["--identifier", BOB], &[("of-bob", "completed")]).await;
    let letters = scene.run(&["dead", "list", "--json"]).await.stdout;
    assert!(letters.lines().count() == 1 && letters.contains("letter-bob"), "{letters}");
    assert_eq!(scene.redis.command(&["HKEYS", "agentkit:digest:{morning}:recipients"]), BOB);
    worker.stop().await;
}
