//! What becomes of Scalekit's webhooks: a changed account wakes the runs that wait for it.
//!
//! An event is a hint and never believed further: the woken run reads the account itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::change::Change;
use super::fan_out::FanOut;
use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::key::{Key, digest};
use crate::webhook::{Forged, Secrets, Signed};

/// A webhook that comes again within this time is known; Scalekit's longest described repeats end after a day.
const REMEMBERED: Duration = Duration::from_hours(24);
/// A webhook is answered after this time at the latest: Scalekit wants an answer within ten seconds (its documents on
/// webhooks), and repeats what it got none for, or a bad one. Where many runs wait, the rest is done afterwards.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Why a webhook is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Nobody told us a secret, so none can be believed.
    #[error("no webhook secret is configured (scalekit.webhook_secret, SCALEKIT_WEBHOOK_SECRET)")]
    NotConfigured,
    /// It is not Scalekit's, or too old.
    #[error(transparent)]
    Forged(#[from] Forged),
    /// What follows from it could not be made safe: it is to be sent again.
    #[error("the webhook could not be followed now; send it again")]
    NotNow,
}

/// What was done about one webhook, or several of the same change.
#[derive(Clone)]
struct Pass {
    /// The webhooks' ids.
    ids: Vec<String>,
    /// Whether it came to a good end, once it has ended.
    ended: watch::Sender<Option<bool>>,
}

/// What is done about one change: one pass at a time.
#[derive(Default)]
struct Lane {
    under_way: Option<Pass>,
    /// For those that came since that began: what they tell of, a run that it woke before may not have seen.
    next: Option<Pass>,
    /// How far all of it has come: a number that grows.
    progress: Arc<AtomicU64>,
}

pub(crate) struct Webhooks {
    /// Who may send them.
    secrets: Secrets,
    clock: SharedClock,
    /// Ids of webhooks that were followed.
    cache: Arc<dyn Cache>,
    fan_out: FanOut,
    /// Work that may go on after the answer.
    tracker: TaskTracker,
    /// Whether it was said that there is no secret.
    said: AtomicBool,
    lanes: Mutex<HashMap<Change, Lane>>,
}

impl Webhooks {
    /// Takes none before it is given one.
    pub(crate) fn new(
        secrets: Secrets,
        clock: SharedClock,
        cache: Arc<dyn Cache>,
        fan_out: FanOut,
        tracker: TaskTracker,
    ) -> Self {
        Self { secrets, clock, cache, fan_out, tracker, said: AtomicBool::new(false), lanes: Mutex::default() }
    }

    /// Takes a webhook: at the return everything that follows from it is safe with the broker, or a task of this process is
    /// busy with it and gets on. What is genuine and means nothing to us is taken as well, and ignored.
    pub(crate) async fn receive(self: &Arc<Self>, signed: &Signed<'_>) -> Result<(), Refused> {
        if self.secrets.is_empty() {
            if !self.said.swap(true, Ordering::Relaxed) {
                warn!("a webhook came and is refused, as are all others: {}", Refused::NotConfigured);
            }
            return Err(Refused::NotConfigured);
        }
        self.secrets.verify(signed, self.clock.now())?;
        let Some(change) = Change::read(signed.body) else {
            debug!(webhook.id = signed.id, "a webhook that means nothing to us");
            return Ok(());
        };
        let (mut ended, progress) = self.join(change, signed.id);
        let before = progress.load(Ordering::Relaxed);
        match tokio::time::timeout(ANSWER_WITHIN, ended.wait_for(Option::is_some)).await {
            Ok(Ok(ended)) if *ended == Some(true) => Ok(()),
            // Many runs take their time. Should this process die now, those that are left wake by the poll.
            Err(_) if progress.load(Ordering::Relaxed) > before => Ok(()),
            late => {
                warn!(
                    webhook.id = signed.id,
                    in_time = late.is_ok(),
                    "a webhook could not be followed; it is to come again"
                );
                Err(Refused::NotNow)
            }
        }
    }

    /// Joins the pass that stands for this webhook: its end, and its lane's progress.
    fn join(self: &Arc<Self>, change: Change, id: &str) -> (watch::Receiver<Option<bool>>, Arc<AtomicU64>) {
        let mut lanes = self.lanes();
        if !lanes.contains_key(&change) {
            let (webhooks, change) = (self.clone(), change.clone());
            // A task of its own: it goes on where the sender's patience is over.
            self.tracker.spawn(async move { webhooks.work_off(&change).await });
        }
        let lane = lanes.entry(change).or_default();
        let pass = match &lane.under_way {
            Some(pass) if pass.ids.iter().any(|known| known == id) => pass,
            _ => {
                let next = lane.next.get_or_insert_with(|| Pass { ids: Vec::new(), ended: watch::Sender::new(None) });
                next.ids.push(id.to_owned());
                next
            }
        };
        (pass.ended.subscribe(), lane.progress.clone())
    }

    /// Makes one pass after the other, until none is wanted.
    async fn work_off(self: Arc<Self>, change: &Change) {
        while let Some((pass, progress)) = self.begin_pass(change) {
            let (webhooks, change, ids) = (self.clone(), change.clone(), pass.ids);
            // A task of its own: should it panic, its lane must not stay closed.
            let followed = self.tracker.spawn(async move { webhooks.follow(&ids, &change, &progress).await }).await;
            pass.ended.send_replace(Some(followed.unwrap_or(false)));
        }
    }

    fn begin_pass(&self, change: &Change) -> Option<(Pass, Arc<AtomicU64>)> {
        let mut lanes = self.lanes();
        let lane = lanes.get_mut(change)?;
        lane.under_way = lane.next.take();
        let pass = lane.under_way.clone().map(|pass| (pass, lane.progress.clone()));
        if pass.is_none() {
            lanes.remove(change);
        }
        pass
    }

    async fn follow(&self, ids: &[String], change: &Change, progress: &AtomicU64) -> bool {
        let mut news = Vec::new();
        for id in ids {
            let key = Key::new(&["webhook", &digest(id, 16)]);
            // Where nobody remembers, it is followed twice: that does no harm.
            match self.cache.get(&key).await {
                Ok(Some(_)) => debug!(webhook.id = id, "the webhook came before"),
                _ => news.push(key),
            }
        }
        if news.is_empty() {
            return true;
        }
        if let Err(error) = self.fan_out.follow(change, progress).await {
            warn!(webhook.ids = ids.join(", "), %error, "not all runs could be woken");
            return false;
        }
        for key in news {
            if let Err(error) = self.cache.put(&key, Bytes::from_static(b"1"), REMEMBERED).await {
                warn!(%error, "webhooks are not remembered");
            }
        }
        true
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<Change, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
