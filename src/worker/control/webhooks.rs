//! What becomes of Scalekit's webhooks: a changed account wakes the runs that wait for it.
//!
//! An event is a hint and never believed further: the woken run reads the account itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::agent::run::{BadJournal, Run};
use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::job::{ConnectionName, Identifier, JobId};
use crate::journal::{Journal, JournalError};
use crate::key::{Key, digest};
use crate::parking::{Parked, ParkingError};
use crate::queue::{Destination, Message, Publisher, QueueError};
use crate::webhook::{Forged, Secrets, Signed};
use crate::worker::message::wake_up::{Reason, WakeUp};
use crate::worker::resources::parked_index::ParkedIndex;
use crate::worker::resources::tool_catalog::ToolCatalog;

/// A webhook that comes again within this time is known; Scalekit's longest described repeats end after a day.
const REMEMBERED: Duration = Duration::from_hours(24);
/// Wake-ups that are published at the same time.
const AT_ONCE: usize = 16;
/// A webhook is answered after this time at the latest: Scalekit wants an answer within ten seconds (its documents on
/// webhooks), and repeats what it got none for, or a bad one.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Says that the user's authorization got no better, so nobody need be woken. A run that tries a call again may cause it.
const REFRESH_FAILED: &str = "connected_account.token_refresh_failed";

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

/// Why a webhook could not be followed to its end.
#[derive(Debug, thiserror::Error)]
enum Unsafe {
    #[error("{0}")]
    Parking(#[from] ParkingError),
    #[error("the journal of {0} is unavailable: {1}")]
    Journal(JobId, JournalError),
    #[error("the journal of {0} is a newer worker's")]
    Newer(JobId),
    #[error("the wake-up of {0} was not confirmed: {1}")]
    Queue(JobId, QueueError),
}

pub(crate) struct Webhooks {
    /// Who may send them.
    pub secrets: Secrets,
    pub clock: SharedClock,
    /// Ids of webhooks that were followed.
    pub cache: Arc<dyn Cache>,
    /// Who waits for whom.
    pub parked: Arc<ParkedIndex>,
    /// How far the runs are.
    pub journal: Arc<dyn Journal>,
    /// Wake-ups.
    pub publisher: Arc<dyn Publisher>,
    /// Tool lists, which may differ now.
    pub tool_catalog: Arc<ToolCatalog>,
    /// Work that may go on after the answer.
    pub tracker: TaskTracker,
    /// Whether it was said that there is no secret.
    pub said: AtomicBool,
}

impl Webhooks {
    /// Takes a webhook: at the return everything that follows from it is safe with the broker. What is genuine and means
    /// nothing to us is taken as well, and ignored.
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
        let (webhooks, id) = (self.clone(), signed.id.to_owned());
        // A task of its own: it goes on where its time is over, or the sender gone.
        let following = self.tracker.spawn(async move { webhooks.follow(&id, &change).await });
        match tokio::time::timeout(ANSWER_WITHIN, following).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(error))) => warn!(webhook.id = signed.id, %error, "a webhook could not be followed"),
            Ok(Err(error)) => warn!(webhook.id = signed.id, %error, "a webhook could not be followed"),
            Err(_) => warn!(webhook.id = signed.id, "a webhook could not be followed in time"),
        }
        Err(Refused::NotNow)
    }

    async fn follow(&self, id: &str, change: &Change) -> Result<(), Unsafe> {
        let key = Key::new(&["webhook", &digest(id, 16)]);
        // Where nobody remembers, it is followed twice: that does no harm.
        if let Ok(Some(_)) = self.cache.get(&key).await {
            debug!(webhook.id = id, "the webhook came before");
            return Ok(());
        }
        let mut waiting = self.parked.waiting(&change.identifier).await?;
        waiting.retain(|(parked, _)| change.concerns(parked));
        let mut lists: Vec<&ConnectionName> = waiting.iter().flat_map(|(parked, _)| &parked.connections).collect();
        lists.retain(|connection| change.connection.as_ref().is_none_or(|changed| changed == *connection));
        lists.extend(&change.connection);
        lists.sort_unstable();
        lists.dedup();
        for connection in lists {
            self.tool_catalog.forget(&change.identifier, connection).await;
        }
        info!(webhook.id = id, job.identifier = %change.identifier, runs = waiting.len(), "an account has changed");
        let woken =
            futures_util::stream::iter(waiting).map(|(parked, message)| self.wake(&change.identifier, parked, message));
        // All are tried, whatever becomes of one.
        let woken: Vec<Result<(), Unsafe>> = woken.buffer_unordered(AT_ONCE).collect().await;
        woken.into_iter().collect::<Result<(), Unsafe>>()?;
        if let Err(error) = self.cache.put(&key, Bytes::from_static(b"1"), REMEMBERED).await {
            warn!(%error, "webhooks are not remembered");
        }
        Ok(())
    }

    async fn wake(&self, identifier: &Identifier, parked: Parked, message: Option<Message>) -> Result<(), Unsafe> {
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
        let Some(run) = run else { return Ok(self.parked.forget(identifier, &parked.job).await?) };
        let Some(message) = message else {
            warn!(job.id = %parked.job, "another version parked the run, which waits for the poll");
            return Ok(());
        };
        // One more than the journal knows, as the run may be about to journal its own next wake-up.
        let generation = run.wake_up_generation() + 1;
        let wake_up = WakeUp::of_run(&run, generation, Reason::Webhook);
        let published = self.publisher.publish(&Destination::Urgent, wake_up.stamp(&message)).await;
        published.map_err(|error| Unsafe::Queue(parked.job.clone(), error))?;
        info!(job.id = %parked.job, "a parked run is woken");
        Ok(())
    }
}

/// An account that may have changed.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    identifier: Identifier,
    /// Not every event names it.
    connection: Option<ConnectionName>,
}

impl Change {
    /// Reads a `connected_account.…` event (Scalekit's envelope: `type`, `data {identifier, connection_name?, …}`) that may
    /// be good news.
    fn read(body: &[u8]) -> Option<Self> {
        let event: Value = serde_json::from_slice(body).ok()?;
        let kind = event.get("type")?.as_str()?;
        if !kind.starts_with("connected_account.") || kind == REFRESH_FAILED {
            return None;
        }
        let data = event.get("data")?;
        Some(Self {
            identifier: Identifier::new(data.get("identifier")?.as_str()?)?,
            connection: data.get("connection_name").and_then(Value::as_str).and_then(ConnectionName::new),
        })
    }

    fn concerns(&self, parked: &Parked) -> bool {
        self.connection.as_ref().is_none_or(|connection| parked.connections.contains(connection))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(event: &Value) -> Option<Change> {
        Change::read(event.to_string().as_bytes())
    }

    #[test]
    fn an_account_event_tells_who_and_perhaps_which_connection() {
        let mut event = json!({
            "spec_version": "1", "id": "evt_1", "type": "connected_account.status_updated", "object": "ConnectedAccount",
            "data": {"identifier": "user_123", "connection_name": "gmail", "status": "ACTIVE", "old_status": "PENDING_AUTH"},
        });
        let identifier = Identifier::new("user_123").unwrap();
        let connection = ConnectionName::new("gmail");
        assert_eq!(read(&event), Some(Change { identifier: identifier.clone(), connection }));
        for unnamed in [Value::Null, json!(7), json!(""), json!("gmail/../x")] {
            event["data"]["connection_name"] = unnamed;
            assert_eq!(read(&event), Some(Change { identifier: identifier.clone(), connection: None }));
        }
    }

    #[test]
    fn what_is_no_account_event_means_nothing() {
        let long = "x".repeat(101);
        for event in [
            json!({"type": "directory.user_created", "data": {"identifier": "user_123"}}),
            json!({"type": "connected_account.token_refresh_failed", "data": {"identifier": "user_123"}}),
            json!({"type": "connected_account.updated"}),
            json!({"type": "connected_account.updated", "data": []}),
            json!({"type": "connected_account.updated", "data": {"identifier": ""}}),
            json!({"type": "connected_account.updated", "data": {"identifier": long}}),
            json!({"type": ["connected_account.updated"], "data": {"identifier": "user_123"}}),
            json!({"trigger_type": "gmail.new_mail", "subscription_id": "sub_1", "payload_state": "INLINE"}),
            json!(null),
        ] {
            assert_eq!(read(&event), None, "{event}");
        }
        for body in ["", "{", "\u{0}", "[[[["] {
            assert_eq!(Change::read(body.as_bytes()), None);
        }
        assert_eq!(Change::read(&b"[".repeat(200_000)), None, "nesting without end");
        assert_eq!(Change::read(b"{\"type\": \"\xff\"}"), None);
    }
}
