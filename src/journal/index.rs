//! The index of runs: what it is told with each append, and how it is asked.
//!
//! The truth of a row stands in the run's own journal, written by the very append that made it so; the index only says where
//! to look. It may be late or lack a run after a crash, and every row is compared with its journal before it is shown.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;

use crate::job::{Identifier, JobId};
use crate::standing::{RunRow, RunState};

/// Where nothing else is said, so many runs of each state are listed, of all users and of each.
pub const DEFAULT_MOST_RUNS: u64 = 100_000;

/// Rows of a page at most.
pub const MOST_ROWS: usize = 1000;

/// How a run stands once its append is done.
#[derive(Debug, Clone, Copy)]
pub struct Indexed<'a> {
    /// Whose run it is.
    pub identifier: &'a Identifier,
    /// How it stands.
    pub state: RunState,
    /// Since when.
    pub since: Timestamp,
    /// As what the index knows it: where that is the same, the journal alone is told.
    pub known_as: Option<RunState>,
    /// How long it is listed from `since` on.
    pub keep: Duration,
}

impl Indexed<'_> {
    /// Whether the index has to be told.
    pub(super) fn is_news(&self) -> bool {
        self.known_as != Some(self.state)
    }
}

/// Which runs are asked for; the one that changed last comes first.
#[derive(Debug, Clone, Default)]
pub struct RunQuery {
    /// Those that stand so.
    pub state: Option<RunState>,
    /// Those of this user.
    pub identifier: Option<Identifier>,
    /// Those that changed then or later.
    pub since: Option<Timestamp>,
    /// Those behind this place.
    pub cursor: Option<RunCursor>,
    /// So many, up to [`MOST_ROWS`].
    pub limit: usize,
}

impl RunQuery {
    pub(super) fn rows(&self) -> usize {
        self.limit.clamp(1, MOST_ROWS)
    }

    pub(super) fn states(&self) -> Vec<RunState> {
        self.state.map_or_else(|| RunState::ALL.to_vec(), |state| vec![state])
    }

    /// Whether it asks for this run.
    pub(crate) fn wants(&self, row: &RunRow) -> bool {
        self.state.is_none_or(|state| state == row.state)
            && self.identifier.as_ref().is_none_or(|identifier| *identifier == row.identifier)
            && self.since.is_none_or(|since| row.at >= since)
    }
}

/// A run that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundRun {
    /// Its journal says so.
    Certain(RunRow),
    /// A worker of an earlier version wrote its journal last, which only the entries tell about.
    Unsaid(JobId),
}

/// Some of the runs that were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunPage {
    /// They, the one that changed last first. One that changes while pages are asked for moves to the front.
    pub runs: Vec<FoundRun>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<RunCursor>,
}

/// A place between two rows: when the run before it changed, in milliseconds, and its id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunCursor(pub(super) i64, pub(super) String);

impl RunCursor {
    /// The place that `text` names, `None` where that is none.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (at, id) = text.split_once(' ')?;
        Some(Self(at.parse().ok()?, id.to_owned()))
    }

    pub(super) fn of(row: &RunRow) -> Self {
        Self(row.at.as_millisecond(), row.id.key().to_owned())
    }
}

impl fmt::Display for RunCursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&URL_SAFE_NO_PAD.encode(format!("{} {}", self.0, self.1)))
    }
}

/// What a journal says of its run: of how many entries it was said, and the row. Text, as it is kept in Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: u64,
    pub(super) state: RunState,
    pub(super) at: i64,
    pub(super) identifier: Identifier,
}

impl Head {
    pub(super) fn print(length: u64, indexed: &Indexed<'_>) -> String {
        let (state, at) = (indexed.state.as_str(), indexed.since.as_millisecond());
        format!("{length} {state} {at} {}", indexed.identifier)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ' ');
        Some(Self {
            length: parts.next()?.parse().ok()?,
            state: RunState::named(parts.next()?)?,
            at: parts.next()?.parse().ok()?,
            identifier: Identifier::new(parts.next()?)?,
        })
    }

    pub(super) fn row(self, id: JobId) -> Option<RunRow> {
        let at = Timestamp::from_millisecond(self.at).ok()?;
        Some(RunRow { id, identifier: self.identifier, state: self.state, at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_keeps_whatever_an_identifier_is_made_of() {
        for name in ["alice", "a b  c", "é\n{x}:%", " "] {
            let identifier = Identifier::new(name).unwrap();
            let since = Timestamp::from_millisecond(1_800_000_000_123).unwrap();
            let keep = Duration::from_secs(1);
            let indexed = Indexed { identifier: &identifier, state: RunState::Waiting, since, known_as: None, keep };
            let head = Head::parse(&Head::print(7, &indexed)).unwrap();
            assert_eq!((head.length, head.state, head.at), (7, RunState::Waiting, since.as_millisecond()));
            assert_eq!(head.identifier, identifier);
        }
        for broken in ["", "1", "1 running", "1 running 5", "x running 5 a", "1 sleeping 5 a", "1 running 5 "] {
            assert_eq!(Head::parse(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn a_cursor_is_text_for_an_address_and_nonsense_is_none() {
        let cursor = RunCursor(1_800_000_000_123, "a b/ü?&\0".to_owned());
        let text = cursor.to_string();
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{text}");
        assert_eq!(RunCursor::parse(&text), Some(cursor));
        for nonsense in ["", "x", "%", "YQ", &"A".repeat(10_000)] {
            assert_eq!(RunCursor::parse(nonsense), None, "{nonsense:?}");
        }
    }
}
