//! The budget edge: counters of what was spent within a budget, and of what is set aside for calls that are under way.
//!
//! Two implementations, [`mod@redis`] shared by all workers and [`memory`] for the embedded mode, pass one contract test
//! suite. What is set aside and never settled, as its worker died, counts as spent once its time is over.

mod config;
pub mod memory;
pub mod redis;

use std::time::Duration;

use async_trait::async_trait;

pub use self::config::BudgetConfig;
use crate::key::Key;
use crate::money::Amount;

/// An operator is told once a day of a budget of which so many hundredths are spent.
const TOLD_AT_PERCENT: u64 = 80;
/// Nothing more is counted at a time: a thousand million such amounts fit a counter.
const MOST: Amount = Amount::of_nano_usd(1_000_000_000_000_000);

/// The counters could not be asked. What a call did that was not answered is not known; each may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the counters of budgets cannot be reached: {0}")]
pub struct BudgetError(pub String);

/// One budget: what may be spent, by whom, in which time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Names its counter.
    pub key: Key,
    /// How much may be spent in all.
    pub limit: Amount,
    /// The counter is kept so long after it was last asked.
    pub keep: Duration,
}

/// What a budget holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balance {
    /// What was spent.
    pub spent: Amount,
    /// What is set aside for calls that are under way.
    pub reserved: Amount,
}

/// Whether an amount was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reservation {
    /// In all budgets.
    Granted,
    /// In none: in this budget too much is set aside for others at present.
    Busy {
        /// Its place in the list.
        index: usize,
    },
    /// In none: this budget has no room for it, whatever becomes of what is set aside.
    Exceeded {
        /// Its place in the list.
        index: usize,
        /// What it holds.
        balance: Balance,
    },
}

/// Counters that all workers of a fleet share.
#[async_trait]
pub trait BudgetCounters: Send + Sync {
    /// Sets `amount` aside for `holder` in all of `budgets` or in none, at one go. For a holder for whom it is already it is
    /// not set aside twice. Where nobody settles it within `hold` it counts as spent.
    async fn reserve(
        &self,
        budgets: &[Budget],
        holder: &str,
        amount: Amount,
        hold: Duration,
    ) -> Result<Reservation, BudgetError>;

    /// What is set aside for `holder` becomes what was `spent`, or, where nobody knows that, is spent as it is; the second time
    /// nothing changes. Says which budgets have come to four fifths, each once a day.
    async fn settle(&self, budgets: &[Budget], holder: &str, spent: Option<Amount>) -> Result<Vec<usize>, BudgetError>;

    /// What a budget holds.
    async fn balance(&self, budget: &Budget) -> Result<Balance, BudgetError>;
}
