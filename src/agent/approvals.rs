//! What a run knows of its approvals: which calls wait, what was decided, what it had read before.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::asked::AskedCall;
use super::effect::CallKey;
use crate::decision::Verdict;
use crate::reply::ApprovalOutcome;

/// What a run knows of its approvals.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Approvals {
    /// What was asked in the open turn.
    pub(super) asked: Vec<Asked>,
    /// Whether the caller was told of it.
    pub(super) told: bool,
    pub(super) outcomes: Vec<ApprovalOutcome>,
    pub(super) decided: Vec<PastDecision>,
    denied: BTreeSet<CallKey>,
    /// Tools that have read something, in the order in which they first did.
    pub(super) read: Vec<String>,
}

/// A call of the open turn that a person was asked about.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// As it was asked.
    pub call: AskedCall,
    /// When.
    pub at: Timestamp,
    /// Until when a person can decide.
    pub until: Timestamp,
    /// What was decided, and with which other arguments the call is made, as the model is told.
    pub verdict: Option<Verdict>,
    pub(super) edit: Option<String>,
}

/// What was decided in any turn of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastDecision {
    pub(super) approval: String,
    /// Of the arguments that were decided about.
    pub arguments_digest: String,
    /// Until when a person could decide.
    pub(super) until: Timestamp,
    /// What was decided.
    pub verdict: Verdict,
    /// The digest of what the arguments were changed to.
    pub edit: Option<String>,
}

impl Approvals {
    /// What was asked in the open turn.
    pub fn asked(&self) -> &[Asked] {
        &self.asked
    }

    /// The same of one approval, while it waits.
    pub fn waits(&self, approval: &str) -> Option<&Asked> {
        self.asked.iter().find(|asked| asked.call.id == approval && asked.verdict.is_none())
    }

    /// What was decided about an approval.
    pub fn decided(&self, approval: &str) -> Option<&PastDecision> {
        self.decided.iter().find(|past| past.approval == approval)
    }

    /// The digest of an approval's arguments and the end of its wait, whether it is decided or not.
    pub fn of(&self, approval: &str) -> Option<(&str, Timestamp)> {
        let waiting = self.waits(approval).map(|asked| (asked.call.arguments_digest.as_str(), asked.until));
        waiting.or_else(|| self.decided(approval).map(|past| (past.arguments_digest.as_str(), past.until)))
    }

    /// Whether anything waits for a person.
    pub fn any_wait(&self) -> bool {
        self.asked.iter().any(|asked| asked.verdict.is_none())
    }

    /// Whether anybody was ever asked.
    pub fn any(&self) -> bool {
        !self.asked.is_empty() || !self.decided.is_empty()
    }

    /// The end of the wait, where there is one.
    pub fn until(&self) -> Option<Timestamp> {
        self.asked.iter().filter(|asked| asked.verdict.is_none()).map(|asked| asked.until).min()
    }

    /// Whether the caller was told.
    pub fn told(&self) -> bool {
        self.told
    }

    /// What was decided so far in the whole run.
    pub fn outcomes(&self) -> &[ApprovalOutcome] {
        &self.outcomes
    }

    /// The tools by which the run has read something.
    pub fn read_before(&self) -> &[String] {
        &self.read
    }

    /// Whether this very call was not allowed before.
    pub(super) fn denied(&self, key: &CallKey) -> bool {
        self.denied.contains(key)
    }

    pub(super) fn fence(&mut self, key: CallKey) {
        self.denied.insert(key);
    }

    pub(super) fn has_read(&mut self, tool: &str) {
        if !self.read.iter().any(|read| read == tool) {
            self.read.push(tool.to_owned());
        }
    }

    pub(super) fn was_asked(&self, call_id: &str) -> bool {
        self.asked.iter().any(|asked| asked.call.call_id == call_id)
    }

    /// Whether nothing that was asked stands against it.
    pub(super) fn may_leave(&self, call_id: &str) -> bool {
        let of_call = self.asked.iter().filter(|asked| asked.call.call_id == call_id);
        of_call.into_iter().all(|asked| asked.verdict.is_some_and(Verdict::allows))
    }

    pub(super) fn expired(&self, now: Timestamp) -> Vec<String> {
        let waiting = self.asked.iter().filter(|asked| asked.verdict.is_none() && asked.until <= now);
        waiting.map(|asked| asked.call.id.clone()).collect()
    }

    pub(super) fn ask(&mut self, calls: Vec<AskedCall>, at: Timestamp, until: Timestamp) {
        self.told = false;
        self.asked.extend(calls.into_iter().map(|call| Asked { call, at, until, verdict: None, edit: None }));
    }

    /// The turn is over.
    pub(super) fn close(&mut self) {
        self.asked.clear();
        self.told = false;
    }

    /// What the model is told of a call: also that a person had changed it.
    pub(super) fn with_note(&self, call_id: &str, content: String) -> String {
        match self.asked.iter().find(|asked| asked.call.call_id == call_id).and_then(|asked| asked.edit.as_ref()) {
            None => content,
            Some(arguments) => {
                format!("A person changed this call before it was made. Its arguments were: {arguments}\n\n{content}")
            }
        }
    }
}
