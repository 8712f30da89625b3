//! Jobs of two model turns and one tool call, which reads or writes.

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Measured;
use crate::meter::{Reading, number};
use crate::surroundings::{Surroundings, processes, until};

const JOBS: u64 = 5000;
const USERS: u64 = 500;
/// Connections, token, tool lists and the broker's queues are made meanwhile.
const FIRST: u64 = 500;

pub(crate) async fn measure(measured: &mut Measured) {
    for (kind, prompt) in [
        ("reads", "Call gmail_fetch_mails with {\"max_results\": 5}"),
        (
            "writes",
            "Call gmail_send_message with {\"to\": \"bob@example.com\", \"subject\": \"hello\", \"body\": \"hello\"}",
        ),
    ] {
        let surroundings = Surroundings::start(true).await;
        let worker = surroundings.program(&[("WORKER__CONCURRENCY", "64")]).worker().await;
        let job = |number: u64| job(number, prompt);
        surroundings.publish((0..FIRST).map(job)).await;
        answered(&surroundings, FIRST).await;
        let workers = processes(std::slice::from_ref(&worker));
        let (before, began) = (Reading::of(&surroundings, &workers), Instant::now());
        surroundings.publish((FIRST..FIRST + JOBS).map(job)).await;
        answered(&surroundings, FIRST + JOBS).await;
        let seconds = began.elapsed().as_secs_f64();
        let cost = before.until(&Reading::of(&surroundings, &workers), JOBS);
        let mut note =
            |what: &str, value: f64, unit: &str| measured.note(&format!("a job that {kind}: {what}"), value, unit);
        note("worker", cost.workers, "ms of processor");
        note("broker", cost.broker, "ms of processor");
        note("Redis", cost.redis, "ms of processor");
        note("callers, Scalekit and model of this benchmark", cost.peers, "ms of processor");
        note("commands in Redis", cost.redis_commands, "commands");
        note("kept in Redis when it has ended", cost.redis_bytes, "bytes");
        let remains = format!("{}:sealed:{{job-{FIRST}}}", surroundings.amqp.prefix);
        let remains = surroundings.redis.command(&["MEMORY", "USAGE", &remains, "SAMPLES", "0"]);
        note("of that beyond the first day", remains.parse().unwrap(), "bytes");
        note("all processes on this machine, callers included", number(JOBS) / seconds, "jobs a second");
        worker.stop().await;
    }
}

fn job(number: u64, prompt: &str) -> Value {
    let identifier = format!("user-{}", number % USERS);
    json!({"id": format!("job-{number}"), "identifier": identifier, "connections": ["gmail"], "prompt": prompt})
}

async fn answered(surroundings: &Surroundings, count: u64) {
    until("all are answered", async || surroundings.replies.answered() as u64 == count).await;
}
