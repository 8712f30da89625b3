//! Repository records of many kinds, all handled alike: list, get, create, update, delete.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::counter::Counter;
use super::outcome::{Outcome, ProviderError};
use super::parameters::{Parameters, count, text};

/// What a code host keeps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Repository {
    records: BTreeMap<String, Vec<Value>>,
}

impl Repository {
    pub(super) fn new(records: BTreeMap<String, Vec<Value>>) -> Self {
        Self { records }
    }
}

pub(super) fn run(repository: &mut Repository, action: &str, params: &Parameters, counter: &mut Counter) -> Outcome {
    let (noun, verb) = action.rsplit_once('_').unwrap_or((action, ""));
    if verb == "list" {
        return Ok(list(repository, &singular(noun), params));
    }
    if verb == "create" {
        return Ok(create(repository, noun, params, counter));
    }
    let id = text(params, "id");
    let records = repository.records.entry(noun.to_owned()).or_default();
    let index = records.iter().position(|record| record["id"] == id);
    let Some(index) = index else {
        // A look or a miss must not leave an empty shelf behind: it would count as a change.
        repository.records.retain(|_, records| !records.is_empty());
        return Err(ProviderError::not_found());
    };
    match verb {
        "get" => Ok(records[index].clone()),
        "update" => {
            for name in ["title", "body", "state"] {
                if let Some(value) = params.get(name) {
                    records[index][name] = value.clone();
                }
            }
            Ok(records[index].clone())
        }
        "delete" => {
            records.remove(index);
            Ok(json!({}))
        }
        _ => Err(ProviderError::not_built(action)),
    }
}

fn list(repository: &Repository, noun: &str, params: &Parameters) -> Value {
    let state = text(params, "state");
    let records = repository.records.get(noun).into_iter().flatten();
    let fitting = records.filter(|record| state.is_empty() || state == "all" || record["state"] == state);
    Value::Array(fitting.take(count(params, "per_page", 30)).cloned().collect())
}

fn create(repository: &mut Repository, noun: &str, params: &Parameters, counter: &mut Counter) -> Value {
    let id = (1_000 + counter.next()).to_string();
    let record = json!({"id": id, "title": text(params, "title"), "body": text(params, "body"), "state": "open"});
    repository.records.entry(noun.to_owned()).or_default().push(record.clone());
    record
}

/// `branches` to `branch`, `issues` to `issue`, `gist_comments` to `gist_comment`.
fn singular(many: &str) -> String {
    match many.strip_suffix("ches") {
        Some(stem) => format!("{stem}ch"),
        None => many.strip_suffix('s').unwrap_or(many).to_owned(),
    }
}
