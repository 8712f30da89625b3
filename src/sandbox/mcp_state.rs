//! What the stand-ins keep for MCP: how their servers answer, and who holds which token and session.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::crm::Crm;

/// How the MCP servers behave; all of them alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct McpSettings {
    /// Which revisions of the protocol they know.
    pub(super) speaks: Era,
    /// In which form they answer requests.
    pub(super) answers: AnswerForm,
    /// Whether `initialize` gives out a session, which later requests have to name.
    pub(super) sessions: bool,
    /// How many tools a page of the list holds.
    pub(super) page_size: usize,
    /// How long a list may be kept, in milliseconds.
    pub(super) ttl_ms: u64,
    /// So many tools are added to the operator's own server, all of which only read.
    pub(super) more_tools: usize,
}

impl Default for McpSettings {
    fn default() -> Self {
        Self {
            speaks: Era::Both,
            answers: AnswerForm::Json,
            sessions: true,
            page_size: 50,
            ttl_ms: 60_000,
            more_tools: 0,
        }
    }
}

/// Revisions of the protocol: those with a handshake (up to 2025-11-25), and those without one (from 2026-07-28).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Era {
    Both,
    Modern,
    Legacy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AnswerForm {
    /// One JSON object.
    Json,
    /// A stream of server-sent events.
    Sse,
}

/// What a token of Scalekit's for one of its MCP servers allows.
#[derive(Debug, Clone)]
pub(super) struct McpGrant {
    /// The connection's own name, whose server alone takes the token.
    pub(super) connector: String,
    pub(super) identifier: String,
    pub(super) read_only: bool,
    pub(super) expires_at: Timestamp,
}

/// A session of the revisions that have them.
#[derive(Debug, Clone)]
pub(super) struct McpSession {
    /// Whose it is: the server and, where it tells users apart, the user.
    pub(super) owner: String,
    /// How many tools had been added when this session listed them last.
    pub(super) listed: usize,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct McpState {
    pub(super) settings: McpSettings,
    pub(super) grants: BTreeMap<String, McpGrant>,
    pub(super) sessions: BTreeMap<String, McpSession>,
    pub(super) crm: Crm,
}

impl McpState {
    /// The tokens that were given out, and nothing else.
    pub(super) fn with_grants_alone(&mut self) -> Self {
        Self { grants: std::mem::take(&mut self.grants), ..Self::default() }
    }
}
