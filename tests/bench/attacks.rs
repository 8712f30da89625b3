//! What attacks cost a worker that does honest jobs beside them: each as `tests/it/hostile` provokes it, many times over.

use std::io::Write as _;
use std::time::Duration;

use agentkit_worker::internals::clock::{Clock, SystemClock};
use agentkit_worker::internals::queue::amqp::{AmqpQueue, Config as Amqp};
use agentkit_worker::internals::queue::{Destination, Message, Properties, Publisher};
use futures_util::StreamExt;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::Measured;
use crate::overhead::{AT_ONCE, FIRST};
use crate::scene::Scene;
use crate::stand_in::{BACKTRACKING, DEEP, LARGE, Upstream};
use crate::support::process_usage::ProcessUsage;
use crate::support::program::WorkerProcess;
use crate::support::sandbox_peer::plain_client;
use crate::surroundings::{CALLERS, until};

const UPSTREAM: Upstream = Upstream { tools: 12, model: Duration::ZERO, tool: Duration::ZERO, hostile: true };
const USERS: u64 = 500;
/// Honest jobs a second.
const RATE: u64 = 20;
/// How long they come, for each attack.
const SECONDS: u64 = 10;
/// Hostile jobs of one kind.
const JOBS: usize = 20;

enum Attack {
    /// These as jobs.
    Jobs(Vec<Message>),
    /// So many webhooks with so many candidates for a signature.
    Webhooks(usize, usize),
    /// So many connections that say half of something.
    HalfOpen(usize),
}

fn job(prompt: &str) -> Value {
    json!({"identifier": "mallory", "connections": ["gmail"], "prompt": prompt})
}

/// [`JOBS`] times, each another job.
fn jobs(make: impl Fn(usize) -> Value) -> Attack {
    let message = |at: usize| {
        let mut job = make(at);
        job["metadata"] = json!({"at": at});
        Message { body: job.to_string().into(), properties: Properties::default() }
    };
    Attack::Jobs((0..JOBS).map(message).collect())
}

fn with_schema(prompt: &str, schema: &Value) -> Attack {
    jobs(|_| {
        let mut job = job(prompt);
        job["output_schema"] = schema.clone();
        job
    })
}

fn doubling(levels: usize) -> Value {
    let mut definitions = Map::new();
    for level in 0..levels {
        let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
        definitions.insert(format!("d{level}"), json!({"allOf": [next, next]}));
    }
    definitions.insert(format!("d{levels}"), json!({}));
    json!({"type": "object", "allOf": [{"$ref": "#/$defs/d0"}], "$defs": definitions})
}

fn patterns(count: usize, length: usize) -> Value {
    let property = |at: usize| (format!("p{at}"), json!({"pattern": format!(r"^\p{{L}}{{{length}}}x{at}$")}));
    json!({"type": "object", "properties": (0..count).map(property).collect::<Map<_, _>>()})
}

fn forged(headers: &[(&str, &str)]) -> Attack {
    let Attack::Jobs(mut messages) = jobs(|_| job("x")) else { unreachable!() };
    for message in &mut messages {
        message.properties.headers =
            headers.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    }
    Attack::Jobs(messages)
}

fn attacks() -> Vec<(&'static str, Attack)> {
    let recursive = json!({"allOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}]});
    let backtracking = json!({"type": "array", "items": {"type": "string", "pattern": "^(a|a)*(a|aa)+$"}});
    let long = || vec![Value::from(""); 300_000];
    let above = Message { body: vec![b'['; 8 << 20].into(), properties: Properties::default() };
    vec![
        ("20 jobs whose schema doubles 50 times", with_schema("x", &doubling(50))),
        ("20 answers 50 levels deep to a schema that doubles with each", with_schema(DEEP, &recursive)),
        ("20 jobs with 60 patterns of 200 letters", with_schema("x", &patterns(60, 200))),
        ("20 jobs with 3,000 patterns of 100 letters", with_schema("x", &patterns(3000, 100))),
        ("20 answers of 400 strings to a pattern that backtracks", with_schema(BACKTRACKING, &backtracking)),
        (
            "20 jobs with 300,000 connections or tools",
            jobs(|at| match at % 2 {
                0 => json!({"identifier": "mallory", "connections": long(), "prompt": "x"}),
                _ => {
                    json!({"identifier": "mallory", "connections": ["gmail"], "prompt": "x", "tools": {"allow": long()}})
                }
            }),
        ),
        ("20 bodies of 8 MiB", Attack::Jobs(vec![above; JOBS])),
        ("200 webhooks with 1,000 candidates", Attack::Webhooks(200, 1000)),
        ("200 webhooks with 100,000 candidates", Attack::Webhooks(200, 100_000)),
        ("300 half-open requests", Attack::HalfOpen(300)),
        ("20 jobs that claim to be sealed", forged(&[("x-agentkit-turn", "3"), ("x-agentkit-reason", "seal")])),
        ("20 jobs that claim a webhook", forged(&[("x-agentkit-turn", "3"), ("x-agentkit-reason", "webhook")])),
        (
            "20 jobs due in the year 9999",
            forged(&[("x-agentkit-turn", "0"), ("x-agentkit-due", "9999-12-31T00:00:00Z")]),
        ),
        ("20 runs of 8 reads of 16 MiB", jobs(|_| job(LARGE))),
    ]
}

impl Attack {
    /// At the return all of it is on its way; what is given back goes on until it is dropped.
    async fn begin(self, scene: &Scene, worker: &WorkerProcess) -> Vec<TcpStream> {
        match self {
            Self::Jobs(messages) => {
                let amqp = Amqp { max_message_bytes: 16 << 20, ..scene.surroundings.amqp.clone() };
                let publisher = AmqpQueue::connect(amqp).await.unwrap().publisher();
                let publish = |message| {
                    let publisher = publisher.clone();
                    async move { publisher.publish(&Destination::Jobs, message).await.map(|_| ()).unwrap() }
                };
                futures_util::stream::iter(messages).for_each_concurrent(CALLERS, publish).await;
                Vec::new()
            }
            Self::Webhooks(count, candidates) => {
                let (client, signature) = (plain_client(), "v1, ".repeat(candidates));
                let now = SystemClock.now().as_second();
                let send = |_| {
                    let request = client.post(format!("{}/webhooks/scalekit", worker.url)).body("{}");
                    let request = request.header("webhook-id", "msg_1").header("webhook-timestamp", now);
                    let request = request.header("webhook-signature", signature.trim_end());
                    // One that is too long is cut off.
                    async move { drop(request.send().await) }
                };
                futures_util::stream::iter(0..count).for_each_concurrent(16, send).await;
                Vec::new()
            }
            Self::HalfOpen(count) => {
                let mut held = Vec::new();
                for _ in 0..count {
                    let mut stream = TcpStream::connect(worker.url.trim_start_matches("http://")).await.unwrap();
                    stream.write_all(b"POST /webhooks/scalekit HTTP/1.1\r\nhost: x\r\nx-half").await.unwrap();
                    held.push(stream);
                }
                held
            }
        }
    }
}

/// What a window of honest jobs took, with an attack or without.
struct Window {
    processor: f64,
    seconds: f64,
    peak: f64,
    p95: f64,
}

async fn window(scene: &Scene, worker: &WorkerProcess, attack: Option<Attack>) -> Window {
    let process = worker.running.process();
    // The kernel's most of the resident memory begins anew.
    std::fs::write(format!("/proc/{process}/clear_refs"), "5").unwrap();
    let (before, began) = (ProcessUsage::by(process), Instant::now());
    let honest = scene.load.at_rate(&scene.surroundings, RATE, SECONDS);
    let hostile = async {
        match attack {
            Some(attack) => attack.begin(scene, worker).await,
            None => Vec::new(),
        }
    };
    let (mut times, held) = tokio::join!(honest, hostile);
    drop(held);
    let jobs = scene.surroundings.amqp.names().jobs();
    until("the attack is over", async || {
        let idle = worker.metric("agentkit_jobs_in_flight").await == Some(0.0);
        idle && scene.surroundings.broker.ready(&jobs).await == 0
    })
    .await;
    times.sort();
    Window {
        processor: before.processor_since(process).as_secs_f64(),
        seconds: began.elapsed().as_secs_f64(),
        peak: crate::meter::number(ProcessUsage::peak(process)) / 1024.0,
        p95: times[times.len() * 95 / 100].as_secs_f64() * 1000.0,
    }
}

pub(crate) async fn measure(measured: &mut Measured) {
    let scene = Scene::start(UPSTREAM, Some(USERS), AT_ONCE).await;
    let model = format!("{}/v1", scene.stand_in.url);
    let program = scene.surroundings.program(&[]).set("SCALEKIT_ENV_URL", &scene.stand_in.url);
    let program =
        program.set("OPENAI_BASE_URL", &model).set("SCALEKIT_WEBHOOK_SECRET", "whsec_b25lIGtleSBmb3IgdGVzdHM=");
    let worker = program.worker().await;
    let ids = scene.load.hand_over(&scene.surroundings, FIRST).await;
    scene.load.answered(&ids).await;
    let honest = window(&scene, &worker, None).await;
    let mut out = std::io::stdout();
    let _ = writeln!(out, "\n{RATE} honest jobs a second for {SECONDS} s, and beside them:\n");
    let _ = writeln!(out, "| attack | processor, s | peak, MiB | honest p95, ms |\n|---|---|---|---|");
    let mut row = |name: &str, processor: f64, window: &Window| {
        let _ = writeln!(out, "| {name} | {processor:.2} | {:.0} | {:.0} |", window.peak, window.p95);
        for (what, value, unit) in
            [("processor", processor, "s"), ("peak", window.peak, "MiB"), ("honest p95", window.p95, "ms")]
        {
            measured.0.insert(format!("{name}: {what} ({unit})"), value.into());
        }
    };
    row("nothing", 0.0, &honest);
    for (name, attack) in attacks() {
        let window = window(&scene, &worker, Some(attack)).await;
        // Beyond what the honest jobs take.
        let usual = honest.processor / honest.seconds * (honest.seconds.min(window.seconds));
        row(name, (window.processor - usual).max(0.0), &window);
    }
    worker.stop().await;
}
