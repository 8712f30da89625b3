//! What one scheduler remembers of a digest while it lives, so that a store that lost everything can be told. Pure.
//!
//! Journals are lost with the store, so an occurrence that is fired again would be worked on again; and groups that the
//! store meets for the first time get nothing of what was due before. What is remembered mends both, as far as somebody who
//! looked before the loss is still there.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::digest_store::{Firing, Marks, Reminder, Standing};

/// An occurrence of a group, and into how many parts its recipients are divided.
type Division = (String, Timestamp, u32);

/// What was heard last, and what has been finished since.
#[derive(Debug, Default, Clone)]
pub(super) struct Recollection {
    born: Option<Timestamp>,
    paused: bool,
    groups: BTreeMap<String, Timestamp>,
    begun: Marks,
    done: Marks,
    /// Of occurrences under way: the parts known to be done, by whomever.
    parts: BTreeMap<Division, BTreeSet<u32>>,
}

impl Recollection {
    /// Whether a store born at `born` is not the one that was listened to.
    pub(super) fn contradicts(&self, born: Option<Timestamp>) -> bool {
        self.born.is_some() && self.born != born
    }

    /// Listens to the store: `standing` of `groups`, with marks from `from` on.
    pub(super) fn hear(&mut self, groups: &[String], standing: &Standing, from: Timestamp) {
        self.born = standing.born;
        self.paused = standing.paused;
        self.groups = groups.iter().cloned().zip(standing.not_before.iter().copied()).collect();
        self.begun.clone_from(&standing.begun);
        self.done.clone_from(&standing.done);
        self.parts.retain(|(group, at, _), _| *at >= from && !standing.done.contains(&(group.clone(), *at)));
    }

    /// Parts of an occurrence are done.
    pub(super) fn finished(&mut self, firing: Firing<'_>, parts: impl IntoIterator<Item = u32>) {
        let division = (firing.group.to_owned(), firing.at, firing.portions);
        self.parts.entry(division).or_default().extend(parts);
    }

    /// Occurrences of `digest` that were under way, and their parts that are done.
    pub(super) fn parts<'a>(&'a self, digest: &'a str) -> impl Iterator<Item = (Firing<'a>, Vec<u32>)> {
        self.parts.iter().map(move |((group, at, portions), parts)| {
            let firing = Firing { digest, group, at: *at, portions: *portions };
            (firing, parts.iter().copied().collect())
        })
    }

    /// What else a store that lost everything has to know.
    pub(super) fn reminder(&self) -> Reminder<'_> {
        Reminder { groups: &self.groups, begun: &self.begun, done: &self.done, paused: self.paused }
    }

    /// The store born at `born` was told.
    pub(super) fn told(&mut self, born: Option<Timestamp>) {
        self.born = born;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn mark(second: i64) -> (String, Timestamp) {
        ("g".to_owned(), at(second))
    }

    #[test]
    fn only_a_store_of_another_birth_is_contradicted() {
        let mut recollection = Recollection::default();
        assert!(!recollection.contradicts(None) && !recollection.contradicts(Some(at(1))), "nothing was heard yet");
        let standing = Standing { born: Some(at(1)), ..Standing::default() };
        recollection.hear(&[], &standing, at(0));
        assert!(!recollection.contradicts(Some(at(1))));
        assert!(recollection.contradicts(Some(at(2))) && recollection.contradicts(None));
        recollection.told(Some(at(2)));
        assert!(!recollection.contradicts(Some(at(2))));
    }

    #[test]
    fn what_was_heard_and_finished_is_told_and_what_is_over_is_forgotten() {
        let mut recollection = Recollection::default();
        let standing = Standing {
            born: Some(at(1)),
            paused: true,
            not_before: vec![at(50)],
            begun: [mark(100)].into(),
            done: [mark(90)].into(),
            ..Standing::default()
        };
        recollection.hear(&["g".to_owned()], &standing, at(80));
        let firing = |second| Firing { digest: "d", group: "g", at: at(second), portions: 64 };
        recollection.finished(firing(100), [3, 1]);
        recollection.finished(firing(100), 0..2);
        recollection.finished(firing(200), [7]);
        let parts: Vec<_> = recollection.parts("d").collect();
        assert_eq!(parts, [(firing(100), vec![0, 1, 3]), (firing(200), vec![7])]);
        let reminder = recollection.reminder();
        assert_eq!(reminder.groups["g"], at(50));
        assert_eq!((reminder.begun, reminder.done, reminder.paused), (&standing.begun, &standing.done, true));
        let later = Standing { done: [mark(200)].into(), ..Standing::default() };
        recollection.hear(&[], &later, at(150));
        assert_eq!(recollection.parts("d").count(), 0, "one is too old, the other is done as a whole");
        assert!(recollection.reminder().groups.is_empty() && !recollection.reminder().paused);
    }
}
