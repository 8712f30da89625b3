//! How soon a job is wanted, beside those of others.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which jobs start before others: of those that wait, eight of `high`, four of `normal` and one of `low` start in turn, so
/// that none waits for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Somebody waits for it.
    High,
    /// Where nothing is said.
    #[default]
    Normal,
    /// Nobody waits for it, as for a digest.
    Low,
}

impl Priority {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// As it stands in a job.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}
