//! What one unit of each thing costs, here: a job, a run that waits for its user, a recipient of a digest, a worker that
//! has nothing to do. `deploy/README.md` says from these what breaks first where there are many. What a job costs is set
//! beside what a bare loop takes that sends the same, and beside a loop in Node; [README.md](README.md) says how. Processor
//! time and bytes, never a time limit: nothing fails because a machine is slow.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark stops at what it does not expect, as a test does")]

mod attacks;
mod comparison;
mod embedded;
mod floor;
mod in_flight;
mod jobs;
mod latency;
mod load;
mod meter;
mod overhead;
mod parked;
mod recipients;
mod recording;
mod role;
mod scene;
mod stand_in;
mod surroundings;
mod workers;

#[path = "../chaos/replies.rs"]
#[expect(dead_code, reason = "shared with the chaos test, which needs more of it")]
mod replies;
#[path = "../it/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the tests, which need more of it")]
mod support;

use std::io::Write;
use std::path::PathBuf;

use clap::Parser;
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

const PARTS: [&str; 10] =
    ["overhead", "cold", "in-flight", "latency", "embedded", "jobs", "parked", "recipients", "workers", "attacks"];

/// What is measured.
#[derive(Debug, Parser)]
struct Arguments {
    /// Jobs of the overhead
    #[arg(long, default_value_t = 20_000)]
    jobs: u64,
    /// Jobs in flight at once, one measurement each
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 5000])]
    in_flight: Vec<u64>,
    /// Jobs a second of the latency …
    #[arg(long, default_value_t = 50)]
    rate: u64,
    /// … and for how many seconds
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// A file that the figures are written to
    #[arg(long)]
    json: Option<PathBuf>,
    /// All where none is named
    #[arg(value_parser = PARTS)]
    parts: Vec<String>,
    /// Cargo adds it
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (part, rest) = words.split_first().map_or(("", words.as_slice()), |(part, rest)| (part.as_str(), rest));
    let several = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match part {
        "stand-in" => {
            role::end_with_input();
            // One thread costs less than two that wake each other.
            let one = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            one.block_on(stand_in::play(rest));
        }
        "floor" => {
            role::end_with_input();
            several().block_on(floor::play(rest));
        }
        "embedded" => several().block_on(embedded::play(rest)),
        "embedded-floor" => several().block_on(embedded::play_floor(rest)),
        _ => several().block_on(measure(&Arguments::parse())),
    }
}

async fn measure(arguments: &Arguments) {
    let mut measured = Measured::default();
    for part in PARTS {
        if !arguments.parts.is_empty() && !arguments.parts.iter().any(|asked| asked == part) {
            continue;
        }
        let measured = &mut measured;
        match part {
            "overhead" => overhead::measure(measured, arguments).await,
            "cold" => overhead::measure_cold(measured, arguments).await,
            "in-flight" => in_flight::measure(measured, arguments).await,
            "latency" => latency::measure(measured, arguments).await,
            "embedded" => embedded::measure(measured, arguments).await,
            "jobs" => jobs::measure(measured).await,
            "parked" => parked::measure(measured).await,
            "recipients" => recipients::measure(measured).await,
            "attacks" => attacks::measure(measured).await,
            _ => workers::measure(measured).await,
        }
    }
    let measured = Value::Object(measured.0);
    match &arguments.json {
        Some(file) => std::fs::write(file, format!("{measured:#}\n")).unwrap(),
        None => drop(writeln!(std::io::stdout(), "{measured}")),
    }
}
