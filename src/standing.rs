//! How a run stands, in one word and one row: what lists of runs are made of.

use jiff::Timestamp;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use crate::job::{Identifier, JobId};

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// No worker has begun it.
    Queued,
    /// A worker has it, or died with it and the next one has not taken it yet.
    Running,
    /// It was put aside: for its user, a person's approval, a rate limit, something that should pass, another worker.
    Waiting,
    /// It has ended with an answer.
    Completed,
    /// It has ended without one.
    Failed,
}

/// A state, and since when it holds.
pub type StandingSince = (RunState, Timestamp);

impl RunState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Waiting, Self::Completed, Self::Failed];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether the run has come to its end.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

/// A run in a list; as JSON `{id, identifier, state, at}`, and whose job it is where producers are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRow {
    /// The job's id.
    pub id: JobId,
    /// Whose run it is.
    pub identifier: Identifier,
    /// How it stands.
    pub state: RunState,
    /// Since when, to the millisecond.
    pub at: Timestamp,
}

impl Serialize for RunRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let producer = self.id.producer();
        let mut row = serializer.serialize_struct("RunRow", 4 + usize::from(producer.is_some()))?;
        row.serialize_field("id", self.id.as_str())?;
        row.serialize_field("identifier", &self.identifier)?;
        row.serialize_field("state", &self.state)?;
        row.serialize_field("at", &self.at)?;
        if let Some(producer) = producer {
            row.serialize_field("producer", producer)?;
        }
        row.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job::ProducerName;

    #[test]
    fn a_row_names_the_job_as_its_caller_does_and_whose_it_is_beside() {
        let (id, at) = (JobId::new("j").unwrap(), Timestamp::UNIX_EPOCH);
        let row = RunRow { id: id.clone(), identifier: Identifier::new("u").unwrap(), state: RunState::Failed, at };
        let printed = json!({"id": "j", "identifier": "u", "state": "failed", "at": "1970-01-01T00:00:00Z"});
        assert_eq!(json!(row), printed);
        let owned = RunRow { id: id.of_producer(&ProducerName::new("billing").unwrap()), ..row };
        assert_eq!((&json!(owned)["id"], &json!(owned)["producer"]), (&json!("j"), &json!("billing")));
        for state in RunState::ALL {
            assert_eq!((RunState::named(state.as_str()), json!(state)), (Some(state), json!(state.as_str())));
        }
        assert_eq!(RunState::named("done"), None);
    }
}
