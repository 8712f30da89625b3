//! What a job costs beside the time of the model and the tool, which take none here: two model turns and one tool call that
//! reads, 64 jobs at once.

use std::time::Duration;

use crate::comparison::{Comparison, Row};
use crate::recording::Step;
use crate::scene::{Cost, Scene, Who, median};
use crate::stand_in::Upstream;
use crate::{Arguments, Measured};

pub(crate) const AT_ONCE: u16 = 64;
const USERS: u64 = 500;
/// Of each figure the median of so many rounds is taken.
pub(crate) const ROUNDS: u64 = 4;
/// Connections, token, tool lists and the broker's queues are made meanwhile; what is compiled at run time is, too.
pub(crate) const FIRST: u64 = 1000;

/// Users come again and again: their tool lists are known.
pub(crate) async fn measure(measured: &mut Measured, arguments: &Arguments) {
    for tools in [12, 56] {
        of(measured, arguments.jobs, tools, Some(USERS), "known users").await;
    }
}

/// Each job is for a user whom nobody has seen before.
pub(crate) async fn measure_cold(measured: &mut Measured, arguments: &Arguments) {
    of(measured, arguments.jobs / 2, 12, None, "a new user each").await;
}

async fn of(measured: &mut Measured, jobs: u64, tools: usize, users: Option<u64>, which: &str) {
    let upstream = Upstream { tools, model: Duration::ZERO, tool: Duration::ZERO, hostile: false };
    let mut scene = Scene::start(upstream, users, AT_ONCE).await;
    let mut costs: Vec<(Who, Vec<Cost>)> = Vec::new();
    for who in Who::all() {
        let contender = scene.begin(who).await;
        let ids = scene.load.hand_over(&scene.surroundings, FIRST).await;
        scene.load.answered(&ids).await;
        if who == Who::Worker {
            scene.record(&contender).await;
        }
        scene.stand_in.count_anew().await;
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(scene.measure(&contender, (jobs / ROUNDS).max(1)).await);
        }
        costs.push((who, rounds));
        contender.stop().await;
    }
    let mut table =
        Comparison::new(measured, format!("overhead, {tools} tools, {which}, {jobs} jobs, {AT_ONCE} at once"));
    let row = |of: fn(&Cost) -> f64| -> Row {
        costs.iter().map(|(who, rounds)| (*who, median(rounds.iter().map(of).collect()))).collect()
    };
    table.row("processor", "ms a job", &row(|cost| cost.processor), true);
    table.row("most memory", "MiB", &row(|cost| cost.peak), true);
    table.row("jobs", "a second", &row(|cost| cost.jobs_a_second), true);
    table.row("requests to Scalekit and the model", "a job", &row(|cost| cost.requests), false);
    table.row("bytes of their bodies", "KiB a job", &row(|cost| cost.request_bytes / 1024.0), false);
    table.row("commands in Redis, those of scripts included", "a job", &row(|cost| cost.redis_commands), false);
    table.row("bytes that Redis was sent", "KiB a job", &row(|cost| cost.redis_input_bytes / 1024.0), false);
    table.row("processor of Scalekit and the model", "ms a job", &row(|cost| cost.stand_in), false);
    table.row("processor of the broker", "ms a job", &row(|cost| cost.broker), false);
    table.row("processor of Redis", "ms a job", &row(|cost| cost.redis), false);
    let recording = scene.recording().expect("the worker came first");
    let sent = recording.steps.iter().filter(|step| matches!(step, Step::Redis(_))).count();
    let sent = Row::from([(Who::Worker, crate::meter::number(sent as u64))]);
    table.row("commands that Redis was sent", "a job", &sent, false);
    table.list("what the worker sends for a job, between its delivery and its ack", recording.listed());
}
