//! Runs that wait for their users, noted so that a webhook finds them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use crate::agent::run::Run;
use crate::cache::Cache;
use crate::job::{ConnectionName, Identifier, Job, JobId};
use crate::key::Key;
use crate::parking::{PageCursor, Parked, ParkedPage, Parking, ParkingError, WaitsFor};
use crate::queue::{Message, Properties};

/// A wake-up that nobody takes is forgotten after this time, and the run may be woken again.
const WAKE_UP_KNOWN: Duration = Duration::from_mins(1);
/// A longer trace than this is not kept; W3C's has 55 bytes.
const TRACE_BYTES: usize = 256;

/// The parked runs of all users.
pub(crate) struct ParkedIndex {
    parking: Arc<dyn Parking>,
    cache: Arc<dyn Cache>,
}

impl ParkedIndex {
    /// The index that `parking` keeps; which runs are just being woken is known to `cache`.
    pub(crate) fn new(parking: Arc<dyn Parking>, cache: Arc<dyn Cache>) -> Self {
        Self { parking, cache }
    }

    /// Notes the run of `job` where webhooks look for it, for as long as `keep`. Without that it wakes by the clock.
    pub(crate) async fn park(&self, job: &Job, message: &Message, connections: Vec<ConnectionName>, keep: Duration) {
        let parked = Parked { connections, ..parked(job, message) };
        if let Err(error) = self.parking.park(&job.identifier, &parked, keep).await {
            warn!(%error, "no webhook will find the run; it wakes by the poll");
        }
    }

    /// Notes the run of `job`, which waits for a person, so that whoever wakes it does so by `message`.
    pub(crate) async fn park_for_approval(&self, job: &Job, message: &Message, keep: Duration) {
        let parked = Parked { waits_for: WaitsFor::Approval, ..parked(job, message) };
        if let Err(error) = self.parking.park(&job.identifier, &parked, keep).await {
            warn!(%error, "the run is not counted among those that wait, and is woken without its caller's trace");
        }
    }

    /// The run does not wait any more, if it ever did.
    pub(crate) async fn unpark(&self, run: &Run) {
        let job = run.job();
        let may_be = [(WaitsFor::Authorization, run.may_be_parked()), (WaitsFor::Approval, run.approvals().any())];
        for (waits_for, _) in may_be.into_iter().filter(|(_, may_be)| *may_be) {
            if let Err(error) = self.parking.unpark(&job.identifier, &job.id(), waits_for).await {
                warn!(%error, "the run may be counted, and woken once more by a webhook, for nothing");
            }
        }
    }

    /// Some of the runs that wait for `identifier`.
    pub(crate) async fn page(
        &self,
        identifier: &Identifier,
        from: Option<&PageCursor>,
    ) -> Result<ParkedPage, ParkingError> {
        self.parking.page(identifier, from).await
    }

    /// Forgets a run that has ended.
    pub(crate) async fn forget(&self, identifier: &Identifier, job: &JobId) -> Result<(), ParkingError> {
        self.parking.unpark(identifier, job, WaitsFor::Authorization).await
    }

    /// Whether the run is to be woken: not where a wake-up for a webhook is on its way already.
    pub(crate) async fn begin_wake_up(&self, job: &JobId) -> bool {
        let mark = self.cache.put_if_absent(&mark(job), Bytes::from_static(b"1"), WAKE_UP_KNOWN).await;
        // Woken twice: that does no harm.
        mark.unwrap_or(true)
    }

    /// No wake-up for a webhook is on its way to the run any more.
    pub(crate) async fn wake_up_taken(&self, job: &JobId) {
        if let Err(error) = self.cache.remove(&mark(job)).await {
            debug!(%error, "for a moment no webhook wakes the run");
        }
    }
}

fn parked(job: &Job, message: &Message) -> Parked {
    Parked { job: job.id(), waits_for: WaitsFor::default(), connections: Vec::new(), message: write(message) }
}

fn mark(job: &JobId) -> Key {
    Key::new(&["waking", job.key()])
}

/// The message that wakes `parked`, whose job is `job` by its journal; `None` where another version wrote it.
pub(crate) fn message(parked: &Parked, job: &Job) -> Option<Message> {
    let stored: StoredMessage = serde_json::from_str(&parked.message).ok()?;
    let owner = job.id().producer().map(Properties::producer_header);
    let properties = Properties {
        message_id: stored.message_id,
        correlation_id: stored.correlation_id.clone(),
        reply_to: stored.reply_to.clone(),
        content_type: stored.content_type,
        timestamp: stored.timestamp,
        headers: stored.traceparent.map(Properties::trace_header).into_iter().chain(owner).collect(),
        ..Properties::default()
    };
    let body = stored.body.map_or_else(
        || {
            let (reply_to, correlation_id) = (stored.reply_to, stored.correlation_id);
            Message::of_job(&Job { reply_to, correlation_id, ..job.clone() }, None).body
        },
        Bytes::from,
    );
    Some(Message { body, properties })
}

/// What of a message is needed to wake a run by it, and is not in the run's journal.
#[derive(Serialize, Deserialize)]
struct StoredMessage {
    /// Version 0.1.0 kept the whole job here.
    #[serde(skip_serializing)]
    body: Option<String>,
    message_id: Option<String>,
    correlation_id: Option<String>,
    reply_to: Option<String>,
    content_type: Option<String>,
    timestamp: Option<Timestamp>,
    traceparent: Option<String>,
}

/// Where replies go is this message's to say: the journal knows what the first one of the job said.
#[derive(Default, Deserialize)]
struct Sender {
    reply_to: Option<String>,
    correlation_id: Option<String>,
}

fn write(message: &Message) -> String {
    let sender: Sender = serde_json::from_slice(&message.body).unwrap_or_default();
    let traceparent = message.properties.trace_headers().into_values().next();
    let properties = message.properties.clone();
    let stored = StoredMessage {
        body: None,
        message_id: properties.message_id,
        correlation_id: sender.correlation_id.or(properties.correlation_id),
        reply_to: sender.reply_to.or(properties.reply_to),
        content_type: properties.content_type,
        timestamp: properties.timestamp,
        traceparent: traceparent.filter(|trace| trace.len() <= TRACE_BYTES),
    };
    serde_json::to_string(&stored).expect("a message is text")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::job::Envelope;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// A message whose body says where replies go, and the job that its run has in its journal.
    fn message_and_job() -> (Message, Job) {
        let body = json!({"identifier": "u", "connections": ["gmail"], "prompt": "é\n", "reply_to": "replies"});
        let mut message = Message { body: body.to_string().into(), ..Message::default() };
        message.properties.message_id = Some("a:b".into());
        message.properties.reply_to = Some("overruled by the body".into());
        message.properties.correlation_id = Some("42".into());
        message.properties.timestamp = Some(Timestamp::UNIX_EPOCH);
        message.properties.headers.insert("traceparent".into(), TRACE.into());
        let first = Envelope { reply_to: Some("gone".into()), correlation_id: Some("1".into()), ..message.envelope() };
        let first_body = json!({"identifier": "u", "connections": ["gmail"], "prompt": "é\n"}).to_string();
        (message, Job::from_slice(first_body.as_bytes(), &first, 1000).unwrap())
    }

    fn parked(message: &Message, job: &Job) -> Parked {
        Parked { connections: job.connections.clone(), ..super::parked(job, message) }
    }

    #[test]
    fn the_message_made_from_the_journal_asks_for_the_same_and_answers_the_one_that_was_parked() {
        let (parked_by, job) = message_and_job();
        let again = message(&parked(&parked_by, &job), &job).unwrap();
        let job_of = |message: &Message| Job::from_slice(&message.body, &message.envelope(), 1000).unwrap();
        assert_eq!(job_of(&again), job_of(&parked_by));
        assert_eq!(job_of(&again).digest(), job.digest());
        assert_eq!(
            (again.properties.message_id.as_deref(), again.properties.timestamp),
            (Some("a:b"), parked_by.properties.timestamp)
        );
        assert_eq!(again.properties.trace_headers(), parked_by.properties.trace_headers());
    }

    #[test]
    fn an_entry_stays_small_whatever_the_job_and_its_caller_say() {
        let (mut parked_by, mut job) = message_and_job();
        job.prompt = "x".repeat(1 << 20);
        parked_by.body = serde_json::to_vec(&job).unwrap().into();
        parked_by.properties.headers.insert("traceparent".into(), "0".repeat(1 << 20));
        assert!(serde_json::to_string(&parked(&parked_by, &job)).unwrap().len() < 500);
    }

    #[test]
    fn an_entry_of_version_0_1_0_is_read_with_the_job_in_it() {
        let entry: Parked = serde_json::from_str(include_str!("../../../tests/data/parked/0.1.0.json")).unwrap();
        let (_, job) = message_and_job();
        let message = message(&entry, &job).unwrap();
        let job = Job::from_slice(&message.body, &message.envelope(), 1000).unwrap();
        assert_eq!((job.id().as_str(), job.reply_to.as_deref()), ("order-4711", Some("replies-of-old")));
        assert_eq!(message.properties.headers["traceparent"], TRACE);
    }

    #[test]
    fn a_worker_of_version_0_1_0_finds_the_entry_without_a_message_to_send() {
        let (parked_by, job) = message_and_job();
        let entry: Value = serde_json::to_value(parked(&parked_by, &job)).unwrap();
        // It reads these three, and takes no message without a body.
        assert!(entry["job"].is_string() && entry["connections"].is_array());
        let message: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
        assert!(message.get("body").is_none());
    }
}
