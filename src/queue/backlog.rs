//! Jobs that were put aside: messages of whoever has many waiting already, in queues beside the job queue, so that those of
//! others are found behind them.

use async_trait::async_trait;

use super::{Delivery, QueueError};
use crate::job::Priority;

/// How many lanes there are of each priority, in the order of [`Priority::ALL`]: one for jobs of many keys, the others for those
/// of keys with many jobs, which are told apart by them.
const EACH: [u8; 3] = [3, 5, 2];

/// One of the queues of jobs that were put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(u8);

impl Lane {
    /// How many there are.
    pub const COUNT: usize = 10;

    /// All of them, by [`Lane::index`].
    pub fn all() -> impl Iterator<Item = Self> {
        Priority::ALL.into_iter().flat_map(Self::of)
    }

    /// Those of jobs with this priority.
    pub fn of(priority: Priority) -> impl ExactSizeIterator<Item = Self> + Clone {
        let [high, normal, low] = EACH;
        let (first, count) = match priority {
            Priority::High => (0, high),
            Priority::Normal => (high, normal),
            Priority::Low => (high + normal, low),
        };
        (0..count).map(move |number| Self(first + number))
    }

    /// The one of this priority for jobs of keys that have few.
    pub fn of_many(priority: Priority) -> Self {
        Self::of(priority).next().unwrap_or(Self(0))
    }

    /// Those of this priority for jobs of keys that have many.
    pub fn of_few(priority: Priority) -> impl ExactSizeIterator<Item = Self> + Clone {
        Self::of(priority).skip(1)
    }

    /// The priority of the jobs in it.
    pub fn priority(self) -> Priority {
        let [high, normal, _] = EACH;
        match self.0 {
            number if number < high => Priority::High,
            number if number < high + normal => Priority::Normal,
            _ => Priority::Low,
        }
    }

    /// From 0 to [`Lane::COUNT`].
    pub fn index(self) -> usize {
        self.0.into()
    }

    /// The last part of the queue's name, such as `normal.2`.
    pub fn name(self) -> String {
        let priority = self.priority();
        let first = Self::of(priority).next().map_or(0, |first| first.0);
        format!("{}.{}", priority.as_str(), self.0 - first)
    }
}

/// What a look at the backlog shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// The lanes that hold jobs.
    pub filled: Vec<Lane>,
    /// Whether jobs may be put aside: all lanes exist, and what is put there survives the broker's death.
    pub takes: bool,
    /// Whether no other process takes jobs from the job queue.
    pub alone: bool,
}

/// The jobs that were put aside. They come in by [`super::Destination::Backlog`].
#[async_trait]
pub trait Backlog: Send + Sync {
    /// What there is.
    async fn look(&self) -> Result<Look, QueueError>;
    /// The job that is longest in `lane`; `None` where that is empty.
    async fn take(&self, lane: Lane) -> Result<Option<Delivery>, QueueError>;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_lane_has_a_name_and_a_place_of_its_own() {
        let all: Vec<Lane> = Lane::all().collect();
        assert_eq!(all.iter().map(|lane| lane.index()).collect::<Vec<_>>(), (0..Lane::COUNT).collect::<Vec<_>>());
        let names: BTreeSet<String> = all.iter().map(|lane| lane.name()).collect();
        assert_eq!(names.len(), Lane::COUNT);
        assert!(names.contains("high.1") && names.contains("normal.4") && names.contains("low.0"), "{names:?}");
        for priority in Priority::ALL {
            assert!(Lane::of(priority).all(|lane| lane.priority() == priority));
            assert!(Lane::of_few(priority).len() > 0);
            assert!(Lane::of_few(priority).all(|lane| lane != Lane::of_many(priority)));
        }
    }
}
