//! Runs that wait for their user: noted so that a webhook finds them, and looked at without being taken.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::Worker;
use super::charge::Charge;
use super::executor::{Attempt, Executor, Rules};
use super::interruption::operator_error;
use super::wake_up::{WEBHOOK, WakeUp};
use crate::agent::run::{BadJournal, Run, Step};
use crate::clock::milliseconds_between;
use crate::job::{ConnectionName, Job};
use crate::parking::Parked;
use crate::queue::{Message, Properties};
use crate::scalekit::AccountStatus;

/// A webhook's wake-up that meets a run in the middle of being parked looks again after this time.
pub(super) const WEBHOOK_BUSY: Duration = Duration::from_secs(1);
/// A webhook's wake-up that finds Scalekit or the journal out of reach looks again after this time.
const WEBHOOK_WAIT: Duration = Duration::from_secs(5);

/// A run whose call was refused although its account is ACTIVE is woken by webhooks to try again, but not more often.
const LEAST_BETWEEN_TRIES: Duration = Duration::from_secs(10);

/// What a look at a parked run found.
enum Look {
    /// It is to be taken: its accounts are ready, its time is over, or its user needs a new link.
    Take,
    /// It does not wait for its user, or cannot be read.
    NotParked,
    /// Its user is still waited for; the next look is after this time.
    Waits(Duration),
    /// Nobody can tell yet; the next look is after this time.
    Unknown(Duration),
}

impl Worker {
    /// Looks whether a parked run can go on, without taking it and without a word in its journal: a day of polling costs
    /// reads only. Gives the charge back where the run is to be taken; else it is settled.
    pub(super) async fn look(&self, job: &Job, mut charge: Charge, wake_up: &WakeUp) -> Option<Charge> {
        let by_webhook = wake_up.reason == WEBHOOK;
        match self.look_at(job, wake_up, by_webhook).await {
            // A webhook's copy is never the only message of a run: it may vanish.
            Look::NotParked | Look::Waits(_) if by_webhook => charge.ack().await,
            // Whatever else the run is about is the business of who takes it.
            Look::Take | Look::NotParked => return Some(charge),
            Look::Waits(wait) | Look::Unknown(wait) => self.later(charge, wait, |wake_up| wake_up).await,
        }
        None
    }

    async fn look_at(&self, job: &Job, wake_up: &WakeUp, by_webhook: bool) -> Look {
        let now = self.clock.now();
        let run = match self.journal.read(&job.id()).await.map(|lines| Run::replay(&lines)) {
            Ok(Ok(Some(run))) => run,
            // Whoever takes the run waits for the journal; a webhook's copy would be gone.
            Err(_) | Ok(Err(BadJournal::Newer { .. })) if by_webhook => return Look::Unknown(WEBHOOK_WAIT),
            _ => return Look::NotParked,
        };
        let stale = wake_up.turn < run.wake_up_turn() || run.digest() != job.digest();
        if stale || run.next(now) != Step::CheckAccounts {
            return Look::NotParked;
        }
        if by_webhook && run.is_under_way() {
            return Look::Unknown(WEBHOOK_BUSY);
        }
        let Some(awaited) = run.awaited_authorization() else { return Look::NotParked };
        if now >= awaited.until {
            return Look::Take;
        }
        let next = next_look(self.executor.rules, &run, now, awaited.until);
        let mut ready = true;
        for connection in &awaited.connections {
            match self.executor.scalekit.account(&job.identifier, connection).await {
                Ok(account) if account.status == AccountStatus::Active => {}
                Ok(account)
                    if account.status == AccountStatus::Disconnected && !self.executor.rules.relink_disconnected =>
                {
                    return Look::Take;
                }
                Ok(_) => ready = false,
                Err(error) if operator_error(connection, &error).is_some() => return Look::Take,
                Err(error) => {
                    warn!(job.id = %job.id(), %connection, %error, "the account could not be looked at");
                    let asked = error.come_back_after().unwrap_or_default();
                    return Look::Unknown(asked.max(if by_webhook { WEBHOOK_WAIT } else { next }));
                }
            }
        }
        // What a try brings about at Scalekit may cause the next webhook: they must not chase each other.
        let rest = awaited.tried_at.map_or(Duration::ZERO, |at| LEAST_BETWEEN_TRIES.saturating_sub(since(at, now)));
        if ready && by_webhook && !rest.is_zero() {
            return Look::Unknown(rest);
        }
        if ready || awaited.wants_new_links(now) {
            return Look::Take;
        }
        debug!(job.id = %job.id(), reason = wake_up.reason, "the user is still waited for");
        Look::Waits(next)
    }
}

impl Attempt<'_> {
    /// Notes the run where webhooks look for it. Without that it wakes by the clock.
    pub(super) async fn park(&self, connections: Vec<ConnectionName>, until: Timestamp) {
        let job = self.run().job();
        let parked = Parked { job: job.id(), connections, message: write(self.message) };
        let keep = Duration::from_millis(milliseconds_between(self.hold.clock().now(), until));
        if let Err(error) = self.executor.parking.park(&job.identifier, &parked, keep).await {
            warn!(job.id = %job.id(), %error, "no webhook will find the run; it wakes by the poll");
        }
    }
}

impl Executor {
    /// The run does not wait any more, if it ever did.
    pub(super) async fn unpark(&self, run: &Run) {
        let job = run.job();
        if run.may_be_parked()
            && let Err(error) = self.parking.unpark(&job.identifier, &job.id()).await
        {
            warn!(job.id = %job.id(), %error, "a webhook may wake the run once more, for nothing");
        }
    }
}

/// The longer the user has been waited for, the rarer the looks: a tenth of the time waited, within bounds.
pub(super) fn next_look(rules: Rules, run: &Run, now: Timestamp, until: Timestamp) -> Duration {
    let (first, longest) = rules.poll;
    let allowed = run.settings().authorization_seconds.saturating_mul(1000);
    let left = milliseconds_between(now, until);
    let waited = Duration::from_millis(allowed.saturating_sub(left));
    (waited / 10).clamp(first, longest.max(first)).min(Duration::from_millis(left.max(1000)))
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(milliseconds_between(then, now))
}

/// What of a message is needed to wake a run by it.
#[derive(Serialize, Deserialize)]
struct Letter {
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
    let letter = Letter {
        // It was read as JSON, so it is text.
        body: String::from_utf8_lossy(&message.body).into_owned(),
        message_id: properties.message_id,
        correlation_id: properties.correlation_id,
        reply_to: properties.reply_to,
        content_type: properties.content_type,
        timestamp: properties.timestamp,
        traceparent: properties.headers.get("traceparent").cloned(),
    };
    serde_json::to_string(&letter).expect("a letter is text")
}

/// The message that was written, or `None` where another version wrote it.
pub(super) fn read(text: &str) -> Option<Message> {
    let letter: Letter = serde_json::from_str(text).ok()?;
    let properties = Properties {
        message_id: letter.message_id,
        correlation_id: letter.correlation_id,
        reply_to: letter.reply_to,
        content_type: letter.content_type,
        timestamp: letter.timestamp,
        headers: letter.traceparent.map(|value| ("traceparent".to_owned(), value)).into_iter().collect(),
        ..Properties::default()
    };
    Some(Message { body: Bytes::from(letter.body), properties })
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
