//! Workers that have nothing to do.

use std::time::Duration;

use crate::Measured;
use crate::meter::{Reading, number};
use crate::support::process_usage::ProcessUsage;
use crate::surroundings::{Surroundings, processes};

const WORKERS: u64 = 50;
/// What is done once at the start is over then.
const SETTLED: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_secs(60);

pub(crate) async fn measure(measured: &mut Measured) {
    let surroundings = Surroundings::start(true).await;
    let program = surroundings.program(&[]);
    let without = Reading::of(&surroundings, &[]);
    let clients = surroundings.redis_figure("connected_clients");
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(program.worker().await);
    }
    tokio::time::sleep(SETTLED).await;
    let all = processes(&workers);
    let before = Reading::of(&surroundings, &all);
    tokio::time::sleep(LOOK).await;
    let after = Reading::of(&surroundings, &all);
    let idle = before.until(&after, WORKERS * LOOK.as_secs());
    let memory: u64 = all.iter().map(|process| ProcessUsage::by(*process).memory).sum();
    let connections = surroundings.broker.control(&["-q", "list_connections", "pid", "--no-table-headers"]).await;
    let connections = number(connections.lines().count() as u64) / number(WORKERS);
    let clients = (surroundings.redis_figure("connected_clients") - clients) / number(WORKERS);
    let mut note = |what: &str, value: f64, unit: &str| measured.note(&format!("an idle worker: {what}"), value, unit);
    note("memory", number(memory) / 1024.0 / number(WORKERS), "MiB");
    note("its processor", idle.workers, "ms a second");
    note("the broker's processor", idle.broker, "ms a second");
    note("Redis' processor", idle.redis, "ms a second");
    note("commands in Redis", idle.redis_commands, "a second");
    note("connections to the broker", connections, "connections");
    note("connections to Redis", clients, "connections");
    note("memory of the broker", without.until(&after, WORKERS).broker_bytes, "bytes");
    for worker in workers {
        worker.stop().await;
    }
}
