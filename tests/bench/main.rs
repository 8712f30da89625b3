//! What one unit of each thing costs, here: a job, a run that waits for its user, a recipient of a digest, a worker that
//! has nothing to do. `deploy/README.md` says from these what breaks first where there are many. Processor time and bytes,
//! never a time limit: nothing fails because a machine is slow.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark stops at what it does not expect, as a test does")]

mod jobs;
mod meter;
mod parked;
mod recipients;
mod surroundings;
mod workers;

#[path = "../chaos/replies.rs"]
#[expect(dead_code, reason = "shared with the chaos test, which needs more of it")]
mod replies;
#[path = "../it/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the tests, which need more of it")]
mod support;

use std::io::Write;

use serde_json::{Map, Value};

/// What was measured, in the order in which it was.
#[derive(Default)]
struct Measured(Map<String, Value>);

impl Measured {
    /// Notes and shows a figure.
    fn note(&mut self, what: &str, value: f64, unit: &str) {
        let shown = (value * 100.0).round() / 100.0;
        let _ = writeln!(std::io::stdout(), "{what:<70} {shown:>12} {unit}");
        self.0.insert(format!("{what} ({unit})"), shown.into());
    }
}

const PARTS: [&str; 4] = ["jobs", "parked", "recipients", "workers"];

#[tokio::main]
async fn main() {
    // Cargo adds `--bench`.
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let Some(unknown) = asked.iter().find(|part| !PARTS.contains(&part.as_str())) {
        let _ =
            writeln!(std::io::stderr(), "no part `{unknown}`; there are {}, all where none is named", PARTS.join(", "));
        std::process::exit(64);
    }
    let wanted = |part: &str| asked.is_empty() || asked.iter().any(|asked| asked == part);
    let mut measured = Measured::default();
    if wanted("jobs") {
        jobs::measure(&mut measured).await;
    }
    if wanted("parked") {
        parked::measure(&mut measured).await;
    }
    if wanted("recipients") {
        recipients::measure(&mut measured).await;
    }
    if wanted("workers") {
        workers::measure(&mut measured).await;
    }
    let _ = writeln!(std::io::stdout(), "{}", Value::Object(measured.0));
}
