//! What the worker takes, what the floor takes, what a loop in Node takes, beside one another.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Map, Value, json};

use crate::Measured;
use crate::scene::Who;

/// Rows of a table under a title, shown as they come.
pub(crate) struct Comparison<'a> {
    title: String,
    measured: &'a mut Measured,
}

/// A figure of each who has one.
pub(crate) type Row = BTreeMap<Who, f64>;

impl<'a> Comparison<'a> {
    pub(crate) fn new(measured: &'a mut Measured, title: String) -> Self {
        let _ = writeln!(
            std::io::stdout(),
            "\n{title:<62} {:>9} {:>9} {:>9} {:>8} {:>8}",
            "worker",
            "floor",
            "Node",
            "w/floor",
            "w/Node"
        );
        Self { title, measured }
    }

    /// Notes and shows a figure of each. Ratios are given where they say something.
    pub(crate) fn row(&mut self, what: &str, unit: &str, row: &Row, with_ratios: bool) {
        let shown = |value: f64| (value * 1000.0).round() / 1000.0;
        let worker = row.get(&Who::Worker).copied();
        let ratio = |other: Who| Some(worker? / row.get(&other).copied().filter(|value| with_ratios && *value > 0.0)?);
        let cell = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
        let _ = writeln!(
            std::io::stdout(),
            "{:<62} {:>9} {:>9} {:>9} {:>8} {:>8}",
            format!("  {what}, {unit}"),
            cell(worker),
            cell(row.get(&Who::Floor).copied()),
            cell(row.get(&Who::Node).copied()),
            cell(ratio(Who::Floor)),
            cell(ratio(Who::Node)),
        );
        let mut noted = Map::new();
        for (who, value) in row {
            noted.insert(format!("{who:?}").to_lowercase(), shown(*value).into());
        }
        for (name, other) in [("worker/floor", Who::Floor), ("worker/node", Who::Node)] {
            noted.extend(ratio(other).map(|ratio| (name.to_owned(), Value::from(shown(ratio)))));
        }
        self.measured.0.insert(format!("{}: {what} ({unit})", self.title), json!(noted));
    }

    /// Notes what is no figure.
    pub(crate) fn list(&mut self, what: &str, list: Vec<String>) {
        self.measured.0.insert(format!("{}: {what}", self.title), list.into());
    }
}
