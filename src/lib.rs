#![doc = include_str!("README.md")]

mod agent;
mod app;
pub mod approval;
mod audit;
mod broker_management;
mod cache;
mod cli;
mod client;
mod clock;
mod config;
pub mod decision;
mod digest_store;
mod embedded;
mod encryption;
mod fleet_clock;
#[cfg(test)]
mod fuzz;
mod http;
mod http_server;
#[doc(hidden)]
pub mod internals;
pub mod job;
mod journal;
mod key;
mod llm;
mod member_watch;
mod metrics;
mod parking;
mod pattern;
mod producers;
mod queue;
mod redis_client;
pub mod reply;
mod retry;
mod sandbox;
mod scalekit;
mod schedule;
mod schema;
mod shutdown;
mod telemetry;
mod text;
mod trace;
mod transport;
mod webhook;
mod worker;

pub use app::{App, Backends};
pub use client::{Client, ClientError};
pub use clock::{Clock, SharedClock, SystemClock};
pub use config::{BadConfig, Config, Sources};
pub use embedded::{Embedded, Replies, SubmitError};
pub use job::Job;
pub use queue::amqp::Config as AmqpConfig;
pub use reply::{Reply, ReplyEvent};
pub use sandbox::{Sandbox, SandboxOptions};
pub use shutdown::{Ended, Shutdown};
pub use transport::TlsConfig;
