//! Calls that are held back for a person, and what a decision does to them.

use jiff::Timestamp;
use serde_json::Value;

use super::approval::Candidate;
use super::approvals::{Approvals, PastDecision};
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
