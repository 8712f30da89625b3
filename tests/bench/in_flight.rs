//! Many jobs at once, where the model takes two seconds and the tool a fifth of one: none of them has anything to wait for
//! but these.

use std::time::Duration;

use crate::comparison::{Comparison, Row};
use crate::meter::number;
use crate::overhead::FIRST;
use crate::scene::{Contender, Scene, Who};
use crate::stand_in::Upstream;
use crate::support::process_usage::ProcessUsage;
use crate::{Arguments, Measured};

const UPSTREAM: Upstream =
    Upstream { tools: 12, model: Duration::from_secs(2), tool: Duration::from_millis(200), hostile: false };
const USERS: u64 = 500;

pub(crate) async fn measure(measured: &mut Measured, arguments: &Arguments) {
    for jobs in &arguments.in_flight {
        of(measured, *jobs).await;
    }
}

async fn of(measured: &mut Measured, jobs: u64) {
    let mut scene = Scene::start(UPSTREAM, Some(USERS), u16::try_from(jobs).unwrap()).await;
    let worker = scene.begin(Who::Worker).await;
    let ids = scene.load.hand_over(&scene.surroundings, FIRST.min(jobs)).await;
    scene.load.answered(&ids).await;
    scene.record(&worker).await;
    worker.stop().await;
    let mut warnings = Row::new();
    let (mut wall, mut processor, mut peak, mut open) = (Row::new(), Row::new(), Row::new(), Row::new());
    for who in Who::all() {
        // All are there when it begins.
        let ids = scene.load.hand_over(&scene.surroundings, jobs).await;
        scene.stand_in.count_anew().await;
        let contender = scene.begin(who).await;
        scene.load.answered(&ids).await;
        let figures = scene.stand_in.figures().await;
        let usage = ProcessUsage::by(contender.process());
        wall.insert(who, figures.since_first / 1000.0);
        processor.insert(who, usage.processor.as_secs_f64() * 1000.0 / number(jobs));
        peak.insert(who, number(ProcessUsage::peak(contender.process())) / 1024.0);
        open.insert(who, number(figures.open_at_most));
        if let Contender::Worker(worker) = &contender {
            warnings.insert(who, number(worker.lines("\"level\":\"WARN\"") as u64));
        }
        contender.stop().await;
    }
    let ideal = (2 * UPSTREAM.model + UPSTREAM.tool).as_secs_f64();
    let mut table = Comparison::new(measured, format!("in flight: {jobs} jobs at once, 4.2 s each at least"));
    let beyond = wall.iter().map(|(who, seconds)| (*who, seconds / ideal)).collect();
    table.row("from the first request to the last reply", "s", &wall, true);
    table.row("of the ideal", "times", &beyond, false);
    table.row("requests open at once, at most", "requests", &open, false);
    table.row("processor, the start of the process included", "ms a job", &processor, true);
    table.row("most memory", "MiB", &peak, true);
    table.row("warnings in its log", "lines", &warnings, false);
}
