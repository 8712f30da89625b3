//! The floors of the house hold: reads `src/**/*.rs` and names every breach with its file and line.
//!
//! The rules are those of the floor map in `src/lib.rs`. Each has a test on small made-up sources (`bites/`), so that it is
//! known to bite. Code under `#[cfg(test)]` is free.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod bites;
mod circles;
mod common;
mod map;
mod methods;
mod reader;
mod rooms;
mod same_names;
mod source;
mod tokens;
mod uses;

use std::collections::BTreeSet;

use circles::{Graph, Use};
use map::{MAX_LINES, SAME_NAME, top};
use methods::Methods;
use rooms::Rooms;
use uses::{File, Target};

#[test]
fn the_floors_hold() {
    let breaches = breaches(&source::read_all());
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

#[test]
fn every_exception_is_still_needed() {
    let (sources, _) = source::parse(&source::read_all());
    let files: Vec<File> = sources.iter().map(reader::read).collect();
    let shared = same_names::shared(&files);
    for (name, _) in SAME_NAME {
        assert!(shared.contains_key(name), "only one type is called `{name}` now: take it out of `SAME_NAME`");
    }
}

/// All breaches in `sources`, each a path under `src` and its text.
fn breaches(sources: &[(String, String)]) -> Vec<String> {
    let (sources, mut found) = source::parse(sources);
    let files: Vec<File> = sources.iter().map(reader::read).collect();
    let modules: BTreeSet<String> = files.iter().map(|file| file.module.clone()).collect();
    let methods = Methods::new(&files, &modules);
    let rooms = Rooms::new(&files);
    let mut graph = Graph::default();
    for file in &files {
        let mut breach = |line: usize, text: String| found.push(format!("src/{}:{line}: {text}", file.path));
        if !map::has_floor(&file.module) {
            breach(1, format!("`{}` has no floor: give it a floor in tests/floors/map.rs", top(&file.module)));
            continue;
        }
        if file.lines > MAX_LINES {
            breach(MAX_LINES, format!("{} lines without tests, {MAX_LINES} are allowed", file.lines));
        }
        file.forbidden.iter().for_each(|(line, text)| breach(*line, text.clone()));
        for (line, name) in file.called() {
            if let Some(text) = rooms.settling_breach(&file.module, name) {
                breach(line, text);
            }
        }
        let mut add = |line: usize, to: &str, by: Option<String>| {
            graph.add(rooms.of(&file.module), rooms.of(to), Use { path: file.path.clone(), line, by });
        };
        for (line, target) in file.targets(&modules) {
            let text = match &target {
                Target::Crate(name) => map::crate_breach(&file.module, name),
                Target::Module(to) => map::floor_breach(&file.module, to),
            };
            if let Some(text) = text {
                breach(line, text);
            }
            if let Target::Module(to) = target {
                add(line, &to, None);
            }
        }
        for (line, to, method) in methods.used_by(file) {
            if let Some(text) = map::floor_breach(&file.module, to) {
                breach(line, text);
            }
            add(line, to, Some(method));
        }
    }
    found.extend(graph.circles());
    found.extend(graph.by_top().circles());
    found.extend(rooms.reach_up(&graph));
    found.extend(same_names::breaches(&files));
    let mut seen = BTreeSet::new();
    found.retain(|breach| seen.insert(breach.clone()));
    found
}
