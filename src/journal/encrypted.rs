//! What a journal in a store holds, encrypted: each thing is bound to its run, to what it is, and to its place.

use std::borrow::Cow;

use super::JournalError;
use crate::encryption::{Binding, Encryption};
use crate::job::JobId;

/// What a journal holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stored {
    Entry,
    /// What is left of a run.
    Remains,
    /// The job, before its run has begun.
    Note,
}

/// Encrypts and decrypts it. The worker's own records hold nothing of users, and every worker is to read them: they stay as
/// they are.
#[derive(Debug, Default)]
pub(super) struct Contents(pub(super) Encryption);

impl Contents {
    /// Lines of this kind, the first of them at `sequence`.
    pub(super) fn encrypt<'a>(
        &self,
        job: &JobId,
        kind: Stored,
        sequence: u64,
        lines: &'a [String],
    ) -> Vec<Cow<'a, [u8]>> {
        // A sequence beyond the last one is refused.
        let lines = (0..).zip(lines).map(|(index, line)| (sequence.saturating_add(index), line));
        lines.map(|(sequence, line)| self.encrypt_one(job, kind, sequence, line)).collect()
    }

    pub(super) fn encrypt_one<'a>(&self, job: &JobId, kind: Stored, sequence: u64, line: &'a str) -> Cow<'a, [u8]> {
        if self.0.key().is_none() || job.is_internal() {
            return Cow::Borrowed(line.as_bytes());
        }
        self.0.encrypt(&place(job, kind, sequence), line.as_bytes())
    }

    /// All lines of this kind.
    pub(super) fn decrypt(&self, job: &JobId, kind: Stored, kept: Vec<Vec<u8>>) -> Result<Vec<String>, JournalError> {
        (0..).zip(kept).map(|(sequence, line)| self.decrypt_one(job, kind, sequence, line)).collect()
    }

    pub(super) fn decrypt_one(
        &self,
        job: &JobId,
        kind: Stored,
        sequence: u64,
        kept: Vec<u8>,
    ) -> Result<String, JournalError> {
        let line = self.0.decrypt(|| place(job, kind, sequence), kept)?;
        let no_text = || "the journal cannot be read: an entry that is not text".to_owned();
        String::from_utf8(line).map_err(|_| JournalError::Unavailable(no_text()))
    }
}

fn place(job: &JobId, kind: Stored, sequence: u64) -> Binding {
    let kind = match kind {
        Stored::Entry => "entry",
        Stored::Remains => "remains",
        Stored::Note => "note",
    };
    Binding::new(kind, &[job.key(), &sequence.to_string()])
}
