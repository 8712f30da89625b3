//! The mark that Anthropic's Messages API takes.

use serde::Serialize;

/// Up to here the provider keeps what it has read, for some minutes: system and tools are the same for many runs, and each
/// request of a run begins with all of the one before. Four such marks are allowed.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct CacheControl {
    #[serde(rename = "type")]
    kind: &'static str,
}

impl CacheControl {
    pub(super) const EPHEMERAL: Self = Self { kind: "ephemeral" };
}
