//! What was asked of the stand-ins.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use serde_json::Value;

use super::route_group::RouteGroup;

/// The log forgets the oldest requests above this many.
const LOG_LIMIT: usize = 500;

/// The requests seen since the last clearing.
#[derive(Debug, Default, Serialize)]
pub(super) struct RequestLog {
    counts: BTreeMap<RouteGroup, u64>,
    recent: VecDeque<Value>,
}

impl RequestLog {
    pub(super) fn note(&mut self, group: RouteGroup, request: Value) {
        *self.counts.entry(group).or_default() += 1;
        if self.recent.len() == LOG_LIMIT {
            self.recent.pop_front();
        }
        self.recent.push_back(request);
    }
}
