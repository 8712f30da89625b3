//! Names of jobs and of their producers.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest job id in bytes. AMQP short strings end at 255 bytes and event ids are the job id plus a suffix.
pub(super) const MAX_ID_BYTES: usize = 200;

/// Names a job and its one run. 1 to 200 bytes, any characters.
// Where producers are named it holds whose job it is as well: the same id of two of them is two runs. See `JobId::key`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct JobId(#[schemars(length(min = 1, max = 200), regex(pattern = r"^[^\x00]*$"))] String);

impl JobId {
    /// An id made of `text`, or `None` where it is empty, longer than 200 bytes, or contains a NUL.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        (!text.is_empty() && text.len() <= MAX_ID_BYTES && !text.contains('\0')).then_some(Self(text))
    }

    /// An id that we made.
    pub(super) fn of_text(text: String) -> Self {
        Self(text)
    }

    /// An id for the worker's own records. No job can have it: a NUL is refused in theirs.
    pub fn internal(name: &str) -> Self {
        Self(format!("\0{name}"))
    }

    /// Whether it is one of the worker's own records.
    pub fn is_internal(&self) -> bool {
        self.0.starts_with('\0')
    }

    /// The same id as that of a job of `producer`, whoever's it is here.
    pub fn of_producer(&self, producer: &ProducerName) -> Self {
        Self(format!("{producer}\0{}", self.as_str()))
    }

    /// The same id as that of a job of nobody in particular: the operator's, or any where no producers are named.
    pub fn of_nobody(&self) -> Self {
        Self(self.as_str().to_owned())
    }

    /// The producer whose job it is, if any.
    pub fn producer(&self) -> Option<&str> {
        self.0.split_once('\0').map(|(producer, _)| producer).filter(|producer| !producer.is_empty())
    }

    /// The id as its caller knows it.
    pub fn as_str(&self) -> &str {
        self.0.split_once('\0').map_or(self.0.as_str(), |(_, id)| id)
    }

    /// The id as only one run has it: a producer's begins with its name and a NUL. For stores, never for callers.
    pub fn key(&self) -> &str {
        &self.0
    }

    /// Reads a [`JobId::key`]; `None` for that of a record of the worker's own, too.
    pub fn from_key(key: &str) -> Option<Self> {
        match key.split_once('\0') {
            None => Self::new(key),
            Some((producer, id)) => Some(Self::new(id)?.of_producer(&ProducerName::new(producer)?)),
        }
    }

    /// The id in words of which no two runs have the same: a producer's is followed by `@` and its name. For what has to be
    /// told apart outside, such as events.
    pub fn unique(&self) -> Cow<'_, str> {
        match self.producer() {
            Some(producer) => format!("{}@{producer}", self.as_str()).into(),
            None => self.as_str().into(),
        }
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Names a producer: 1 to 32 letters, digits, `-`, `_` and `.`, so that with any id of a job it makes an event's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerName(String);

impl ProducerName {
    /// A name made of `text`, or `None` where it is none.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let allowed = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
        ((1..=32).contains(&text.len()) && text.chars().all(allowed)).then_some(Self(text))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProducerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
