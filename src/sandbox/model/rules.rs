//! The rules that stand for a model: from the prompt and the tools on offer to the next calls or the final text.
//!
//! Special prompts for tests: `loop forever` calls a read tool without end, `say nothing` answers with empty text,
//! `answer without tools` never calls one, and `call NAME with {json}` (joined by `and` or `then`) calls just that.
//!
//! `… and do what it asks` obeys the mails that were found, whoever wrote them, as a model may that is taken in by what it reads.

use serde_json::{Value, json};

use super::answers;
use super::arguments;
use super::conversation::{Choice, Conversation, Reply, ToolSpec};
use super::fit;
use super::intents::{Intent, intents};
use super::words;

/// Who asks this is obeyed, and so is whoever wrote what was read.
const OBEY: &str = "do what it asks";
/// Prompts with a meaning of their own.
const SPECIAL: [&str; 3] = ["loop forever", "say nothing", "answer without tools"];

/// One call that is to be made.
#[derive(Debug, Clone)]
enum Planned {
    /// The prompt names the tool and its arguments.
    Given { tool: String, arguments: Value },
    /// The prompt asks for something, in these words.
    Meant { intent: Intent, words: String },
}

/// What the model says next.
pub(super) fn reply(conversation: &Conversation) -> Reply {
    match next_calls(conversation) {
        Ok(calls) => Reply::Calls(calls),
        Err(text) => Reply::Text(match &conversation.schema {
            Some(schema) if !text.is_empty() => {
                fit::answer(schema, &text, &answers::found_items(conversation)).to_string()
            }
            _ => text,
        }),
    }
}

/// Whether a prompt asks for anything that the rules know.
pub(super) fn asks(prompt: &str, tools: &[ToolSpec]) -> bool {
    let lower = prompt.to_lowercase();
    SPECIAL.iter().any(|special| lower.contains(special)) || !plan(prompt, tools).is_empty()
}

/// The next calls, or the text that ends the conversation.
fn next_calls(conversation: &Conversation) -> Result<Vec<(String, Value)>, String> {
    let prompt = conversation.prompt.to_lowercase();
    if prompt.contains("say nothing") {
        return Err(String::new());
    }
    if let Choice::Named(name) = &conversation.choice
        && conversation.steps.is_empty()
    {
        return Ok(vec![(name.clone(), forced_arguments(conversation, name))]);
    }
    if conversation.choice == Choice::Never || prompt.contains("answer without tools") {
        return Err(format!("Answered without tools by the sandbox's rules: {}", conversation.prompt));
    }
    if prompt.contains("loop forever") {
        return looping(conversation).ok_or_else(|| "I have no tool to loop with.".to_owned());
    }
    if let Some(report) = answers::trouble(conversation) {
        return Err(report);
    }
    let mut stages = plan(&conversation.prompt, &conversation.tools);
    if prompt.contains(OBEY) {
        let found = answers::found_items(conversation);
        let wishes = found.iter().filter_map(|mail| mail["body"].as_str());
        stages.extend(wishes.flat_map(|wish| plan(wish, &conversation.tools)));
    }
    let stages =
        if conversation.parallel { stages } else { stages.into_iter().flatten().map(|one| vec![one]).collect() };
    match stages.get(conversation.steps.len()) {
        Some(stage) => stage.iter().map(|planned| call(conversation, planned)).collect(),
        None if conversation.choice == Choice::Required => {
            looping(conversation).ok_or_else(|| "I have no tool.".to_owned())
        }
        None => Err(answers::report(conversation)),
    }
}

fn call(conversation: &Conversation, planned: &Planned) -> Result<(String, Value), String> {
    let (intent, words) = match planned {
        Planned::Given { tool, arguments } => return Ok((tool.clone(), arguments.clone())),
        Planned::Meant { intent, words } => (*intent, words),
    };
    let (label, _) = intent.tools();
    let so_far = answers::report_or_nothing(conversation);
    let Some(tool) = tool_for(intent, &conversation.tools) else {
        return Err(format!("{so_far}I have no tool to {label}."));
    };
    match arguments::build(conversation, intent, words, tool) {
        Ok(arguments) => Ok((tool.name.clone(), arguments)),
        Err(missing) => Err(format!("{so_far}To {label} I need a value for \"{missing}\".")),
    }
}

fn tool_for(intent: Intent, tools: &[ToolSpec]) -> Option<&ToolSpec> {
    let (_, fragments) = intent.tools();
    fragments.iter().find_map(|fragment| tools.iter().find(|tool| tool.name.contains(fragment)))
}

fn forced_arguments(conversation: &Conversation, name: &str) -> Value {
    let tool = conversation.tools.iter().find(|tool| tool.name == name);
    let stages = plan(&conversation.prompt, &conversation.tools);
    let planned = stages.iter().flatten().filter_map(|planned| call(conversation, planned).ok());
    let fitting = planned.into_iter().find(|(planned, _)| planned == name).map(|(_, arguments)| arguments);
    fitting.unwrap_or_else(|| {
        tool.map_or_else(|| json!({}), |tool| fit::answer(&tool.parameters, &conversation.prompt, &[]))
    })
}

/// The same call again and again; `loop forever with new arguments` asks for one more each time.
fn looping(conversation: &Conversation) -> Option<Vec<(String, Value)>> {
    let reading = ["fetch", "list", "search", "get"];
    let by_name = |tool: &&ToolSpec| reading.iter().any(|verb| tool.name.contains(verb)) && !arguments::needs_any(tool);
    let tool = conversation.tools.iter().find(by_name).or(conversation.tools.first())?;
    let changing = conversation.prompt.to_lowercase().contains("new arguments");
    let size = if changing { conversation.steps.len() + 1 } else { 1 };
    let arguments =
        arguments::known(tool, &[("max_results", json!(size)), ("limit", json!(size)), ("per_page", json!(size))]);
    Some(vec![(tool.name.clone(), arguments)])
}

/// Stages of calls; the calls of one stage may be made at once.
fn plan(prompt: &str, tools: &[ToolSpec]) -> Vec<Vec<Planned>> {
    let mut stages = Vec::new();
    for segment in segments(prompt) {
        let given = given_calls(&segment, tools);
        if !given.is_empty() {
            stages.push(given);
            continue;
        }
        let meant: Vec<Intent> = intents(&words::without_free_text(&segment));
        let planned = |intent: &Intent| Planned::Meant { intent: *intent, words: segment.clone() };
        let reads: Vec<Planned> = meant.iter().filter(|intent| intent.reads()).map(planned).collect();
        if !reads.is_empty() {
            stages.push(reads);
        }
        stages.extend(meant.iter().filter(|intent| !intent.reads()).map(|intent| vec![planned(intent)]));
    }
    stages
}

/// Splits a prompt at "then" outside of quotes and braces.
fn segments(prompt: &str) -> Vec<String> {
    let mut segments = vec![String::new()];
    let (mut quoted, mut depth) = (false, 0_u32);
    for word in prompt.split_inclusive(char::is_whitespace) {
        let plain = !quoted && depth == 0;
        if plain && word.trim().trim_matches([',', ';', '.']).eq_ignore_ascii_case("then") {
            segments.push(String::new());
            continue;
        }
        for character in word.chars() {
            match character {
                '"' | '“' | '”' => quoted = !quoted,
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        segments.last_mut().into_iter().for_each(|segment| segment.push_str(word));
    }
    segments.retain(|segment| !segment.trim().is_empty());
    segments
}

/// `call NAME with {…}`: names of tools on offer, each with the object that follows.
fn given_calls(segment: &str, tools: &[ToolSpec]) -> Vec<Planned> {
    let mut calls = Vec::new();
    let mut rest = segment;
    while let Some(start) = ["call ", "Call "].iter().filter_map(|verb| rest.find(verb)).min() {
        rest = &rest[start + "call ".len()..];
        let name: &str = rest.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';')).next().unwrap_or_default();
        let name = name.trim_end_matches('.');
        if !tools.iter().any(|tool| tool.name == name) {
            continue;
        }
        let after = &rest[name.len()..];
        let object = after.trim_start().strip_prefix("with").map(str::trim_start).unwrap_or_default();
        let mut parsed = serde_json::Deserializer::from_str(object).into_iter::<Value>();
        let arguments = parsed.next().and_then(Result::ok).filter(Value::is_object);
        // The object may hold the word "call": go on behind it.
        let used = if arguments.is_some() { parsed.byte_offset() } else { 0 };
        rest = if used > 0 { &object[used..] } else { after };
        calls.push(Planned::Given { tool: name.to_owned(), arguments: arguments.unwrap_or_else(|| json!({})) });
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(prompt: &str) -> Vec<Intent> {
        segments(prompt).iter().flat_map(|segment| intents(&words::without_free_text(segment))).collect()
    }

    #[test]
    fn prompts_are_read_as_they_are_meant() {
        use Intent::{CreateEvent, DraftMail, PostMessage, ReadCalendar, ReadMails, SendDraft, SendMail};
        let cases: [(&str, &[Intent]); 10] = [
            ("Fetch my last 5 unread emails and summarize them.", &[ReadMails]),
            ("Search my mail for the invoice", &[ReadMails]),
            ("Send an email to bob@example.com with subject Hello saying please read my unread mail", &[SendMail]),
            ("Fetch my unread emails, then send a summary to bob@example.com", &[ReadMails, SendMail]),
            ("Send a summary of my unread emails to bob@example.com", &[ReadMails, SendMail]),
            ("Show my last 3 emails and what is on my calendar today", &[ReadMails, ReadCalendar]),
            ("Post to #general saying the build is green", &[PostMessage]),
            ("Draft a mail to bob@example.com saying hi, then send the draft", &[DraftMail, SendDraft]),
            ("Create an event called Retro", &[CreateEvent]),
            ("Tell me a joke", &[]),
        ];
        for (prompt, expected) in cases {
            assert_eq!(asked(prompt), expected, "{prompt}");
        }
    }

    #[test]
    fn then_inside_quotes_does_not_split() {
        assert_eq!(segments("send \"now then later\" to x, then stop").len(), 2);
    }
}
