//! Runs that wait for their users, each for another one.

use std::time::Duration;

use serde_json::json;

use crate::Measured;
use crate::meter::{Reading, number};
use crate::surroundings::{Surroundings, processes, until};

const RUNS: u64 = 2000;
/// In seconds, of the polls; by default they are up to ten minutes apart.
const POLL: &str = "5";
const LOOK: Duration = Duration::from_secs(30);

pub(crate) async fn measure(measured: &mut Measured) {
    let surroundings = Surroundings::start(false).await;
    let settings = [
        ("WORKER__CONCURRENCY", "64"),
        ("AUTHORIZATION__POLL_SECONDS", POLL),
        ("AUTHORIZATION__POLL_SECONDS_AT_MOST", POLL),
    ];
    let worker = surroundings.program(&settings).worker().await;
    let workers = processes(std::slice::from_ref(&worker));
    let before = Reading::of(&surroundings, &workers);
    surroundings
        .publish((0..RUNS).map(|number| {
            let id = format!("job-{number}");
            json!({"id": id, "identifier": format!("user-{number}"), "connections": ["gmail"], "prompt": "hello"})
        }))
        .await;
    let waiting = "agentkit_parked_jobs{reason=\"authorization\"}";
    until("all wait", async || worker.metric(waiting).await == Some(number(RUNS))).await;
    let parked = before.until(&Reading::of(&surroundings, &workers), RUNS);
    measured.note("a run that waits for its user: in Redis", parked.redis_bytes, "bytes");
    measured.note("a run that waits for its user: memory of the broker", parked.broker_bytes, "bytes");
    measured.note("a run that waits for its user: disk of the broker", parked.disk_bytes, "bytes");

    let (looks, before) = (surroundings.peer.count("details").await, Reading::of(&surroundings, &workers));
    tokio::time::sleep(LOOK).await;
    let looked = surroundings.peer.count("details").await - looks;
    let cost = before.until(&Reading::of(&surroundings, &workers), looked);
    measured.note("polls looked at", number(looked), &format!("in {} s", LOOK.as_secs()));
    measured.note("a poll: worker", cost.workers, "ms of processor");
    measured.note("a poll: broker", cost.broker, "ms of processor");
    measured.note("a poll: Redis", cost.redis, "ms of processor");
    measured.note("a poll: commands in Redis", cost.redis_commands, "commands");
    worker.stop().await;
}
