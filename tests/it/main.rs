//! Behaviour of the whole, one file each, against real servers where it depends on one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

mod support;

mod cache_contract;
mod crash_table;
mod journal_contract;
mod journal_versions;
mod llm;
mod operating;
mod commands;
mod isolation;
mod examples;
mod journal_contract;
mod journal_versions;
mod llm;
mod queue_amqp;
mod queue_contract;
mod redis_faults;
mod run_properties;
mod runs;
mod sandbox;
mod sandbox_clients;
mod sandbox_conformance;
mod sandbox_models;
mod scalekit;
mod service;
