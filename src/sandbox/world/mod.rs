//! What an identifier owns: mails, drafts, events, channels, notes and repository records, and what tools did to them.

mod calendar;
mod counter;
mod dates;
mod gmail;
mod notes;
mod outcome;
mod parameters;
mod records;
mod slack;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(super) use outcome::ProviderError;

use super::data::embedded;
use counter::Counter;
use outcome::Outcome;
use parameters::Parameters;

/// Everything that belongs to one identifier.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct World {
    #[serde(flatten)]
    mailbox: gmail::Mailbox,
    #[serde(flatten)]
    calendar: calendar::Calendar,
    #[serde(flatten)]
    workspace: slack::Workspace,
    #[serde(flatten)]
    notebook: notes::Notebook,
    #[serde(flatten)]
    repository: records::Repository,
    /// Every call that changed something, in order.
    pub(super) effects: Vec<Effect>,
    counter: Counter,
}

/// One change that a tool made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Effect {
    pub(super) tool: String,
    pub(super) params: Parameters,
    pub(super) execution_id: String,
    pub(super) at: Timestamp,
}

impl World {
    /// A fresh world whose dates lie around `now`.
    pub(super) fn new(now: Timestamp) -> Self {
        let seed: Seed = embedded(include_str!("../data/seed.json"));
        Self {
            mailbox: gmail::Mailbox::new(seed.mails, now),
            calendar: calendar::Calendar::new(seed.events, now),
            workspace: slack::Workspace::new(seed.channels, seed.users, now),
            notebook: notes::Notebook::new(seed.notes),
            repository: records::Repository::new(seed.records),
            effects: Vec::new(),
            counter: Counter::default(),
        }
    }
}

/// Runs a tool. Lists at the top level come back as arrays.
pub(super) fn run(world: &mut World, tool: &str, params: &Parameters, now: Timestamp) -> Outcome {
    let (provider, action) = tool.split_once('_').unwrap_or((tool, ""));
    let World { mailbox, calendar, workspace, notebook, repository, counter, .. } = world;
    match provider {
        "gmail" => gmail::run(mailbox, action, params, counter, now),
        "googlecalendar" => calendar::run(calendar, action, params, counter, now),
        "slack" => Ok(slack::run(workspace, action, params, counter, now)),
        "notesmcp" => Ok(notes::run(notebook, action, params, counter)),
        "github" => records::run(repository, action, params, counter),
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
