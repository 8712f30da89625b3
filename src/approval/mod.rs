//! Approval of writes, as an operator and a job want it, and the links by which people decide.

pub(crate) mod link;

use std::collections::BTreeSet;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// Longest wait, as for a user.
const LONGEST_WAIT_SECONDS: u64 = 2_592_000;

/// Which of its writes a job wants a person to approve. The operator's `[approval]` counts beside it, and the stricter of the
/// two wins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// Which writes wait for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<Writes>,
    /// Tools that always do, by name; `*` stands for anything.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 200)))]
    pub tools: BTreeSet<String>,
    /// Addresses that need no approval where the operator's configuration allows them, too, such as `*@example.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 320)))]
    pub recipients: Option<BTreeSet<String>>,
    /// Seconds to wait for a decision, at most 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 2_592_000))]
    pub wait_seconds: Option<u64>,
    /// What becomes of a call that nobody has decided about in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_expiry: Option<OnExpiry>,
    /// Whether a person may change the arguments of a call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<bool>,
}

impl Approval {
    /// Whether the job leaves it all to the operator.
    pub fn is_unsaid(&self) -> bool {
        *self == Self::default()
    }
}

/// Which writes wait for a person, the stricter the greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Writes {
    /// None.
    #[default]
    None,
    /// Those after the run has read anything, which a stranger may have written.
    Untrusted,
    /// All.
    All,
}

/// What becomes of a call that nobody has decided about in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnExpiry {
    /// It is denied, and the run goes on.
    #[default]
    Deny,
    /// The run fails.
    Fail,
}

/// What the operator says about approval; see `config/default.toml`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApprovalConfig {
    /// Which writes wait for a person; a job may ask for more, never for less.
    pub writes: Writes,
    /// Tools that always do.
    pub tools: BTreeSet<String>,
    /// Addresses that need no approval.
    pub recipients: BTreeSet<String>,
    /// Seconds to wait for a decision.
    pub wait_seconds: u64,
    /// What becomes of a call that nobody has decided about in time, where the job does not say.
    pub on_expiry: OnExpiry,
    /// Whether arguments may be changed.
    pub edit: bool,
    /// 32 bytes in base64 that links are signed with; several, separated by commas, while one is replaced.
    #[schemars(with = "String")]
    pub link_key: SecretString,
    /// Where people reach the worker's HTTP port: what links begin with.
    pub public_url: String,
}

impl Default for ApprovalConfig {
    fn default() -> Self {
        Self {
            writes: Writes::Untrusted,
            tools: BTreeSet::new(),
            recipients: BTreeSet::new(),
            wait_seconds: 86_400,
            on_expiry: OnExpiry::Deny,
            edit: true,
            link_key: SecretString::default(),
            public_url: String::new(),
        }
    }
}
