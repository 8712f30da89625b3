//! The findings of `doctor`.

use super::end_of_life::{KNOWN_IN, oldest_instead_of};

/// What was found: how much of it is broken, how much deserves a look, and how much cannot be seen from here.
#[derive(Default)]
pub(super) struct Report {
    pub(super) broken: u32,
    pub(super) warnings: u32,
    pub(super) notes: u32,
    pub(super) good: u32,
}

impl Report {
    pub(super) fn good(&mut self, what: &str, found: &str) {
        self.good += 1;
        println!("ok      {what}: {found}");
    }

    /// A server, and whether its maker still looks after it.
    pub(super) fn product(&mut self, what: &str, product: &str, version: &str, more: &str) {
        let found = format!("{product} {version}{more}");
        let Some(oldest) = oldest_instead_of(product, version) else { return self.good(what, &found) };
        self.warn(
            what,
            &format!("{found}, past its end of life (as known in {KNOWN_IN})"),
            &format!("it works; use {oldest} or later, unless your distribution still looks after this one"),
        );
    }

    /// What cannot be found out from here.
    pub(super) fn note(&mut self, what: &str, found: &str, advice: &str) {
        self.notes += 1;
        println!("note    {what}: {found}\n        what to do: {advice}");
    }

    pub(super) fn warn(&mut self, what: &str, found: &str, advice: &str) {
        self.warnings += 1;
        println!("warning {what}: {found}\n        what to do: {advice}");
    }

    pub(super) fn bad(&mut self, what: &str, found: &str, advice: &str) {
        self.broken += 1;
        println!("BROKEN  {what}: {found}\n        what to do: {advice}");
    }
}
