//! Runs that wait for their users, noted so that a webhook finds them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::agent::run::Run;
use crate::job::{ConnectionName, Identifier, Job, JobId};
use crate::parking::{Parked, Parking, ParkingError};
use crate::queue::{Message, Properties};

/// The parked runs of all users.
pub(crate) struct ParkedIndex(Arc<dyn Parking>);

impl ParkedIndex {
    /// The index that `parking` keeps.
    pub(crate) fn new(parking: Arc<dyn Parking>) -> Self {
        Self(parking)
    }

    /// Notes the run of `job` where webhooks look for it, for as long as `keep`. Without that it wakes by the clock.
    pub(crate) async fn park(&self, job: &Job, message: &Message, connections: Vec<ConnectionName>, keep: Duration) {
        let parked = Parked { job: job.id(), connections, message: write(message) };
        if let Err(error) = self.0.park(&job.identifier, &parked, keep).await {
            warn!(%error, "no webhook will find the run; it wakes by the poll");
        }
    }

    /// The run does not wait any more, if it ever did.
    pub(crate) async fn unpark(&self, run: &Run) {
        let job = run.job();
        if run.may_be_parked()
            && let Err(error) = self.0.unpark(&job.identifier, &job.id()).await
        {
            warn!(%error, "a webhook may wake the run once more, for nothing");
        }
    }

    /// The runs that wait for `identifier`, each with the message that wakes it; `None` where another version wrote it.
    pub(crate) async fn waiting(
        &self,
        identifier: &Identifier,
    ) -> Result<Vec<(Parked, Option<Message>)>, ParkingError> {
        let parked = self.0.waiting(identifier).await?;
        let with_message = |parked: Parked| {
            let message = read(&parked.message);
            (parked, message)
        };
        Ok(parked.into_iter().map(with_message).collect())
    }

    /// Forgets a run that has ended.
    pub(crate) async fn forget(&self, identifier: &Identifier, job: &JobId) -> Result<(), ParkingError> {
        self.0.unpark(identifier, job).await
    }
}

/// What of a message is needed to wake a run by it.
#[derive(Serialize, Deserialize)]
struct StoredMessage {
    body: String,
    message_id: Option<String>,
    correlation_id: Option<String>,
    reply_to: Option<String>,
    content_type: Option<String>,
    timestamp: Option<Timestamp>,
    traceparent: Option<String>,
}

fn write(message: &Message) -> String {
    let properties = message.properties.clone();
    let stored = StoredMessage {
        // It was read as JSON, so it is text.
        body: String::from_utf8_lossy(&message.body).into_owned(),
        traceparent: properties.trace_headers().into_values().next(),
        message_id: properties.message_id,
        correlation_id: properties.correlation_id,
        reply_to: properties.reply_to,
        content_type: properties.content_type,
        timestamp: properties.timestamp,
    };
    serde_json::to_string(&stored).expect("a message is text")
}

fn read(text: &str) -> Option<Message> {
    let stored: StoredMessage = serde_json::from_str(text).ok()?;
    let properties = Properties {
        message_id: stored.message_id,
        correlation_id: stored.correlation_id,
        reply_to: stored.reply_to,
        content_type: stored.content_type,
        timestamp: stored.timestamp,
        headers: stored.traceparent.map(Properties::trace_header).into_iter().collect(),
        ..Properties::default()
    };
    Some(Message { body: Bytes::from(stored.body), properties })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_as_it_was_but_for_the_brokers_headers() {
        let mut message = Message { body: "{\"prompt\":\"é\\n\"}".into(), ..Message::default() };
        message.properties.message_id = Some("a:b".into());
        message.properties.reply_to = Some("replies".into());
        message.properties.correlation_id = Some("42".into());
        message.properties.timestamp = Some(Timestamp::UNIX_EPOCH);
        message.properties.headers.insert("traceparent".into(), "00-1-2-01".into());
        let written = write(&message);
        assert_eq!(read(&written).as_ref(), Some(&message));
        message.properties.headers.insert("x-delivery-count".into(), "7".into());
        assert_eq!(write(&message), written);
        assert_eq!(read("{}"), None);
    }
}
