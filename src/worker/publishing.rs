//! Publishing what an ack waits for. Patiently: a message that goes back to the queue instead is counted there, and after
//! an outage of minutes the broker would take it for one that kills its workers.

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Worker;
use super::charge::Charge;
use crate::job::Job;
use crate::queue::{Destination, Message, Properties, Published, QueueError};
use crate::reply::{Account, CONTENT_TYPE, ErrorDetail, Failed, Reply, ReplyEvent};
use crate::retry::{Policy, Verdict, Waits};

/// Waits for a broker that does not take a message.
const PATIENT: Policy =
    Policy { attempts: u32::MAX, initial_milliseconds: 500, max_milliseconds: 5000, max_retry_after_milliseconds: 0 };

impl Worker {
    /// Publishes, as often as it takes until the broker confirms, the worker stops, or the delivery of `charge` has been
    /// held for half as long again as it should be; that is well below the broker's consumer timeout.
    pub(super) async fn publish(
        &self,
        charge: &Charge,
        destination: &Destination,
        message: Message,
    ) -> Result<Published, QueueError> {
        let last = charge.due() + self.rules.hold_at_most / 2;
        let mut waits = Waits::new(PATIENT);
        loop {
            let error = match self.publisher.publish(destination, message.clone()).await {
                Ok(published) => return Ok(published),
                Err(error) => error,
            };
            let verdict = match &error {
                QueueError::TooLarge { .. } => Verdict::Stop,
                _ if Instant::now() >= last => Verdict::Stop,
                _ => Verdict::Again,
            };
            let Some(wait) = waits.next(verdict) else { return Err(error) };
            // Said once a message: a hundred runs that wait for an hour must not fill the log.
            if waits.made() == 2 {
                warn!(%error, "a message waits for the broker");
            } else {
                debug!(%error, "a message waits on for the broker");
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => return Err(error),
            }
        }
    }

    /// Sends a reply to the caller; false where the broker did not confirm it.
    pub(super) async fn send_reply(&self, reply: &Reply, charge: &Charge, job: &Job) -> bool {
        let message = reply_message(reply, &charge.message, job);
        self.publish_reply(reply, charge, message, job.reply_to.clone()).await
    }

    pub(super) async fn publish_reply(
        &self,
        reply: &Reply,
        charge: &Charge,
        message: Message,
        to: Option<String>,
    ) -> bool {
        match self.publish(charge, &Destination::Reply(to), message).await {
            Ok(published) => {
                let fell_back = published == Published::FellBack;
                self.metrics.replied(reply.event.kind(), fell_back);
                if fell_back {
                    warn!(
                        job.id = reply.subject,
                        "the reply queue does not exist; the reply is in the common reply queue"
                    );
                }
                true
            }
            Err(error) => {
                warn!(job.id = reply.subject, %error, "the reply was not confirmed and will be sent again");
                false
            }
        }
    }

    /// Tells the caller of a message that its run, if there is one, does not answer it; `mark` tells the event from the
    /// run's own. False where the broker did not confirm it.
    pub(super) async fn refuse(&self, charge: &Charge, job: &Job, mark: &str, error: ErrorDetail) -> bool {
        let code = error.code.as_str();
        let account = Account { stop_reason: code.to_owned(), metadata: job.metadata.clone(), ..Account::default() };
        let event = ReplyEvent::Failed(Box::new(Failed { error, text: None, account }));
        let reply = Reply::interim(&job.id(), mark, self.clock.now(), event);
        let sent = self.send_reply(&reply, charge, job).await;
        if sent {
            self.metrics.job_ended(code, 0);
        }
        sent
    }
}

/// `reply` as a message to the caller of `job`, whose job came in `origin`.
pub(super) fn reply_message(reply: &Reply, origin: &Message, job: &Job) -> Message {
    message_of(reply, job.correlation_id.clone(), origin.properties.headers.get("traceparent"))
}

/// `reply` as a message.
pub(super) fn message_of(reply: &Reply, correlation_id: Option<String>, traceparent: Option<&String>) -> Message {
    let body = serde_json::to_vec(reply).expect("a reply is JSON types only");
    Message {
        body: Bytes::from(body),
        properties: Properties {
            message_id: Some(reply.id.clone()),
            correlation_id,
            content_type: Some(CONTENT_TYPE.to_owned()),
            kind: Some(reply.event.kind().to_owned()),
            timestamp: Some(reply.time),
            headers: traceparent.map(|value| ("traceparent".to_owned(), value.clone())).into_iter().collect(),
            ..Properties::default()
        },
    }
}
