//! Wakes the runs that wait for an account which has changed, a page after the other.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use tracing::{debug, info, info_span, warn};

use super::change::Change;
use crate::agent::run::{BadJournal, Run};
use crate::job::{ConnectionName, Identifier, Job, JobId};
use crate::journal::{Journal, JournalError};
use crate::parking::{Parked, ParkingError};
use crate::queue::{Destination, Message, Publisher, QueueError};
use crate::scalekit::AccountStatus;
use crate::worker::message::signature::HeaderKey;
use crate::worker::message::wake_up::{Reason, WakeUp};
use crate::worker::resources::accounts::{Accepted, SharedAccounts};
use crate::worker::resources::parked_index::{ParkedIndex, message};
use crate::worker::resources::tool_catalog::ToolCatalog;

/// Wake-ups that are published at the same time.
const AT_ONCE: usize = 16;
/// Where Scalekit takes longer than this, the runs are woken and look themselves.
const ASK_WITHIN: Duration = Duration::from_secs(2);

/// Why a change could not be followed to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsafe {
    #[error("{0}")]
    Parking(#[from] ParkingError),
    #[error("the journal of {0} is unavailable: {1}")]
    Journal(JobId, JournalError),
    #[error("the journal of {0} is a newer worker's")]
    Newer(JobId),
    #[error("the wake-up of {0} was not confirmed: {1}")]
    Queue(JobId, QueueError),
}

pub(crate) struct FanOut {
    /// Who waits for whom.
    pub parked: Arc<ParkedIndex>,
    /// Whether it is worth while to wake them.
    pub accounts: Arc<SharedAccounts>,
    /// How far the runs are.
    pub journal: Arc<dyn Journal>,
    /// Wake-ups.
    pub publisher: Arc<dyn Publisher>,
    /// Tool lists, which may differ now.
    pub tool_catalog: Arc<ToolCatalog>,
    /// Longest job that workers take.
    pub max_job_bytes: usize,
    /// Signs what wake-ups say.
    pub header_key: HeaderKey,
}

impl FanOut {
    /// Wakes all runs that wait for what has changed and may go on now; at the return their wake-ups are safe with the
    /// broker. `progress` grows with each of them.
    pub(super) async fn follow(&self, change: &Change, progress: &AtomicU64) -> Result<(), Unsafe> {
        if let Some(connection) = &change.connection {
            self.tool_catalog.forget(&change.identifier, connection).await;
        }
        // In a span, where its form is as configured.
        info_span!("account", job.identifier = %change.identifier).in_scope(|| info!("an account has changed"));
        let (mut usable, mut seen) = (BTreeMap::new(), HashSet::new());
        let (mut from, mut result) = (None, Ok(()));
        loop {
            let page = self.parked.page(&change.identifier, from.as_ref()).await?;
            let mut ready = Vec::new();
            for parked in page.runs.into_iter().filter(|parked| change.concerns(parked)) {
                if seen.insert(parked.job.clone()) && self.may_go_on(change, &parked, &mut usable).await {
                    ready.push(parked);
                }
            }
            // All are tried, whatever becomes of one.
            let wake_ups = ready.into_iter().map(|parked| self.wake_once(&change.identifier, parked));
            let mut wake_ups = futures_util::stream::iter(wake_ups).buffer_unordered(AT_ONCE);
            while let Some(one) = wake_ups.next().await {
                progress.fetch_add(u64::from(one.is_ok()), Ordering::Relaxed);
                result = result.and(one);
            }
            match page.next {
                Some(next) => from = Some(next),
                None => return result,
            }
        }
    }

    /// Whether all accounts that a run waits for can be used, or whether nobody can tell. Each is asked for once, however
    /// many runs wait for it.
    async fn may_go_on(&self, change: &Change, parked: &Parked, usable: &mut BTreeMap<ConnectionName, bool>) -> bool {
        let mut all = true;
        for connection in &parked.connections {
            let known = match usable.get(connection) {
                Some(known) => *known,
                None => {
                    let found = self.is_usable(change, connection).await;
                    *usable.entry(connection.clone()).or_insert(found)
                }
            };
            all &= known;
        }
        all
    }

    async fn is_usable(&self, change: &Change, connection: &ConnectionName) -> bool {
        if change.connection.is_none() {
            self.tool_catalog.forget(&change.identifier, connection).await;
        }
        let account = self.accounts.account(&change.identifier, connection, Accepted::RecentIfActive);
        match tokio::time::timeout(ASK_WITHIN, account).await {
            // A run ends by a disconnected account.
            Ok(Ok(account)) => matches!(account.status, AccountStatus::Active | AccountStatus::Disconnected),
            Ok(Err(_)) | Err(_) => true,
        }
    }

    async fn wake_once(&self, identifier: &Identifier, parked: Parked) -> Result<(), Unsafe> {
        if !self.parked.begin_wake_up(&parked.job).await {
            debug!(job.id = %parked.job, "the run is being woken already");
            return Ok(());
        }
        let result = self.wake(identifier, &parked).await;
        if !matches!(result, Ok(true)) {
            self.parked.wake_up_taken(&parked.job).await;
        }
        result.map(drop)
    }

    /// Publishes the wake-up, unless there is nothing to wake.
    async fn wake(&self, identifier: &Identifier, parked: &Parked) -> Result<bool, Unsafe> {
        let lines = self.journal.read(&parked.job).await.map_err(|error| Unsafe::Journal(parked.job.clone(), error))?;
        let run = match Run::replay(&lines) {
            Ok(run) => run.filter(|run| run.reply().is_none()),
            Err(BadJournal::Newer { .. }) => return Err(Unsafe::Newer(parked.job.clone())),
            Err(error) => {
                warn!(job.id = %parked.job, %error, "the journal of a parked run is damaged");
                None
            }
        };
        // A run that has ended, or whose journal was dropped after that, must not be woken: it would begin anew.
        let Some(run) = run else {
            self.parked.forget(identifier, &parked.job).await?;
            return Ok(false);
        };
        let Some(message) = self.message(parked, &run) else {
            warn!(job.id = %parked.job, "no message can be made for the run, which waits for the poll");
            return Ok(false);
        };
        // One more than the journal knows, as the run may be about to journal its own next wake-up.
        let generation = run.wake_up_generation().saturating_add(1);
        let wake_up = WakeUp::of_run(&run, generation, Reason::Webhook);
        let mut message = wake_up.stamp(&message);
        self.header_key.sign(&mut message);
        let published = self.publisher.publish(&Destination::Urgent, message).await;
        published.map_err(|error| Unsafe::Queue(parked.job.clone(), error))?;
        info!(job.id = %parked.job, "a parked run is woken");
        Ok(true)
    }

    /// The message for a run, where workers will take it for the same job: written anew, a job may have become too long.
    fn message(&self, parked: &Parked, run: &Run) -> Option<Message> {
        let message = message(parked, run.job())?;
        let job = Job::from_slice(&message.body, &message.envelope(), self.max_job_bytes).ok()?;
        (job.id() == parked.job && job.digest() == run.digest()).then_some(message)
    }
}
