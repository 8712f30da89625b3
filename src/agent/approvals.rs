//! What a run knows of its approvals: which calls wait, what was decided, what it had read before.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::approval::Candidate;
use super::effect::{CallKey, Effect};
use super::event::{AskedCall, PinnedTool, Plan, Settled};
use super::state::{CallState, Conclusion, Run};
use super::turn::{self, shorten};
use crate::approval::OnExpiry;
use crate::clock::milliseconds_between;
use crate::decision::{Verdict, approval_id, arguments_digest};
use crate::reply::{ApprovalOutcome, ErrorCode, ErrorDetail};

/// Characters of edited arguments that the model is told of.
const LONGEST_EDIT: usize = 4000;

/// What a run knows of its approvals.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Approvals {
    /// What was asked in the open turn.
    asked: Vec<Asked>,
    /// Whether the caller was told of it.
    pub(super) told: bool,
    outcomes: Vec<ApprovalOutcome>,
    decided: Vec<PastDecision>,
    denied: BTreeSet<CallKey>,
    /// Tools that have read something, in the order in which they first did.
    read: Vec<String>,
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
    edit: Option<String>,
}

/// What was decided in any turn of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastDecision {
    approval: String,
    /// Of the arguments that were decided about.
    pub arguments_digest: String,
    /// Until when a person could decide.
    until: Timestamp,
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

impl Run {
    /// What the run knows of its approvals.
    pub fn approvals(&self) -> &Approvals {
        &self.approvals
    }

    /// Whether a call of the open turn waits for a person, who may still have to be asked.
    pub(super) fn is_held(&self, index: usize) -> bool {
        let open = &self.turn[index];
        let Plan::Run { tool, arguments, .. } = &open.plan else { return false };
        if open.state != CallState::Planned || self.settings().approval.is_idle() {
            return false;
        }
        if self.approvals.was_asked(&open.call.id) {
            return !self.approvals.may_leave(&open.call.id);
        }
        // Whatever reads before it in the turn will have been read by then: all that will wait is asked at once.
        let reads = |plan: &Plan| matches!(plan, Plan::Run { tool, .. } if tool.effect == Effect::Read);
        let has_read = !self.approvals.read.is_empty() || self.turn[..index].iter().any(|open| reads(&open.plan));
        let (names, prompt) = ([tool.name.as_str(), tool.model_name.as_str()], self.job().prompt.as_str());
        self.settings().approval.hold(Candidate { names, effect: tool.effect, arguments, prompt, has_read })
    }

    /// All calls of the open turn that wait for a person.
    pub(super) fn held_calls(&self) -> Vec<String> {
        let held = (0..self.turn.len()).filter(|index| self.is_held(*index));
        held.map(|index| self.turn[index].call.id.clone()).collect()
    }

    /// The approval of this call of the open turn; what is asked again has the same name.
    pub fn approval_of(&self, call_id: &str, schema: Value) -> Option<AskedCall> {
        let Plan::Run { arguments, .. } = &self.open_call(call_id)?.plan else { return None };
        let digest = arguments_digest(arguments);
        let call = format!("{}|{}|{call_id}|{digest}", self.reopened, self.steps);
        let id = approval_id(&self.job().id(), &call);
        Some(AskedCall { id, call_id: call_id.to_owned(), arguments_digest: digest, arguments_schema: schema })
    }

    /// A call of the open turn for a person: its tool, its arguments, and these in short.
    pub fn planned(&self, call_id: &str) -> Option<(&PinnedTool, &serde_json::Map<String, Value>, String)> {
        let Plan::Run { tool, arguments, .. } = &self.open_call(call_id)?.plan else { return None };
        Some((tool, arguments, turn::summary(arguments)))
    }

    pub(super) fn decide(&mut self, settled: Settled, at: Timestamp) {
        let Settled { approval, verdict, door, by, reason, arguments } = settled;
        let waiting = self.approvals.asked.iter_mut().find(|asked| asked.call.id == approval);
        let Some(asked) = waiting else { return };
        let (call_id, waited) = (asked.call.call_id.clone(), milliseconds_between(asked.at, at) / 1000);
        asked.verdict = Some(verdict);
        asked.edit =
            arguments.as_ref().map(|arguments| shorten(&Value::Object(arguments.clone()).to_string(), LONGEST_EDIT));
        // The wait may have been long: whether the accounts can still be used is looked at before the call is made.
        self.accounts_ready &= !verdict.allows();
        let until = asked.until;
        let (arguments_digest, edit) =
            (asked.call.arguments_digest.clone(), arguments.as_ref().map(crate::decision::arguments_digest));
        self.approvals.decided.push(PastDecision { approval, arguments_digest, until, verdict, edit });
        let Some(open) = self.turn.iter_mut().find(|open| open.call.id == call_id) else { return };
        let Plan::Run { tool, arguments: planned, key } = &mut open.plan else { return };
        if let Some(arguments) = arguments {
            *key = CallKey::new(tool.connection.as_str(), &tool.name, &arguments);
            *planned = arguments;
        }
        let (name, connection) = (tool.name.clone(), tool.connection.as_str().to_owned());
        let outcome = ApprovalOutcome {
            tool: name.clone(),
            connection: connection.clone(),
            decision: verdict,
            by,
            door,
            at,
            waited_seconds: waited,
        };
        self.approvals.outcomes.push(outcome);
        match verdict {
            Verdict::Approve | Verdict::Edit => {}
            Verdict::Deny => turn::deny_call(self, &call_id, denied(reason.as_deref())),
            Verdict::Expired => {
                if self.settings().approval.on_expiry == OnExpiry::Fail && self.conclusion.is_none() {
                    let text = format!("nobody decided about a call of `{name}` in time");
                    let error = ErrorDetail::new(ErrorCode::ApprovalExpired, text).connection(connection).tool(name);
                    self.conclusion = Some(Conclusion::failed(error));
                }
                turn::deny_call(self, &call_id, EXPIRED.to_owned());
            }
        }
    }
}

const EXPIRED: &str = "This call was not made: it needs a person's approval, and nobody decided in time. Do not make it \
                       again; say in your answer that it was not done.";

fn denied(reason: Option<&str>) -> String {
    let reason = reason.map(|reason| format!(", who said: {reason}")).unwrap_or_default();
    format!(
        "This call was not made: it was denied by a person{reason}\n\nDo not make it again; say in your answer that it was \
         not done."
    )
}
