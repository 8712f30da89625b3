//! Faults that a test can order, and which request meets which.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::route_group::RouteGroup;

/// One order: which requests it meets, how often, and what happens to them.
///
/// Orders are looked through in the order they were given; a request is met by the first that fits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    pub(super) on: RouteGroup,
    /// Only calls of this tool (for `execute` and `mcp_call`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tool: Option<String>,
    /// How many fitting requests pass unharmed first.
    #[serde(default)]
    pub(super) skip: u32,
    /// How many fitting requests it meets, 1 if absent.
    #[serde(default = "once")]
    pub(super) times: u32,
    /// Milliseconds to wait before anything else happens.
    #[serde(default)]
    pub(super) delay_ms: u64,
    pub(super) kind: FaultKind,
    /// For `status`: the HTTP status, 500 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    /// For `status`: the machine-readable code in the usual error body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error_code: Option<String>,
    /// For `status`: the code that the provider of the tool gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tool_error_code: Option<String>,
    /// For `status`: the text in the usual error body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
    /// For `status`: a body in place of the usual one; a string is sent as plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) body: Option<Value>,
    /// For `status`: an HTML page, as a load balancer gives.
    #[serde(default)]
    pub(super) html: bool,
    /// For `status`: only the first half of the body, properly framed.
    #[serde(default)]
    pub(super) truncated: bool,
    /// For `status`: further headers, such as `retry-after`.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// For `status` at an MCP server: the code of the JSON-RPC error, -32603 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rpc_code: Option<i64>,
    /// For `rpc_result`: the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<Value>,
    /// For `big_answer`: bytes that the answer is padded with.
    #[serde(default)]
    pub(super) big_answer_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FaultKind {
    /// Answers with a status and does nothing.
    Status,
    /// Answers as usual, after the delay.
    Delay,
    /// Breaks the connection before anything was done.
    Reset,
    /// Does it, then never answers.
    CommitThenTimeout,
    /// Does it, then breaks the connection without an answer.
    CommitThenReset,
    /// Does it, and breaks the connection in the middle of the answer's body.
    HalfAnswer,
    /// Does it, and pads the answer.
    BigAnswer,
    /// At an MCP server: does nothing and answers with the result given.
    RpcResult,
    /// At an MCP server: does it, and ends the stream in good order before the response was on it.
    StreamEnds,
    /// At an MCP server: does it, and opens a stream on which the response never comes.
    StreamStalls,
}

fn once() -> u32 {
    1
}

/// The orders that are left.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub(super) fn left(&self) -> &[Fault] {
        &self.0
    }

    /// The order that this request meets, counted down.
    pub(super) fn take(&mut self, group: RouteGroup, tool: Option<&str>) -> Option<Fault> {
        for fault in &mut self.0 {
            let fits = fault.on == group && (fault.tool.is_none() || fault.tool.as_deref() == tool);
            if !fits || fault.times == 0 {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                return None;
            }
            fault.times -= 1;
            let met = fault.clone();
            self.0.retain(|fault| fault.times > 0);
            return Some(met);
        }
        None
    }
}
