//! What an identifier owns: mails, drafts, events, channels, notes and repository records, and what tools did to them.

mod calendar;
mod gmail;
mod notes;
mod records;
mod slack;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, ToSpan as _};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::data::embedded;

/// Parameters of a tool.
pub(super) type Parameters = Map<String, Value>;

/// Everything that belongs to one identifier.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct World {
    address: String,
    mails: Vec<gmail::Mail>,
    drafts: Vec<gmail::Draft>,
    /// Labels that the user made.
    labels: Vec<String>,
    events: Vec<calendar::Event>,
    channels: Vec<slack::Channel>,
    users: Vec<Value>,
    notes: Vec<notes::Note>,
    /// Repository records by kind.
    records: BTreeMap<String, Vec<Value>>,
    /// Every call that changed something, in order.
    pub(super) effects: Vec<Effect>,
    counter: u64,
}

/// One change that a tool made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Effect {
    pub(super) tool: String,
    pub(super) params: Parameters,
    pub(super) execution_id: String,
    pub(super) at: Timestamp,
}

/// A refusal by the service behind a tool.
#[derive(Debug, Clone)]
pub(super) struct ProviderError {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl ProviderError {
    pub(super) fn bad_parameters(message: String) -> Self {
        Self { status: 400, code: "TOOL_EXEC_FAILED", message }
    }

    fn not_found() -> Self {
        Self { status: 404, code: "NOT_FOUND", message: "the requested entity was not found".to_owned() }
    }

    fn not_built(tool: &str) -> Self {
        Self { status: 500, code: "TOOL_EXEC_FAILED", message: format!("the sandbox has no {tool}") }
    }
}

type Outcome = Result<Value, ProviderError>;

/// Runs a tool. Lists at the top level come back as arrays.
pub(super) fn run(world: &mut World, tool: &str, params: &Parameters, now: Timestamp) -> Outcome {
    let (provider, action) = tool.split_once('_').unwrap_or((tool, ""));
    match provider {
        "gmail" => gmail::run(world, action, params, now),
        "googlecalendar" => calendar::run(world, action, params, now),
        "slack" => Ok(slack::run(world, action, params, now)),
        "notesmcp" => Ok(notes::run(world, action, params)),
        "github" => records::run(world, action, params),
        _ => Err(ProviderError::not_built(tool)),
    }
}

/// The data file's form: times relative to now.
#[derive(Deserialize)]
struct Seed {
    mails: Vec<gmail::SeedMail>,
    events: Vec<calendar::SeedEvent>,
    channels: Vec<slack::SeedChannel>,
    users: Vec<Value>,
    notes: Vec<notes::Note>,
    records: BTreeMap<String, Vec<Value>>,
}

impl World {
    /// A fresh world whose dates lie around `now`.
    pub(super) fn new(now: Timestamp) -> Self {
        let seed: Seed = embedded(include_str!("../data/seed.json"));
        let mails = seed.mails.into_iter().enumerate().map(|(index, mail)| mail.into_mail(index, now)).collect();
        let events = seed.events.into_iter().enumerate().map(|(index, event)| event.into_event(index, now)).collect();
        Self {
            address: "you@northwind.example".to_owned(),
            mails,
            drafts: Vec::new(),
            labels: Vec::new(),
            events,
            channels: seed.channels.into_iter().map(|channel| channel.into_channel(now)).collect(),
            users: seed.users,
            notes: seed.notes,
            records: seed.records,
            effects: Vec::new(),
            counter: 0,
        }
    }

    /// A number for a new thing; using it counts as a change.
    fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }
}

fn minutes_before(now: Timestamp, minutes: i64) -> Timestamp {
    now.checked_sub(SignedDuration::from_mins(minutes)).unwrap_or(now)
}

/// Midnight in UTC of the day of `now`, plus whole days.
fn midnight(now: Timestamp, days: i64) -> Timestamp {
    let day = now.to_zoned(jiff::tz::TimeZone::UTC).start_of_day();
    day.and_then(|day| day.checked_add(days.days())).map_or(now, |day| day.timestamp())
}

/// A text parameter, empty where it is absent.
fn text<'a>(params: &'a Parameters, name: &str) -> &'a str {
    params.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A count parameter. Numbers pass through floating point on their way, so `5.0` is 5.
fn count(params: &Parameters, name: &str, default: usize) -> usize {
    let number = params.get(name).and_then(Value::as_f64).filter(|number| (0.0..=10_000.0).contains(number));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to lie between 0 and 10,000")]
    number.map_or(default, |number| number as usize)
}

fn texts(params: &Parameters, name: &str) -> Vec<String> {
    let values = params.get(name).and_then(Value::as_array).into_iter().flatten();
    values.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn contains(text: &str, words: &str) -> bool {
    text.to_lowercase().contains(&words.to_lowercase())
}
