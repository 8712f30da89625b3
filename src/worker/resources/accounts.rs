//! Whether users' accounts can be used: of all runs that ask for one at the same time, or within a second, one asks
//! Scalekit.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::clock::{SharedClock, milliseconds_between};
use crate::job::{ConnectionName, Identifier};
use crate::key::Key;
use crate::scalekit::{Account, AccountStatus, Error, Scalekit};

/// An answer is given to others for so long.
const RECENT: Duration = Duration::from_secs(1);
/// Accounts whose answers are kept at most.
const IN_MEMORY: u64 = 10_000;

/// Which answers of others will do. One whose request left after the question always does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// Any of the last second.
    Recent,
    /// One of the last second that says ACTIVE. Any other may be from before the user's consent, of which nobody would
    /// tell a second time.
    RecentIfActive,
    /// None that was asked for before.
    Fresh,
}

/// The accounts that runs of this process asked for lately.
pub(crate) struct SharedAccounts {
    scalekit: Arc<Scalekit>,
    clock: SharedClock,
    /// Each locked while somebody asks: the others wait for the answer.
    answers: moka::future::Cache<Key, Arc<Mutex<Option<Answer>>>>,
}

struct Answer {
    /// When the request left: by a clock that is never set, and by the one that the runs go by.
    left: Instant,
    left_at: Timestamp,
    account: Result<Account, Error>,
}

impl SharedAccounts {
    /// Nobody has asked yet.
    pub(crate) fn new(scalekit: Arc<Scalekit>, clock: SharedClock) -> Self {
        let answers = moka::future::Cache::builder().max_capacity(IN_MEMORY).time_to_idle(60 * RECENT).build();
        Self { scalekit, clock, answers }
    }

    /// A user's account of one connection.
    pub(crate) async fn account(
        &self,
        identifier: &Identifier,
        connection: &ConnectionName,
        accepted: Accepted,
    ) -> Result<Account, Error> {
        let asked = Instant::now();
        let key = Key::new(&[identifier.as_str(), connection.as_str()]);
        let answer = self.answers.get_with(key, async { Arc::default() }).await;
        let mut answer = answer.lock().await;
        if let Some(known) = &*answer
            && (known.left >= asked || self.will_do(known, accepted))
        {
            return known.account.clone();
        }
        let (left, left_at) = (Instant::now(), self.clock.now());
        let account = self.scalekit.account(identifier, connection).await;
        *answer = Some(Answer { left, left_at, account: account.clone() });
        account
    }

    fn will_do(&self, known: &Answer, accepted: Accepted) -> bool {
        let age = Duration::from_millis(milliseconds_between(known.left_at, self.clock.now()));
        let is_recent = known.left.elapsed().max(age) < RECENT;
        let is_active = known.account.as_ref().is_ok_and(|account| account.status == AccountStatus::Active);
        is_recent
            && match accepted {
                Accepted::Recent => true,
                Accepted::RecentIfActive => is_active,
                Accepted::Fresh => false,
            }
    }
}
