//! How long a job takes from its publish to its reply where jobs come at a fixed rate, and the model and the tool take no
//! time.

use std::time::Duration;

use crate::comparison::{Comparison, Row};
use crate::overhead::{AT_ONCE, FIRST};
use crate::scene::{Scene, Who};
use crate::stand_in::Upstream;
use crate::{Arguments, Measured};

const UPSTREAM: Upstream = Upstream { tools: 12, model: Duration::ZERO, tool: Duration::ZERO, hostile: false };
const USERS: u64 = 500;

pub(crate) async fn measure(measured: &mut Measured, arguments: &Arguments) {
    let mut scene = Scene::start(UPSTREAM, Some(USERS), AT_ONCE).await;
    let mut taken = Vec::new();
    for who in Who::all() {
        let contender = scene.begin(who).await;
        let ids = scene.load.hand_over(&scene.surroundings, FIRST).await;
        scene.load.answered(&ids).await;
        if who == Who::Worker {
            scene.record(&contender).await;
        }
        let mut times = scene.load.at_rate(&scene.surroundings, arguments.rate, arguments.seconds).await;
        times.sort();
        taken.push((who, times));
        contender.stop().await;
    }
    let title = format!("latency, {} jobs a second for {} s", arguments.rate, arguments.seconds);
    let mut table = Comparison::new(measured, title);
    for (name, hundredths) in [("p50", 50), ("p95", 95), ("p99", 99)] {
        let at = |times: &Vec<Duration>| times[(times.len() * hundredths / 100).min(times.len() - 1)];
        let row: Row = taken.iter().map(|(who, times)| (*who, at(times).as_secs_f64() * 1000.0)).collect();
        table.row(name, "ms", &row, true);
    }
}
