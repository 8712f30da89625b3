//! Reads what the tools returned and puts it into words.

use std::fmt::Write as _;

use serde_json::Value;

use super::conversation::{Conversation, Done};

/// Text of a single item is cut after this many characters.
const SNIPPET: usize = 100;

/// How a call ended, as far as its result tells.
enum Verdict {
    Good,
    Failed(String),
    /// Nobody knows whether it happened.
    Unknown(String),
}

/// A report when a call went wrong or its outcome is not known.
pub(super) fn trouble(conversation: &Conversation) -> Option<String> {
    let good = |done: &Done| matches!(verdict(done), Verdict::Good);
    if conversation.steps.iter().flatten().all(good) {
        return None;
    }
    Some(report(conversation))
}

/// What all calls brought, in order.
pub(super) fn report(conversation: &Conversation) -> String {
    if conversation.steps.is_empty() {
        let count = conversation.tools.len();
        return format!(
            "I am the sandbox's rule-based stand-in for a model and found nothing to do here with {count} tools."
        );
    }
    let parts: Vec<String> = conversation.steps.iter().flatten().map(describe).collect();
    parts.join("\n\n")
}

/// The report so far with a blank line behind it, or nothing.
pub(super) fn report_or_nothing(conversation: &Conversation) -> String {
    if conversation.steps.is_empty() { String::new() } else { format!("{}\n\n", report(conversation)) }
}

/// All objects in lists that the tools returned.
pub(super) fn found_items(conversation: &Conversation) -> Vec<Value> {
    let results = conversation.steps.iter().flatten().filter_map(|done| value_of(&done.result));
    results.flat_map(|result| items(&result, 0).unwrap_or_default()).collect()
}

pub(super) fn found_ids(conversation: &Conversation) -> Vec<String> {
    found_items(conversation).iter().filter_map(|item| item["id"].as_str().map(str::to_owned)).collect()
}

/// The id that the last call of a tool with this word in its name returned.
pub(super) fn last_id(conversation: &Conversation, word: &str) -> Option<String> {
    let calls: Vec<&Done> = conversation.steps.iter().flatten().filter(|done| done.name.contains(word)).collect();
    calls.last().and_then(|done| id_in(&value_of(&done.result)?, 0))
}

fn id_in(value: &Value, depth: usize) -> Option<String> {
    let object = value.as_object().filter(|_| depth < 4)?;
    let own = object.get("id").and_then(Value::as_str).map(str::to_owned);
    own.or_else(|| object.values().find_map(|value| id_in(value, depth + 1)))
}

fn describe(done: &Done) -> String {
    match verdict(done) {
        Verdict::Failed(problem) => format!("{} did not work: {problem}", done.name),
        Verdict::Unknown(problem) => {
            format!("I do not know whether {} took effect, and did not repeat it: {problem}", done.name)
        }
        Verdict::Good => describe_good(done),
    }
}

fn describe_good(done: &Done) -> String {
    let argument = |name: &str| done.arguments[name].as_str().map(str::to_owned);
    if let Some(to) = argument("to") {
        let verb = if done.name.contains("draft") { "drafted" } else { "sent" };
        return format!("I {verb} the mail \"{}\" to {to}.", argument("subject").unwrap_or_default());
    }
    if let (Some(channel), Some(_)) = (argument("channel"), argument("text")) {
        return format!("I posted the message to {channel}.");
    }
    let Some(value) = value_of(&done.result) else {
        return format!("{} answered: {}", done.name, cut(&done.result, 300));
    };
    let Some(items) = items(&value, 0) else {
        let title = argument("summary").or_else(|| argument("title"));
        return title
            .map_or_else(|| format!("{} is done.", done.name), |title| format!("{} is done: {title}.", done.name));
    };
    list(&done.name, &items)
}

fn list(tool: &str, items: &[Value]) -> String {
    let noun = noun(tool, items);
    if items.is_empty() {
        return format!("There are no {noun}.");
    }
    let mut text = format!("I found {} {noun}:", items.len());
    for (index, item) in items.iter().enumerate() {
        let _infallible = write!(text, "\n{}. {}", index + 1, line(item));
    }
    text
}

fn noun(tool: &str, items: &[Value]) -> &'static str {
    let nouns = [
        ("mail", "emails"),
        ("event", "events"),
        ("channel", "channels"),
        ("issue", "issues"),
        ("conversation", "messages"),
    ];
    let mails = items.first().is_some_and(|item| !item["subject"].is_null());
    let by_name = nouns.iter().find(|(word, _)| tool.contains(word)).map(|(_, noun)| *noun);
    if mails { "emails" } else { by_name.unwrap_or("results") }
}

fn line(item: &Value) -> String {
    let field = |name: &str| field(item, name).filter(|text| !text.is_empty());
    if let Some(subject) = field("subject") {
        let from = field("from").unwrap_or_default();
        let sender = from.split('<').next().map(str::trim).filter(|name| !name.is_empty()).unwrap_or(&from).to_owned();
        let more = field("snippet").or_else(|| field("body")).map(|text| format!(" - {}", cut(&text, SNIPPET)));
        return format!("{sender}: {subject}{}", more.unwrap_or_default());
    }
    if let Some(start) = item["start"]["dateTime"].as_str().or(item["start"].as_str()) {
        let time = start.get(11..16).unwrap_or(start);
        return format!("{time} {}", field("summary").unwrap_or_default());
    }
    if let (Some(user), Some(text)) = (field("user"), field("text")) {
        return format!("{user}: {}", cut(&text, SNIPPET));
    }
    let best = ["title", "name", "summary", "text", "person", "real_name", "id"].iter().find_map(|name| field(name));
    best.unwrap_or_else(|| cut(&item.to_string(), SNIPPET))
}

/// A field of an item, or a header of a mail in the provider's own form.
fn field(item: &Value, name: &str) -> Option<String> {
    if let Some(text) = item[name].as_str() {
        return Some(text.to_owned());
    }
    let headers = item["payload"]["headers"].as_array()?;
    let header =
        headers.iter().find(|header| header["name"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(name)))?;
    header["value"].as_str().map(str::to_owned)
}

/// The first list of objects in a result, looking into wrappers and into JSON that travels as text.
fn items(value: &Value, depth: usize) -> Option<Vec<Value>> {
    if depth > 6 {
        return None;
    }
    match value {
        Value::Array(list) if list.iter().any(|item| item["type"] == "text") => {
            list.iter().filter_map(|part| value_of(part["text"].as_str()?)).find_map(|inner| items(&inner, depth + 1))
        }
        // A list that was cut to size ends with a remark in words.
        Value::Array(list) if list.is_empty() || list.iter().any(Value::is_object) => {
            Some(list.iter().filter(|item| item.is_object()).cloned().collect())
        }
        Value::Object(object) => {
            let named = [
                "messages", "items", "array", "threads", "channels", "results", "matches", "content", "data", "result",
            ];
            let named = named.iter().filter_map(|name| object.get(*name)).find_map(|inner| items(inner, depth + 1));
            named.or_else(|| object.values().filter(|inner| inner.is_array()).find_map(|inner| items(inner, depth + 1)))
        }
        Value::String(text) => items(&value_of(text)?, depth + 1),
        _ => None,
    }
}

fn value_of(text: &str) -> Option<Value> {
    let text = text.trim();
    if !text.starts_with(['{', '[']) {
        return None;
    }
    serde_json::from_str(text).ok()
}

fn verdict(done: &Done) -> Verdict {
    let lower = done.result.to_lowercase();
    let Some(value) = value_of(&done.result) else {
        let start: String = lower.chars().take(60).collect();
        let failures = ["error", "refused", "not executed", "not made", "call failed"];
        return match () {
            // What follows a blank line is advice.
            () if failures.iter().any(|words| start.contains(words)) => {
                Verdict::Failed(cut(done.result.split("\n\n").next().unwrap_or_default(), 300))
            }
            () if start.contains("outcome") && start.contains("unknown") => Verdict::Unknown(cut(&done.result, 300)),
            () => Verdict::Good,
        };
    };
    let word = |name: &str| value[name].as_str().map(str::to_lowercase);
    let state = ["status", "state", "outcome"].iter().find_map(|name| word(name)).unwrap_or_default();
    let message = || message_in(&value).unwrap_or_else(|| cut(&done.result, 300));
    if state.contains("unknown") || value["error"].to_string().contains("unknown_outcome") {
        return Verdict::Unknown(message());
    }
    let bad_state = ["error", "failed", "denied", "refused", "invalid"].contains(&state.as_str());
    let error = value.get("error").is_some_and(|error| !error.is_null() && error != false);
    if bad_state || error || value["ok"] == false || value["isError"] == true {
        return Verdict::Failed(message());
    }
    Verdict::Good
}

fn message_in(value: &Value) -> Option<String> {
    let found = [&value["message"], &value["error"]["message"], &value["error"], &value["content"][0]["text"]];
    found.iter().find_map(|text| text.as_str().map(str::to_owned))
}

fn cut(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    text.chars().take(limit).chain(std::iter::once('…')).collect()
}
