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

use super::parking::read;
use super::toolbox::Toolbox;
use super::wake_up::{WEBHOOK, WakeUp};
use crate::agent::run::Run;
use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::job::{ConnectionName, Identifier};
use crate::journal::Journal;
use crate::key::{Key, digest};
use crate::parking::{Parked, Parking};
use crate::queue::{Destination, Publisher};
use crate::webhook::{Forged, Secrets, Signed};

/// A webhook that comes again within this time is known; Scalekit's longest described repeats end after a day.
const REMEMBERED: Duration = Duration::from_hours(24);
/// Wake-ups that are published at the same time.
const AT_ONCE: usize = 16;

/// Why a webhook is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nobody told us a secret, so none can be believed.
    #[error("no webhook secret is configured (scalekit.webhook_secret, SCALEKIT_WEBHOOK_SECRET)")]
    NotConfigured,
    /// It is not Scalekit's, or too old.
    #[error(transparent)]
    Forged(#[from] Forged),
}

/// Takes webhooks.
pub struct Webhooks {
    /// Who may send them.
    pub secrets: Secrets,
    /// Time.
    pub clock: SharedClock,
    /// Ids of webhooks that were followed.
    pub cache: Arc<dyn Cache>,
    /// Who waits for whom.
    pub parking: Arc<dyn Parking>,
    /// How far the runs are.
    pub journal: Arc<dyn Journal>,
    /// Wake-ups.
    pub publisher: Arc<dyn Publisher>,
    /// Tool lists, which may differ now.
    pub toolbox: Arc<Toolbox>,
    /// Work that goes on after the answer.
    pub tracker: TaskTracker,
    /// Whether it was said that there is no secret.
    pub said: AtomicBool,
}

impl Webhooks {
    /// Takes a webhook: what follows from it is done after the return. What is genuine and means nothing to us is taken
    /// as well, and ignored.
    pub fn receive(self: &Arc<Self>, signed: &Signed<'_>) -> Result<(), Refused> {
        if self.secrets.is_empty() {
            if !self.said.swap(true, Ordering::Relaxed) {
                warn!("a webhook came and is refused, as are all others: {}", Refused::NotConfigured);
            }
            return Err(Refused::NotConfigured);
        }
        self.secrets.verify(signed, self.clock.now())?;
        let Some(change) = Change::read(signed.body) else {
            debug!(webhook.id = signed.id, "a webhook that is not about an account");
            return Ok(());
        };
        let (webhooks, id) = (self.clone(), signed.id.to_owned());
        self.tracker.spawn(async move { webhooks.follow(&id, &change).await });
        Ok(())
    }

    async fn follow(&self, id: &str, change: &Change) {
        let key = Key::new(&["webhook", &digest(id, 16)]);
        match self.cache.put_if_absent(&key, Bytes::from_static(b"1"), REMEMBERED).await {
            Ok(false) => return debug!(webhook.id = id, "the webhook came before"),
            Ok(true) => {}
            // Followed twice it does no harm.
            Err(error) => warn!(%error, "webhooks are not remembered"),
        }
        let waiting = self.parking.waiting(&change.identifier).await.unwrap_or_else(|error| {
            warn!(%error, "parked runs are not found and wake by the poll");
            Vec::new()
        });
        let waiting: Vec<&Parked> = waiting.iter().filter(|parked| change.concerns(parked)).collect();
        let mut lists: Vec<&ConnectionName> = waiting.iter().flat_map(|parked| &parked.connections).collect();
        lists.retain(|connection| change.connection.as_ref().is_none_or(|changed| changed == *connection));
        lists.extend(&change.connection);
        lists.sort_unstable();
        lists.dedup();
        for connection in lists {
            self.toolbox.forget(&change.identifier, connection).await;
        }
        info!(webhook.id = id, job.identifier = %change.identifier, runs = waiting.len(), "an account has changed");
        futures_util::stream::iter(waiting)
            .for_each_concurrent(AT_ONCE, |parked| self.wake(&change.identifier, parked))
            .await;
    }

    async fn wake(&self, identifier: &Identifier, parked: &Parked) {
        let Ok(lines) = self.journal.read(&parked.job).await else { return };
        // A run that has ended, or whose journal was dropped after that, must not be woken: it would begin anew.
        let Some(run) = Run::replay(&lines).ok().flatten().filter(|run| run.reply().is_none()) else {
            if let Err(error) = self.parking.unpark(identifier, &parked.job).await {
                warn!(%error, "a run that has ended is still taken for parked");
            }
            return;
        };
        let Some(message) = read(&parked.message) else { return };
        // One more than the journal knows, as the run may be about to journal its own next wake-up.
        let turn = run.wake_up_turn() + 1;
        let wake_up = WakeUp { turn, effects: run.has_effects(), ..WakeUp::new(WEBHOOK) };
        match self.publisher.publish(&Destination::Jobs, wake_up.stamp(&message)).await {
            Ok(_) => info!(job.id = %parked.job, "a parked run is woken"),
            Err(error) => warn!(job.id = %parked.job, %error, "a parked run could not be woken and waits for the poll"),
        }
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
    /// Reads any `connected_account.…` event (Scalekit's envelope: `type`, `data {identifier, connection_name?, …}`).
    fn read(body: &[u8]) -> Option<Self> {
        let event: Value = serde_json::from_slice(body).ok()?;
        if !event.get("type")?.as_str()?.starts_with("connected_account.") {
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
