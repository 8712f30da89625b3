//! The names of the queues, and the waits that some of them stand for.

use std::time::Duration;

use crate::queue::{Destination, Lane};

/// The waits that messages can be given at the broker, each a queue with that message TTL. One queue per wait, because
/// a shorter wait behind a longer one in the same queue would not end before it (measured on 3.10, 4.0 and 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// `<prefix>.wait.1s`.
    OneSecond,
    /// `<prefix>.wait.5s`.
    FiveSeconds,
    /// `<prefix>.wait.30s`.
    ThirtySeconds,
    /// `<prefix>.wait.2m`.
    TwoMinutes,
    /// `<prefix>.wait.10m`.
    TenMinutes,
    /// `<prefix>.wait.1h`, the longest: whoever waits longer goes round again.
    OneHour,
}

impl Tier {
    /// All tiers, shortest first.
    pub const ALL: [Self; 6] =
        [Self::OneSecond, Self::FiveSeconds, Self::ThirtySeconds, Self::TwoMinutes, Self::TenMinutes, Self::OneHour];

    /// The longest tier that is not longer than `wait`; the shortest one for waits under a second.
    pub fn for_wait(wait: Duration) -> Self {
        Self::ALL.into_iter().rev().find(|tier| tier.wait() <= wait).unwrap_or(Self::OneSecond)
    }

    /// How long a message stays in it.
    pub fn wait(self) -> Duration {
        match self {
            Self::OneSecond => Duration::from_secs(1),
            Self::FiveSeconds => Duration::from_secs(5),
            Self::ThirtySeconds => Duration::from_secs(30),
            Self::TwoMinutes => Duration::from_mins(2),
            Self::TenMinutes => Duration::from_mins(10),
            Self::OneHour => Duration::from_hours(1),
        }
    }

    /// The last part of the queue's name.
    fn name(self) -> &'static str {
        match self {
            Self::OneSecond => "1s",
            Self::FiveSeconds => "5s",
            Self::ThirtySeconds => "30s",
            Self::TwoMinutes => "2m",
            Self::TenMinutes => "10m",
            Self::OneHour => "1h",
        }
    }
}

/// `<prefix>.jobs`, `<prefix>.dead` and the others; the prefix is `agentkit` unless configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueNames {
    prefix: String,
}

impl QueueNames {
    /// The names that begin with `prefix` and a dot.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// Jobs that are ready.
    pub fn jobs(&self) -> String {
        format!("{}.jobs", self.prefix)
    }

    /// Copies of messages that somebody waits for now.
    pub fn urgent(&self) -> String {
        format!("{}.jobs.high", self.prefix)
    }

    /// Decisions about calls that wait for approval.
    pub fn decisions(&self) -> String {
        format!("{}.decisions", self.prefix)
    }

    /// Dead letters.
    pub fn dead(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    /// Jobs that were put aside.
    pub fn backlog(&self, lane: Lane) -> String {
        format!("{}.backlog.{}", self.prefix, lane.name())
    }

    /// Whether `queue` is one of those.
    pub(super) fn is_backlog(&self, queue: &str) -> bool {
        Lane::all().any(|lane| self.backlog(lane) == queue)
    }

    /// Jobs that wait as long as the tier says.
    pub fn wait(&self, tier: Tier) -> String {
        format!("{}.wait.{}", self.prefix, tier.name())
    }

    /// Messages in the hands of the process that is called `process`.
    pub fn held(&self, process: &str) -> String {
        format!("{}.held.{process}", self.prefix)
    }

    /// Replies that have no queue of their own.
    pub fn replies(&self) -> String {
        format!("{}.replies", self.prefix)
    }

    /// Whether `queue` is one of the worker's own that is not for replies.
    pub fn is_reserved(&self, queue: &str) -> bool {
        if !queue.starts_with(&self.prefix) {
            return false;
        }
        let ours = [self.jobs(), self.urgent(), self.decisions(), self.dead()];
        let waits = Tier::ALL.into_iter().map(|tier| self.wait(tier));
        let is_ours = ours.into_iter().chain(waits).any(|name| name == queue);
        queue.starts_with(&self.held("")) || is_ours || self.is_backlog(queue)
    }

    /// The queue that `destination` is first published to.
    pub(super) fn of(&self, destination: &Destination) -> String {
        match destination {
            Destination::Jobs => self.jobs(),
            Destination::Urgent => self.urgent(),
            Destination::Backlog(lane) => self.backlog(*lane),
            Destination::Wait(wait) => self.wait(Tier::for_wait(*wait)),
            Destination::Reply(Some(name)) | Destination::Progress(name) => name.clone(),
            Destination::Reply(None) => self.replies(),
            Destination::Decisions => self.decisions(),
            Destination::Dead => self.dead(),
        }
    }
}
