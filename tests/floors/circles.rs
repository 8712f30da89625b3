//! Who uses whom, and where that comes back to its beginning.

use std::collections::{BTreeMap, BTreeSet};

use crate::map::{top, within};

/// Where a use stands, and the method that it is if it is no path.
#[derive(Clone)]
pub(crate) struct Use {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) by: Option<String>,
}

/// Who uses whom; of several uses in one file the first.
#[derive(Default)]
pub(crate) struct Graph(BTreeMap<String, BTreeMap<String, Vec<Use>>>);

impl Graph {
    pub(crate) fn add(&mut self, from: &str, to: &str, at: Use) {
        let uses = self.0.entry(from.to_owned()).or_default().entry(to.to_owned()).or_default();
        if uses.iter().all(|other| other.path != at.path) {
            uses.push(at);
        }
    }

    /// The graph of top-level modules; of all uses between two of them the first.
    pub(crate) fn by_top(&self) -> Self {
        let mut tops = Self::default();
        for (from, to, at) in self.all().filter(|(from, to, _)| top(to) != top(from)) {
            let known = tops.0.get(top(from)).is_some_and(|uses| uses.contains_key(top(to)));
            if !known {
                tops.add(top(from), top(to), at.clone());
            }
        }
        tops
    }

    fn all(&self) -> impl Iterator<Item = (&str, &str, &Use)> {
        self.0.keys().flat_map(|from| self.uses(from).map(move |(to, at)| (from.as_str(), to, at)))
    }

    pub(crate) fn uses(&self, from: &str) -> impl Iterator<Item = (&str, &Use)> {
        let uses = self.0.get(from).into_iter().flatten();
        uses.flat_map(|(to, uses)| uses.iter().map(|at| (to.as_str(), at)))
    }

    /// One line for each use that closes a circle. A folder's own file and the files in it are one thing told in parts:
    /// uses between them are no circle.
    pub(crate) fn circles(&self) -> Vec<String> {
        let closes = |(from, to, _): &(&str, &str, &Use)| {
            !related(from, to) && self.reached_from(to, |one, other| !related(one, other)).contains(from)
        };
        let say = |(from, to, Use { path, line, by }): (&str, &str, &Use)| {
            let by = by.as_ref().map_or_else(String::new, |by| format!(" (by `{by}`)"));
            format!("src/{path}:{line}: `{from}` uses `{to}`{by}, which comes back to it: a cycle")
        };
        self.all().filter(closes).map(say).collect()
    }

    /// All that `from` reaches by uses that `counts` lets pass, itself too.
    pub(crate) fn reached_from<'a>(&'a self, from: &'a str, counts: impl Fn(&str, &str) -> bool) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::from([from]);
        let mut open = vec![from];
        while let Some(module) = open.pop() {
            let next = self.uses(module).map(|(next, _)| next).filter(|next| counts(module, next));
            open.extend(next.filter(|next| reached.insert(next)));
        }
        reached
    }
}

fn related(one: &str, other: &str) -> bool {
    within(one, other) || within(other, one)
}
