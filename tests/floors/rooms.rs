//! The rooms of the worker: each folder in `src/worker` is one. What is in a room may know each other; rooms stand in an
//! order. `worker/mod.rs` is above all rooms. A file beside it is plain data that rooms may use.

use std::collections::BTreeSet;

use crate::circles::{Graph, Use};
use crate::map::{ROOMED, SETTLERS, SETTLES, within};
use crate::uses::File;

pub(crate) struct Rooms(BTreeSet<String>);

impl Rooms {
    pub(crate) fn new(files: &[File]) -> Self {
        let room = |file: &File| {
            let (room, _) = file.path.strip_prefix(ROOMED)?.strip_prefix('/')?.split_once('/')?;
            Some(format!("{ROOMED}::{room}"))
        };
        Self(files.iter().filter_map(room).collect())
    }

    /// The room that `module` lies in, or else the module.
    pub(crate) fn of<'a>(&'a self, module: &'a str) -> &'a str {
        self.0.iter().find(|room| within(module, room)).map_or(module, String::as_str)
    }

    /// Uses of the worker itself in a room, or in a file that a room uses.
    pub(crate) fn reach_up(&self, graph: &Graph) -> Vec<String> {
        let below = |from: &str, to: &str| from != ROOMED && to != ROOMED && within(to, ROOMED);
        let lower: BTreeSet<&str> = self.0.iter().flat_map(|room| graph.reached_from(room, below)).collect();
        let uses = lower.iter().flat_map(|module| graph.uses(module).map(move |(to, at)| (module, to, at)));
        let up = uses.filter(|(_, to, _)| *to == ROOMED);
        let say = |at: &Use| format!("src/{}:{}", at.path, at.line);
        up.map(|(module, _, at)| format!("{}: `{module}` must not use `{ROOMED}`, which is above it", say(at)))
            .collect()
    }

    /// What is wrong with a call of the method `name` in `module`, if anything is.
    pub(crate) fn settling_breach(&self, module: &str, name: &str) -> Option<String> {
        let [settle, _] = SETTLERS;
        let is_free = !self.0.contains(settle)
            || !within(module, ROOMED)
            || !SETTLES.contains(&name)
            || SETTLERS.iter().any(|settler| within(module, settler));
        (!is_free).then(|| format!("`{name}` settles a delivery, which is for {} only", SETTLERS.join(" and ")))
    }
}
