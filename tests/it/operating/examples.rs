//! The pages say what is true: examples for callers in every language get their answers, messages are valid, every error
//! code is explained, every link leads somewhere.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;

use agentkit_worker::Shutdown;
use agentkit_worker::internals::app::{App, Backends};
use agentkit_worker::internals::clock::SystemClock;
use agentkit_worker::internals::sandbox::{Sandbox, SandboxOptions};
use agentkit_worker::job::{Envelope, Job};
use agentkit_worker::reply::Reply;
use tokio::process::Command;

use crate::support::broker::Broker;
use crate::support::redis::Redis;
use crate::support::sandbox_peer::config_of;
use crate::support::soon;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PROGRAM: &str = env!("CARGO_BIN_EXE_agentkit-worker");
/// They send a job through RabbitMQ.
const SENDERS: [&str; 4] = ["send_job.py", "send_job.mjs", "send_job.sh", "client.rs"];
/// It runs a job in its own process.
const EMBEDDED: &str = "embedded.rs";
/// What callers in any language need to know.
const CALLERS: &str = "tests/examples/README.md";

#[test]
fn every_example_is_linked_from_the_page_for_callers() {
    let page = text_of(CALLERS);
    let mut tested: Vec<OsString> = SENDERS.into_iter().chain([EMBEDDED]).map(OsString::from).collect();
    for name in tested.iter().map(|name| name.to_str().unwrap()) {
        assert!(source(name).is_file(), "there is no tests/examples/{name}");
        assert!(page.contains(&format!("[{name}]({name})")), "{CALLERS} does not link {name}");
    }
    let files = std::fs::read_dir(source("")).unwrap().map(|entry| entry.unwrap().file_name());
    let is_program =
        |name: &OsString| [".rs", ".py", ".mjs", ".sh"].iter().any(|end| name.to_string_lossy().ends_with(end));
    let mut programs: Vec<_> = files.filter(is_program).collect();
    programs.sort();
    tested.sort();
    assert_eq!(programs, tested, "each program is run by a test below");
}

#[test]
fn the_messages_in_the_pages_are_valid() {
    let (jobs, replies) = messages(CALLERS);
    assert_eq!((jobs.len(), replies.len()), (1, 1), "{CALLERS} shows a job and a reply");
    let (short, none) = messages("README.md");
    assert_eq!((short.len(), none.len()), (1, 0), "README.md shows a job");
    for job in jobs.iter().chain(&short) {
        Job::from_slice(job.as_bytes(), &Envelope::default(), 1 << 20).unwrap();
    }
    let reply: serde_json::Value = serde_json::from_str(&replies[0]).unwrap();
    let problems: Vec<String> = jsonschema::validator_for(&Reply::schema())
        .unwrap()
        .iter_errors(&reply)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert_eq!(problems, [""; 0]);
    // Nothing in it that a reply does not have: what was read and is written again is the same.
    let read: Reply = serde_json::from_value(reply.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), reply);
}

#[test]
fn every_error_code_is_explained() {
    let page = text_of(CALLERS);
    // A row of three columns: codes, what happened, what to do.
    let rows: Vec<Vec<&str>> =
        page.lines().filter(|line| line.starts_with("| `")).map(|line| line.split(" | ").collect()).collect();
    let schema = Reply::schema();
    let codes = schema.pointer("/$defs/ErrorCode/oneOf").and_then(|codes| codes.as_array()).unwrap();
    for code in codes.iter().map(|code| code["const"].as_str().unwrap()) {
        let explained = rows.iter().any(|row| row.len() == 3 && row[0].contains(&format!("`{code}`")));
        assert!(explained, "{CALLERS} does not say what to do about `{code}`");
    }
}

#[test]
fn every_field_of_a_job_is_explained() {
    let page = text_of(CALLERS);
    let schema = Job::schema();
    for field in schema["properties"].as_object().unwrap().keys() {
        let explained = page.lines().any(|line| {
            let names = line.strip_prefix("| ").and_then(|row| row.split(" | ").next()).unwrap_or_default();
            names.contains(&format!("`{field}`")) || names.contains(&format!("`{field}."))
        });
        assert!(explained, "{CALLERS} does not explain the field `{field}`");
    }
}

#[test]
fn every_link_in_the_pages_leads_somewhere() {
    let mut pages = Vec::new();
    find_pages(Path::new(ROOT), &mut pages);
    assert!(pages.len() >= 8, "these are not all pages: {pages:?}");
    let mut broken = Vec::new();
    for page in &pages {
        let text = std::fs::read_to_string(page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            if target.contains("://") {
                continue;
            }
            let path = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let there = path.exists() && (heading.is_empty() || headings(&path).iter().any(|found| found == heading));
            if !there {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
}

#[tokio::test]
async fn the_embedded_example_needs_nothing_and_prints_the_answer() {
    let mut command = built(EMBEDDED);
    let printed = soon(EMBEDDED, command.arg("Fetch my last 3 unread emails").output()).await.unwrap();
    assert!(printed.status.success() && text(&printed.stdout).contains("3 emails"), "{printed:?}");
    assert!(text(&printed.stderr).contains("/magicLink/"), "it shows the link: {printed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_gets_its_answer_and_tells_a_failure() {
    let broker = Broker::exclusive().await;
    let redis = Redis::start().await;
    let clock = Arc::new(SystemClock);
    // Nobody has connected an account yet; consent comes by itself, once the caller has been told of the link.
    let options =
        SandboxOptions { consent_after: Some(std::time::Duration::ZERO), ..SandboxOptions::new(clock.clone()) };
    let sandbox = Sandbox::start(options).await.unwrap();
    let mut config = config_of(&sandbox);
    config.amqp.url = broker.url().into();
    config.redis = redis.config();
    config.authorization.poll_seconds = 1;
    let shutdown = Shutdown::new();
    let backends = Backends::service(&config).await.unwrap();
    let worker = tokio::spawn(App::build(config, backends, clock, shutdown.clone()).unwrap().run());

    for name in SENDERS {
        let asked = call(name, broker.url(), "gmail").await;
        let told = text(&asked.stdout);
        assert!(asked.status.success() && told.contains("I found 5 emails"), "{name}: {asked:?}");
        let everything = told + &text(&asked.stderr);
        assert!(everything.contains("/magicLink/"), "{name} does not show the link: {everything}");

        let refused = call(name, broker.url(), "nosuch").await;
        let told = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{name}: {refused:?}");
        assert!(told.contains("connection_not_found") && told.contains("what to do: "), "{name}: {told}");
    }
    shutdown.stop();
    worker.await.unwrap();
    sandbox.stop().await;
}

fn source(name: &str) -> PathBuf {
    Path::new(ROOT).join("tests/examples").join(name)
}

fn text_of(page: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(page)).unwrap()
}

/// The jobs and the replies that a page shows.
fn messages(page: &str) -> (Vec<String>, Vec<String>) {
    let text = text_of(page);
    let blocks = text.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.map(str::to_owned).partition(|block| !block.contains("\"specversion\""))
}

/// All pages of the project.
fn find_pages(folder: &Path, pages: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && !["target", "node_modules", ".git"].iter().any(|other| name == *other) {
            find_pages(&path, pages);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
}

/// The names under which a page's headings are linked.
fn headings(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let titles = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |letter: char| letter.is_alphanumeric() || "- _".contains(letter);
    titles
        .map(|title| title.to_lowercase().chars().filter(|letter| kept(*letter)).collect::<String>().replace(' ', "-"))
        .collect()
}

/// Runs an example for a user of its own, as its language wants it run.
async fn call(name: &str, url: &str, connection: &str) -> Output {
    let libraries = Path::new(ROOT).join("target/examples");
    let mut command = match name.rsplit('.').next() {
        Some("py") => {
            let packages = libraries.join("python");
            demand(&packages.join("pika"), "pika");
            let mut command = Command::new("python3");
            command.arg(source(name)).env("PYTHONPATH", packages);
            command
        }
        Some("mjs") => {
            demand(&libraries.join("node_modules/amqplib"), "amqplib");
            // Node looks for libraries beside the program only.
            let copy = libraries.join(name);
            std::fs::copy(source(name), &copy).unwrap();
            let mut command = Command::new("node");
            command.arg(copy);
            command
        }
        Some("rs") => built(name),
        _ => Command::new(source(name)),
    };
    let folder = Path::new(PROGRAM).parent().unwrap().display();
    command.env("PATH", format!("{folder}:{}", crate::support::setting("PATH").unwrap()));
    command.env("AMQP_URL", url).env("USER_IDENTIFIER", name).env("CONNECTION_NAME", connection);
    // No `.env` and no `config/local.toml` of whoever runs the tests.
    command.current_dir(&libraries).stdin(Stdio::null()).kill_on_drop(true);
    soon(name, command.output()).await.unwrap()
}

/// An example in Rust, which `cargo test` has built; without an environment and a folder that may hold settings.
fn built(name: &str) -> Command {
    let program = Path::new(PROGRAM).parent().unwrap().join("examples").join(name.trim_end_matches(".rs"));
    assert!(program.exists(), "{} is not built: `cargo build --examples` does that", program.display());
    let mut command = Command::new(program);
    command.env_clear().current_dir(env!("CARGO_TARGET_TMPDIR")).stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn demand(path: &Path, library: &str) {
    assert!(
        path.exists(),
        "{library} is not installed in target/examples: `./tests/run` does that, and needs the package registry for it"
    );
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
