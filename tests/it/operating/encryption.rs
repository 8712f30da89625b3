//! What users write lies nowhere in the open where a key is configured: a service whose key is set, replaced and missing, by
//! the program's own commands, with real workers.

use std::path::Path;
use std::sync::Arc;

use agentkit_worker::Client;
use agentkit_worker::internals::clock::SystemClock;
use agentkit_worker::internals::encryption::Encryption;
use agentkit_worker::internals::queue::amqp::{AmqpQueue, Config, DeadLetters, ReplyInbox};
use agentkit_worker::internals::queue::{Destination, Message, Properties, Publisher};
use agentkit_worker::internals::sandbox::{Sandbox, SandboxOptions};
use agentkit_worker::reply::{Reply, ReplyEvent};
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::chat_model::{prompt, says, tool_results, wants};
use crate::support::http_peer::{Answer, HttpPeer, Received};
use crate::support::program::{Program, WorkerProcess};
use crate::support::redis::Redis;
use crate::support::sandbox_peer::plain_client;
use crate::support::{eventually, soon};

const OLD: &str = "b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2w=";
const NEW: &str = "bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmU=";
/// What only users and their tools say: the prompt, the recipient, the subject, the answer.
const WORDS: [&str; 4] = ["zebra", "okapi", "quagga", "ibex"];

/// Sends a mail about whatever it is asked, and says so.
fn model(request: &Received) -> Answer {
    let about = prompt(request);
    let mail = json!({"to": format!("{}@example.com", WORDS[1]), "subject": WORDS[2], "body": about});
    match tool_results(request) {
        0 => wants("read", "gmail_fetch_mails", &json!({"max_results": 2})),
        1 => wants("write", "gmail_send_message", &mail),
        _ => says(WORDS[3]),
    }
}

struct EncryptedSystem {
    amqp: Config,
    redis: Redis,
    sandbox: Sandbox,
    model: HttpPeer,
    client: Client,
    inbox: ReplyInbox,
}

impl EncryptedSystem {
    async fn start() -> Self {
        let (amqp, clock) = (Broker::shared().await.config(), Arc::new(SystemClock));
        let sandbox = Sandbox::start(SandboxOptions::new(clock.clone())).await.unwrap();
        let (redis, model) = (Redis::start().await, HttpPeer::start(model).await);
        let client = Client::connect(amqp.clone(), clock).await.unwrap();
        let inbox = ReplyInbox::open(&amqp).await.unwrap();
        Self { amqp, redis, sandbox, model, client, inbox }
    }

    /// The program, with these keys.
    fn program(&self, keys: &str) -> Program {
        Program::of_service(&self.sandbox, &self.amqp, &self.redis.url())
            .set("OPENAI_BASE_URL", &format!("{}/v1", self.model.url))
            .set("AGENTKIT_WORKER__REDIS__KEY_PREFIX", "agentkit:")
            .set("AGENTKIT_WORKER__REDIS__RESPONSE_TIMEOUT_MILLISECONDS", "5000")
            .set("AGENTKIT_WORKER__REDIS__CONNECTION_TIMEOUT_MILLISECONDS", "5000")
            .set("AGENTKIT_WORKER__AUTHORIZATION__POLL_SECONDS", "600")
            .set("AGENTKIT_WORKER__JOURNAL__ENCRYPTION_KEY", keys)
    }

    async fn worker(&self, keys: &str) -> WorkerProcess {
        self.program(keys).worker().await
    }

    async fn send(&self, id: &str, user: &str, prompt: &str) {
        let job = json!({"id": id, "identifier": user, "connections": ["gmail"], "prompt": prompt,
            "reply_to": self.inbox.name()});
        self.client.enqueue(&serde_json::from_value(job).unwrap()).await.unwrap();
    }

    async fn reply(&mut self) -> Reply {
        let message = soon("a reply", self.inbox.next()).await.unwrap();
        serde_json::from_slice(&message.body).unwrap()
    }

    /// Sends a job of a user who has connected nothing, and waits until its run is parked; gives the link.
    async fn parked(&mut self, keys: &str, id: &str, user: &str, prompt: &str) -> String {
        self.send(id, user, prompt).await;
        let ReplyEvent::AuthorizationRequired(asked) = self.reply().await.event else { panic!("a question") };
        let program = self.program(keys);
        eventually("the run is parked", || async {
            let shown = program.run(&["jobs", "show", id, "--json"]).await.stdout;
            shown.contains("\"state\":\"waiting_for_authorization\"").then_some(())
        })
        .await;
        asked.authorizations[0].link.clone().unwrap()
    }

    async fn order(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}/{path}", self.sandbox.control_url());
        let answer = plain_client().post(url).json(body).send().await.unwrap();
        answer.json().await.unwrap_or_default()
    }

    async fn connect(&self, user: &str) {
        self.order("accounts", &json!({"connector": "gmail", "identifier": user, "status": "ACTIVE"})).await;
    }

    async fn sent_mails(&self, user: &str) -> usize {
        let url = format!("{}/world/{user}", self.sandbox.control_url());
        let world: Value = plain_client().get(url).send().await.unwrap().json().await.unwrap();
        world["effects"].as_array().unwrap().len()
    }

    /// Whether any of this was ever written to Redis: its append-only file has all that was.
    fn was_kept(&self, words: &[&str]) -> Vec<String> {
        fn read(folder: &Path, all: &mut Vec<u8>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { read(&path, all) } else { all.extend(std::fs::read(&path).unwrap()) }
            }
        }
        let mut all = Vec::new();
        self.redis.in_folder(|folder| read(folder, &mut all));
        let contains = |word: &&&str| all.windows(word.len()).any(|bytes| bytes == word.as_bytes());
        words.iter().filter(contains).map(ToString::to_string).collect()
    }
}

fn id_of(key: &str) -> String {
    Encryption::new(&key.into()).unwrap().key().unwrap().to_string()
}

#[tokio::test]
async fn a_key_is_switched_on_replaced_and_missed_and_no_word_lies_open_nor_is_anything_done_twice() {
    let mut system = EncryptedSystem::start().await;
    // Switched on over a run that waits.
    let worker = system.worker("").await;
    system.parked("", "before", "early_bird", "nothing secret").await;
    assert_eq!(system.was_kept(&["nothing secret"]), ["nothing secret"], "the file would show what is kept");
    worker.stop().await;

    let worker = system.worker(OLD).await;
    let link = system.parked(OLD, "waiting", "user_1", WORDS[0]).await;
    let token = link.rsplit(['/', '=']).next().unwrap().to_owned();
    system.connect("early_bird").await;
    assert_eq!(system.program(OLD).run(&["jobs", "resume", "before"]).await.code, Some(0));
    assert!(matches!(system.reply().await.event, ReplyEvent::Completed(done) if done.text == WORDS[3]));
    // The same link again, from the cache.
    let again = system.parked(OLD, "again", "user_1", WORDS[0]).await;
    assert_eq!(again, link);
    assert_eq!(system.program(OLD).run(&["jobs", "cancel", "again"]).await.code, Some(0));
    system.reply().await;
    worker.stop().await;

    // A worker that lacks the key: the run waits, nobody else does.
    let both = format!("{NEW},{OLD}");
    system.connect("user_1").await;
    system.connect("user_2").await;
    let worker = system.worker(NEW).await;
    assert_eq!(system.program(&both).run(&["jobs", "resume", "waiting"]).await.code, Some(0));
    let line: Value =
        serde_json::from_str(&worker.running.line("the run waits: its journal cannot be read").await).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert!(line["error"].as_str().unwrap().contains(&id_of(OLD)), "{line}");
    assert!(line.to_string().contains("\"waiting\""), "{line}");
    system.send("other", "user_2", WORDS[0]).await;
    let reply = system.reply().await;
    assert_eq!(reply.subject, "other");
    assert!(matches!(reply.event, ReplyEvent::Completed(_)), "{reply:?}");
    assert_eq!((system.sent_mails("user_1").await, system.sent_mails("user_2").await), (0, 1));
    let shown = system.program(NEW).run(&["jobs", "show", "waiting"]).await;
    assert!(shown.code == Some(1) && shown.all().contains(&id_of(OLD)), "{shown:?}");
    worker.stop().await;

    // It has the key: the run goes on where it was.
    let worker = system.worker(&both).await;
    assert_eq!(system.program(&both).run(&["jobs", "resume", "waiting"]).await.code, Some(0));
    let reply = system.reply().await;
    assert_eq!(reply.subject, "waiting");
    assert!(matches!(reply.event, ReplyEvent::Completed(done) if done.text == WORDS[3]));
    assert_eq!(system.sent_mails("user_1").await, 1);
    let shown = eventually("the end", || async {
        let shown = system.program(&both).run(&["jobs", "show", "waiting", "--content"]).await;
        shown.stdout.contains("delivered").then_some(shown.stdout)
    })
    .await;
    assert!(WORDS.iter().all(|word| shown.contains(word)), "{shown}");

    dead_letters(&system, &both).await;
    let doctor = system.program(&both).run(&["doctor"]).await;
    let told = doctor.stdout.lines().find(|line| line.contains("encryption")).unwrap();
    assert!(told.contains(&id_of(NEW)) && told.contains(&id_of(OLD)) && !doctor.all().contains(NEW), "{told}");
    let log = worker.stop().await.1.join("\n");
    assert!(!log.contains(NEW) && !log.contains(OLD));
    // The early bird's run wrote its own words before there was a key, and none of these.
    assert_eq!(system.was_kept(&[WORDS.as_slice(), &[&token]].concat()), Vec::<String>::new());
}

/// A message that is no job becomes a dead letter whose words only those read who have the key.
async fn dead_letters(system: &EncryptedSystem, both: &str) {
    let body = json!({"id": "bad", "identifier": "u", "connections": ["gmail"], "prompt": WORDS[0], WORDS[1]: 1});
    let properties = Properties { message_id: Some("bad".into()), ..Properties::default() };
    let message = Message { body: body.to_string().into(), properties };
    let publisher = AmqpQueue::connect(system.amqp.clone()).await.unwrap().publisher();
    publisher.publish(&Destination::Jobs, message).await.unwrap();
    let without = system.program("");
    let listed = eventually("the letter", || async {
        let listed = without.run(&["dead", "list", "--json"]).await;
        serde_json::from_str::<Value>(&listed.stdout).ok()
    })
    .await;
    assert_eq!(
        (&listed["id"], &listed["reason"], &listed["detail"]),
        (&json!("bad"), &json!("invalid_job"), &json!(null))
    );
    assert!(listed["locked"].as_str().unwrap().contains(&id_of(NEW)), "{listed}");
    let letter = eventually("the letter itself", || async {
        DeadLetters::open(&system.amqp).await.unwrap().take().await.unwrap()
    })
    .await;
    let (body, headers) = (letter.message.body.clone(), format!("{:?}", letter.message.properties));
    assert!(
        !WORDS.iter().any(|word| String::from_utf8_lossy(&body).contains(word) || headers.contains(word)),
        "{headers}"
    );
    drop(letter);
    let run = async |program: &Program, arguments: &[&str], code: i32| {
        let ran = eventually("the letter is back", || async {
            let ran = program.run(arguments).await;
            (!ran.all().contains("no dead letter has the id")).then_some(ran)
        })
        .await;
        assert_eq!(ran.code, Some(code), "{ran:?}");
        ran
    };
    for arguments in [["dead", "show", "bad"], ["dead", "replay", "bad"]] {
        let ran = run(&without, &arguments, 1).await;
        assert!(ran.all().contains(&id_of(NEW)) && !ran.all().contains(WORDS[0]), "{ran:?}");
    }
    let with = system.program(both);
    let shown = run(&with, &["dead", "show", "bad"], 0).await;
    assert!(shown.stdout.contains(WORDS[0]) && shown.stdout.contains(WORDS[1]), "{shown:?}");
    // It is what it was, and so it comes back.
    run(&with, &["dead", "replay", "bad"], 0).await;
    run(&with, &["dead", "show", "bad"], 0).await;
    run(&without, &["dead", "drop", "bad", "--yes"], 0).await;
}
