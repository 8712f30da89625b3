//! What of a run's events goes into the audit record: calls that are more than reading, and decisions.

use crate::agent::effect::Effect;
use crate::agent::event::{Entry, Event, Plan, Settled, ToolOutcome};
use crate::agent::run::Run;
use crate::audit::{AuditEvent, AuditRecord, AuditedCall, AuditedDecision, Unwritten};
use crate::decision::arguments_digest;

/// The lines for `entries`, of which the first becomes the journal's entry `sequence`; `run` is what it was before them.
pub(super) fn audited(run: &Run, sequence: u64, entries: &[Entry]) -> Vec<AuditRecord> {
    let numbered = (sequence..).zip(entries);
    numbered.filter_map(|(sequence, entry)| Some(AuditRecord { entry: Some(sequence), ..line(run, entry)? })).collect()
}

/// What is decided or begun without a line does not happen. What has happened is told later.
pub(super) fn unwritten(records: &[AuditRecord]) -> Unwritten {
    match records.first().map(|record| record.event) {
        Some(AuditEvent::ToolStarted | AuditEvent::Decided | AuditEvent::EffectSettled) => Unwritten::Drop,
        _ => Unwritten::Keep,
    }
}

fn line(run: &Run, entry: &Entry) -> Option<AuditRecord> {
    let record = |event| AuditRecord::new(entry.at, event, run.job());
    match &entry.event {
        Event::ToolStarted { call_id } => {
            let call = Some(call(run, call_id)?);
            Some(AuditRecord { call, ..record(AuditEvent::ToolStarted) })
        }
        Event::ToolNotRun { call_id, .. } => {
            let call = Some(call(run, call_id)?);
            Some(AuditRecord { call, outcome: Some("not_run"), ..record(AuditEvent::ToolNotRun) })
        }
        Event::ToolFinished { call_id, outcome } => {
            let call = Some(call(run, call_id)?);
            let (outcome, execution_id) = match outcome {
                ToolOutcome::Done { execution_id, .. } => ("done", execution_id),
                ToolOutcome::Failed { execution_id, .. } => ("failed", execution_id),
                ToolOutcome::Unknown { execution_id, .. } => ("unknown", execution_id),
            };
            let execution_id = execution_id.clone();
            Some(AuditRecord { call, outcome: Some(outcome), execution_id, ..record(AuditEvent::ToolFinished) })
        }
        // The store lost what else is known of it.
        Event::EndLost { call_id, tool } => {
            let (id, tool, connection, effect, arguments_digest) = (call_id.clone(), tool.clone(), None, None, None);
            let call = AuditedCall { id, tool, connection, effect, arguments_digest };
            Some(AuditRecord { call: Some(call), outcome: Some("unknown"), ..record(AuditEvent::ToolFinished) })
        }
        Event::EffectSettled(said) => {
            let told = run.told_effect(&said.call_id)?;
            let call = AuditedCall {
                id: said.call_id.clone(),
                tool: told.tool,
                connection: Some(told.connection),
                effect: None,
                arguments_digest: None,
            };
            let (outcome, execution_id) = (Some(said.settlement.as_str()), told.execution_id);
            let by = Some(said.by.clone());
            Some(AuditRecord { call: Some(call), outcome, execution_id, by, ..record(AuditEvent::EffectSettled) })
        }
        Event::ApprovalDecided(settled) => Some(decided(run, settled, record(AuditEvent::Decided))),
        _ => None,
    }
}

fn decided(run: &Run, settled: &Settled, record: AuditRecord) -> AuditRecord {
    let Settled { approval, verdict, door, by, .. } = settled;
    let decision = AuditedDecision { approval: approval.clone(), decision: verdict.as_str(), door: door.as_str() };
    let asked = run.approvals().waits(approval);
    // What it was asked about; edited arguments are those of the call that starts then.
    let call = asked.and_then(|asked| {
        let digest = asked.call.arguments_digest.clone();
        Some(AuditedCall { arguments_digest: Some(digest), ..call(run, &asked.call.call_id)? })
    });
    let outcome = (!verdict.allows()).then_some("denied");
    AuditRecord { call, outcome, decision: Some(decision), by: by.clone(), ..record }
}

/// The call of the open turn, unless it only reads.
fn call(run: &Run, call_id: &str) -> Option<AuditedCall> {
    let Plan::Run { tool, arguments, .. } = &run.open_call(call_id)?.plan else { return None };
    if tool.effect == Effect::Read {
        return None;
    }
    Some(AuditedCall {
        id: call_id.to_owned(),
        tool: tool.name.clone(),
        connection: Some(tool.connection.to_string()),
        effect: Some(tool.effect.as_str()),
        arguments_digest: Some(arguments_digest(arguments)),
    })
}
