//! A sum of what calls of models cost.

use crate::money::Amount;

/// The costs that are known, and what is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spent {
    known: Amount,
    /// Answers whose price nobody knew, or that an earlier version journalled without one.
    pub(super) unpriced: u32,
}

impl Spent {
    /// An answer came; what it cost in billionths of a dollar, where that is known.
    pub(super) fn add(&mut self, nano_usd: Option<u64>) {
        match nano_usd {
            Some(nano) => self.known = self.known.plus(Amount::of_nano_usd(nano)),
            None => self.unpriced += 1,
        }
    }

    /// As much as is known, at the least.
    pub(super) fn known(&self) -> Amount {
        self.known
    }
}
