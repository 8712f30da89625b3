//! Behaviour of the whole, one file each, against real servers where it depends on one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

mod support;

mod cache_contract;
mod commands;
mod crash_table;
mod digests_firing;
mod digests_loss;
mod digests_service;
mod digests_simulation;
mod digests_store;
mod digests_time;
mod drain;
mod examples;
mod isolation;
mod journal_contract;
mod journal_versions;
mod llm;
mod long_runs;
mod losing_redis;
mod lost_accounts;
mod operating;
mod ownership;
mod parking;
mod parking_contract;
mod queue_amqp;
mod queue_contract;
mod rate_limits;
mod reconnection;
mod recovery;
mod redis_cluster;
mod redis_faults;
mod restart;
mod run_properties;
mod runs;
mod runs_in_doubt;
mod sandbox;
mod sandbox_clients;
mod sandbox_conformance;
mod sandbox_models;
mod scalekit;
mod service;
mod webhooks;
