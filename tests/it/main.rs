//! Behaviour of the whole, one file each, against real servers where it depends on one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

mod support;

mod cache_contract;
mod journal_contract;
mod llm;
mod queue_amqp;
mod queue_contract;
mod redis_faults;
mod sandbox;
mod sandbox_conformance;
mod sandbox_models;
//! Behaviour of the whole, one file each.

mod journal_versions;
mod run_properties;
//! The product from outside, one file per behaviour.

#![expect(clippy::unwrap_used, reason = "a test's helper fails the test by panicking")]

mod scalekit;
//! The integration tests: one program, one file for each behaviour.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on ends; helpers are not exempt by themselves"
)]

mod queue_amqp;
mod queue_contract;
mod support;
