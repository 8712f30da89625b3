//! The floors of the house hold: reads `src/**/*.rs` and names every breach with its file and line.
//!
//! The rules are those of the floor map in `src/lib.rs`. Each has a test on small made-up sources, so that it is known to
//! bite. Code under `#[cfg(test)]` is free.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Every top-level module and its floor; `sandbox` stands apart.
const FLOORS: [(&str, &[&str]); 6] = [
    ("words", &["job", "reply", "retry", "clock", "schema", "key", "metrics", "webhook"]),
    ("decisions", &["agent"]),
    ("edges", &["queue", "cache", "journal", "digest_store", "parking", "llm", "scalekit", "http", "redis_client"]),
    ("logic", &["worker", "schedule", "client"]),
    ("process", &["main", "lib", "cli", "app", "embedded", "config", "telemetry", "shutdown", "http_server"]),
    ("apart", &["sandbox"]),
];
const WORDS: usize = 0;
const EDGES: usize = 2;
const PROCESS: usize = 4;
const APART: usize = 5;

/// On the floor of the edges, who may use whom.
const BESIDE: [(&str, &str); 6] = [
    ("llm", "http"),
    ("scalekit", "http"),
    ("cache", "redis_client"),
    ("journal", "redis_client"),
    ("digest_store", "redis_client"),
    ("parking", "redis_client"),
];

/// Crates that only these modules (and what lies in them) may name.
const KEPT: [(&str, &[&str]); 5] = [
    ("lapin", &["queue::amqp"]),
    ("redis", &["redis_client", "cache::redis", "journal::redis", "digest_store::redis", "parking::redis"]),
    ("reqwest", &["http", "sandbox"]),
    ("backoff", &["retry"]),
    ("jsonschema", &["schema"]),
];

const MAX_LINES: usize = 400;

#[test]
fn the_floors_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    read(&root, &root, &mut sources);
    let breaches = breaches(&sources);
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

fn read(root: &Path, folder: &Path, sources: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            sources.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// All breaches in `sources`, each a path under `src` and its text.
fn breaches(sources: &[(String, String)]) -> Vec<String> {
    let for_tests = test_files(sources);
    let files: Vec<File> = sources
        .iter()
        .filter(|(path, _)| !for_tests.contains(path))
        .map(|(path, text)| File::new(path, text))
        .collect();
    let modules: BTreeSet<String> = files.iter().map(|file| file.module.clone()).collect();
    let mut found = Vec::new();
    let mut graph = Graph::new();
    for file in &files {
        let mut breach = |line: usize, text: String| found.push(format!("src/{}:{line}: {text}", file.path));
        if floor(top(&file.module)).is_none() {
            breach(1, format!("`{}` has no floor: give it a floor in tests/floors.rs", top(&file.module)));
            continue;
        }
        if file.lines > MAX_LINES {
            breach(MAX_LINES, format!("{} lines without tests, {MAX_LINES} are allowed", file.lines));
        }
        file.forbidden_words(&mut breach);
        for (line, target) in file.targets(&modules) {
            match target {
                Target::Crate(name) => {
                    if let Some(text) = crate_breach(&file.module, &name) {
                        breach(line, text);
                    }
                }
                Target::Module(target) => {
                    if let Some(text) = floor_breach(&file.module, &target) {
                        breach(line, text);
                    }
                    let place = format!("src/{}:{line}", file.path);
                    graph.entry(file.module.clone()).or_default().entry(target).or_insert(place);
                }
            }
        }
    }
    found.extend(cycles(&graph));
    found.extend(cycles(&by_top(&graph)));
    found.dedup();
    found
}

/// Files of modules that are declared under `#[cfg(test)]`.
fn test_files(sources: &[(String, String)]) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for (path, text) in sources {
        let tokens = tokens(text);
        let folder = match path.strip_suffix("mod.rs").or_else(|| path.strip_suffix("lib.rs")) {
            Some(folder) => folder.to_owned(),
            None => format!("{}/", path.trim_end_matches(".rs")),
        };
        for item in test_items(&tokens) {
            let words: Vec<&str> = tokens[item].iter().map(|token| token.text.as_str()).collect();
            if let [.., "mod", name, ";"] = words[..] {
                files.extend([format!("{folder}{name}.rs"), format!("{folder}{name}/mod.rs")]);
            }
        }
    }
    files
}

fn top(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

fn floor(top: &str) -> Option<usize> {
    FLOORS.iter().position(|(_, modules)| modules.contains(&top))
}

fn floor_breach(from: &str, to: &str) -> Option<String> {
    let (from, to) = (top(from), top(to));
    if from == to {
        return None;
    }
    let (Some(below), Some(above)) = (floor(to), floor(from)) else {
        return floor(to).is_none().then(|| format!("`{to}` has no floor"));
    };
    let allowed = match (above, below) {
        (APART, _) => to == "clock",
        (_, APART) => from == "cli",
        (PROCESS, PROCESS) => from != "config" || !["cli", "app"].contains(&to),
        (EDGES, EDGES) => BESIDE.contains(&(from, to)),
        (WORDS, WORDS) => true,
        _ => below < above,
    };
    let (above, below) = (FLOORS[above].0, FLOORS[below].0);
    (!allowed).then(|| format!("`{from}` ({above}) must not use `{to}` ({below})"))
}

fn crate_breach(module: &str, name: &str) -> Option<String> {
    if name == "anyhow" {
        return (floor(top(module)) != Some(PROCESS)).then(|| "`anyhow` is for the floor of the process".to_owned());
    }
    let (_, homes) = KEPT.iter().find(|(kept, _)| *kept == name)?;
    let at_home = homes.iter().any(|home| module == *home || module.starts_with(&format!("{home}::")));
    (!at_home).then(|| format!("the crate `{name}` is for {} only", homes.join(", ")))
}

/// Who uses whom, and where.
type Graph = BTreeMap<String, BTreeMap<String, String>>;

/// The graph of top-level modules.
fn by_top(graph: &Graph) -> Graph {
    let mut tops = Graph::new();
    for (from, uses) in graph {
        for (to, place) in uses.iter().filter(|(to, _)| top(to) != top(from)) {
            tops.entry(top(from).to_owned()).or_default().entry(top(to).to_owned()).or_insert_with(|| place.clone());
        }
    }
    tops
}

/// One line for each use that closes a circle. A folder's own file and the files in it are one thing told in parts: uses
/// between them are no circle.
fn cycles(graph: &Graph) -> Vec<String> {
    let within = |one: &str, other: &str| one.strip_prefix(other).is_some_and(|rest| rest.starts_with("::"));
    let uses = |from: &str| graph.get(from).into_iter().flatten();
    let related = |one: &str, other: &str| one == other || within(one, other) || within(other, one);
    let mut found = Vec::new();
    for (from, targets) in graph {
        for (to, place) in targets.iter().filter(|(to, _)| !related(from, to)) {
            let mut reached = BTreeSet::from([to.as_str()]);
            let mut open = vec![to.as_str()];
            while let Some(module) = open.pop() {
                let next = uses(module).map(|(next, _)| next.as_str()).filter(|next| !related(module, next));
                open.extend(next.filter(|next| reached.insert(next)));
            }
            if reached.contains(from.as_str()) {
                found.push(format!("{place}: `{from}` uses `{to}`, which comes back to it: a cycle"));
            }
        }
    }
    found
}

/// A source without its tests.
struct File {
    path: String,
    module: String,
    tokens: Vec<Token>,
    lines: usize,
}

enum Target {
    Crate(String),
    Module(String),
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        let module = path.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
        let mut tokens = tokens(text);
        let mut lines = text.lines().count();
        for item in test_items(&tokens).into_iter().rev() {
            lines -= tokens[item.end - 1].line - tokens[item.start].line + 1;
            tokens.drain(item);
        }
        Self { path: path.to_owned(), module, tokens, lines }
    }

    fn forbidden_words(&self, breach: &mut impl FnMut(usize, String)) {
        for (index, token) in self.tokens.iter().enumerate() {
            let before = index.checked_sub(1).map_or("", |before| self.text(before));
            match (before, token.text.as_str(), self.text(index + 1)) {
                (_, "todo" | "unimplemented", "!") => {
                    breach(token.line, format!("`{}!` is unfinished work", token.text));
                }
                (".", "unwrap", "(") => breach(token.line, "`unwrap` outside tests".to_owned()),
                (_, "#", "[" | "!") if self.attribute(index).is_some_and(|words| words.contains(&"allow")) => {
                    breach(token.line, "`allow` hides what `expect` would explain".to_owned());
                }
                _ => {}
            }
        }
    }

    fn text(&self, index: usize) -> &str {
        self.tokens.get(index).map_or("", |token| token.text.as_str())
    }

    /// The words of the attribute that starts at `index`.
    fn attribute(&self, index: usize) -> Option<Vec<&str>> {
        let start = index + 1 + usize::from(self.text(index + 1) == "!");
        if self.text(start) != "[" {
            return None;
        }
        let end = closing(&self.tokens, start);
        Some(self.tokens[start..end].iter().map(|token| token.text.as_str()).collect())
    }

    /// Everything that the file names of this crate's modules and of the crates that are kept at home.
    fn targets(&self, modules: &BTreeSet<String>) -> Vec<(usize, Target)> {
        let paths = self.paths();
        let resolved: Vec<_> = paths.iter().map(|path| self.resolve(path, modules)).collect();
        // A name that was imported from this crate is no crate of that name.
        let imported: BTreeSet<&str> = paths
            .iter()
            .zip(&resolved)
            .filter(|(path, target)| path.is_use && target.is_some())
            .filter_map(|(path, _)| path.words.last().map(String::as_str))
            .collect();
        let mut targets = Vec::new();
        for (path, target) in paths.iter().zip(&resolved) {
            match target {
                Some(module) => targets.push((path.line, Target::Module(module.clone()))),
                None if imported.contains(path.words[0].as_str()) => {}
                None => targets.push((path.line, Target::Crate(path.words[0].clone()))),
            }
        }
        targets
    }

    /// The module of this crate that `path` leads to, if it does.
    fn resolve(&self, path: &Found, modules: &BTreeSet<String>) -> Option<String> {
        let mut at: Vec<&str> = self.module.split("::").chain(path.inside.iter().map(String::as_str)).collect();
        if self.module == "lib" || self.module == "main" {
            at.remove(0);
        }
        let mut words = path.words.iter().map(String::as_str).peekable();
        match words.peek().copied()? {
            "crate" | "agentkit_worker" => {
                words.next();
                at.clear();
            }
            "self" => drop(words.next()),
            "super" => {
                while words.next_if_eq(&"super").is_some() {
                    at.pop();
                }
            }
            first => {
                let child = at.iter().copied().chain([first]).collect::<Vec<_>>().join("::");
                if !modules.contains(&child) {
                    return None;
                }
            }
        }
        let full: Vec<&str> = at.into_iter().chain(words.filter(|word| *word != "self" && *word != "*")).collect();
        let longest = (1..=full.len()).rev().map(|length| full[..length].join("::"));
        let unknown = full.first().filter(|first| first.starts_with(char::is_lowercase) && full.len() > 1);
        let found = longest.into_iter().find(|module| modules.contains(module));
        Some(found.or_else(|| unknown.map(|first| (*first).to_owned())).unwrap_or_else(|| "lib".to_owned()))
    }

    fn paths(&self) -> Vec<Found> {
        let mut found = Vec::new();
        let mut inside: Vec<(String, usize)> = Vec::new();
        let mut index = 0;
        while index < self.tokens.len() {
            inside.retain(|(_, end)| *end > index);
            let names = || inside.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
            let (text, next) = (self.text(index), self.text(index + 1));
            match text {
                "mod" if self.text(index + 2) == "{" => {
                    inside.push((next.to_owned(), closing(&self.tokens, index + 2)));
                    index += 3;
                }
                "use" | "extern" if next != "<" => {
                    let start = index + 1 + usize::from(text == "extern") + usize::from(next == "::");
                    let is_use = text == "use" || next == "crate";
                    index = if is_use { self.tree(start, &[], true, &names(), &mut found) } else { index + 1 };
                }
                _ if is_word(text) && next == "::" => {
                    index = self.tree(index, &[], false, &names(), &mut found);
                }
                _ => index += 1,
            }
        }
        found
    }

    /// Reads the path or group of paths at `index`, collects what it leads to, and gives the index behind it.
    fn tree(
        &self,
        mut index: usize,
        before: &[String],
        is_use: bool,
        inside: &[String],
        found: &mut Vec<Found>,
    ) -> usize {
        let mut words = before.to_vec();
        let line = self.tokens.get(index).map_or(0, |token| token.line);
        loop {
            match self.text(index) {
                "{" if is_use => {
                    let end = closing(&self.tokens, index);
                    index += 1;
                    while index < end {
                        index = self.tree(index, &words, true, inside, found) + usize::from(self.text(index) == ",");
                        index += usize::from(self.text(index) == ",");
                    }
                    return end + 1;
                }
                word if is_word(word) || word == "*" => words.push(word.to_owned()),
                _ => {}
            }
            index += 1;
            if self.text(index) != "::" {
                break;
            }
            index += 1;
            if !is_word(self.text(index)) && !["{", "*"].contains(&self.text(index)) {
                break;
            }
        }
        if is_use && self.text(index) == "as" {
            index += 2;
        }
        if words.last().is_some_and(|last| last == "self") && words.len() > 1 {
            words.pop();
        }
        if !words.is_empty() {
            found.push(Found { line, words, is_use, inside: inside.to_vec() });
        }
        index
    }
}

/// A path as it stands in a source.
struct Found {
    line: usize,
    words: Vec<String>,
    is_use: bool,
    /// The modules in braces that it stands in.
    inside: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
struct Token {
    line: usize,
    text: String,
}

fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// The index of the bracket that closes the one at `start`.
fn closing(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(start) {
        match token.text.as_str() {
            "{" | "[" | "(" => depth += 1,
            "}" | "]" | ")" => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return index;
        }
    }
    tokens.len().saturating_sub(1)
}

/// The items that stand under `#[cfg(test)]`, attribute included.
fn test_items(tokens: &[Token]) -> Vec<std::ops::Range<usize>> {
    let mut items: Vec<std::ops::Range<usize>> = Vec::new();
    for start in 0..tokens.len() {
        let words = tokens[start..].iter().take(7).map(|token| token.text.as_str());
        if items.last().is_some_and(|last| last.end > start) || !words.eq(["#", "[", "cfg", "(", "test", ")", "]"]) {
            continue;
        }
        let mut index = start + 7;
        let end = loop {
            match tokens.get(index).map(|token| token.text.as_str()) {
                None | Some(";") => break (index + 1).min(tokens.len()),
                Some("{") => break closing(tokens, index) + 1,
                Some("(" | "[") => index = closing(tokens, index) + 1,
                Some(_) => index += 1,
            }
        };
        items.push(start..end);
    }
    items
}

/// The words and signs of `text`, without comments, strings and characters.
fn tokens(text: &str) -> Vec<Token> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut index, mut line) = (0, 1);
    let at = |index: usize| characters.get(index).copied().unwrap_or('\0');
    while index < characters.len() {
        let start = index;
        match (at(index), at(index + 1)) {
            ('/', '/') => {
                while index < characters.len() && at(index) != '\n' {
                    index += 1;
                }
            }
            ('/', '*') => index = after_comment(&characters, index),
            ('"', _) => index = after_string(&characters, index),
            ('r', '"' | '#') | ('b' | 'c', 'r') if after_raw_string(&characters, index).is_some() => {
                index = after_raw_string(&characters, index).unwrap_or(index);
            }
            ('\'', _) if at(index + 1) == '\\' => {
                index += 3;
                while index < characters.len() && at(index) != '\'' {
                    index += 1;
                }
                index += 1;
            }
            ('\'', _) if at(index + 2) == '\'' => index += 3,
            (':', ':') => {
                tokens.push(Token { line, text: "::".to_owned() });
                index += 2;
            }
            (first, _) if first.is_alphanumeric() || first == '_' => {
                while at(index).is_alphanumeric() || at(index) == '_' {
                    index += 1;
                }
                let text = characters[start..index].iter().collect();
                tokens.push(Token { line, text });
            }
            (first, _) => {
                if !first.is_whitespace() {
                    tokens.push(Token { line, text: first.to_string() });
                }
                index += 1;
            }
        }
        let end = index.min(characters.len());
        line += characters[start..end].iter().filter(|character| **character == '\n').count();
    }
    tokens
}

fn after_comment(characters: &[char], start: usize) -> usize {
    let (mut index, mut depth) = (start, 0);
    while index < characters.len() {
        match characters[index..] {
            ['/', '*', ..] => (depth, index) = (depth + 1, index + 2),
            ['*', '/', ..] => (depth, index) = (depth - 1, index + 2),
            _ => index += 1,
        }
        if depth == 0 {
            break;
        }
    }
    index
}

fn after_string(characters: &[char], start: usize) -> usize {
    let mut index = start + 1;
    while index < characters.len() && characters[index] != '"' {
        index += 1 + usize::from(characters[index] == '\\');
    }
    index + 1
}

/// Where the raw string at `start` ends, if there is one.
fn after_raw_string(characters: &[char], start: usize) -> Option<usize> {
    let mut index = start + characters[start..].iter().take_while(|character| "bcr".contains(**character)).count();
    let marks = characters[index..].iter().take_while(|character| **character == '#').count();
    index += marks;
    if characters.get(index) != Some(&'"') {
        return None;
    }
    loop {
        index += 1;
        let rest = characters.get(index..).filter(|rest| !rest.is_empty())?;
        if rest[0] == '"' && rest[1..].iter().take_while(|character| **character == '#').count() >= marks {
            return Some(index + 1 + marks);
        }
    }
}

/// The breaches in made-up sources, `path` and text each, beside a small legal house.
fn found(sources: &[(&str, &str)]) -> Vec<String> {
    let house =
        ["job.rs", "clock.rs", "agent/mod.rs", "http.rs", "queue/mod.rs", "worker/mod.rs", "client.rs", "cli.rs"];
    let house = house.iter().filter(|path| !sources.iter().any(|(other, _)| other == *path));
    let all = sources.iter().copied().chain(house.map(|path| (*path, "")));
    breaches(&all.map(|(path, text)| (path.to_owned(), text.to_owned())).collect::<Vec<_>>())
}

#[track_caller]
fn refused(path: &str, text: &str, line: usize) {
    let found = found(&[(path, text)]);
    assert!(found.iter().any(|breach| breach.starts_with(&format!("src/{path}:{line}: "))), "{text}: {found:?}");
}

#[track_caller]
fn accepted(path: &str, text: &str) {
    assert_eq!(found(&[(path, text)]), [""; 0], "{text}");
}

#[test]
fn a_use_of_a_floor_above_is_found_in_every_spelling() {
    refused("job.rs", "//! Words.\n\nuse crate::agent::Run;", 3);
    refused("job.rs", "use crate::{\n    clock::Clock,\n    agent::{Run, Step},\n};", 3);
    refused("job.rs", "fn f() {\n    let run = crate::agent::Run::new();\n}", 2);
    refused("job.rs", "fn f(run: &crate::agent::Run) {}", 1);
    refused("job.rs", "use super::agent::Run;", 1);
    refused("job.rs", "pub use crate::agent as other;", 1);
    refused("job.rs", "use ::agentkit_worker::agent::Run;", 1);
    refused("job.rs", "mod inner {\n    use super::super::agent::Run;\n}", 2);
    refused("job.rs", "#[derive(A)]\nstruct S<T = crate::agent::Run>(T);", 2);
    refused("job.rs", "use crate::App;", 1);
    refused("agent/run.rs", "use super::super::queue::Message;", 1);
    refused("queue/mod.rs", "use crate::worker;", 1);
    refused("client.rs", "use crate::cli::demo;", 1);
}

#[test]
fn a_use_of_a_floor_below_is_fine() {
    accepted("agent/mod.rs", "use crate::job::Job;\nuse crate::{clock::{self, Clock}, job};");
    accepted("queue/memory.rs", "use super::Consumer;\nuse crate::agent::Run;\nuse crate::queue::Message;");
    accepted("cli.rs", "use agentkit_worker::{job::Job, worker, sandbox, App};");
    accepted("job.rs", "use std::agent::Run;\nuse other::agent;\nfn f() { other::queue::g(); }");
}

#[test]
fn edges_know_each_other_only_where_the_map_says_so() {
    refused("queue/mod.rs", "use crate::http::Http;", 1);
    refused("http.rs", "use crate::queue::Message;", 1);
    refused("llm/mod.rs", "use crate::scalekit::Client;", 1);
    accepted("llm/mod.rs", "use crate::http::Http;");
    let stores = [("redis_client.rs", ""), ("cache/redis.rs", "use crate::redis_client::Link;")];
    assert_eq!(found(&stores), [""; 0]);
}

#[test]
fn client_schedule_and_worker_know_nothing_of_each_other() {
    refused("client.rs", "use crate::worker::Worker;", 1);
    refused("worker/mod.rs", "use crate::client::Client;", 1);
    refused("schedule.rs", "use crate::worker::Worker;", 1);
    accepted("worker/executor.rs", "use super::toolbox::Toolbox;");
}

#[test]
fn the_configuration_knows_neither_the_application_nor_the_commands() {
    refused("config.rs", "use crate::cli::Command;", 1);
    refused("config.rs", "use crate::app::App;", 1);
    assert_eq!(found(&[("config.rs", ""), ("app.rs", "use crate::config::Config;")]), [""; 0]);
}

#[test]
fn the_sandbox_stands_apart() {
    refused("sandbox/mod.rs", "use crate::job::Job;", 1);
    refused("sandbox/world.rs", "use crate::agent::Run;", 1);
    assert!(
        found(&[("sandbox/mod.rs", ""), ("app.rs", "use crate::sandbox::Sandbox;")])[0].starts_with("src/app.rs:1: ")
    );
    assert!(
        found(&[("sandbox/mod.rs", ""), ("job.rs", "use crate::sandbox::Sandbox;")])[0].starts_with("src/job.rs:1: ")
    );
    let legal = [("sandbox/mod.rs", "use crate::clock::Clock;"), ("cli.rs", "use crate::sandbox::Sandbox;")];
    assert_eq!(found(&legal), [""; 0]);
}

#[test]
fn a_module_without_a_floor_is_asked_for_one() {
    let found = found(&[("helpers/mod.rs", "")]);
    assert!(found[0].contains("give it a floor"), "{found:?}");
    refused("job.rs", "use crate::helpers::x;", 1);
}

#[test]
fn anyhow_is_for_the_process_only() {
    refused("worker/mod.rs", "use anyhow::Context;", 1);
    refused("job.rs", "fn f() -> anyhow::Result<()> {}", 1);
    accepted("cli.rs", "use anyhow::{Context, Result};");
}

#[test]
fn crates_of_the_edges_stay_at_home() {
    for (name, home) in [
        ("lapin", "queue/amqp/consumer.rs"),
        ("redis", "journal/redis.rs"),
        ("redis", "cache/redis.rs"),
        ("redis", "redis_client.rs"),
        ("reqwest", "http.rs"),
        ("reqwest", "sandbox/webhook.rs"),
        ("backoff", "retry.rs"),
        ("jsonschema", "schema.rs"),
    ] {
        for text in [format!("use {name}::X;"), format!("fn f(x: {name}::X) {{}}"), format!("use {name};")] {
            accepted(home, &text);
            refused("worker/mod.rs", &text, 1);
        }
    }
    refused("queue/memory.rs", "use lapin::Channel;", 1);
}

#[test]
fn a_module_named_like_a_crate_is_no_crate() {
    assert_eq!(
        found(&[("cache/mod.rs", "pub mod redis;\npub use redis::RedisCache;"), ("cache/redis.rs", "")]),
        [""; 0]
    );
    let app = "use crate::cache::redis;\nfn f() { redis::connect(); }";
    assert_eq!(found(&[("cache/mod.rs", ""), ("cache/redis.rs", ""), ("app.rs", app)]), [""; 0]);
}

#[test]
fn cycles_are_found_within_a_folder_and_between_words() {
    let ring = [
        ("agent/one.rs", "use super::two::Two;"),
        ("agent/two.rs", "use crate::agent::three::Three;"),
        ("agent/three.rs", "fn f() { super::one::g() }"),
    ];
    let breaches = found(&ring);
    assert_eq!(breaches.len(), 3, "{breaches:?}");
    assert!(breaches[0].contains("a cycle"), "{breaches:?}");
    assert!(!found(&[("job.rs", "use crate::clock::Clock;"), ("clock.rs", "use crate::job::Job;")]).is_empty());
    let by_folders =
        [("reply/one.rs", "use crate::job::Job;"), ("reply/two.rs", ""), ("job.rs", "use crate::reply::two::X;")];
    assert!(!found(&by_folders).is_empty(), "two folders that need each other are a cycle, whichever files do");
}

#[test]
fn a_folder_and_its_files_are_one_thing() {
    let folder = [("agent/mod.rs", "mod run;\npub use run::Run;"), ("agent/run.rs", "use super::Event;")];
    assert_eq!(found(&folder), [""; 0]);
}

#[test]
fn a_file_of_more_than_400_lines_is_too_long_and_tests_do_not_count() {
    let long = "const X: u8 = 1;\n".repeat(401);
    refused("job.rs", &long, 400);
    let tests = format!("const X: u8 = 1;\n\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
    accepted("job.rs", &tests);
    refused("job.rs", &format!("{tests}{long}"), 400);
}

#[test]
fn what_the_style_forbids_is_found() {
    refused("job.rs", "\n#[allow(dead_code)]\nfn f() {}", 2);
    refused("job.rs", "#![allow(dead_code)]", 1);
    refused("job.rs", "#[cfg_attr(unix, allow(dead_code))]\nfn f() {}", 1);
    refused("job.rs", "fn f() {\n    todo!()\n}", 2);
    refused("job.rs", "fn f() { unimplemented!(\"later\") }", 1);
    refused("job.rs", "fn f() {\n    g()\n        .unwrap()\n}", 3);
    accepted("job.rs", "#[expect(dead_code, reason = \"r\")]\nfn f() { g().unwrap_or_default(); rules.allow(1); }");
}

#[test]
fn comments_and_strings_trip_nothing() {
    accepted(
        "job.rs",
        "// use crate::agent::Run;\n/* todo!() /* .unwrap() */ crate::agent::x */\n/// [`crate::agent::Run`]\nfn f() {}",
    );
    accepted(
        "job.rs",
        r##"const A: &str = "crate::agent::x \" .unwrap()"; const B: &str = r#"todo!() " crate::agent"#; const C: &[u8] = b"#[allow(x)]";"##,
    );
    accepted(
        "job.rs",
        "fn f<'a>(x: &'a str) -> char { match x { _ => '\"' } }\nconst Q: char = '\\'';\nconst R: &str = \"crate::agent::x\";",
    );
}

#[test]
fn what_follows_a_string_is_still_seen() {
    refused("job.rs", "const A: char = '\"';\nuse crate::agent::Run;", 2);
    refused("job.rs", "const A: &str = r\"\\\";\nuse crate::agent::Run;", 2);
    refused("job.rs", "const A: &str = \"\n\n\";\nuse crate::agent::Run;", 4);
    refused("job.rs", "fn f<'a>(x: &'a str) {}\nuse crate::agent::Run;", 2);
}

#[test]
fn code_for_tests_is_free() {
    accepted(
        "job.rs",
        "#[cfg(test)]\nmod tests {\n    use crate::sandbox::X;\n    fn f() { g().unwrap(); todo!() }\n}",
    );
    refused("job.rs", "#[cfg(test)]\nmod tests {\n}\nuse crate::agent::Run;", 4);
    let script = [("agent/mod.rs", "#[cfg(test)]\nmod script;"), ("agent/script.rs", "fn f() { g().unwrap(); }")];
    assert_eq!(found(&script), [""; 0]);
}
