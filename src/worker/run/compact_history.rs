//! A conversation that the model has no room for loses old tool results before it is sent.

use tracing::info;

use super::Attempt;
use super::interruption::Interruption;
use crate::agent::event::Event;

impl Attempt<'_> {
    /// Leaves out what the present model has no room for, as far as is known of it.
    pub(super) fn compact_history(&mut self) -> Result<(), Interruption> {
        let room = self.executor.llm.input_room(self.run().model());
        let results = self.run().results_to_leave_out(self.tools_bytes(), room);
        self.leave_out(results).map(|_| ())
    }

    /// The model has less room than is known of it: leaves out as much as makes half of what it refused, and says whether
    /// there was anything.
    pub(super) fn compact_refused_history(&mut self) -> Result<bool, Interruption> {
        let results = self.run().results_to_leave_out_once_refused(self.tools_bytes());
        self.leave_out(results)
    }

    fn leave_out(&mut self, results: Vec<String>) -> Result<bool, Interruption> {
        if results.is_empty() {
            return Ok(false);
        }
        info!(results = results.len(), "tool results are left out, as the conversation is too long for the model");
        self.leased.note(vec![Event::HistoryCompacted { results }])?;
        Ok(true)
    }

    fn tools_bytes(&self) -> usize {
        self.offer.as_ref().map_or(0, |offer| offer.rendered.bytes())
    }
}
