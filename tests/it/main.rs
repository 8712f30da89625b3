//! Behaviour of the whole, one file each.
//! The integration tests: one program, one file for each behaviour.

mod queue_amqp;
mod queue_contract;

mod sandbox;
mod sandbox_conformance;
mod sandbox_models;
mod support;
