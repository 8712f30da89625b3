//! One model turn: from what the model said to the answers of all its calls.
//!
//! The rules that keep a conversation valid and finite live here: every call is answered exactly once in the model's
//! order, a cut or filtered turn is never executed, doubt stops the rest of a turn, loops and fruitless turns end a run.

use std::collections::BTreeSet;

use serde_json::Value;

use super::event::{Plan, ToolOutcome};
use super::message::{AssistantMessage, Finish, Message, ModelReply};
pub use super::state::Conclusion;
use super::state::{CallState, LedgerEntry, OpenCall, Run};
use crate::key::digest;
use crate::reply::{EffectState, ErrorCode, ErrorDetail};
use crate::schema::Schema;

/// A model may be put right so many times in a row: a cut turn, an empty answer, an answer that does not fit the schema.
const MAX_CORRECTIONS: u32 = 2;
/// So many turns in a row in which no call succeeded end the run.
const MAX_FRUITLESS_TURNS: u32 = 3;
/// The same call with the same result in so many turns: the model is told.
const REPEATS_NOTED: u32 = 3;
/// The same call with the same result in so many turns: the run ends.
const REPEATS_ENDED: u32 = 5;

/// Takes in what the model said. `plans` stand beside its calls, one for each.
pub(super) fn open(run: &mut Run, reply: ModelReply, plans: Vec<Plan>) {
    run.steps += 1;
    run.usage.model_calls += 1;
    match reply.usage {
        Some(usage) => {
            run.usage.input_tokens = run.usage.input_tokens.saturating_add(usage.input_tokens);
            run.usage.output_tokens = run.usage.output_tokens.saturating_add(usage.output_tokens);
            run.usage.cached_tokens = run.usage.cached_tokens.saturating_add(usage.cached_tokens);
        }
        None => run.usage.unknown = true,
    }
    run.answered_by = reply.model.or_else(|| run.answered_by.take());
    let cut = reply.finish == Finish::Length;
    match reply.finish {
        Finish::ContentFilter => {
            let error =
                ErrorDetail::new(ErrorCode::ContentFiltered, "the provider's content filter cut the answer off");
            run.conclusion = Some(Conclusion::failed(error));
        }
        Finish::Refusal(words) => {
            run.conclusion = Some(Conclusion::failed(ErrorDetail::new(ErrorCode::Refused, shorten(&words, 500))));
        }
        _ if reply.message.calls.is_empty() => conclude(run, reply.message, cut),
        _ if cut => correct(run, None, || {
            ErrorDetail::new(
                ErrorCode::TokenLimit,
                "the model's turn was cut at its output limit in the middle of a tool call",
            )
        }),
        _ => open_calls(run, reply.message, plans),
    }
}

fn open_calls(run: &mut Run, message: AssistantMessage, plans: Vec<Plan>) {
    let wanted = plans.iter().filter(|plan| matches!(plan, Plan::Run { .. })).count();
    let limit = run.settings().tool_calls;
    if u64::from(run.calls_made) + wanted as u64 > u64::from(limit) {
        let text = format!("the model wanted {wanted} more tool calls after {}, {limit} are allowed", run.calls_made);
        run.conclusion = Some(Conclusion::failed(ErrorDetail::new(ErrorCode::ToolCallLimit, text)));
        return;
    }
    run.corrections = 0;
    if message.text.is_some() {
        run.last_text.clone_from(&message.text);
    }
    let calls = message.calls.iter().cloned().zip(plans);
    run.turn = calls
        .map(|(call, plan)| {
            let state = match &plan {
                Plan::Run { .. } => CallState::Planned,
                Plan::Refuse { reason } => CallState::Answered { content: refusal(reason), succeeded: false },
            };
            OpenCall { call, plan, state }
        })
        .collect();
    run.messages.push(Message::Assistant(message));
    close_when_answered(run);
}

/// The model answered in words.
fn conclude(run: &mut Run, message: AssistantMessage, cut: bool) {
    let text = message.text.clone().unwrap_or_default();
    if text.trim().is_empty() {
        let note = "You gave neither an answer nor a tool call. Call a tool, or answer the request in words now.";
        return correct(run, Some((None, note.to_owned())), || {
            ErrorDetail::new(ErrorCode::InvalidOutput, "the model gave neither words nor tool calls")
                .hint("try again, or take another model; an empty answer is the model's fault")
        });
    }
    run.last_text = Some(text.clone());
    let stop_reason = if cut { "length" } else { "answered" };
    let Some(schema) = &run.started.job.output_schema else {
        run.messages.push(Message::Assistant(message));
        run.conclusion = Some(Conclusion::Answered { text, output: None, stop_reason });
        return;
    };
    match structured(&text, schema) {
        Ok(output) => {
            run.messages.push(Message::Assistant(message));
            run.conclusion = Some(Conclusion::Answered { text, output: Some(output), stop_reason });
        }
        Err(problems) => {
            let note = format!(
                "Your answer does not fit the wanted JSON schema: {problems}. Answer with nothing but JSON that fits it."
            );
            correct(run, Some((Some(message), note)), || {
                ErrorDetail::new(
                    ErrorCode::InvalidOutput,
                    format!("the answer does not fit the job's schema: {problems}"),
                )
            });
        }
    }
}

/// Lets the model try again, a bounded number of times in a row.
fn correct(run: &mut Run, note: Option<(Option<AssistantMessage>, String)>, error: impl FnOnce() -> ErrorDetail) {
    run.corrections += 1;
    if run.corrections > MAX_CORRECTIONS {
        run.conclusion = Some(Conclusion::failed(error()));
        return;
    }
    let Some((said, note)) = note else { return };
    run.messages.extend(said.map(Message::Assistant));
    run.messages.push(Message::User(note));
}

fn structured(text: &str, schema: &Value) -> Result<Value, String> {
    let value: Value = serde_json::from_str(without_fence(text)).map_err(|error| format!("not JSON: {error}"))?;
    let schema = Schema::compile(schema).map_err(|error| error.to_string())?;
    let problems = schema.problems(&value);
    if problems.is_empty() { Ok(value) } else { Err(problems.join("; ")) }
}

/// Models like to wrap JSON in a Markdown fence, whatever they are asked.
pub(super) fn without_fence(text: &str) -> &str {
    let text = text.trim();
    let Some(inner) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else { return text };
    inner.strip_prefix("json").unwrap_or(inner).trim()
}

/// A call is about to leave: it stands in the ledger as unknown until its outcome is known.
pub(super) fn record_start(run: &mut Run, call_id: &str) {
    let Some(OpenCall { plan: Plan::Run { tool, arguments, .. }, .. }) = run.open_call(call_id) else { return };
    let entry = LedgerEntry {
        call_id: call_id.to_owned(),
        tool: tool.clone(),
        summary: summary(arguments),
        state: EffectState::Unknown,
        execution_id: None,
        open: true,
    };
    if run.ledger.iter().any(|entry| entry.open && entry.call_id == call_id) {
        return;
    }
    run.calls_made += 1;
    run.ledger.push(entry);
}

/// The call proved not to have run.
pub(super) fn forget_start(run: &mut Run, call_id: &str) {
    let before = run.ledger.len();
    run.ledger.retain(|entry| !(entry.open && entry.call_id == call_id));
    run.calls_made -= u32::from(run.ledger.len() < before);
}

/// A call has its outcome.
pub(super) fn finish_call(run: &mut Run, call_id: &str, outcome: &ToolOutcome) {
    let (content, state, execution_id) = match outcome {
        ToolOutcome::Done { content, execution_id } => (content.clone(), EffectState::Done, execution_id),
        ToolOutcome::Failed { message, execution_id } => {
            (format!("The tool call failed: {message}"), EffectState::Failed, execution_id)
        }
        ToolOutcome::Unknown { message, execution_id } => (doubt(message), EffectState::Unknown, execution_id),
    };
    if let Some(entry) = run.ledger.iter_mut().find(|entry| entry.open && entry.call_id == call_id) {
        entry.state = state;
        entry.execution_id.clone_from(execution_id);
        entry.open = false;
    }
    let Some(open) = run.turn.iter_mut().find(|open| open.call.id == call_id) else { return };
    if let Plan::Run { key, .. } = &open.plan
        && state == EffectState::Unknown
    {
        run.fenced.insert(key.clone());
    }
    open.state = CallState::Answered { content, succeeded: state == EffectState::Done };
    if state == EffectState::Unknown {
        let skipped = "Not executed, because the outcome of an earlier call of this turn is unknown.";
        for open in run.turn.iter_mut().filter(|open| open.state == CallState::Planned) {
            open.state = CallState::Answered { content: skipped.to_owned(), succeeded: false };
        }
    }
    close_when_answered(run);
}

fn close_when_answered(run: &mut Run) {
    if !run.turn.iter().all(|open| matches!(open.state, CallState::Answered { .. })) {
        return;
    }
    let mut keys = BTreeSet::new();
    let mut fruitful = false;
    for OpenCall { call, plan, state } in std::mem::take(&mut run.turn) {
        let CallState::Answered { content, succeeded } = state else { continue };
        fruitful |= succeeded;
        if let Plan::Run { key, .. } = plan {
            keys.insert((key, digest(&content, 8)));
        }
        run.messages.push(Message::ToolResult { call_id: call.id, content });
    }
    run.fruitless_turns = if fruitful { 0 } else { run.fruitless_turns + 1 };
    let mut repeats = 0;
    for key in keys {
        let count = run.repeats.entry(key).or_default();
        *count += 1;
        repeats = repeats.max(*count);
    }
    if repeats >= REPEATS_ENDED {
        let text = format!("the model made the same tool call with the same result in {repeats} turns");
        run.conclusion = Some(Conclusion::failed(ErrorDetail::new(ErrorCode::LoopDetected, text)));
    } else if run.fruitless_turns >= MAX_FRUITLESS_TURNS {
        let text = format!(
            "no tool call succeeded in {} turns in a row; the last one said: {}",
            run.fruitless_turns,
            last_words(run)
        );
        run.conclusion = Some(Conclusion::failed(ErrorDetail::new(ErrorCode::ToolErrors, text)));
    } else if repeats == REPEATS_NOTED {
        let note = "You have made the same tool call with the same result several times. Do something else, or answer with what you have.";
        run.messages.push(Message::User(note.to_owned()));
    }
}

fn last_words(run: &Run) -> String {
    match run.messages.last() {
        Some(Message::ToolResult { content, .. }) => shorten(content, 300),
        _ => String::new(),
    }
}

/// The limit that forbids a further model call, if one is reached.
pub(super) fn limit_reached(run: &Run) -> Option<Conclusion> {
    let settings = run.settings();
    let tokens = run.usage.input_tokens.saturating_add(run.usage.output_tokens);
    let error = if run.steps >= settings.steps {
        let text = format!("the run had {} model turns without coming to an answer", run.steps);
        ErrorDetail::new(ErrorCode::StepLimit, text)
    } else if tokens >= settings.tokens {
        ErrorDetail::new(
            ErrorCode::TokenLimit,
            format!("the run used {tokens} tokens, {} are allowed", settings.tokens),
        )
    } else {
        return None;
    };
    Some(Conclusion::failed(error))
}

/// The working time is used up.
pub(super) fn deadline_exceeded(seconds: u64) -> Conclusion {
    Conclusion::failed(ErrorDetail::new(
        ErrorCode::DeadlineExceeded,
        format!("the run worked for {seconds} s without coming to an answer"),
    ))
}

fn refusal(reason: &str) -> String {
    format!("This call was not executed: {reason}")
}

fn doubt(message: &str) -> String {
    format!(
        "The outcome of this call is unknown ({message}): it may have been carried out. Do not repeat it. Check by reading \
         whether it took effect, or say in your answer that its outcome is unknown."
    )
}

/// The arguments' main points, for a person.
fn summary(arguments: &serde_json::Map<String, Value>) -> String {
    const LONGEST_VALUE: usize = 60;
    let parts = arguments.iter().filter(|(_, value)| !value.is_object() && !value.is_array()).take(4);
    let parts = parts.map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{name}: {}", shorten(&text, LONGEST_VALUE))
    });
    parts.collect::<Vec<_>>().join(", ")
}

pub(super) fn shorten(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
