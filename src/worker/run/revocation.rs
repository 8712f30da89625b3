//! Learning soon that a run was stolen, as an operator's `jobs cancel` does. Who does not hear of it learns it at
//! the next append or renewal.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;
use tracing::debug;

use crate::job::JobId;
use crate::journal::{FencingToken, Journal};

/// Half of the second in which a cancelled run is to stop. One question of the whole process each time, and none while
/// it has no run.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The runs that were lately stolen, kept up to date by one task for all runs of the process.
#[derive(Debug, Default)]
pub(crate) struct Revocations(watch::Sender<HashMap<JobId, FencingToken>>);

impl Revocations {
    /// Keeps looking; never ends.
    pub(crate) async fn watch(&self, journal: &dyn Journal) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.0.receiver_count() == 0 {
                continue;
            }
            match journal.stolen().await {
                Ok(taken) => {
                    self.0.send_if_modified(|known| {
                        let changed = *known != taken;
                        *known = taken;
                        changed
                    });
                }
                Err(error) => debug!(%error, "runs that were stolen are not known of at present"),
            }
        }
    }

    /// Ready once the run that we hold under `token` was stolen from us.
    pub(crate) fn revoked(&self, id: JobId, token: FencingToken) -> impl Future<Output = ()> + Send + use<> {
        let mut known = self.0.subscribe();
        async move {
            let lost = |known: &HashMap<JobId, FencingToken>| known.get(&id).is_some_and(|taken| *taken > token);
            if known.wait_for(lost).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::clock::ManualClock;
    use crate::journal::memory::MemoryJournal;
    use crate::journal::{Claim, ClaimMode};

    #[tokio::test(start_paused = true)]
    async fn the_former_owner_hears_of_it_within_a_second_and_the_new_one_does_not() {
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::from_second(1_800_000_000).unwrap()));
        let journal = Arc::new(MemoryJournal::new(clock, 10));
        let take = async |mode| match journal.claim(&JobId::new("a").unwrap(), "w", LOOK_EVERY, mode).await {
            Ok(Claim::Granted { token, .. }) => token,
            other => panic!("{other:?}"),
        };
        let revocations = Arc::new(Revocations::default());
        let watched = (revocations.clone(), journal.clone());
        let _watch = AbortOnDropHandle::new(tokio::spawn(async move { watched.0.watch(&*watched.1).await }));

        let former = revocations.revoked(JobId::new("a").unwrap(), take(ClaimMode::IfFree).await);
        let other = revocations.revoked(JobId::new("b").unwrap(), FencingToken(0));
        let present = revocations.revoked(JobId::new("a").unwrap(), take(ClaimMode::Steal).await);
        tokio::time::timeout(Duration::from_secs(1), former).await.unwrap();
        let others = async {
            tokio::select! { () = present => {}, () = other => {} }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), others).await.is_err());
    }
}
