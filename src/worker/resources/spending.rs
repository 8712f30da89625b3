//! What model calls may cost by the operator's budgets: the most that a call may cost is set aside before it leaves, and what it
//! did cost is settled after.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tracing::warn;

use crate::budget::{Balance, Budget, BudgetConfig, BudgetCounters, BudgetError, Reservation};
use crate::clock::utc_day;
use crate::digest_store::Fired;
use crate::job::Job;
use crate::key::{Key, digest};
use crate::money::Amount;
use crate::reply::{ErrorCode, ErrorDetail};

/// A counter is kept longer than the time that it is for, as a call may be settled later.
const A_DAY: Duration = Duration::from_hours(2 * 24);
const A_MONTH: Duration = Duration::from_hours(33 * 24);
/// Runs of a firing may wait for their users; afterwards the firing has its whole budget again.
const A_FIRING: Duration = Duration::from_hours(40 * 24);

/// What is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BudgetScope {
    IdentifierDay,
    DigestFiring,
    Day,
    Month,
}

/// The budgets of the fleet.
pub(crate) struct Spending {
    config: BudgetConfig,
    counters: Arc<dyn BudgetCounters>,
    /// What is set aside and not settled within this time is spent: longer than a call may take.
    hold: Duration,
    /// Models that no budget can be kept for, which was said.
    unpriced: Mutex<HashSet<String>>,
}

/// What a call was set aside for, until it is settled.
#[derive(Debug, Default)]
pub(crate) struct HeldMoney {
    budgets: Vec<(BudgetScope, Budget)>,
    holder: String,
}

/// Why nothing was set aside.
#[derive(Debug)]
pub(crate) enum NotHeld {
    /// Too much is set aside for other calls at present.
    Busy(String),
    /// The budget is used up.
    Exceeded {
        /// Whose it is.
        scope: BudgetScope,
        /// What the caller is told.
        detail: Box<ErrorDetail>,
    },
    /// The counters cannot be asked.
    Unavailable(BudgetError),
}

impl BudgetScope {
    /// As the key in the configuration, and in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::IdentifierDay => "identifier_day",
            Self::DigestFiring => "digest_firing",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// Whose and when it is, for people.
    fn words(self) -> &'static str {
        match self {
            Self::IdentifierDay => "of this identifier for this day",
            Self::DigestFiring => "of this firing of the digest",
            Self::Day => "of all jobs for this day",
            Self::Month => "of all jobs for this month",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::IdentifierDay | Self::Day => {
                "send the job again under a new id after 00:00 UTC, or have the operator raise `budget`"
            }
            Self::DigestFiring => "have the operator raise `budget.digest_firing`, or give the digest fewer recipients",
            Self::Month => "send the job again under a new id next month, or have the operator raise `budget.month`",
        }
    }
}

impl Spending {
    /// The budgets of `config`; a call takes no longer than `call`.
    pub(crate) fn new(config: BudgetConfig, counters: Arc<dyn BudgetCounters>, call: Duration) -> Self {
        // What is left of a call's time is for the way to the store, and for clocks that differ.
        Self { config, counters, hold: call + Duration::from_mins(1), unpriced: Mutex::default() }
    }

    /// Whether there is any budget.
    pub(crate) fn is_on(&self) -> bool {
        self.config.is_on()
    }

    /// The budgets that a call of the job's run counts in at `now`. No key holds the user's name.
    fn budgets_of(&self, job: &Job, now: Timestamp) -> Vec<(BudgetScope, Budget)> {
        let user = digest(job.identifier.as_str(), 16);
        let day = utc_day(now).to_string();
        let fired = if self.config.digest_firing > Amount::ZERO { Fired::of(job) } else { None };
        let firing = fired.map(|fired| ["firing".to_owned(), fired.digest, fired.occurrence.to_string()]);
        let key = |parts: &[&str]| Key::new(parts);
        let firing = firing.map(|parts| key(&parts.each_ref().map(String::as_str)));
        let all = [
            (BudgetScope::IdentifierDay, Some(key(&["identifier", &user, &day])), self.config.identifier_day, A_DAY),
            (BudgetScope::DigestFiring, firing, self.config.digest_firing, A_FIRING),
            (BudgetScope::Day, Some(key(&["day", &day])), self.config.day, A_DAY),
            (BudgetScope::Month, Some(key(&["month", &day[..day.len() - 3]])), self.config.month, A_MONTH),
        ];
        let set = all.into_iter().filter(|(.., limit, _)| *limit > Amount::ZERO);
        set.filter_map(|(scope, key, limit, keep)| Some((scope, Budget { key: key?, limit, keep }))).collect()
    }

    /// Sets aside the most that a call may cost, in all budgets that it counts in. `holder` names the call: it is not set aside
    /// twice for one. Where that is not known nothing is, and it is said once.
    pub(crate) async fn hold(
        &self,
        job: &Job,
        now: Timestamp,
        model: &str,
        holder: String,
        most: Option<Amount>,
    ) -> Result<HeldMoney, NotHeld> {
        let budgets = self.budgets_of(job, now);
        if budgets.is_empty() {
            return Ok(HeldMoney::default());
        }
        let Some(most) = most else {
            self.say_unpriced(model);
            return Ok(HeldMoney::default());
        };
        let plain: Vec<Budget> = budgets.iter().map(|(_, budget)| budget.clone()).collect();
        match self.counters.reserve(&plain, &holder, most, self.hold).await {
            Ok(Reservation::Granted) => Ok(HeldMoney { budgets, holder }),
            Ok(Reservation::Busy { index }) => {
                let (scope, _) = budgets.get(index).unwrap_or(&budgets[0]);
                Err(NotHeld::Busy(format!("the budget {} is set aside for other calls at present", scope.words())))
            }
            Ok(Reservation::Exceeded { index, balance }) => {
                let (scope, budget) = budgets.get(index).unwrap_or(&budgets[0]);
                Err(NotHeld::Exceeded { scope: *scope, detail: Box::new(exceeded(*scope, budget, balance, most)) })
            }
            Err(error) => Err(NotHeld::Unavailable(error)),
        }
    }

    /// A call that was set aside for is over: it cost so much, or nobody knows.
    pub(crate) async fn settle(&self, held: HeldMoney, spent: Option<Amount>) {
        let HeldMoney { budgets, holder } = held;
        if budgets.is_empty() {
            return;
        }
        let plain: Vec<Budget> = budgets.iter().map(|(_, budget)| budget.clone()).collect();
        match self.counters.settle(&plain, &holder, spent).await {
            Ok(told) => {
                for (scope, budget) in told.into_iter().filter_map(|index| budgets.get(index)) {
                    let (budget, of) = (budget.limit.to_string(), scope.words());
                    warn!(scope = scope.as_str(), budget, "four fifths of the budget {of} are spent");
                }
            }
            // What was set aside counts as spent after its time.
            Err(error) => warn!(%error, "what a model call cost is not settled: the most that it may have cost counts"),
        }
    }

    /// What the fleet's budgets hold at `now`, each with its limit.
    pub(crate) async fn balances(&self, now: Timestamp) -> Vec<(BudgetScope, Amount, Result<Balance, BudgetError>)> {
        let day = utc_day(now).to_string();
        let all = [
            (BudgetScope::Day, Key::new(&["day", &day]), self.config.day, A_DAY),
            (BudgetScope::Month, Key::new(&["month", &day[..day.len() - 3]]), self.config.month, A_MONTH),
        ];
        let mut balances = Vec::new();
        for (scope, key, limit, keep) in all.into_iter().filter(|(.., limit, _)| *limit > Amount::ZERO) {
            balances.push((scope, limit, self.counters.balance(&Budget { key, limit, keep }).await));
        }
        balances
    }

    fn say_unpriced(&self, model: &str) {
        let mut said = self.unpriced.lock().unwrap_or_else(PoisonError::into_inner);
        if said.insert(model.to_owned()) {
            warn!(model, "no price of this model is known (`model.prices`): its calls count in no budget");
        }
    }
}

/// The caller hears which budget it is; what is in it is for operators.
fn exceeded(scope: BudgetScope, budget: &Budget, balance: Balance, most: Amount) -> ErrorDetail {
    let (limit, spent) = (budget.limit.to_string(), balance.spent.to_string());
    let call = most.to_string();
    warn!(scope = scope.as_str(), budget = limit, spent, call, "a run ends: the budget has no room for its next call");
    let text = format!(
        "the operator's budget {} (`budget.{}`) has no room for another model call",
        scope.words(),
        scope.as_str()
    );
    ErrorDetail::new(ErrorCode::BudgetExceeded, text).hint(scope.hint())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::budget::memory::MemoryBudgets;
    use crate::clock::{Clock, ManualClock};

    const CENT: Amount = Amount::of_nano_usd(10_000_000);

    fn job(identifier: &str) -> Job {
        serde_json::from_value(json!({"identifier": identifier, "connections": ["gmail"], "prompt": "hello"})).unwrap()
    }

    fn fired(identifier: &str) -> Job {
        let fired = Fired {
            digest: "morning".to_owned(),
            recipient: identifier.to_owned(),
            occurrence: "2026-11-30T07:00:00Z".parse().unwrap(),
            local: "2026-11-30T08:00:00".parse().unwrap(),
            timezone: "Europe/Berlin".to_owned(),
        };
        let metadata = json!({ crate::digest_store::METADATA: fired.to_metadata() });
        Job { id: Some(fired.job_id()), metadata, ..job(identifier) }
    }

    fn spending(config: BudgetConfig) -> (Spending, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new("2026-11-30T23:59:59Z".parse().unwrap()));
        (Spending::new(config, Arc::new(MemoryBudgets::new(clock.clone())), Duration::from_mins(5)), clock)
    }

    fn all(amount: Amount) -> BudgetConfig {
        BudgetConfig { identifier_day: amount, digest_firing: amount, day: amount, month: amount }
    }

    #[test]
    fn a_call_counts_for_its_user_its_firing_its_day_and_its_month_and_no_key_names_the_user() {
        let (spending, clock) = spending(all(CENT));
        let keys = |job: &Job| {
            let budgets = spending.budgets_of(job, clock.now());
            budgets.into_iter().map(|(_, budget)| budget.key.to_string()).collect::<Vec<_>>()
        };
        let (ann, bob) = (keys(&fired("ann")), keys(&fired("bob")));
        assert!(ann[0] != bob[0] && ann[1..] == bob[1..], "{ann:?} {bob:?}");
        assert!(ann[0].ends_with(":2026-11-30") && !ann.concat().contains("ann"), "{ann:?}");
        assert_eq!(ann[2..], ["day:2026-11-30", "month:2026-11"]);
        assert_eq!(keys(&job("ann")), [ann[0].clone(), ann[2].clone(), ann[3].clone()], "of no firing");
        assert!(super::tests::spending(BudgetConfig::default()).0.budgets_of(&job("ann"), clock.now()).is_empty());
        let one = BudgetConfig { month: CENT, ..BudgetConfig::default() };
        assert_eq!(super::tests::spending(one).0.budgets_of(&job("ann"), clock.now()).len(), 1);
    }

    #[tokio::test]
    async fn a_call_that_ends_on_the_next_day_is_settled_where_it_was_set_aside() {
        let (spending, clock) = spending(all(CENT));
        let before = clock.now();
        let held = spending.hold(&job("ann"), before, "m", "h".to_owned(), Some(CENT)).await.unwrap();
        clock.advance(jiff::SignedDuration::from_secs(60));
        let next = spending.hold(&job("ann"), clock.now(), "m", "i".to_owned(), Some(CENT)).await;
        assert!(next.is_ok(), "a new day, in a new month: {next:?}");
        spending.settle(held, Some(Amount::of_nano_usd(1))).await;
        let (_, limit, balance) = spending.balances(before).await.remove(0);
        assert_eq!((limit, balance.unwrap().spent), (CENT, Amount::of_nano_usd(1)));
    }

    #[tokio::test]
    async fn what_is_set_aside_for_others_is_waited_for_and_what_is_spent_is_not() {
        let (spending, clock) = spending(all(CENT));
        let hold =
            async |holder: &str| spending.hold(&job("ann"), clock.now(), "m", holder.to_owned(), Some(CENT)).await;
        let held = hold("a").await.unwrap();
        assert!(matches!(hold("b").await, Err(NotHeld::Busy(_))));
        spending.settle(held, None).await;
        let Err(NotHeld::Exceeded { scope, detail }) = hold("b").await else { panic!("there is room") };
        assert_eq!((scope, detail.code), (BudgetScope::IdentifierDay, ErrorCode::BudgetExceeded));
        assert!(detail.message.contains("budget.identifier_day") && !detail.hint.is_empty(), "{detail:?}");
    }

    #[tokio::test]
    async fn a_call_of_unknown_price_is_made_and_said_once_to_count_nowhere() {
        let (spending, clock) = spending(all(CENT));
        for _ in 0..2 {
            let held = spending.hold(&job("ann"), clock.now(), "m", "h".to_owned(), None).await.unwrap();
            spending.settle(held, None).await;
        }
        assert_eq!(spending.unpriced.lock().unwrap().len(), 1);
        assert_eq!(spending.balances(clock.now()).await[0].2, Ok(Balance::default()));
    }
}
