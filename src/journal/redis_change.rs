//! The scripts that change a run, and what Redis answers to them.

use ::redis::{FromRedisValue, Script, Value, from_redis_value};

use super::JournalError;
use super::scripts::{BEGUN, WHEN_FULL};
use crate::redis_client::Unavailable;

/// A script that changes a run.
#[derive(Debug)]
pub(super) struct RunChange {
    pub(super) ordinary: Script,
    pub(super) when_full: Script,
}

impl RunChange {
    pub(super) fn new(text: &str) -> Self {
        Self { ordinary: Script::new(text), when_full: Script::new(&[WHEN_FULL, BEGUN, text].concat()) }
    }

    /// One that is made of every run that ends.
    pub(super) fn of_any_run(text: &str) -> Self {
        Self { ordinary: Script::new(text), when_full: Script::new(&[WHEN_FULL, text].concat()) }
    }
}

pub(super) fn verdict(word: &str) -> Result<(), JournalError> {
    match word {
        "done" => Ok(()),
        "lost" => Err(JournalError::Lost),
        _ => Err(JournalError::OwnershipLost),
    }
}

pub(super) fn read_as<T: FromRedisValue>(value: Value) -> Result<T, JournalError> {
    from_redis_value(value).map_err(|_| unreadable("a value of another type"))
}

pub(super) fn unreadable(what: &str) -> JournalError {
    JournalError::Unavailable(format!("the journal cannot be read: {what}"))
}

impl From<Unavailable> for JournalError {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable(error.0)
    }
}
