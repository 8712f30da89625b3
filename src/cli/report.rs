//! The findings of `doctor`.

use super::end_of_life::{KNOWN_IN, oldest_instead_of};
use crate::http_server::pages::doctor::{Finding, Severity};

/// What was found: what is broken, what deserves a look, and what cannot be seen from here.
#[derive(Default)]
pub(super) struct Report {
    /// Whether findings are printed as they come.
    pub(super) prints: bool,
    pub(super) findings: Vec<Finding>,
}

impl Report {
    pub(super) fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    pub(super) fn good(&mut self, what: &str, found: &str) {
        self.add(Severity::Good, what, found, None);
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
        self.add(Severity::Note, what, found, Some(advice));
    }

    pub(super) fn warn(&mut self, what: &str, found: &str, advice: &str) {
        self.add(Severity::Warning, what, found, Some(advice));
    }

    pub(super) fn bad(&mut self, what: &str, found: &str, advice: &str) {
        self.add(Severity::Broken, what, found, Some(advice));
    }

    fn add(&mut self, severity: Severity, what: &str, found: &str, advice: Option<&str>) {
        if self.prints {
            let word = match severity {
                Severity::Broken => "BROKEN",
                other => other.as_str(),
            };
            println!("{word:<7} {what}: {found}");
            if let Some(advice) = advice {
                println!("        what to do: {advice}");
            }
        }
        let (what, found, advice) = (what.to_owned(), found.to_owned(), advice.map(str::to_owned));
        self.findings.push(Finding { severity, what, found, advice });
    }
}
