//! The integration tests: one program, one file for each behaviour.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on ends; helpers are not exempt by themselves"
)]

mod queue_amqp;
mod queue_contract;
mod support;
