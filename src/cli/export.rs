//! A run's journal as one JSON document, to keep or to hand on.

use serde_json::{Map, Value, json};

use crate::agent::run::{BadJournal, Run};

/// Whose text is none of what users, models and tools have said: names, times, codes, digests that nobody can guess by.
/// Everything that is not named here is left out, what later versions write included.
const KEPT: [&str; 33] = [
    "approval",
    "at",
    "call",
    "call_id",
    "cause",
    "code",
    "connection",
    "connections",
    "decision",
    "door",
    "effect",
    "effects",
    "event",
    "execution_id",
    "finish",
    "finished_at",
    "id",
    "identifier",
    "links_end",
    "model",
    "model_name",
    "name",
    "source",
    "specversion",
    "started_at",
    "state",
    "status",
    "stop_reason",
    "subject",
    "time",
    "tool",
    "type",
    "until",
];
/// Kept in these events alone, where it is one of a closed set.
const REASONS: [&str; 3] = ["retried", "tool_not_run", "put_aside"];
/// Whole values that anybody may have made up, their keys included.
const MADE_UP: [&str; 6] = ["arguments", "arguments_schema", "metadata", "output", "output_schema", "provider_items"];

/// The document, `None` where there is no journal.
pub(super) fn exported(lines: &[String], content: bool) -> Result<Option<Value>, BadJournal> {
    let Some(run) = Run::replay(lines)? else { return Ok(None) };
    let entries = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let entries: Vec<Value> = entries.map(|entry| if content { entry } else { without_content(entry) }).collect();
    Ok(Some(json!({
        "format": "agentkit-worker journal",
        "version": 1,
        "id": run.job().id().as_str(),
        "producer": run.job().id().producer(),
        "identifier": run.job().identifier,
        "state": run.standing().0,
        "content": content,
        "entries": entries,
    })))
}

fn without_content(entry: Value) -> Value {
    let event = entry.get("event").and_then(Value::as_object).and_then(|event| event.keys().next().cloned());
    let keeps_reason = event.is_some_and(|event| REASONS.contains(&event.as_str()));
    redacted(entry, "", keeps_reason)
}

/// `value`, which stands under `key`.
fn redacted(value: Value, key: &str, keeps_reason: bool) -> Value {
    let kept = KEPT.contains(&key) || (key == "reason" && keeps_reason);
    match value {
        Value::Null => value,
        value if MADE_UP.contains(&key) => left_out(&value),
        Value::String(text) if !kept => left_out(&Value::String(text)),
        Value::Array(values) => values.into_iter().map(|value| redacted(value, key, keeps_reason)).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| {
                let value = redacted(value, &key, keeps_reason);
                (key, value)
            });
            Value::Object(fields.collect::<Map<String, Value>>())
        }
        value => value,
    }
}

fn left_out(value: &Value) -> Value {
    let bytes = match value {
        Value::String(text) => text.len(),
        value => value.to_string().len(),
    };
    format!("[{bytes} bytes left out]").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOURNALS: [&str; 4] = [
        include_str!("../../tests/data/journal/v1-finished.ndjson"),
        include_str!("../../tests/data/journal/v2-put-aside.ndjson"),
        include_str!("../../tests/data/journal/v3-end-lost.ndjson"),
        include_str!("../../tests/data/journal/v4-approvals.ndjson"),
    ];

    fn lines(journal: &str) -> Vec<String> {
        journal.lines().map(str::to_owned).collect()
    }

    #[test]
    fn an_export_with_content_is_the_whole_journal_and_one_without_says_nothing_that_anybody_said() {
        assert_eq!(exported(&[], true).unwrap(), None);
        for journal in JOURNALS.map(lines) {
            let whole = exported(&journal, true).unwrap().unwrap();
            let entries: Vec<String> = journal.iter().map(|line| line.parse::<Value>().unwrap().to_string()).collect();
            let kept = whole["entries"].as_array().unwrap();
            assert_eq!(kept.iter().map(Value::to_string).collect::<Vec<_>>(), entries);
            let run = Run::replay(&journal).unwrap().unwrap();
            let shy = exported(&journal, false).unwrap().unwrap();
            assert_eq!(shy["entries"].as_array().unwrap().len(), journal.len());
            assert_eq!(shy["id"], run.job().id().as_str());
            let text = shy.to_string();
            let said = run.messages().iter().map(|message| serde_json::to_value(message).unwrap());
            let mut words = Vec::new();
            said.for_each(|message| contents(&message, &mut words));
            // What a model says may also be a word of ours.
            words.retain(|word| word != "done");
            for word in words.iter().chain([&run.settings().instructions, &run.job().prompt]) {
                let quoted = Value::String(word.clone()).to_string();
                assert!(word.is_empty() || !text.contains(&quoted), "{word:?} is in {text}");
            }
            for event in ["because", "\"to\"", "sent\""] {
                assert!(!text.contains(event), "{event} is in {text}");
            }
        }
        let shy = exported(&lines(JOURNALS[3]), false).unwrap().unwrap().to_string();
        for kept in ["gmail_send_message", "\"denied\"", "\"edit\"", "ap_ag.8c320939174c6d0bdf565574", "\"user_123\""] {
            assert!(shy.contains(kept), "{kept} is not in {shy}");
        }
    }

    /// The words in a message, but for names.
    fn contents(value: &Value, words: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                fields
                    .iter()
                    .filter(|(key, _)| !["id", "name", "call_id"].contains(&key.as_str()))
                    .for_each(|(_, value)| contents(value, words));
            }
            Value::Array(values) => values.iter().for_each(|value| contents(value, words)),
            Value::String(text) => words.push(text.clone()),
            _ => {}
        }
    }
}
