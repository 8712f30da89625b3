//! The counters of one process, for the embedded mode.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::civil::Date;

use super::{Balance, Budget, BudgetCounters, BudgetError, MOST, Reservation, TOLD_AT_PERCENT};
use crate::clock::{SharedClock, after, utc_day};
use crate::key::Key;
use crate::money::Amount;

/// Counters in memory.
#[derive(Debug)]
pub struct MemoryBudgets {
    clock: SharedClock,
    counters: Mutex<HashMap<Key, Counter>>,
}

#[derive(Debug, Default)]
struct Counter {
    balance: Balance,
    held: HashMap<String, Held>,
    told: Option<Date>,
    until: Timestamp,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    amount: Amount,
    /// Afterwards it counts as spent; `None` where it does already.
    until: Option<Timestamp>,
}

impl MemoryBudgets {
    /// Nothing was spent.
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, counters: Mutex::default() }
    }

    /// The counters whose time is not over.
    fn counters(&self, now: Timestamp) -> MutexGuard<'_, HashMap<Key, Counter>> {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.retain(|_, counter| counter.until > now);
        counters
    }
}

impl Counter {
    /// What nobody settled in time is spent.
    fn expire(&mut self, now: Timestamp) {
        for held in self.held.values_mut().filter(|held| held.until.is_some_and(|until| until < now)) {
            held.until = None;
            self.balance.spent = self.balance.spent.plus(held.amount);
            self.balance.reserved = self.balance.reserved.minus(held.amount);
        }
    }

    fn settle(&mut self, held: Held, spent: Option<Amount>) {
        let balance = &mut self.balance;
        match held.until {
            Some(_) => balance.reserved = balance.reserved.minus(held.amount),
            None => balance.spent = balance.spent.minus(held.amount),
        }
        balance.spent = balance.spent.plus(spent.unwrap_or(held.amount));
    }
}

#[async_trait]
impl BudgetCounters for MemoryBudgets {
    async fn reserve(
        &self,
        budgets: &[Budget],
        holder: &str,
        amount: Amount,
        hold: Duration,
    ) -> Result<Reservation, BudgetError> {
        let (now, amount) = (self.clock.now(), amount.min(MOST));
        let mut counters = self.counters(now);
        for (index, budget) in budgets.iter().enumerate() {
            let Some(counter) = counters.get_mut(&budget.key) else {
                if amount > budget.limit {
                    return Ok(Reservation::Exceeded { index, balance: Balance::default() });
                }
                continue;
            };
            if counter.held.contains_key(holder) {
                continue;
            }
            let fits = |balance: Balance| balance.spent.plus(balance.reserved).plus(amount) <= budget.limit;
            if !fits(counter.balance) {
                counter.expire(now);
            }
            let Balance { spent, .. } = counter.balance;
            if spent.plus(amount) > budget.limit {
                return Ok(Reservation::Exceeded { index, balance: counter.balance });
            }
            if !fits(counter.balance) {
                return Ok(Reservation::Busy { index });
            }
        }
        for budget in budgets {
            let counter = counters.entry(budget.key.clone()).or_default();
            counter.until = after(now, budget.keep);
            if !counter.held.contains_key(holder) {
                counter.held.insert(holder.to_owned(), Held { amount, until: Some(after(now, hold)) });
                counter.balance.reserved = counter.balance.reserved.plus(amount);
            }
        }
        Ok(Reservation::Granted)
    }

    async fn settle(&self, budgets: &[Budget], holder: &str, spent: Option<Amount>) -> Result<Vec<usize>, BudgetError> {
        let (now, spent) = (self.clock.now(), spent.map(|spent| spent.min(MOST)));
        let (today, mut counters, mut told) = (utc_day(now), self.counters(now), Vec::new());
        for (index, budget) in budgets.iter().enumerate() {
            let Some(counter) = counters.get_mut(&budget.key) else { continue };
            let Some(held) = counter.held.remove(holder) else { continue };
            counter.settle(held, spent);
            counter.until = after(now, budget.keep);
            let tells = budget.limit.nano_usd() / 100 * TOLD_AT_PERCENT;
            if counter.balance.spent.nano_usd() >= tells && counter.told != Some(today) {
                counter.told = Some(today);
                told.push(index);
            }
        }
        Ok(told)
    }

    async fn balance(&self, budget: &Budget) -> Result<Balance, BudgetError> {
        let now = self.clock.now();
        Ok(self.counters(now).get(&budget.key).map(|counter| counter.balance).unwrap_or_default())
    }
}
