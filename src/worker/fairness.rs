//! The section `fairness` of the configuration.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The largest weight: shares are compared by products of weights and counts.
const LARGEST_WEIGHT: u32 = 10_000;

/// Each job that waits in the process is looked at when a place is free.
const LARGEST_WINDOW: usize = 256;

/// How places are shared while more jobs wait than there are places; see `config/default.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FairnessConfig {
    /// Who shares.
    pub key: SharedBy,
    /// Runs of one key at the same time; 0 for no cap.
    pub per_key: usize,
    /// Keys that get more than one share.
    pub weights: BTreeMap<String, u32>,
}

/// Between whom places are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SharedBy {
    /// Each user.
    Identifier,
    /// Each customer, however many users it has; a job that names none counts for its user.
    Tenant,
    /// Nobody: jobs start in order of arrival, whatever their priority.
    None,
}

impl FairnessConfig {
    /// What is wrong with it, each as `key: problem`.
    pub(crate) fn problems(&self) -> Vec<String> {
        let wrong = self.weights.iter().filter(|(_, weight)| !(1..=LARGEST_WEIGHT).contains(*weight));
        let mut problems: Vec<String> =
            wrong.map(|(key, _)| format!("weights.{key}: must be 1 to {LARGEST_WEIGHT}")).collect();
        if self.key == SharedBy::None && (self.per_key > 0 || !self.weights.is_empty()) {
            problems.push("key: with `none` there is nobody whom per_key and weights are for".to_owned());
        }
        problems
    }

    /// So many jobs wait for `concurrency` places in the process, to be chosen from: half as many, and some where that is few.
    pub(crate) fn window(&self, concurrency: usize) -> usize {
        if self.key == SharedBy::None { 0 } else { (concurrency / 2).clamp(8, LARGEST_WINDOW) }
    }

    /// How many shares `key` gets.
    pub(crate) fn weight(&self, key: &str) -> u32 {
        self.weights.get(key).copied().unwrap_or(1).clamp(1, LARGEST_WEIGHT)
    }
}
