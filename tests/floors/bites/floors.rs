use super::{accepted, found, refused};

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
