//! What changes while the stand-ins run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::accounts::Accounts;
use super::faults::Faults;
use super::mcp_state::McpState;
use super::request_log::RequestLog;
use super::tool_calls::ToolCall;
use super::world::World;

/// All of it, behind one lock.
#[derive(Default)]
pub(super) struct State {
    /// Access tokens and the instant each expires.
    pub(super) tokens: BTreeMap<String, Timestamp>,
    pub(super) accounts: Accounts,
    pub(super) worlds: BTreeMap<String, World>,
    pub(super) tool_calls: Vec<ToolCall>,
    pub(super) faults: Faults,
    pub(super) mcp: McpState,
    pub(super) requests: RequestLog,
    counter: u64,
}

impl State {
    /// Drops everything but the tokens given out; numbers go on, so that nothing old is taken for something new.
    pub(super) fn forget(&mut self) {
        let (tokens, mcp) = (std::mem::take(&mut self.tokens), self.mcp.with_grants_alone());
        *self = Self { tokens, mcp, counter: self.counter, ..Self::default() };
    }

    /// What belongs to `identifier`, made up at the first look.
    pub(super) fn world(&mut self, identifier: &str, now: Timestamp) -> &mut World {
        self.worlds.entry(identifier.to_owned()).or_insert_with(|| World::new(now))
    }

    /// A number that was not used before.
    pub(super) fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// A word that looks random and differs at every call; nothing here needs to be unguessable.
    pub(super) fn next_word(&mut self, kind: &str) -> String {
        let digest = Sha256::digest(format!("{kind} {}", self.next_number()));
        digest.iter().take(12).fold(String::new(), |mut word, byte| {
            let _infallible = write!(word, "{byte:02x}");
            word
        })
    }
}
