//! Dead letters as the command line sees them.

use std::collections::BTreeSet;

use anyhow::anyhow;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::output::plain;
use super::timeline::Timeline;
use super::which_run::{Whose, ambiguous};
use super::{CommandError, Context};
use crate::app;
use crate::job::{Job, JobId};
use crate::journal::Journal;
use crate::queue::amqp::DeadLetters;
use crate::queue::{Delivery, Message};
use crate::worker::message::dead_letter::{DEAD_AT, DEAD_ATTEMPTS, DEAD_DETAIL, DEAD_REASON, DEAD_STEP};
use crate::worker::message::signature::HeaderKey;

/// A dead letter, taken from the queue for as long as this lives.
pub(super) struct Letter {
    pub(super) id: String,
    /// Its job's, where it names one.
    pub(super) run: Option<JobId>,
    /// When it was given up, else when it was first published.
    pub(super) at: Option<Timestamp>,
    pub(super) reason: String,
    pub(super) attempts: Option<String>,
    pub(super) step: Option<String>,
    pub(super) detail: Option<String>,
    pub(super) size: usize,
    pub(super) delivery: Delivery,
}

impl Letter {
    fn of(context: &Context, delivery: Delivery) -> Self {
        let message = &delivery.message;
        let header = |name: &str| message.properties.headers.get(name).filter(|text| !text.is_empty()).cloned();
        let by_broker = ByBroker::of(message);
        let run = run(context, message);
        Self {
            id: run.as_ref().map_or_else(|| name(message), JobId::to_string),
            run,
            at: header(DEAD_AT).and_then(|at| at.parse().ok()).or(by_broker.at).or(message.properties.timestamp),
            reason: header(DEAD_REASON).or(by_broker.reason).unwrap_or_else(|| "put there by somebody else".to_owned()),
            attempts: header(DEAD_ATTEMPTS),
            step: header(DEAD_STEP),
            detail: header(DEAD_DETAIL),
            size: message.body.len(),
            delivery,
        }
    }

    /// What the journal knows better, for a letter that the broker made.
    pub(super) async fn fill_in(&mut self, context: &Context, journal: &dyn Journal) {
        if self.attempts.is_some() {
            return;
        }
        let Some(id) = &self.run else { return };
        let Ok(Ok(Some(timeline))) = journal.read(id).await.map(|lines| Timeline::read(&lines)) else { return };
        self.attempts = Some(timeline.run().attempts().to_string());
        self.step = Some(timeline.run().doing(context.clock.now()));
    }

    pub(super) fn to_json(&self) -> Value {
        let mut letter = json!({
            "id": self.id, "at": self.at, "reason": self.reason, "attempts": self.attempts, "step": self.step,
            "detail": self.detail, "bytes": self.size,
        });
        if let Some(producer) = self.producer() {
            letter["producer"] = producer.into();
        }
        letter
    }

    /// Whose job it brings.
    pub(super) fn producer(&self) -> Option<&str> {
        self.run.as_ref()?.producer()
    }
}

/// What the broker says of a letter that it made itself, in its header `x-death`
/// (<https://www.rabbitmq.com/docs/dlx#effects>).
#[derive(Default)]
struct ByBroker {
    reason: Option<String>,
    at: Option<Timestamp>,
}

impl ByBroker {
    fn of(message: &Message) -> Self {
        let headers = &message.properties.headers;
        let deaths: Vec<Value> =
            headers.get("x-death").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let text = |name: &str| deaths.first()?.get(name)?.as_str().map(str::to_owned);
        let reason = text("reason").or_else(|| headers.get("x-first-death-reason").cloned());
        Self {
            reason: reason.map(|reason| format!("broker: {reason}")),
            at: text("time").and_then(|at| at.parse().ok()),
        }
    }
}

/// The job's id, where the body is a job or names one.
fn run(context: &Context, message: &Message) -> Option<JobId> {
    parse(context, &believed(context, message.clone())).map_or_else(|id| id, |job| Some(job.id()))
}

/// What else names the message.
fn name(message: &Message) -> String {
    let id = message.properties.message_id.clone().filter(|id| !id.is_empty());
    id.unwrap_or_else(|| crate::key::digest(&message.body, 8))
}

/// The letter's message as workers take it that meet it. One that nobody vouches for, sent before anybody was asked to, is
/// the operator's who replays it.
pub(super) fn believed(context: &Context, message: Message) -> Message {
    let key = HeaderKey::of(&context.config.scalekit.client_secret);
    app::senders(&context.config).believed_of_letter(message, &key)
}

pub(super) fn parse(context: &Context, message: &Message) -> Result<Job, Option<JobId>> {
    Job::from_slice(&message.body, &message.envelope(), context.config.worker.max_job_bytes)
        .map_err(|invalid| invalid.id)
}

/// The letters that are `wanted`, and the others without their bodies. Each is held until the last was taken, as one that
/// goes back may be the next one taken; those not settled go back in their order when they are dropped.
pub(super) async fn take_all(
    context: &Context,
    wanted: impl Fn(&Letter) -> bool,
) -> Result<(Vec<Letter>, Vec<Letter>), CommandError> {
    let named = context.config.amqp.problems().into_iter().map(|problem| format!("amqp.{problem}"));
    Context::demand(named.collect())?;
    let queue = DeadLetters::open(&context.config.amqp).await?;
    let (mut found, mut others) = (Vec::new(), Vec::new());
    while let Some(delivery) = queue.take().await? {
        let mut letter = Letter::of(context, delivery);
        if wanted(&letter) {
            found.push(letter);
        } else {
            letter.delivery.message.body.clear();
            others.push(letter);
        }
    }
    Ok((found, others))
}

/// The letters of these ids, all of one owner each.
pub(super) async fn take_named(
    context: &Context,
    ids: &[String],
    whose: &Whose,
) -> Result<(Vec<Letter>, Vec<Letter>), CommandError> {
    let wanted = |letter: &Letter| ids.contains(&letter.id) && whose.covers(letter.producer());
    let (letters, others) = take_all(context, wanted).await?;
    missing(ids, &letters)?;
    for id in ids {
        let owners: BTreeSet<Option<&str>> =
            letters.iter().filter(|letter| letter.id == *id).map(Letter::producer).collect();
        if owners.len() > 1 {
            return Err(ambiguous(id, owners.into_iter()));
        }
    }
    Ok((letters, others))
}

/// Nothing is done by halves: one id that is not there, and nothing is touched.
fn missing(wanted: &[String], found: &[Letter]) -> Result<(), CommandError> {
    let absent: Vec<String> =
        wanted.iter().filter(|id| !found.iter().any(|letter| letter.id == **id)).map(|id| plain(id)).collect();
    if absent.is_empty() {
        return Ok(());
    }
    Err(anyhow!("no dead letter has the id {}; `agentkit-worker dead list` shows all", absent.join(", ")).into())
}
