//! For this crate's own program and tests. Nothing in here is promised to anybody: what other programs use stands at the
//! crate's root.

pub mod agent {
    pub use crate::agent::*;
}
pub mod approval {
    pub use crate::approval::*;
}
pub mod audit {
    pub use crate::audit::*;
}
pub mod app {
    pub use crate::app::{App, Backends, lifetimes};
}
pub mod budget {
    pub use crate::budget::*;
}
pub mod cache {
    pub use crate::cache::*;
}
pub mod cli {
    pub use crate::cli::openapi::openapi;
    pub use crate::cli::{Arguments, USAGE, run};
}
pub mod clock {
    pub use crate::clock::*;
}
pub mod digest_store {
    pub use crate::digest_store::*;
}
pub mod encryption {
    pub use crate::encryption::*;
}
pub mod http {
    pub use crate::http::*;
}
pub mod http_server {
    pub use crate::http_server::tokens::{Scope, TokenConfig};
}
pub mod journal {
    pub use crate::journal::*;
}
pub mod key {
    pub use crate::key::*;
}
pub mod llm {
    pub use crate::llm::*;
}
pub mod mcp {
    pub use crate::mcp::*;
}
pub mod metrics {
    pub use crate::metrics::*;
}
pub mod parking {
    pub use crate::parking::*;
}
pub mod queue {
    pub use crate::queue::*;
}
pub mod redis_client {
    pub use crate::redis_client::*;
}
pub mod retry {
    pub use crate::retry::*;
}
pub mod sandbox {
    pub use crate::sandbox::*;
}
pub mod scalekit {
    pub use crate::scalekit::*;
}
pub mod schedule {
    pub use crate::schedule::*;
}
pub mod schema {
    pub use crate::schema::*;
}
pub mod standing {
    pub use crate::standing::*;
}
pub mod transport {
    pub use crate::transport::*;
}
pub mod worker {
    pub use crate::worker::control::finding::{FoundRuns, find, list};
    pub use crate::worker::control::operator::Operator;
    pub use crate::worker::control::runs::Runs;
    pub use crate::worker::fairness::SharedBy;
    pub use crate::worker::message::signature::HeaderKey;
    pub use crate::worker::resources::tool_source::{ConnectionConfig, ScalekitDoor};
    pub use crate::worker::rules::AfterLoss;
}
