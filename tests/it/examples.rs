//! The examples for callers in other languages: the README shows them as they are, and each gets its answer.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;

use agentkit_worker::app::{App, Backends};
use agentkit_worker::clock::SystemClock;
use agentkit_worker::config::Config;
use agentkit_worker::job::{Envelope, Job};
use agentkit_worker::reply::Reply;
use agentkit_worker::sandbox::{Sandbox, SandboxOptions};
use agentkit_worker::shutdown::Shutdown;
use secrecy::SecretString;
use tokio::process::Command;

use super::support::broker::Broker;
use super::support::redis::Redis;
use super::support::soon;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PROGRAM: &str = env!("CARGO_BIN_EXE_agentkit-worker");
const EXAMPLES: [&str; 3] = ["send_job.py", "send_job.mjs", "send_job.sh"];

#[test]
fn the_readme_shows_the_examples_as_they_are() {
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    for name in EXAMPLES {
        let text = std::fs::read_to_string(source(name)).unwrap();
        assert!(readme.contains(&format!("\n{text}```\n")), "README.md does not show tests/examples/{name} as it is");
    }
}

#[test]
fn the_messages_in_the_readme_are_valid() {
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let blocks: Vec<&str> = readme.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let [job, reply] = blocks[..] else { panic!("a job and a reply are expected, not {} blocks", blocks.len()) };
    Job::from_slice(job.as_bytes(), &Envelope::default(), 1 << 20).unwrap();
    let reply: serde_json::Value = serde_json::from_str(reply).unwrap();
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
fn the_readme_names_every_error_code() {
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let schema = Reply::schema();
    let codes = schema.pointer("/$defs/ErrorCode/oneOf").and_then(|codes| codes.as_array()).unwrap();
    for code in codes.iter().map(|code| code["const"].as_str().unwrap()) {
        assert!(readme.contains(&format!("`{code}`")), "README.md does not say what to do about `{code}`");
    }
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
    let mut config = Config::built_in();
    config.amqp.url = broker.url().into();
    config.redis = redis.config();
    config.authorization.poll_seconds = 1;
    sandbox.scalekit_url().clone_into(&mut config.scalekit.environment_url);
    sandbox.client_id().clone_into(&mut config.scalekit.client_id);
    config.scalekit.client_secret = SecretString::from(sandbox.client_secret());
    config.model.base_url = sandbox.model_url();
    config.model.api_key = SecretString::from(sandbox.api_key());
    let shutdown = Shutdown::new();
    let backends = Backends::service(&config).await.unwrap();
    let worker = tokio::spawn(App::build(config, backends, clock, shutdown.clone()).unwrap().run());

    for name in EXAMPLES {
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

/// Runs an example for a user of its own, as its language wants it run.
async fn call(name: &str, url: &str, connection: &str) -> Output {
    let libraries = Path::new(ROOT).join("target/examples");
    let mut command = match name.rsplit('.').next() {
        Some("py") => {
            let python = libraries.join("venv/bin/python");
            demand(&python, "pika");
            let mut command = Command::new(python);
            command.arg(source(name));
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
        _ => Command::new(source(name)),
    };
    let folder = Path::new(PROGRAM).parent().unwrap().display();
    command.env("PATH", format!("{folder}:{}", super::support::setting("PATH").unwrap()));
    command.env("AMQP_URL", url).env("USER_IDENTIFIER", name).env("CONNECTION_NAME", connection);
    // No `.env` and no `config/local.toml` of whoever runs the tests.
    command.current_dir(&libraries).stdin(Stdio::null()).kill_on_drop(true);
    soon(name, command.output()).await.unwrap()
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
