//! What all counters of budgets promise, asked of both.

use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::internals::budget::memory::MemoryBudgets;
use agentkit_worker::internals::budget::redis::RedisBudgets;
use agentkit_worker::internals::budget::{Balance, Budget, BudgetCounters, Reservation};
use agentkit_worker::internals::clock::SystemClock;
use agentkit_worker::internals::key::Key;
use agentkit_worker::money::Amount;

use crate::support::redis::AnyRedis;
use crate::support::{shortly, unique};

const LONG: Duration = Duration::from_mins(1);

fn usd(usd: u64) -> Amount {
    Amount::of_nano_usd(usd * 1_000_000_000)
}

fn budget(limit: u64) -> Budget {
    Budget { key: Key::new(&["day", &unique("2026-11-30")]), limit: usd(limit), keep: LONG }
}

/// The counters under test.
struct Counted(Arc<dyn BudgetCounters>);

impl Counted {
    async fn reserve(&self, budgets: &[Budget], holder: &str, amount: u64) -> Reservation {
        self.0.reserve(budgets, holder, usd(amount), LONG).await.unwrap()
    }

    async fn settle(&self, budget: &Budget, holder: &str, spent: Option<u64>) -> Vec<usize> {
        self.0.settle(std::slice::from_ref(budget), holder, spent.map(usd)).await.unwrap()
    }

    async fn is(&self, budget: &Budget, spent: u64, reserved: u64) {
        let expected = Balance { spent: usd(spent), reserved: usd(reserved) };
        assert_eq!(self.0.balance(budget).await.unwrap(), expected);
    }

    async fn set_aside_and_settle(&self) {
        let one = budget(100);
        let only = std::slice::from_ref(&one);
        for holder in ["a", "b", "a"] {
            assert_eq!(self.reserve(only, holder, 40).await, Reservation::Granted, "{holder}");
        }
        self.is(&one, 0, 80).await;
        assert_eq!(self.reserve(only, "c", 40).await, Reservation::Busy { index: 0 });
        for _ in 0..2 {
            assert_eq!(self.settle(&one, "a", Some(10)).await, [0; 0]);
            self.is(&one, 10, 40).await;
        }
        assert_eq!(self.reserve(only, "c", 40).await, Reservation::Granted);
        self.settle(&one, "b", None).await;
        self.is(&one, 50, 40).await;
        self.settle(&one, "nobody", Some(40)).await;
        let balance = Balance { spent: usd(50), reserved: usd(40) };
        assert_eq!(self.reserve(only, "d", 51).await, Reservation::Exceeded { index: 0, balance });
        assert_eq!(self.settle(&one, "c", Some(30)).await, [0], "it has come to four fifths");
        assert_eq!(self.reserve(only, "e", 20).await, Reservation::Granted, "up to the limit");
        assert_eq!(self.settle(&one, "e", Some(25)).await, [0; 0], "which is told once");
        self.is(&one, 105, 0).await;
    }

    async fn in_all_or_in_none(&self) {
        let (full, other) = (budget(10), budget(100));
        assert_eq!(self.reserve(std::slice::from_ref(&full), "a", 10).await, Reservation::Granted);
        let both = [other.clone(), full.clone()];
        assert_eq!(self.reserve(&both, "b", 1).await, Reservation::Busy { index: 1 });
        self.is(&other, 0, 0).await;
        self.settle(&full, "a", Some(0)).await;
        assert_eq!(self.reserve(&both, "b", 1).await, Reservation::Granted);
        self.0.settle(&both, "b", Some(usd(1))).await.unwrap();
        self.is(&other, 1, 0).await;
        self.is(&full, 1, 0).await;
    }

    /// Its worker died: nobody settles it, or much later.
    async fn left_behind(&self) {
        let one = budget(100);
        let only = std::slice::from_ref(&one);
        let granted = self.0.reserve(only, "dead", usd(60), Duration::ZERO).await.unwrap();
        assert_eq!(granted, Reservation::Granted);
        let balance = Balance { spent: usd(60), reserved: usd(0) };
        shortly("it counts as spent", || async {
            let answer = self.reserve(only, "a", 50).await;
            (answer == Reservation::Exceeded { index: 0, balance }).then_some(())
        })
        .await;
        assert_eq!(self.reserve(only, "b", 40).await, Reservation::Granted);
        self.settle(&one, "dead", Some(5)).await;
        self.is(&one, 5, 40).await;
    }

    async fn many_at_a_time(&self) {
        let one = budget(100);
        let asked = (0..50).map(|number| {
            let (counters, one) = (self.0.clone(), one.clone());
            tokio::spawn(async move { counters.reserve(&[one], &format!("h{number}"), usd(10), LONG).await.unwrap() })
        });
        let mut granted = 0;
        for answer in asked.collect::<Vec<_>>() {
            granted += usize::from(answer.await.unwrap() == Reservation::Granted);
        }
        assert_eq!(granted, 10);
        self.is(&one, 0, 100).await;
    }

    async fn keeps_its_promises(&self) {
        self.set_aside_and_settle().await;
        self.in_all_or_in_none().await;
        self.left_behind().await;
        self.many_at_a_time().await;
        let free = budget(1);
        for _ in 0..2 {
            assert_eq!(self.reserve(std::slice::from_ref(&free), "a", 0).await, Reservation::Granted);
            self.settle(&free, "a", Some(0)).await;
        }
        self.is(&free, 0, 0).await;
        let absurd = Budget { limit: Amount::of_nano_usd(u64::MAX), ..budget(0) };
        for holder in ["a", "b"] {
            let all = std::slice::from_ref(&absurd);
            let most = Amount::of_nano_usd(u64::MAX);
            assert_eq!(self.0.reserve(all, holder, most, LONG).await.unwrap(), Reservation::Granted);
            self.0.settle(all, holder, Some(most)).await.unwrap();
        }
        self.is(&absurd, 2_000_000, 0).await;
    }
}

#[tokio::test]
async fn counters_in_memory_keep_their_promises() {
    Counted(Arc::new(MemoryBudgets::new(Arc::new(SystemClock)))).keeps_its_promises().await;
}

#[tokio::test]
async fn counters_in_redis_keep_their_promises() {
    let redis = AnyRedis::start().await;
    Counted(Arc::new(RedisBudgets::new(redis.client()))).keeps_its_promises().await;
}
