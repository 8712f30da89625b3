//! What happens to a job, entry by entry of its journal, for whoever follows it. Neither prompts nor arguments nor results; at
//! the end the reply as its caller gets it.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::agent::event::{Entry, Event, Pause, Plan, ToolOutcome};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Happening {
    /// Number of its entry in the journal, from 1 on.
    pub(crate) sequence: u64,
    /// One of a closed set; of the reply its own event type.
    pub(crate) kind: &'static str,
    pub(crate) data: Value,
    /// Whether the run has ended with it.
    pub(crate) is_last: bool,
}

/// Reads a journal from its beginning on, as it grows.
#[derive(Debug, Default)]
pub(crate) struct JournalFollower {
    sequence: u64,
    attempts: u32,
    steps: u32,
    /// Tool and connection of each call.
    tools: HashMap<String, Value>,
}

impl JournalFollower {
    /// How many entries were read.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What the further ones tell; `journal` is the whole.
    pub(crate) fn read(&mut self, journal: &[String]) -> Vec<Happening> {
        let behind = usize::try_from(self.sequence).ok().and_then(|read| journal.get(read..)).unwrap_or_default();
        let mut happenings: Vec<Happening> = Vec::new();
        for line in behind {
            self.sequence += 1;
            let Ok(Entry { event, .. }) = serde_json::from_str(line) else { continue };
            if event == Event::Reopened {
                for happening in &mut happenings {
                    happening.is_last = false;
                }
            }
            let is_last = matches!(event, Event::Finished(_));
            if let Some((kind, data)) = self.told(event) {
                happenings.push(Happening { sequence: self.sequence, kind, data, is_last });
            }
        }
        happenings
    }

    fn told(&mut self, event: Event) -> Option<(&'static str, Value)> {
        Some(match event {
            Event::Started(started) => ("started", json!({"model": started.settings.model})),
            Event::AttemptStarted { .. } => {
                self.attempts += 1;
                ("running", json!({"attempt": self.attempts}))
            }
            Event::AttemptEnded { cause, .. } => ("waiting", json!({"reason": reason(cause)})),
            Event::AuthorizationRequested { connections, until, .. } => {
                ("authorization_required", json!({"connections": connections, "until": until}))
            }
            Event::ApprovalAsked { calls, until } => {
                let calls = calls.iter().map(|call| {
                    let (id, digest) = (&call.id, &call.arguments_digest);
                    self.call(&call.call_id, json!({"id": id, "arguments_digest": digest}))
                });
                ("approval_required", json!({"approvals": calls.collect::<Vec<_>>(), "until": until}))
            }
            Event::ApprovalDecided(settled) => {
                ("approval_decided", json!({"id": settled.approval, "decision": settled.verdict, "door": settled.door}))
            }
            Event::ToolsListed { tools, .. } => ("tools", json!({"count": tools.len()})),
            Event::ModelReplied { reply, plans, .. } => {
                self.steps += 1;
                for (call, plan) in reply.message.calls.iter().zip(&plans) {
                    let Plan::Run { tool, .. } = plan else { continue };
                    self.tools.insert(call.id.clone(), json!({"tool": tool.name, "connection": tool.connection}));
                }
                ("step", json!({"step": self.steps, "tool_calls": plans.len()}))
            }
            Event::ModelSwitched { from, to, reason } => {
                ("model_switched", json!({"from": from, "to": to, "reason": reason}))
            }
            Event::HistoryCompacted { results } => ("history_compacted", json!({"results": results.len()})),
            Event::Retried { call, reason } => ("retry", json!({"call": call, "reason": reason})),
            Event::ToolStarted { call_id } => ("tool_call", self.call(&call_id, json!({"state": "started"}))),
            Event::ToolNotRun { call_id, reason } => {
                ("tool_call", self.call(&call_id, json!({"state": "not_run", "reason": reason})))
            }
            Event::ToolFinished { call_id, outcome } => {
                let state = match outcome {
                    ToolOutcome::Done { .. } => "done",
                    ToolOutcome::Failed { .. } => "failed",
                    ToolOutcome::Unknown { .. } => "unknown",
                };
                ("tool_call", self.call(&call_id, json!({"state": state})))
            }
            Event::JournalLost | Event::EndLost { .. } => ("journal_lost", json!({})),
            Event::Reopened => ("reopened", json!({})),
            Event::EffectSettled(settled) => {
                let state = json!({"state": settled.settlement, "by": settled.by});
                ("effect_settled", self.call(&settled.call_id, state))
            }
            Event::Finished(reply) => {
                let kind = reply.event.kind();
                (kind, serde_json::to_value(reply).ok()?)
            }
            Event::WakeUpPublished { .. }
            | Event::AccountsReady
            | Event::ModelAsked
            | Event::GivenUp(_)
            | Event::SettlementDelivered { .. }
            | Event::Delivered => return None,
        })
    }

    /// A call with what is known of it.
    fn call(&self, call_id: &str, mut data: Value) -> Value {
        data["call_id"] = call_id.into();
        if let (Some(Value::Object(tool)), Some(fields)) = (self.tools.get(call_id), data.as_object_mut()) {
            fields.extend(tool.clone());
        }
        data
    }
}

/// Why a run waits, in the words of [`super::standing::Waiting::reason`].
fn reason(cause: Pause) -> &'static str {
    match cause {
        Pause::Authorization => "authorization",
        Pause::Approval => "approval",
        Pause::RateLimited => "rate_limited",
        Pause::Transient => "retry",
        Pause::Shutdown | Pause::ContinueAsNew | Pause::JournalAway => "worker",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINISHED: &str = include_str!("../../../tests/data/journal/v1-finished.ndjson");

    fn lines() -> Vec<String> {
        FINISHED.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_journal_tells_the_same_in_pieces_as_in_one_and_ends_with_the_reply() {
        let lines = lines();
        let whole = JournalFollower::default().read(&lines);
        let mut follower = JournalFollower::default();
        let pieces: Vec<Happening> = (0..=lines.len()).flat_map(|end| follower.read(&lines[..end])).collect();
        assert_eq!(pieces, whole);
        assert!(whole.windows(2).all(|two| two[0].sequence < two[1].sequence));
        let (last, before) = whole.split_last().unwrap();
        assert!(last.is_last && last.kind.starts_with("agentkit.job.") && last.data["id"].is_string(), "{last:?}");
        assert!(before.iter().all(|happening| !happening.is_last));
    }

    #[test]
    fn calls_are_told_with_their_tools_and_without_what_was_said() {
        let lines = lines();
        let all = JournalFollower::default().read(&lines);
        let call = all.iter().find(|happening| happening.kind == "tool_call").unwrap();
        assert!(call.data["tool"].is_string() && call.data["connection"].is_string(), "{call:?}");
        let prompt = serde_json::from_str::<Value>(&lines[0]).unwrap();
        let prompt = prompt["event"]["started"]["job"]["prompt"].as_str().unwrap();
        assert!(
            !prompt.is_empty()
                && all.iter().filter(|told| !told.is_last).all(|told| !told.data.to_string().contains(prompt))
        );
    }
}
