//! Operating a live system: cancel, resume, poison, dead letters; by the program's own commands, with real workers.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentkit_worker::Client;
use agentkit_worker::internals::clock::SystemClock;
use agentkit_worker::internals::queue::amqp::{AmqpQueue, Config, ReplyInbox};
use agentkit_worker::internals::queue::{Destination, Message, Properties, Publisher};
use agentkit_worker::internals::sandbox::{Sandbox, SandboxOptions};
use agentkit_worker::job::Job;
use agentkit_worker::reply::{ErrorCode, Reply, ReplyEvent};
use lapin::Channel;
use lapin::options::{BasicGetOptions, BasicRejectOptions};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::support::broker::Broker;
use crate::support::chat_model::{prompt, says, tool_results, wants};
use crate::support::http_peer::{Answer, HttpPeer, Received};
use crate::support::program::{CommandOutcome, Program, WorkerProcess};
use crate::support::redis::Redis;
use crate::support::sandbox_peer::plain_client;
use crate::support::{eventually, soon};

/// Everything that a worker needs, and the program.
struct LiveSystem {
    amqp: Config,
    redis: Redis,
    sandbox: Sandbox,
    model: HttpPeer,
    program: Program,
    client: Client,
    inbox: Mutex<Option<ReplyInbox>>,
    reply_to: String,
}

impl LiveSystem {
    async fn start(model: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        Self::with_lease("2", model).await
    }

    /// With workers whose leases last so many seconds.
    async fn with_lease(seconds: &str, model: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        let amqp = Broker::shared().await.config();
        let clock = Arc::new(SystemClock);
        let sandbox = Sandbox::start(SandboxOptions::new(clock.clone())).await.unwrap();
        let (redis, model) = (Redis::start().await, HttpPeer::start(model).await);
        let program = Program::of_service(&sandbox, &amqp, &redis.url())
            .set("OPENAI_BASE_URL", &format!("{}/v1", model.url))
            .set("AGENTKIT_WORKER__REDIS__KEY_PREFIX", &redis.config().key_prefix)
            .set("AGENTKIT_WORKER__REDIS__RESPONSE_TIMEOUT_MILLISECONDS", "5000")
            .set("AGENTKIT_WORKER__REDIS__CONNECTION_TIMEOUT_MILLISECONDS", "5000")
            .set("AGENTKIT_WORKER__WORKER__LEASE_SECONDS", seconds)
            .set("AGENTKIT_WORKER__AUTHORIZATION__POLL_SECONDS", "600");
        let client = Client::connect(amqp.clone(), clock).await.unwrap();
        let inbox = ReplyInbox::open(&amqp).await.unwrap();
        let reply_to = inbox.name().to_owned();
        Self { amqp, redis, sandbox, model, program, client, inbox: Mutex::new(Some(inbox)), reply_to }
    }

    /// Sends a job of `user_123`, who may or may not have connected Gmail.
    async fn send(&self, id: &str, prompt: &str) {
        let job = json!({"id": id, "identifier": "user_123", "connections": ["gmail"], "prompt": prompt,
            "reply_to": self.reply_to});
        let job: Job = serde_json::from_value(job).unwrap();
        self.client.enqueue(&job).await.unwrap();
    }

    async fn connect_gmail(&self) {
        let account = json!({"connector": "gmail", "identifier": "user_123", "status": "ACTIVE"});
        let url = format!("{}/accounts", self.sandbox.control_url());
        assert_eq!(plain_client().post(url).json(&account).send().await.unwrap().status().as_u16(), 200);
    }

    async fn sent_mails(&self) -> usize {
        let url = format!("{}/world/user_123", self.sandbox.control_url());
        let world: Value = plain_client().get(url).send().await.unwrap().json().await.unwrap();
        world["effects"].as_array().unwrap().len()
    }

    async fn reply(&self) -> Reply {
        let mut inbox = self.inbox.lock().unwrap().take().expect("one waits at a time");
        let message = soon("a reply", inbox.next()).await.unwrap();
        *self.inbox.lock().unwrap() = Some(inbox);
        serde_json::from_slice(&message.body).unwrap()
    }

    async fn worker(&self) -> WorkerProcess {
        self.program.worker().await
    }

    /// Runs a command of the program.
    async fn run(&self, arguments: &[&str]) -> CommandOutcome {
        self.program.run(arguments).await
    }

    async fn show(&self, id: &str) -> Value {
        let shown = self.run(&["jobs", "show", id, "--json"]).await;
        serde_json::from_str(&shown.stdout).unwrap_or_default()
    }

    async fn until_state(&self, id: &str, state: &str) -> Value {
        let shown = || async { Some(self.show(id).await).filter(|shown| shown["state"] == state) };
        eventually(state, shown).await
    }

    async fn dead_letters(&self) -> Vec<Value> {
        let listed = self.run(&["dead", "list", "--json"]).await;
        assert_eq!(listed.code, Some(0), "{listed:?}");
        listed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The ids in the dead-letter queue, once there are `count`; letters that were looked at take a moment to be back.
    async fn dead_ids(&self, count: usize) -> Vec<String> {
        let ids = || async {
            let letters = self.dead_letters().await;
            let ids: Vec<String> = letters.iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect();
            (ids.len() == count).then_some(ids)
        };
        eventually("the dead letters", ids).await
    }
}

/// Kills the process as a crash does.
async fn kill(worker: WorkerProcess) {
    worker.running.signal("KILL");
    worker.running.end().await;
}

/// The answer after two seconds.
fn long_call(answer: Answer) -> Answer {
    let answered = Arc::new(Notify::new());
    let ready = answered.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        ready.notify_one();
    });
    Answer::After(answered, Box::new(answer))
}

fn failure(reply: &Reply) -> ErrorCode {
    match &reply.event {
        ReplyEvent::Failed(failed) => failed.error.code,
        other => panic!("no failure: {other:?}"),
    }
}

fn text(reply: &Reply) -> &str {
    match &reply.event {
        ReplyEvent::Completed(completed) => &completed.text,
        other => panic!("no answer: {other:?}"),
    }
}

#[tokio::test]
async fn a_cancelled_run_ends_its_model_call_at_once_and_its_caller_hears_of_it_once() {
    let gone = Arc::new(Notify::new());
    let closed = gone.clone();
    // Long enough that no renewal of it can be what tells the worker.
    let system = LiveSystem::with_lease("60", move |request| match prompt(request).as_str() {
        "hang" => Answer::HangUntilGone(closed.clone()),
        _ => says("done"),
    })
    .await;
    system.connect_gmail().await;
    let _worker = system.worker().await;
    system.send("long", "hang").await;
    soon("the model call", system.model.arrival("/chat/completions")).await;
    assert_eq!(system.show("long").await["state"], "running");

    let cancelled = system.run(&["jobs", "cancel", "long"]).await;
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
    let since = Instant::now();
    soon("the end of the model call", gone.notified()).await;
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    let reply = system.reply().await;
    assert_eq!((reply.subject.as_str(), failure(&reply)), ("long", ErrorCode::Cancelled));
    let shown = system.until_state("long", "finished").await;
    assert_eq!(shown["state_words"], "finished: failed/cancelled");

    let again = system.run(&["jobs", "cancel", "long"]).await;
    assert!(again.code == Some(0) && again.stdout.contains("nothing to cancel"), "{again:?}");
    // The next reply is another job's: no second one of the first has come.
    system.send("short", "be quick").await;
    let next = system.reply().await;
    assert_eq!((next.subject.as_str(), text(&next)), ("short", "done"));
    let late = system.run(&["jobs", "cancel", "short"]).await;
    assert!(late.code == Some(1) && late.stdout.contains("completed"), "{late:?}");
}

#[tokio::test]
async fn a_parked_run_is_cancelled_or_woken_by_hand() {
    let system = LiveSystem::start(|_| says("done")).await;
    let _worker = system.worker().await;
    for id in ["unwanted", "wanted"] {
        system.send(id, "read my mails").await;
        assert!(matches!(system.reply().await.event, ReplyEvent::AuthorizationRequired(_)));
        let shown = system.until_state(id, "waiting_for_authorization").await;
        assert!(shown["state_words"].as_str().unwrap().contains("gmail"), "{shown}");
    }
    let cancelled = system.run(&["jobs", "cancel", "unwanted"]).await;
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
    let reply = system.reply().await;
    assert_eq!((reply.subject.as_str(), failure(&reply)), ("unwanted", ErrorCode::Cancelled));
    let parked = || system.redis.command(&["HKEYS", "agentkit:parked:user_123"]);
    eventually("only the other one is parked", || async { (parked() == "wanted").then_some(()) }).await;
    assert_eq!(system.redis.command(&["ZCARD", "agentkit:parked"]), "1");

    // The next look at the account would be in ten minutes.
    system.connect_gmail().await;
    let resumed = system.run(&["jobs", "resume", "wanted"]).await;
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    let reply = system.reply().await;
    assert_eq!((reply.subject.as_str(), text(&reply)), ("wanted", "done"));
    system.until_state("wanted", "finished").await;
    assert_eq!(system.redis.command(&["ZCARD", "agentkit:parked"]), "0");
    let late = system.run(&["jobs", "resume", "wanted"]).await;
    assert!(late.code == Some(1) && late.stdout.contains("nothing to resume"), "{late:?}");

    let content = system.run(&["jobs", "show", "wanted", "--content"]).await;
    assert!(content.stdout.contains("prompt: read my mails") && content.stdout.contains("text: done"), "{content:?}");
    let shy = system.run(&["jobs", "show", "wanted"]).await;
    assert!(shy.stdout.contains("authorization_requested") && !shy.stdout.contains("read my mails"), "{shy:?}");
}

#[tokio::test]
async fn who_is_waited_for_waits_neither_behind_fresh_jobs_nor_for_their_places() {
    let mut system = LiveSystem::start(|request| match prompt(request).as_str() {
        "long" => Answer::Hang,
        _ => says("done"),
    })
    .await;
    system.program = system.program.set("AGENTKIT_WORKER__WORKER__CONCURRENCY", "1");
    let _worker = system.worker().await;
    for id in ["unwanted", "wanted"] {
        system.send(id, "read my mails").await;
        assert!(matches!(system.reply().await.event, ReplyEvent::AuthorizationRequired(_)));
        system.until_state(id, "waiting_for_authorization").await;
    }
    system.connect_gmail().await;
    for job in 0..50 {
        system.send(&format!("long-{job}"), "long").await;
    }
    system.model.arrival("/v1/chat/completions").await;
    assert_eq!(system.run(&["jobs", "resume", "wanted"]).await.code, Some(0));
    let reply = system.reply().await;
    assert_eq!((reply.subject.as_str(), text(&reply)), ("wanted", "done"));
    assert_eq!(system.run(&["jobs", "cancel", "unwanted"]).await.code, Some(0));
    let reply = system.reply().await;
    assert_eq!((reply.subject.as_str(), failure(&reply)), ("unwanted", ErrorCode::Cancelled));
}

#[tokio::test]
async fn a_job_that_kills_its_worker_is_put_aside_while_its_neighbour_goes_on_and_a_replay_repeats_no_write() {
    let (cured, poison, neighbour) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = (cured.clone(), poison.clone(), neighbour.clone());
    let system = LiveSystem::start(move |request| {
        let (cured, poison, neighbour) = &counted;
        let results = tool_results(request);
        if prompt(request) == "neighbour" {
            // Gets one turn further under each worker, and is under way whenever one dies.
            let asked = neighbour.fetch_add(1, Ordering::SeqCst);
            return match asked {
                0 | 2 | 4 => wants(&format!("n{asked}"), "gmail_fetch_mails", &json!({"max_results": results + 1})),
                6 => says("neighbour is done"),
                _ => Answer::Hang,
            };
        }
        match results {
            0 => wants("p", "gmail_send_message", &json!({"to": "a@example.com", "subject": "s", "body": "b"})),
            _ if cured.load(Ordering::SeqCst) => says("sent"),
            _ => {
                poison.fetch_add(1, Ordering::SeqCst);
                Answer::Hang
            }
        }
    })
    .await;
    system.connect_gmail().await;
    system.send("poison", "poison").await;
    system.send("neighbour", "neighbour").await;
    for death in 1..=3 {
        let worker = system.worker().await;
        eventually("both at the model", || async {
            let both = poison.load(Ordering::SeqCst) == death && neighbour.load(Ordering::SeqCst) == 2 * death;
            both.then_some(())
        })
        .await;
        kill(worker).await;
    }
    let _worker = system.worker().await;
    let mut replies = [system.reply().await, system.reply().await];
    replies.sort_by(|one, other| one.subject.cmp(&other.subject));
    let [neighbour, poison] = replies;
    assert_eq!((neighbour.subject.as_str(), text(&neighbour)), ("neighbour", "neighbour is done"));
    assert_eq!((poison.subject.as_str(), failure(&poison)), ("poison", ErrorCode::AttemptsExhausted));

    assert_eq!(system.dead_ids(1).await, ["poison"]);
    let letter = eventually("the letter", || async { system.dead_letters().await.pop() }).await;
    assert_eq!((&letter["reason"], &letter["attempts"]), (&json!("poison"), &json!("3")));
    assert_eq!(letter["step"], "asking the model, turn 2");
    assert!(letter["at"].is_string() && letter["detail"].as_str().unwrap().contains("died 3 times"), "{letter}");
    let shown = eventually("the letter again", || async {
        Some(system.run(&["dead", "show", "poison"]).await).filter(|shown| shown.code == Some(0))
    })
    .await;
    for part in ["\"prompt\": \"poison\"", "attempt_started", "gmail_send_message: done"] {
        assert!(shown.stdout.contains(part), "{part} is missing in {}", shown.stdout);
    }

    cured.store(true, Ordering::SeqCst);
    system.dead_ids(1).await;
    let replayed = eventually("the replay", || async {
        Some(system.run(&["dead", "replay", "--all"]).await).filter(|ran| ran.stdout.contains("poison"))
    })
    .await;
    assert!(replayed.code == Some(0) && replayed.stdout.contains("goes on where it had stopped"), "{replayed:?}");
    let reply = system.reply().await;
    assert_eq!((reply.id.as_str(), text(&reply)), ("poison:result:2", "sent"));
    assert_eq!(system.sent_mails().await, 1);
    assert_eq!(system.dead_ids(0).await, Vec::<String>::new());
}

#[tokio::test]
async fn neighbours_in_long_calls_beside_a_job_that_kills_three_workers_end_well() {
    const NEIGHBOURS: usize = 4;
    let (poison, neighbours) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = (poison.clone(), neighbours.clone());
    let system = LiveSystem::start(move |request| {
        let (poison, neighbours) = &counted;
        if prompt(request) == "poison" {
            poison.fetch_add(1, Ordering::SeqCst);
            return Answer::Hang;
        }
        match neighbours.fetch_add(1, Ordering::SeqCst) {
            asked if asked < 2 * NEIGHBOURS => Answer::Hang,
            _ => long_call(says("done")),
        }
    })
    .await;
    system.connect_gmail().await;
    system.send("poison", "poison").await;
    for neighbour in 0..NEIGHBOURS {
        system.send(&format!("neighbour-{neighbour}"), "neighbour").await;
    }
    for death in 1..=3 {
        let worker = system.worker().await;
        eventually("all at the model", || async {
            let together = neighbours.load(Ordering::SeqCst) >= NEIGHBOURS * death.min(2);
            (together && poison.load(Ordering::SeqCst) == death).then_some(())
        })
        .await;
        kill(worker).await;
    }
    let _worker = system.worker().await;
    for _ in 0..=NEIGHBOURS {
        let reply = system.reply().await;
        match reply.subject.as_str() {
            "poison" => assert_eq!(failure(&reply), ErrorCode::AttemptsExhausted),
            _ => assert_eq!(text(&reply), "done"),
        }
    }
    assert_eq!(poison.load(Ordering::SeqCst), 3);
    assert_eq!(system.dead_ids(1).await, ["poison"]);
}

#[tokio::test]
async fn letters_keep_their_order_and_only_those_meant_are_touched() {
    let system = LiveSystem::start(|_| says("done")).await;
    let queue = AmqpQueue::connect(system.amqp.clone()).await.unwrap();
    for id in ["a", "b", "c", "d"] {
        let properties = Properties { message_id: Some(id.to_owned()), ..Properties::default() };
        let message = Message { body: format!("{{\"odd\": \"{id}\"}}").into(), properties };
        queue.publisher().publish(&Destination::Dead, message).await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(system.dead_ids(4).await, ["a", "b", "c", "d"]);
    }
    let unknown = system.run(&["dead", "drop", "b", "nobody", "--yes"]).await;
    assert!(unknown.code == Some(1) && unknown.stderr.contains("nobody"), "{unknown:?}");
    assert_eq!(system.dead_ids(4).await, ["a", "b", "c", "d"], "nothing is done by halves");
    let unasked = system.run(&["dead", "drop", "b"]).await;
    assert!(unasked.code == Some(64) && unasked.stderr.contains("--yes"), "{unasked:?}");
    system.dead_ids(4).await;
    let dropped = eventually("the drop", || async {
        Some(system.run(&["dead", "drop", "b", "--yes"]).await).filter(|ran| ran.code == Some(0))
    })
    .await;
    assert_eq!(dropped.stdout, "b: dropped\n");
    assert_eq!(system.dead_ids(3).await, ["a", "c", "d"]);
    // What is no job is sent again as it is, and comes back with the worker's reason.
    eventually("the replay", || async {
        Some(system.run(&["dead", "replay", "c"]).await).filter(|ran| ran.code == Some(0))
    })
    .await;
    let _worker = system.worker().await;
    // A worker that starts looks at the letters, too; of two who look at once each takes them in another order.
    let mut ids = system.dead_ids(3).await;
    ids.sort();
    assert_eq!(ids, ["a", "c", "d"]);
    let letters =
        eventually("the letters", || async { Some(system.dead_letters().await).filter(|letters| letters.len() == 3) })
            .await;
    let replayed = letters.iter().find(|letter| letter["id"] == "c").unwrap();
    assert_eq!(replayed["reason"], "invalid_job");
}

/// Gives the messages of a queue back again and again, until the broker has enough of them.
async fn wear_out(channel: &Channel, queue: &str) {
    eventually("the end of the broker's patience", || async {
        let taken = channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap();
        match taken {
            Some(message) => {
                // From RabbitMQ 4.3 on a `nack` does not count.
                message.delivery.acker.reject(BasicRejectOptions { requeue: true }).await.unwrap();
                None
            }
            None => Some(()),
        }
    })
    .await;
}

#[tokio::test]
async fn letters_that_the_broker_made_are_answered_for_by_a_worker_that_starts() {
    let system = LiveSystem::start(|_| Answer::Hang).await;
    system.connect_gmail().await;
    let worker = system.worker().await;
    system.send("begun", "read my mails").await;
    soon("the model call", system.model.arrival("/chat/completions")).await;
    worker.stop().await;
    system.send("unknown", "read my mails").await;
    let connection = Broker::shared().await.connect().await;
    wear_out(&connection.create_channel().await.unwrap(), &system.amqp.names().jobs()).await;
    system.dead_ids(2).await;

    let worker = system.worker().await;
    let mut told = [system.reply().await, system.reply().await];
    told.sort_by(|one, other| one.subject.cmp(&other.subject));
    assert_eq!(told.each_ref().map(|reply| reply.subject.as_str()), ["begun", "unknown"]);
    assert_eq!(told.each_ref().map(failure), [ErrorCode::AttemptsExhausted; 2]);
    let letters = eventually("letters of ours", || async {
        let letters = system.dead_letters().await;
        (letters.len() == 2 && letters.iter().all(|letter| letter["reason"] == "delivery_limit")).then_some(letters)
    })
    .await;
    assert!(letters.iter().all(|letter| !letter["detail"].as_str().unwrap().is_empty()), "{letters:?}");
    assert_eq!(worker.metric("agentkit_dead_letters_total{reason=\"delivery_limit\"}").await, Some(2.0));
}

#[tokio::test]
async fn a_letter_that_the_broker_made_says_why_and_a_replay_lets_the_job_run() {
    let system = LiveSystem::start(|_| says("done")).await;
    system.connect_gmail().await;
    system.send("worn out", "read my mails").await;
    let connection = Broker::shared().await.connect().await;
    let channel = connection.create_channel().await.unwrap();
    wear_out(&channel, &system.amqp.names().jobs()).await;
    assert_eq!(system.dead_ids(1).await, ["worn out"]);
    let letter = eventually("the letter", || async { system.dead_letters().await.pop() }).await;
    assert_eq!(letter["reason"], "broker: delivery_limit");
    assert!(letter["at"].is_string(), "{letter}");
    eventually("the replay", || async {
        Some(system.run(&["dead", "replay", "worn out"]).await).filter(|ran| ran.code == Some(0))
    })
    .await;
    let _worker = system.worker().await;
    assert_eq!(text(&system.reply().await), "done");
}

#[tokio::test]
async fn a_run_whose_message_the_broker_would_drop_soon_is_given_up_and_its_caller_told() {
    let system = LiveSystem::start(|_| Answer::Hang).await;
    system.connect_gmail().await;
    let worker = system.worker().await;
    system.send("worn out", "read my mails").await;
    soon("the model call", system.model.arrival("/chat/completions")).await;
    worker.stop().await;
    let connection = Broker::shared().await.connect().await;
    let channel = connection.create_channel().await.unwrap();
    let jobs = system.amqp.names().jobs();
    for _ in 1..18 {
        let taken = || async { channel.basic_get(jobs.as_str().into(), BasicGetOptions::default()).await.unwrap() };
        let back = BasicRejectOptions { requeue: true };
        eventually("the message", taken).await.delivery.acker.reject(back).await.unwrap();
    }
    let worker = system.worker().await;
    let reply = system.reply().await;
    assert_eq!((reply.subject.as_str(), failure(&reply)), ("worn out", ErrorCode::AttemptsExhausted));
    assert_eq!(system.dead_ids(1).await, ["worn out"]);
    let letter = eventually("the letter", || async { system.dead_letters().await.pop() }).await;
    assert_eq!((&letter["reason"], &letter["attempts"]), (&json!("delivery_limit"), &json!("1")));
    assert_eq!(worker.metric("agentkit_dead_letters_total{reason=\"delivery_limit\"}").await, Some(1.0));
}

#[tokio::test]
async fn what_is_not_known_or_not_there_is_said_in_words_and_by_the_exit_code() {
    let mut system = LiveSystem::start(|_| says("done")).await;
    for arguments in [["jobs", "show", "nobody"], ["jobs", "cancel", "nobody"], ["jobs", "resume", "nobody"]] {
        let ran = system.run(&arguments).await;
        assert!(ran.code == Some(1) && ran.stderr.contains("no run `nobody` is known"), "{ran:?}");
    }
    let ran = system.run(&["dead", "show", "nobody"]).await;
    assert!(ran.code == Some(1) && ran.stderr.contains("no dead letter has the id nobody"), "{ran:?}");
    assert_eq!(system.run(&["dead", "list"]).await.stdout, "no dead letters\n");
    for arguments in [["dead", "replay"].as_slice(), &["jobs", "cancel"], &["dead", "replay", "x", "--all"]] {
        assert_eq!(system.run(arguments).await.code, Some(64), "{arguments:?}");
    }
    system.redis.kill();
    assert_eq!(system.run(&["jobs", "show", "nobody"]).await.code, Some(69));
    let nobody = HttpPeer::nobody().await.replace("http://", "amqp://");
    let amqp = Config { url: nobody.into(), ..system.amqp.clone() };
    let lost = Program::of_service(&system.sandbox, &amqp, &system.redis.url());
    let lost = lost.set("AGENTKIT_WORKER__AMQP__CONNECT_ATTEMPTS", "1");
    assert_eq!(lost.run(&["dead", "list"]).await.code, Some(69));
}
