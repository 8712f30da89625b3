//! The audit record: what is in it, what a kill, a renamed file and a full disk do to it, and that a change is seen.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentkit_worker::Client;
use agentkit_worker::internals::clock::SystemClock;
use agentkit_worker::internals::queue::amqp::{AmqpQueue, Config as AmqpConfig, ReplyInbox};
use agentkit_worker::internals::queue::{Destination, Message, Properties, Publisher};
use agentkit_worker::internals::sandbox::{Sandbox, SandboxOptions};
use agentkit_worker::reply::{Reply, ReplyEvent, Status};
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::embedded_worker::{EmbeddedWorker, job};
use crate::support::program::{Program, WorkerProcess};
use crate::support::redis::Redis;
use crate::support::sandbox_peer::plain_client;
use crate::support::{eventually, soon};

const KEY: &str = "bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmU=";
const USER: &str = "ann@example.com";

struct AuditedSystem {
    _redis: Redis,
    amqp: AmqpConfig,
    sandbox: Sandbox,
    program: Program,
    client: Client,
    inbox: ReplyInbox,
    file: PathBuf,
}

impl AuditedSystem {
    async fn start() -> Self {
        let (amqp, clock) = (Broker::shared().await.config(), Arc::new(SystemClock));
        let mut options = SandboxOptions::new(clock.clone());
        options.initial_status = Some("ACTIVE".into());
        let (sandbox, redis) = (Sandbox::start(options).await.unwrap(), Redis::start().await);
        let program = Program::of_service(&sandbox, &amqp, &redis.url());
        let file = program.folder().join("audit.jsonl");
        let program = program
            .set("AGENTKIT_WORKER__APPROVAL__WRITES", "all")
            .set("AGENTKIT_WORKER__WORKER__LEASE_SECONDS", "1")
            .set("AGENTKIT_WORKER__REDIS__RESPONSE_TIMEOUT_MILLISECONDS", "5000")
            .set("AGENTKIT_WORKER__REDIS__CONNECTION_TIMEOUT_MILLISECONDS", "5000")
            .set("AGENTKIT_WORKER__AUDIT__FILE", file.to_str().unwrap())
            .set("AGENTKIT_WORKER__AUDIT__KEY", KEY);
        let client = Client::connect(amqp.clone(), clock).await.unwrap();
        let inbox = ReplyInbox::open(&amqp).await.unwrap();
        Self { _redis: redis, amqp, sandbox, program, client, inbox, file }
    }

    /// Sends a job whose mail waits for a person, and waits until that person is asked.
    async fn ask(&mut self, id: &str) {
        let mail = json!({"to": "okapi@example.com", "subject": "quagga", "body": "zebra"});
        let prompt = format!("call gmail_send_message with {mail}");
        let job = json!({"id": id, "identifier": USER, "connections": ["gmail"], "prompt": prompt,
            "reply_to": self.inbox.name()});
        self.client.enqueue(&serde_json::from_value(job).unwrap()).await.unwrap();
        assert!(matches!(self.reply().await.event, ReplyEvent::ApprovalRequired(_)));
    }

    async fn reply(&mut self) -> Reply {
        let message = soon("a reply", self.inbox.next()).await.unwrap();
        serde_json::from_slice(&message.body).unwrap()
    }

    async fn command(&self, arguments: &[&str]) {
        let ran = self.program.run(arguments).await;
        assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
    }

    /// `audit verify` of these files: its exit code and words.
    async fn verify(&self, files: &[&Path]) -> (Option<i32>, String) {
        let files = files.iter().map(|file| file.to_str().unwrap());
        let ran = self.program.run(&["audit", "verify"].into_iter().chain(files).collect::<Vec<_>>()).await;
        (ran.code, ran.all())
    }

    /// What an operator does to a digest, to a dead letter and to what is kept of a user.
    async fn acts_on_others_than_runs(&self) {
        let folder = self.program.folder().join("config/digests");
        std::fs::create_dir_all(&folder).unwrap();
        let digest = "name = \"morning\"\ncron = \"0 8 * * *\"\ntimezone = \"UTC\"\nprompt = \"Sum up.\"\nconnections = [\"gmail\"]\n[recipients]\n\
            list = [{ identifier = \"ben@example.com\" }]\n";
        std::fs::write(folder.join("morning.toml"), digest).unwrap();
        for act in ["pause", "resume", "run"] {
            self.command(&["digests", act, "morning"]).await;
        }
        let queue = AmqpQueue::connect(self.amqp.clone()).await.unwrap();
        let properties = Properties { message_id: Some("no-job".to_owned()), ..Properties::default() };
        let message = Message { body: "{".into(), properties };
        queue.publisher().publish(&Destination::Jobs, message).await.unwrap();
        eventually("the letter", || async {
            (self.program.run(&["dead", "drop", "no-job", "--yes"]).await.code == Some(0)).then_some(())
        })
        .await;
        self.program.run(&["erase", USER]).await;
    }

    async fn count(&self, group: &str) -> u64 {
        let url = format!("{}/requests", self.sandbox.control_url());
        let requests: Value = plain_client().get(url).send().await.unwrap().json().await.unwrap();
        requests["counts"][group].as_u64().unwrap_or(0)
    }
}

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What happened to a job, in short. A call that a slow broker held up for a moment starts twice.
fn story(lines: &[Value], job: &str) -> Vec<String> {
    let of_job = lines.iter().filter(|line| line["job"] == job && line["event"] != "tool_not_run");
    let word = |line: &Value, field: &str| line[field].as_str().map(|word| format!(" {word}")).unwrap_or_default();
    let mut story: Vec<String> = of_job
        .map(|line| {
            let event = line["event"].as_str().unwrap();
            format!("{event}{}{}{}", word(line, "decision"), word(line, "door"), word(line, "outcome"))
        })
        .collect();
    story.dedup();
    story
}

async fn kill(worker: WorkerProcess) {
    worker.running.signal("KILL");
    worker.running.end().await;
}

#[tokio::test]
async fn writes_decisions_and_operators_acts_are_on_record_once_whatever_is_killed_and_a_change_is_seen() {
    let mut system = AuditedSystem::start().await;
    let worker = system.program.worker().await;
    system.ask("approved").await;
    system.command(&["jobs", "approve", "approved"]).await;
    assert!(matches!(system.reply().await.event, ReplyEvent::Completed(_)));
    system.ask("denied").await;
    system.command(&["jobs", "deny", "denied", "--reason", "not to that zebra"]).await;
    assert!(matches!(system.reply().await.event, ReplyEvent::Completed(_)));
    system.ask("cancelled").await;
    system.command(&["jobs", "resume", "cancelled"]).await;
    eventually("it is cancelled", || async {
        (system.program.run(&["jobs", "cancel", "cancelled"]).await.code == Some(0)).then_some(())
    })
    .await;
    assert!(matches!(system.reply().await.event, ReplyEvent::Failed(_)));

    // Its name is another's from now on; the chain goes on.
    let first = system.file.with_extension("1");
    std::fs::rename(&system.file, &first).unwrap();
    let fault = json!({"on": "execute", "tool": "gmail_send_message", "kind": "commit_then_timeout"});
    let url = format!("{}/faults", system.sandbox.control_url());
    assert!(plain_client().post(url).json(&fault).send().await.unwrap().status().is_success());
    let before = system.count("execute").await;
    system.ask("doubtful").await;
    system.command(&["jobs", "approve", "doubtful"]).await;
    eventually("the mail is out", || async { (system.count("execute").await > before).then_some(()) }).await;
    assert_eq!(story(&lines(&system.file), "doubtful").last().unwrap(), "tool_started", "before it left");
    kill(worker).await;
    let whole = std::fs::read_to_string(&system.file).unwrap();
    std::fs::write(&system.file, format!("{whole}{{\"seq\":7,\"prev\":\"torn")).unwrap();
    assert_eq!(system.verify(&[&first, &system.file]).await.0, Some(1));
    let _worker = system.program.worker().await;
    let ReplyEvent::Completed(completed) = system.reply().await.event else { panic!("an answer") };
    assert_eq!(completed.status, Status::CompletedWithUnknownEffects);

    system.acts_on_others_than_runs().await;

    let (old, new) = (lines(&first), lines(&system.file));
    let acts = [
        ("digest_paused", "digest", "morning"),
        ("digest_resumed", "digest", "morning"),
        ("digest_run", "digest", "morning"),
        ("dead_letter_dropped", "job", "no-job"),
        ("erased", "identifier", "user_"),
    ];
    for (event, field, name) in acts {
        let told: Vec<&Value> = new.iter().filter(|line| line["event"] == event).collect();
        assert!(
            told.len() == 1 && told[0][field].as_str().is_some_and(|text| text.starts_with(name)),
            "{event}: {told:?}"
        );
        assert!(told[0]["by"].as_str().is_some_and(|by| by.starts_with("worker-")), "{told:?}");
    }
    assert_eq!(story(&old, "approved"), ["decided approve cli", "tool_started", "tool_finished done"]);
    assert_eq!(story(&old, "denied"), ["decided deny cli denied"]);
    assert_eq!(story(&old, "cancelled").first().unwrap(), "resumed");
    assert_eq!(story(&old, "cancelled").last().unwrap(), "cancelled");
    assert_eq!(story(&new, "doubtful"), ["decided approve cli", "tool_started", "tool_finished unknown"]);
    assert!(new.iter().any(|line| line["event"] == "torn_line_removed" && line["bytes"] == 21), "{new:#?}");
    let all = [old, new].concat();
    let mut entries: Vec<String> = all
        .iter()
        .filter(|line| line["entry"].is_u64())
        .map(|line| format!("{} {}", line["job"], line["entry"]))
        .collect();
    let told = entries.len();
    entries.sort();
    entries.dedup();
    assert_eq!(entries.len(), told, "none is told twice: {all:#?}");
    let done = all.iter().find(|line| line["outcome"] == "done").unwrap();
    assert_eq!(
        (&done["tool"], &done["connection"], &done["effect"]),
        (&json!("gmail_send_message"), &json!("gmail"), &json!("write"))
    );
    assert!(
        done["arguments_digest"].as_str().unwrap().starts_with("sha256:") && done["execution_id"].is_string(),
        "{done}"
    );
    assert_eq!(done["identifier"].as_str().unwrap().len(), "user_".len() + 16, "a pseudonym");
    let text = [std::fs::read_to_string(&first).unwrap(), std::fs::read_to_string(&system.file).unwrap()].concat();
    for word in ["okapi", "quagga", "zebra", USER, KEY] {
        assert!(!text.contains(word), "{word} is in the record");
    }

    let (code, told) = system.verify(&[&first, &system.file]).await;
    assert!(code == Some(0) && told.contains(&format!("lines 1 to {} hold", all.len())), "{told}");
    // The second file alone, and the two in the wrong order.
    assert_eq!(system.verify(&[&system.file]).await.0, Some(0));
    assert_eq!(system.verify(&[&system.file, &first]).await.0, Some(1));
    let changed = text.lines().position(|line| line.contains("\"deny\"")).unwrap() + 1;
    std::fs::write(&first, std::fs::read_to_string(&first).unwrap().replace("\"deny\"", "\"edit\"")).unwrap();
    let (code, told) = system.verify(&[&first]).await;
    assert!(code == Some(1) && told.contains(&format!("line {changed}: it was changed")), "{told}");
}

#[tokio::test]
async fn no_write_leaves_while_its_line_cannot_be_written_and_no_job_is_lost_by_that() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    // A disk that is full, until the file is another one.
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let worker = EmbeddedWorker::with(None, |config| config.audit.file.clone_from(&file)).await;
    let mail = json!({"to": "a@example.com", "subject": "s", "body": "b"});
    let job =
        job(&format!("call gmail_fetch_mails with {{\"max_results\": 1}} then call gmail_send_message with {mail}"));
    let room = async {
        eventually("the run is put off", || async {
            let asked = worker.peer.count("model").await >= 2;
            (asked && worker.metrics().contains("agentkit_jobs_in_flight 0")).then_some(())
        })
        .await;
        assert_eq!(worker.peer.effects().await, 0);
        let real = folder.path().join("real");
        std::fs::write(&real, "").unwrap();
        std::fs::rename(&real, &file).unwrap();
    };
    let (completed, ()) = tokio::join!(worker.completed(&job), room);
    assert_eq!((completed["effects"][0]["state"].as_str(), worker.peer.effects().await), (Some("done"), 1));
    let events: Vec<Value> = lines(&file).iter().map(|line| line["event"].clone()).collect();
    assert_eq!(events, ["tool_started", "tool_finished"], "and none that reads");
}
