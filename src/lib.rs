//! A background worker that runs LLM agent jobs from RabbitMQ with a user's own tools through Scalekit AgentKit.
//!
//! # The house
//!
//! A run is a journal plus a wake-up message: the message says "go on with job X", the journal says how far X has come.
//! Everything else follows from that. A module uses the floors below its own, never a floor above, never another edge.
//!
//! | floor | modules |
//! |---|---|
//! | 5 process | `main`, [`cli`], [`app`], [`embedded`], [`config`], [`telemetry`], [`shutdown`], [`http_server`] |
//! | 4 logic | [`worker`], [`schedule`], [`client`] |
//! | 3 edges | [`queue`], [`cache`], [`journal`], [`digest_store`], [`parking`] (all on [`redis_client`]), [`llm`], [`scalekit`] (both on [`http`]) |
//! | 2 decisions | [`agent`]: pure, no async, no clock, no I/O |
//! | 1 words | [`job`], [`reply`], [`retry`], [`clock`], [`schema`], [`key`], [`metrics`], [`webhook`] |
//! | apart | [`sandbox`]: stand-ins for Scalekit and the model, reached only over HTTP |
//!
//! `tests/floors.rs` holds the house to this map.

pub mod agent;
pub mod app;
pub mod cache;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod digest_store;
pub mod embedded;
pub mod http;
pub mod http_server;
pub mod job;
pub mod journal;
pub mod key;
pub mod llm;
pub mod metrics;
pub mod parking;
pub mod queue;
pub mod redis_client;
pub mod reply;
pub mod retry;
pub mod sandbox;
pub mod scalekit;
pub mod schedule;
pub mod schema;
pub mod shutdown;
pub mod telemetry;
pub mod webhook;
pub mod worker;

pub use app::App;
pub use config::Config;
pub use embedded::Embedded;
pub use job::Job;
pub use reply::Reply;
