//! Behaviour of the whole, a folder for each kind, against real servers where it depends on one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

mod support;

mod approvals;
mod cluster;
mod digests;
mod edges;
mod hostile;
mod http;
mod journal;
mod mcp;
mod money;
mod operating;
mod pages;
mod parking;
mod queue;
mod redis;
mod runs;
mod sandbox;
mod transport;
mod upgrades;
