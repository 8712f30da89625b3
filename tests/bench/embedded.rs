//! The worker inside another program, with queue, cache and journal in memory; below it the same requests to Scalekit and
//! the model, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::{Config, Embedded, Job, ReplyEvent, SystemClock};
use futures_util::StreamExt;
use serde_json::json;
use tokio::time::Instant;

use crate::comparison::{Comparison, Row};
use crate::floor::Floor;
use crate::meter::number;
use crate::overhead::{AT_ONCE, FIRST, ROUNDS};
use crate::recording::{Recording, Step};
use crate::role::Role;
use crate::scene::{Who, median};
use crate::stand_in::{StandIn, Upstream};
use crate::support::process_usage::ProcessUsage;
use crate::{Arguments, Measured};

const USERS: u64 = 500;

pub(crate) async fn measure(measured: &mut Measured, arguments: &Arguments) {
    for tools in [12, 56] {
        of(measured, arguments.jobs, tools).await;
    }
}

async fn of(measured: &mut Measured, jobs: u64, tools: usize) {
    let stand_in =
        StandIn::start(Upstream { tools, model: Duration::ZERO, tool: Duration::ZERO, hostile: false }).await;
    let (mut processor, mut peak, mut rate, mut requests) = (Row::new(), Row::new(), Row::new(), Row::new());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("floor.json");
    for who in [Who::Worker, Who::Floor] {
        let part = if who == Who::Worker { "embedded" } else { "embedded-floor" };
        let mut role = Role::of_this_program(&[part, &stand_in.url, file.to_str().unwrap()]).await;
        role.ask(&FIRST.to_string()).await;
        if who == Who::Worker {
            // What it was told of an account counts for a second.
            tokio::time::sleep(Duration::from_secs(2)).await;
            stand_in.record().await;
            role.ask("1").await;
            let steps = stand_in.recorded().await.into_iter().map(Step::Http).collect();
            let recording = Recording { steps, reply: String::new(), id: String::new(), token: String::new() };
            std::fs::write(&file, serde_json::to_vec(&recording).unwrap()).unwrap();
        }
        stand_in.count_anew().await;
        let (round, mut costs, mut rates) = ((jobs / ROUNDS).max(1), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (before, began) = (ProcessUsage::by(role.process()), Instant::now());
            role.ask(&round.to_string()).await;
            costs.push(before.processor_since(role.process()).as_secs_f64() * 1000.0 / number(round));
            rates.push(number(round) / began.elapsed().as_secs_f64());
        }
        processor.insert(who, median(costs));
        rate.insert(who, median(rates));
        peak.insert(who, number(ProcessUsage::peak(role.process())) / 1024.0);
        requests.insert(who, number(stand_in.figures().await.requests.values().sum()) / number(round * ROUNDS));
        role.stop().await;
    }
    let mut table = Comparison::new(measured, format!("embedded, {tools} tools, {jobs} jobs, {AT_ONCE} at once"));
    table.row("processor", "ms a job", &processor, true);
    table.row("most memory", "MiB", &peak, true);
    table.row("jobs", "a second", &rate, true);
    table.row("requests to Scalekit and the model", "a job", &requests, false);
}

/// Plays the program that holds the worker: does as many jobs as each line of its input says.
pub(crate) async fn play(arguments: &[String]) {
    let mut config = Config::built_in();
    arguments[0].clone_into(&mut config.scalekit.environment_url);
    "benchmark".clone_into(&mut config.scalekit.client_id);
    config.scalekit.client_secret = "benchmark".to_owned().into();
    config.model.base_url = format!("{}/v1", arguments[0]);
    config.model.api_key = "benchmark".to_owned().into();
    config.worker.concurrency = AT_ONCE.into();
    let worker = Embedded::start(config, Arc::new(SystemClock)).unwrap();
    serve(async |number| {
        let job = json!({
            "id": format!("job-{number:08}"), "identifier": format!("user-{:08}", number % USERS), "connections": ["gmail"],
            "prompt": crate::load::PROMPT,
        });
        let job: Job = serde_json::from_value(job).unwrap();
        let reply = worker.submit(&job).await.unwrap().terminal().await.unwrap();
        assert!(matches!(reply.event, ReplyEvent::Completed(_)), "{reply:?}");
    })
    .await;
}

/// Plays the floor below it.
pub(crate) async fn play_floor(arguments: &[String]) {
    let recording: Recording = serde_json::from_slice(&std::fs::read(&arguments[1]).unwrap()).unwrap();
    let floor = Floor::new(recording, &arguments[0]);
    serve(async |_| floor.run("", "").await).await;
}

async fn serve(job: impl AsyncFn(u64)) {
    println!("ready");
    let mut next = 0;
    while let Some(jobs) = tokio::task::spawn_blocking(order).await.unwrap() {
        let first = next;
        next += jobs;
        futures_util::stream::iter(first..next).for_each_concurrent(usize::from(AT_ONCE), |number| job(number)).await;
        println!("done");
    }
}

/// The next line of the input: so many jobs.
fn order() -> Option<u64> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim().parse().ok()
}
