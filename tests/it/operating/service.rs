//! The service as users run it: the program as a process, a real RabbitMQ, a real Redis, the stand-ins for Scalekit and
//! the model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use agentkit_worker::internals::clock::{Clock, SystemClock};
use agentkit_worker::internals::queue::amqp::{
    AmqpPublisher, AmqpQueue, Config as Amqp, DeadLetters, ReplyInbox, Tier,
};
use agentkit_worker::internals::queue::{Destination, Message, Properties, Publisher};
use agentkit_worker::internals::schema::Schema;
use agentkit_worker::internals::worker::HeaderKey;
use agentkit_worker::reply::Reply;
use futures_util::{StreamExt, stream};
use lapin::types::AMQPValue;
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::program::Program;
use crate::support::redis::Redis;
use crate::support::sandbox_peer::SandboxPeer;
use crate::support::{eventually, soon};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What a worker says of a job on its way, and what it says of each step at `debug` only.
const OF_A_JOB: [&str; 3] = ["job received", "the tool call is repeated", "job ended"];
const OF_A_STEP: [&str; 4] = ["tools listed", "tool list", "model answered", "tool call"];

/// Everything around a worker.
struct Service {
    broker: &'static Broker,
    amqp: Amqp,
    peer: SandboxPeer,
    program: Program,
    publisher: Arc<AmqpPublisher>,
    _redis: Redis,
}

impl Service {
    /// Every account is active.
    async fn new() -> Self {
        let broker = Broker::shared().await;
        let amqp = broker.config();
        let redis = Redis::start().await;
        let peer = SandboxPeer::with_active_accounts_in_real_time().await;
        let program = Program::of_service(&peer.sandbox, &amqp, &redis.url());
        let publisher = AmqpQueue::connect(amqp.clone()).await.unwrap().publisher();
        Self { broker, amqp, peer, program, publisher, _redis: redis }
    }

    /// A machine that is busy is not taken for a Redis that is away, for which everybody lists tools.
    fn patient_with_redis(mut self) -> Self {
        self.program = self.program.set("AGENTKIT_WORKER__REDIS__RESPONSE_TIMEOUT_MILLISECONDS", "20000");
        self
    }

    async fn inbox(&self) -> CheckedInbox {
        CheckedInbox(ReplyInbox::open(&self.amqp).await.unwrap())
    }

    /// Publishes bytes as any program would.
    async fn send(&self, body: impl Into<Vec<u8>>, properties: Properties) {
        let message = Message { body: body.into().into(), properties };
        self.publisher.publish(&Destination::Jobs, message).await.unwrap();
    }

    /// The next message of the common reply queue.
    async fn common_reply(&self) -> Value {
        let queue = self.amqp.names().replies();
        let (body, _) = eventually("a common reply", || self.broker.take(&queue)).await;
        valid(&body)
    }
}

/// Replies to the test.
struct CheckedInbox(ReplyInbox);

impl CheckedInbox {
    fn to(&self) -> Properties {
        Properties { reply_to: Some(self.0.name().to_owned()), ..Properties::default() }
    }

    async fn message(&mut self) -> Message {
        soon("a reply", self.0.next()).await.unwrap()
    }

    async fn reply(&mut self) -> Value {
        valid(&self.message().await.body)
    }

    async fn subjects_of_completed(&mut self, count: usize) -> Vec<String> {
        let mut subjects = Vec::new();
        for _ in 0..count {
            let reply = self.reply().await;
            assert_eq!(reply["type"], "agentkit.job.completed", "{reply:#}");
            subjects.push(reply["subject"].as_str().unwrap().to_owned());
        }
        subjects
    }
}

/// The reply, once it was found to be what `schema reply` promises.
fn valid(body: &[u8]) -> Value {
    // Compiled once: a client that is busy with its replies for long answers no heartbeat.
    static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::compile(&Reply::schema()).unwrap());
    let reply: Value = serde_json::from_slice(body).unwrap();
    let problems = SCHEMA.problems(&reply);
    assert_eq!(problems, Vec::<String>::new(), "{reply:#}");
    reply
}

fn job(identifier: &str, prompt: &str) -> Value {
    json!({"identifier": identifier, "connections": ["gmail"], "prompt": prompt})
}

#[tokio::test]
async fn enqueue_with_wait_prints_the_answer() {
    let service = Service::new().await;
    let _worker = service.program.worker().await;
    let arguments = ["enqueue", "Fetch my last 3 unread emails", "--identifier", "user_123", "--connection", "gmail"];
    let waited = service.program.run(&[&arguments[..], &["--wait"]].concat()).await;
    assert_eq!(waited.code, Some(0), "{}", waited.all());
    assert!(waited.stdout.contains("3 emails"), "{}", waited.stdout);
    assert!(waited.stderr.contains("asking the model"), "live progress: {}", waited.stderr);

    let lines = service.program.run(&[&arguments[..], &["--wait", "--json"]].concat()).await;
    assert_eq!(lines.code, Some(0), "{}", lines.all());
    let kinds: Vec<String> =
        lines.stdout.lines().map(|line| valid(line.as_bytes())["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds.last().map(String::as_str), Some("agentkit.job.completed"), "{kinds:?}");

    let sent = service.program.run(&[&arguments[..], &["--id", "order-1"]].concat()).await;
    assert_eq!((sent.code, sent.stdout.as_str()), (Some(0), "order-1\n"), "{}", sent.all());
    assert_eq!(service.common_reply().await["subject"], "order-1");

    let unknown = ["enqueue", "x", "--identifier", "user_123", "--connection", "nothing", "--wait"];
    let failed = service.program.run(&unknown).await;
    assert_eq!(failed.code, Some(1), "{}", failed.all());
    assert!(failed.stderr.contains("connection_not_found"), "{}", failed.stderr);
}

#[tokio::test]
async fn a_raw_message_gets_a_valid_event_with_its_own_properties() {
    let service = Service::new().await;
    let _worker = service.program.worker().await;
    let mut inbox = service.inbox().await;
    let properties = Properties {
        message_id: Some("raw-1".to_owned()),
        correlation_id: Some("corr-77".to_owned()),
        headers: BTreeMap::from([("traceparent".to_owned(), TRACE.to_owned())]),
        ..inbox.to()
    };
    let mut body = job("user_123", "Fetch my last 2 unread emails");
    body["metadata"] = json!({"order": 7});
    service.send(body.to_string(), properties).await;
    let Message { body, properties } = inbox.message().await;
    let reply = valid(&body);
    assert_eq!(properties.correlation_id.as_deref(), Some("corr-77"));
    assert_eq!(properties.kind.as_deref(), Some("agentkit.job.completed"));
    assert_eq!(properties.content_type.as_deref(), Some("application/cloudevents+json"));
    assert_eq!(properties.message_id.as_deref(), reply["id"].as_str());
    assert_eq!(properties.headers.get("traceparent").map(String::as_str), Some(TRACE));
    assert_eq!((&reply["subject"], &reply["data"]["metadata"]), (&json!("raw-1"), &json!({"order": 7})));
    assert!(reply["data"]["text"].as_str().unwrap().contains("2 emails"), "{reply:#}");
}

#[tokio::test]
async fn a_reply_without_a_usable_queue_goes_to_the_common_one_and_is_counted() {
    let service = Service::new().await;
    let worker = service.program.worker().await;
    service.send(job("user_123", "Fetch my last unread email").to_string(), Properties::default()).await;
    assert_eq!(service.common_reply().await["type"], "agentkit.job.completed");
    assert_eq!(worker.metric("agentkit_replies_fell_back_total").await, Some(0.0), "nobody asked for a queue");

    let gone = Properties { reply_to: Some("gone-with-its-owner".to_owned()), ..Properties::default() };
    service.send(job("user_124", "Fetch my last unread email").to_string(), gone).await;
    let queue = service.amqp.names().replies();
    let (body, properties) = eventually("a common reply", || service.broker.take(&queue)).await;
    assert_eq!(valid(&body)["type"], "agentkit.job.completed");
    assert_eq!(properties.app_id().as_ref().map(ToString::to_string).as_deref(), Some("agentkit-worker"));
    assert_eq!(*properties.delivery_mode(), Some(2));
    let counted = || async { worker.metric("agentkit_replies_fell_back_total").await.filter(|count| *count >= 1.0) };
    assert!((eventually("the count", counted).await - 1.0).abs() < f64::EPSILON);
    worker.running.line("the reply queue does not exist").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_jobs_of_a_hundred_users_are_answered_once_and_tools_are_listed_once_a_user() {
    let service = Service::new().await.patient_with_redis();
    let _first = service.program.worker().await;
    let mut inbox = service.inbox().await;
    let to = inbox.to();
    let started = Instant::now();
    let send = async |index: usize| {
        let properties = Properties { message_id: Some(format!("job-{index}")), ..to.clone() };
        let prompt = if index.is_multiple_of(10) { "Fetch my last unread email" } else { "answer without tools" };
        let body = job(&format!("user_{}", index % 100), prompt);
        service.send(body.to_string(), properties).await;
    };
    stream::iter(0..100).for_each_concurrent(16, &send).await;
    let mut subjects = inbox.subjects_of_completed(100).await;
    assert_eq!(service.peer.count("scoped").await, 100, "one list for each user");

    // The second worker has no list in its own memory.
    let _second = service.program.worker().await;
    stream::iter(100..1000).for_each_concurrent(16, &send).await;
    subjects.extend(inbox.subjects_of_completed(900).await);
    println!("1000 jobs for 100 users with two workers: {:.1} s", started.elapsed().as_secs_f64());
    assert_eq!(service.peer.count("scoped").await, 100, "the second job of a user asks for no list");

    service.send(job("user_1", "answer without tools").to_string(), to).await;
    assert_eq!(inbox.reply().await["data"]["text"].as_str().unwrap().split(':').count(), 2, "no reply came twice");
    let expected: BTreeSet<String> = (0..1000).map(|index| format!("job-{index}")).collect();
    assert_eq!(subjects.len(), 1000);
    assert_eq!(subjects.into_iter().collect::<BTreeSet<_>>(), expected);
    let jobs = service.amqp.names().jobs();
    eventually("an empty job queue", async || (service.broker.ready(&jobs).await == 0).then_some(())).await;
    assert_eq!(service.broker.ready(&service.amqp.names().replies()).await, 0);
    assert_eq!(service.broker.ready(&service.amqp.names().dead()).await, 0);
}

#[tokio::test]
async fn what_is_no_job_is_told_or_kept_with_its_reason_and_the_next_job_runs() {
    let service = Service::new().await;
    let worker = service.program.worker().await;
    let mut inbox = service.inbox().await;
    let huge = job("user_123", &"x".repeat(2 << 20)).to_string();
    let deep = format!("{{\"metadata\": {}{}}}", "[".repeat(100), "]".repeat(100));
    let mut typo = job("user_123", "hello");
    typo["promt"] = "hello".into();
    let mut long = job("user_123", "hello");
    long["correlation_id"] = "é".repeat(200).into();
    let wrong = json!({"identifier": 7, "connections": "gmail", "prompt": ["x"]});
    let bodies: [(&[u8], &str); 9] = [
        (b"hello", "not JSON"),
        (b"", "not JSON"),
        (b"{\"identifier\": \"\xff\"}", "not JSON"),
        (b"[]", "object"),
        (deep.as_bytes(), "nested"),
        (wrong.to_string().leak().as_bytes(), "identifier"),
        (huge.as_bytes(), "bytes"),
        (typo.to_string().leak().as_bytes(), "promt"),
        (long.to_string().leak().as_bytes(), "correlation_id"),
    ];
    for (index, (body, problem)) in bodies.iter().enumerate() {
        service.send(*body, Properties { message_id: Some(format!("bad-{index}")), ..inbox.to() }).await;
        let reply = inbox.reply().await;
        assert_eq!(
            (&reply["type"], &reply["subject"]),
            (&json!("agentkit.job.failed"), &json!(format!("bad-{index}")))
        );
        assert_eq!(reply["data"]["error"]["code"], "invalid_job");
        assert_eq!(reply["data"]["stop_reason"], "invalid_job");
        let message = reply["data"]["error"]["message"].as_str().unwrap();
        assert!(message.contains(problem) && message.len() < 4000, "{problem} is missing in {message}");
    }
    service.send("nobody to tell", Properties::default()).await;
    let letters = DeadLetters::open(&service.amqp).await.unwrap();
    let mut kept = Vec::new();
    while kept.len() < bodies.len() + 1 {
        kept.push(eventually("a dead letter", async || letters.take().await.unwrap()).await.message);
    }
    assert!(kept.iter().all(|letter| letter.properties.headers["x-agentkit-dead-reason"] == "invalid_job"));
    // The reply to one is out before it is in the queue, where a smaller one may overtake it.
    for body in bodies.iter().map(|(body, _)| *body).chain([&b"nobody to tell"[..]]) {
        let found = kept.iter().position(|letter| letter.body == body);
        kept.swap_remove(found.expect("a dead letter is the message as it came"));
    }

    for (connection, code) in [("nothing", "connection_not_found"), ("hubspot", "connection_disabled")] {
        let mut unknown = job("user_123", "hello");
        unknown["connections"] = json!([connection]);
        service.send(unknown.to_string(), inbox.to()).await;
        let reply = inbox.reply().await;
        assert_eq!(reply["data"]["error"]["code"], code, "{reply:#}");
        assert_eq!(reply["data"]["error"]["connection"], connection);
    }
    service.send(job("user_123", "Fetch my last unread email").to_string(), inbox.to()).await;
    assert_eq!(inbox.reply().await["type"], "agentkit.job.completed");
    assert_eq!(worker.metric("agentkit_dead_letters_total{reason=\"invalid_job\"}").await, Some(10.0));
    assert_eq!(worker.metric("agentkit_jobs_total{outcome=\"invalid_job\"}").await, Some(10.0));
    assert_eq!(worker.get("/livez").await.0, 200);
}

#[tokio::test]
async fn a_message_of_a_newer_version_is_left_to_a_newer_worker_for_a_day() {
    let service = Service::new().await;
    let worker = service.program.worker().await;
    let mut inbox = service.inbox().await;
    let mut newer = job("user_123", "hello");
    newer["of_tomorrow"] = true.into();
    let of = |id: &str, headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Properties { message_id: Some(id.to_owned()), headers, ..inbox.to() }
    };
    let job_of_tomorrow = of("job", &[("x-agentkit-needs", "2"), ("x-agentkit-of-tomorrow", "a")]);
    let wake_up_of_tomorrow = of("wake-up", &[("x-agentkit-turn", "3"), ("x-agentkit-effects", "1")]);
    for properties in [&job_of_tomorrow, &wake_up_of_tomorrow] {
        service.send(newer.to_string(), properties.clone()).await;
    }
    let waiting = service.amqp.names().wait(Tier::ThirtySeconds);
    for _ in 0..2 {
        let (body, properties) = eventually("the message", || service.broker.take(&waiting)).await;
        let is_job = properties.message_id().as_ref().is_some_and(|id| id.as_str() == "job");
        let mut sent = if is_job { job_of_tomorrow.headers.clone() } else { wake_up_of_tomorrow.headers.clone() };
        sent.insert("x-agentkit-left".into(), "1".into());
        let headers = properties.headers().as_ref().unwrap().inner();
        let kept: BTreeMap<String, String> =
            headers.iter().filter_map(|(name, value)| Some((name.to_string(), text(value)?))).collect();
        assert_eq!((body, kept), (newer.to_string().into_bytes(), sent));
    }
    let late = of("late", &[("x-agentkit-needs", "2"), ("x-agentkit-left", "2880")]);
    service.send(job("user_123", "hello").to_string(), late).await;
    let reply = inbox.reply().await;
    assert_eq!((&reply["subject"], &reply["data"]["error"]["code"]), (&json!("late"), &json!("invalid_job")));
    assert!(reply["data"]["error"]["message"].as_str().unwrap().contains("needs a newer worker"), "{reply}");
    assert_eq!(worker.metric("agentkit_dead_letters_total{reason=\"invalid_job\"}").await, Some(1.0));
}

#[tokio::test]
async fn a_message_that_came_back_forty_times_is_read_by_nobody_and_kept_and_its_caller_is_told() {
    let service = Service::new().await;
    let worker = service.program.worker().await;
    let mut inbox = service.inbox().await;
    let body = job("user_123", "hello").to_string();
    // As a worker hands it on that had no place for it.
    let came_back = |times: &str| {
        let headers = [("x-agentkit-deliveries".to_owned(), times.to_owned())].into();
        let properties = Properties { message_id: Some(format!("back-{times}")), headers, ..inbox.to() };
        let mut message = Message { body: body.clone().into(), properties };
        HeaderKey::of(&service.peer.sandbox.client_secret().into()).sign(&mut message);
        message.properties
    };
    let [poison, suspect] = [came_back("40"), came_back("5")];
    service.send(body.clone(), poison).await;
    let reply = inbox.reply().await;
    assert_eq!((&reply["subject"], &reply["data"]["error"]["code"]), (&json!("back-40"), &json!("invalid_job")));
    assert!(reply["data"]["error"]["message"].as_str().unwrap().contains("died with it"), "{reply}");
    service.send(body.clone(), suspect).await;
    assert_eq!(inbox.reply().await["type"], "agentkit.job.completed", "a suspect runs, alone");
    assert_eq!(worker.metric("agentkit_dead_letters_total{reason=\"invalid_job\"}").await, Some(1.0));
}

/// What the broker itself says of a message is not text.
fn text(value: &AMQPValue) -> Option<String> {
    if let AMQPValue::LongString(text) = value { Some(text.to_string()) } else { None }
}

#[tokio::test]
async fn after_sigterm_the_worker_is_not_ready_and_its_unfinished_jobs_are_finished_by_another() {
    let service = Service::new().await;
    let first = service.program.worker().await;
    let mut inbox = service.inbox().await;
    let slow = json!({"on": "execute", "kind": "delay", "delay_ms": 3000, "times": 5});
    service.peer.fault(slow).await;
    for index in 0..5 {
        let body = job(&format!("user_{index}"), "Fetch my last 2 unread emails");
        service.send(body.to_string(), inbox.to()).await;
    }
    eventually("five tool calls under way", async || (service.peer.count("execute").await == 5).then_some(())).await;
    assert_eq!(first.get("/livez").await, (200, "ok\n".to_owned()));
    let stopping = Instant::now();
    first.running.signal("TERM");
    eventually("not ready", async || (first.get("/readyz").await == (503, "shutting down\n".to_owned())).then_some(()))
        .await;
    assert_eq!(first.get("/livez").await.0, 200, "it is alive to its end");
    let (status, log) = first.running.end().await;
    assert_eq!(status.code(), Some(0), "{log:#?}");
    assert!(stopping.elapsed().as_secs() < 25, "the grace is 25 s");
    let jobs = service.amqp.names().jobs();
    eventually("five jobs on the queue", async || (service.broker.ready(&jobs).await == 5).then_some(())).await;

    let second = service.program.worker().await;
    let subjects = inbox.subjects_of_completed(5).await;
    assert_eq!(subjects.into_iter().collect::<BTreeSet<_>>().len(), 5);
    assert_eq!(service.peer.count("execute").await, 5, "what was done before the stop is not done again");
    let (status, _) = second.stop().await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn the_metrics_have_the_documented_names() {
    let service = Service::new().await;
    let worker = service.program.worker().await;
    let mut inbox = service.inbox().await;
    service.peer.fault(json!({"on": "execute", "kind": "status", "status": 503})).await;
    let prompt = "Fetch my last unread email, then send an email to sam@example.com with subject Hi saying hello";
    let properties = Properties { timestamp: Some(SystemClock.now()), ..inbox.to() };
    service.send(job("user_123", prompt).to_string(), properties).await;
    let reply = inbox.reply().await;
    assert_eq!(reply["data"]["effects"][0]["state"], "done", "{reply:#}");
    for name in [
        "agentkit_jobs_total{outcome=\"completed\"} 1",
        "agentkit_jobs_in_flight 0",
        "agentkit_job_duration_seconds_count 1",
        "agentkit_queue_wait_seconds_count 1",
        "agentkit_tool_calls_total{tool=\"gmail_fetch_mails\",effect=\"read\",outcome=\"done\"} 1",
        "agentkit_tool_call_duration_seconds_count 2",
        "agentkit_tool_retries_total{reason=\"unavailable\"} 1",
        "agentkit_tool_cache_total{result=\"scalekit\"} 1",
        "agentkit_model_calls_total{model=\"gpt-4o\",outcome=\"answered\"} 3",
        "agentkit_model_tokens_total{model=\"gpt-4o\",kind=\"input\"} ",
        "agentkit_replies_total{type=\"agentkit.job.completed\"} 1",
    ] {
        let there = async || worker.get("/metrics").await.1.contains(name).then_some(());
        eventually(name, there).await;
    }
    let (status, page) = worker.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(!page.contains("user_123") && !page.contains("sam@example.com"));
}

#[tokio::test]
async fn the_log_is_one_json_object_a_line_and_tells_no_secret() {
    let mut service = Service::new().await;
    service.program = service.program.set("AGENTKIT_WORKER__LOG__IDENTIFIERS", "plain");
    let worker = service.program.worker().await;
    let mut inbox = service.inbox().await;
    service.peer.fault(json!({"on": "execute", "kind": "status", "status": 503})).await;
    let prompt =
        "Fetch my last unread email, then send an email to zebra@example.com with subject Okapi saying giraffe";
    let body =
        json!({"identifier": "user_123", "connections": ["gmail"], "prompt": prompt, "instructions": "be a heron"});
    service.send(body.to_string(), inbox.to()).await;
    assert_eq!(inbox.reply().await["type"], "agentkit.job.completed");

    service.peer.set_account("gmail", "user_9", "EXPIRED").await;
    let mut waiting = job("user_9", "a walrus wants its mails");
    waiting["authorization"] = json!({"wait_seconds": 0});
    service.send(waiting.to_string(), inbox.to()).await;
    let reply = inbox.reply().await;
    let link = reply["data"]["authorizations"][0]["link"].as_str().unwrap();
    service.send("{\"prompt\": \"an ostrich\", \"ostrich\": ", inbox.to()).await;
    inbox.reply().await;

    let (status, log) = worker.stop().await;
    assert_eq!(status.code(), Some(0));
    let mut messages = BTreeSet::new();
    for line in &log {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
        let message = line["message"].as_str().unwrap_or_default();
        if OF_A_JOB.contains(&message) {
            let span = &line["span"];
            assert!(span["job.id"].is_string() && span["job.identifier"].is_string(), "whose line is this? {line}");
            assert!(message == "job received" || span["job.attempt"] == 1, "which attempt? {line}");
        }
        messages.insert(message.to_owned());
    }
    for message in OF_A_JOB {
        assert!(messages.contains(message), "{message} is missing in {messages:#?}");
    }
    for message in OF_A_STEP {
        assert!(!messages.contains(message), "{message} is said to operators: {messages:#?}");
    }
    let log = log.join("\n");
    let token = link.rsplit('/').next().unwrap();
    let sandbox = &service.peer.sandbox;
    let secrets = [sandbox.client_secret(), sandbox.api_key(), service.peer.token.as_str(), token, "guest:guest"];
    for secret in secrets.into_iter().chain(["zebra", "Okapi", "giraffe", "heron", "walrus", "ostrich", "unread"]) {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}
