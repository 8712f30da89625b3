//! Numbers for new things.

use serde::Serialize;

/// The last number that was given out; using one counts as a change of the world.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Counter(u64);

impl Counter {
    pub(super) fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}
