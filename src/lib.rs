//! A background worker that runs LLM agent jobs from RabbitMQ with a user's own tools through Scalekit AgentKit.

pub mod agent;
pub mod cache;
pub mod clock;
pub mod job;
pub mod journal;
pub mod key;
pub mod queue;
pub mod retry;
pub mod sandbox;
pub mod schema;
