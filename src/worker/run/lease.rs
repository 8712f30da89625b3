//! The right to go on with a run, as far as this process can know at any moment that it still has it.
//!
//! The journal refuses what a worker without the right writes. What leaves for Scalekit, the model or the caller is not
//! refused by anybody, so it is asked for here first: a worker that was paused for minutes finds out before it sends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::interruption::Interruption;
use super::revocation::Revocations;
use crate::job::JobId;
use crate::journal::index::Indexed;
use crate::journal::{Append, Claim, ClaimMode, FencingToken, Journal, JournalError, Remains};

/// A worker's lease of a run.
pub(crate) struct Lease {
    journal: Arc<dyn Journal>,
    id: JobId,
    owner: String,
    token: FencingToken,
    length: Duration,
    /// The run is ours from then on for a lease at least: taken before the question left that was answered so.
    confirmed: Mutex<Instant>,
    /// Why it is over, once it is.
    over: watch::Sender<Option<Interruption>>,
}

impl Lease {
    /// Begins with a claim of `owner`'s that was asked for at `asked`.
    pub(crate) fn new(
        journal: Arc<dyn Journal>,
        id: JobId,
        owner: String,
        token: FencingToken,
        length: Duration,
        asked: Instant,
    ) -> Arc<Self> {
        let (confirmed, over) = (Mutex::new(asked), watch::Sender::new(None));
        Arc::new(Self { journal, id, owner, token, length, confirmed, over })
    }

    /// Takes the run again whose journal turned out to be gone, or shorter than it was, without giving it free in between:
    /// a lease of its own, and what is left. `None` where somebody else was faster.
    pub(crate) async fn claim_again(&self) -> Result<Option<(Arc<Self>, Vec<String>)>, JournalError> {
        let asked = Instant::now();
        let claim = self.journal.claim(&self.id, &self.owner, self.length, ClaimMode::IfFree).await?;
        let Claim::Granted { token, entries } = claim else { return Ok(None) };
        let (journal, id, owner) = (self.journal.clone(), self.id.clone(), self.owner.clone());
        Ok(Some((Self::new(journal, id, owner, token, self.length, asked), entries)))
    }

    /// Makes sure that the run is ours, and nobody can claim it for half a lease.
    pub(crate) async fn assure(&self) -> Result<(), Interruption> {
        if let Some(why) = self.over.borrow().clone() {
            return Err(why);
        }
        let confirmed = *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        if confirmed.elapsed() < self.length / 2 {
            return Ok(());
        }
        self.renew().await.map_err(|error| {
            let why = Interruption::from(error);
            if !matches!(why, Interruption::JournalUnavailable(_)) {
                self.end(why.clone());
            }
            why
        })
    }

    /// Appends lines after the first `sequence` ones. Where the lease was let go, the run is free from then on.
    pub(crate) async fn append(
        &self,
        sequence: u64,
        lines: &[String],
        retain: Duration,
        remains: Option<Remains<'_>>,
        index: Option<Indexed<'_>>,
    ) -> Result<(), JournalError> {
        let lease = if self.over.borrow().is_some() { Duration::ZERO } else { self.length };
        let append = Append { token: self.token, sequence, entries: lines, lease, retain, remains, index };
        let asked = Instant::now();
        self.journal.append(&self.id, append).await?;
        self.confirm(asked);
        Ok(())
    }

    /// Has the first `entries` entries survive what was asked for.
    pub(crate) async fn secure(&self, entries: u64) -> Result<(), JournalError> {
        self.journal.secure(&self.id, self.token, entries, self.length).await
    }

    /// Renews the lease for as long as it is polled, until it is over. Never ends.
    pub(crate) async fn keep(&self, revocations: &Revocations) {
        let mut renewed = true;
        let revoked = revocations.revoked(self.id.clone(), self.token);
        tokio::pin!(revoked);
        while self.over.borrow().is_none() {
            tokio::select! {
                () = &mut revoked => {
                    self.end(Interruption::OwnershipLost);
                    break;
                }
                () = tokio::time::sleep(self.length / 3) => {}
            }
            if self.over.borrow().is_some() {
                break;
            }
            match self.renew().await {
                Ok(()) => renewed = true,
                // The store may come back before the lease ends; if not, the next append or question is refused.
                Err(JournalError::Unavailable(error)) if renewed => {
                    renewed = false;
                    warn!(error, "the lease could not be renewed");
                }
                Err(JournalError::Unavailable(error)) => debug!(error, "nor now"),
                Err(error) => self.end(error.into()),
            }
        }
        std::future::pending::<()>().await;
    }

    /// Ready once the run is lost to somebody else, or its journal is.
    pub(crate) async fn lost(&self) -> Interruption {
        let mut over = self.over.subscribe();
        let why = over.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        why.unwrap_or(Interruption::OwnershipLost)
    }

    /// Gives the run free at once, so that its next message does not have to wait for the lease to run out.
    pub(crate) async fn release(&self) {
        self.let_go();
        if let Err(error) = self.journal.renew(&self.id, self.token, Duration::ZERO).await {
            debug!(%error, "the lease could not be given back and runs out by itself");
        }
    }

    /// Nothing more is done with the run but what gives it free: the lease is not renewed any more.
    pub(crate) fn let_go(&self) {
        self.end(Interruption::OwnershipLost);
    }

    async fn renew(&self) -> Result<(), JournalError> {
        let asked = Instant::now();
        self.journal.renew(&self.id, self.token, self.length).await?;
        self.confirm(asked);
        Ok(())
    }

    fn confirm(&self, asked: Instant) {
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        *confirmed = asked.max(*confirmed);
    }

    fn end(&self, why: Interruption) {
        self.over.send_if_modified(|over| {
            let first = over.is_none();
            over.get_or_insert(why);
            first
        });
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::clock::ManualClock;
    use crate::journal::memory::MemoryJournal;
    use crate::journal::{Claim, ClaimMode};

    const LEASE: Duration = Duration::from_secs(30);

    struct Claimants {
        clock: Arc<ManualClock>,
        journal: Arc<MemoryJournal>,
    }

    impl Claimants {
        fn new() -> Self {
            let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
            Self { journal: Arc::new(MemoryJournal::new(clock.clone(), 10)), clock }
        }

        async fn claim(&self, owner: &str) -> Arc<Lease> {
            let (id, asked) = (JobId::new("a").unwrap(), Instant::now());
            match self.journal.claim(&id, owner, LEASE, ClaimMode::IfFree).await {
                Ok(Claim::Granted { token, .. }) => {
                    Lease::new(self.journal.clone(), id, owner.to_owned(), token, LEASE, asked)
                }
                other => panic!("{other:?}"),
            }
        }

        /// Time passes for everybody.
        async fn pass(&self, seconds: u64) {
            self.clock.advance(jiff::SignedDuration::from_secs(i64::try_from(seconds).unwrap()));
            tokio::time::advance(Duration::from_secs(seconds)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_was_asleep_finds_out_before_it_sends_that_the_run_is_another_ones() {
        let claimants = Claimants::new();
        let sleeper = claimants.claim("one").await;
        claimants.pass(14).await;
        assert_eq!(sleeper.assure().await, Ok(()), "for half a lease nobody needs to be asked");
        claimants.pass(17).await;
        let heir = claimants.claim("two").await;
        assert_eq!(sleeper.assure().await, Err(Interruption::OwnershipLost));
        assert_eq!(heir.assure().await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_right_is_renewed_by_asking_and_kept_by_keeping() {
        let claimants = Claimants::new();
        let lease = claimants.claim("one").await;
        claimants.pass(29).await;
        assert_eq!(lease.assure().await, Ok(()), "nobody has taken it");
        let revocations = Revocations::default();
        for _ in 0..10 {
            tokio::select! {
                () = lease.keep(&revocations) => {}
                () = tokio::time::sleep(LEASE / 3 + Duration::from_secs(1)) => {}
            }
            claimants.clock.advance(jiff::SignedDuration::from_secs(11));
        }
        claimants
            .journal
            .claim(&JobId::new("a").unwrap(), "two", LEASE, ClaimMode::IfFree)
            .await
            .map_or_else(|error| panic!("{error}"), |claim| assert!(matches!(claim, Claim::Held { .. }), "{claim:?}"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_append_gives_the_run_free() {
        let claimants = Claimants::new();
        let lease = claimants.claim("one").await;
        lease.append(0, &["{}".to_owned()], LEASE, None, None).await.unwrap();
        let id = JobId::new("a").unwrap();
        let taken = claimants.journal.claim(&id, "two", LEASE, ClaimMode::IfFree).await.unwrap();
        assert!(matches!(taken, Claim::Held { .. }), "{taken:?}");
        lease.let_go();
        lease.append(1, &["{}".to_owned()], LEASE, None, None).await.unwrap();
        claimants.claim("two").await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_free_is_not_renewed() {
        let claimants = Claimants::new();
        let lease = claimants.claim("one").await;
        lease.release().await;
        let revocations = Revocations::default();
        tokio::select! {
            () = lease.keep(&revocations) => {}
            () = tokio::time::sleep(LEASE * 2) => {}
        }
        assert_eq!(lease.assure().await, Err(Interruption::OwnershipLost));
        claimants.claim("two").await;
    }
}
