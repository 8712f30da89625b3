//! A chat workspace and the tools on it. Failures are answers with `ok: false`, as Slack gives them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::counter::Counter;
use super::dates::minutes_before;
use super::parameters::{Parameters, contains, count, text};

/// The channels of a team, and who is in it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Workspace {
    channels: Vec<Channel>,
    users: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Channel {
    id: String,
    name: String,
    topic: String,
    messages: Vec<Message>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Message {
    ts: String,
    user: String,
    text: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    thread_ts: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reactions: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pinned: bool,
}

#[derive(Deserialize)]
pub(super) struct SeedChannel {
    id: String,
    name: String,
    topic: String,
    messages: Vec<SeedMessage>,
}

#[derive(Deserialize)]
struct SeedMessage {
    minutes_ago: i64,
    user: String,
    text: String,
}

impl Workspace {
    pub(super) fn new(seed: Vec<SeedChannel>, users: Vec<Value>, now: Timestamp) -> Self {
        Self { channels: seed.into_iter().map(|channel| channel.into_channel(now)).collect(), users }
    }
}

impl SeedChannel {
    fn into_channel(self, now: Timestamp) -> Channel {
        let messages = self.messages.into_iter().map(|message| {
            let ts = format!("{}.000100", minutes_before(now, message.minutes_ago).as_second());
            Message::new(ts, message.user, message.text)
        });
        Channel { id: self.id, name: self.name, topic: self.topic, messages: messages.collect() }
    }
}

impl Message {
    fn new(ts: String, user: String, text: String) -> Self {
        Self { ts, user, text, thread_ts: String::new(), reactions: Vec::new(), pinned: false }
    }
}

pub(super) fn run(
    workspace: &mut Workspace,
    action: &str,
    params: &Parameters,
    counter: &mut Counter,
    now: Timestamp,
) -> Value {
    try_run(workspace, action, params, counter, now).unwrap_or_else(|error| json!({"ok": false, "error": error}))
}

fn try_run(
    workspace: &mut Workspace,
    action: &str,
    params: &Parameters,
    counter: &mut Counter,
    now: Timestamp,
) -> Result<Value, &'static str> {
    match action {
        "list_channels" => Ok(list_channels(workspace)),
        "list_users" => Ok(json!({"ok": true, "members": workspace.users})),
        "lookup_user_by_email" => {
            let user = workspace.users.iter().find(|user| user["email"] == text(params, "email"));
            user.map(|user| json!({"ok": true, "user": user})).ok_or("users_not_found")
        }
        "search_messages" => Ok(search(workspace, text(params, "query"), count(params, "count", 20))),
        "fetch_conversation_history" => {
            let messages = &channel(workspace, params)?.messages;
            let newest: Vec<&Message> = messages.iter().rev().take(count(params, "limit", 100)).collect();
            Ok(json!({"ok": true, "messages": newest, "has_more": newest.len() < messages.len()}))
        }
        "get_conversation_replies" => {
            let ts = text(params, "ts");
            let thread = channel(workspace, params)?.messages.iter();
            let thread: Vec<&Message> = thread.filter(|message| message.ts == ts || message.thread_ts == ts).collect();
            if thread.is_empty() { Err("thread_not_found") } else { Ok(json!({"ok": true, "messages": thread})) }
        }
        "send_message" => send(workspace, params, counter, now),
        "update_message" => {
            let new_text = text(params, "text").to_owned();
            message(workspace, params, "ts").map(|message| {
                message.text = new_text;
                json!({"ok": true, "ts": message.ts, "text": message.text})
            })
        }
        "delete_message" => {
            let ts = message(workspace, params, "ts")?.ts.clone();
            channel(workspace, params)?.messages.retain(|message| message.ts != ts);
            Ok(json!({"ok": true, "ts": ts}))
        }
        "add_reaction" => {
            let name = text(params, "name").to_owned();
            let message = message(workspace, params, "timestamp")?;
            if message.reactions.contains(&name) {
                return Err("already_reacted");
            }
            message.reactions.push(name);
            Ok(json!({ "ok": true }))
        }
        "pin_message" => {
            let message = message(workspace, params, "timestamp")?;
            if std::mem::replace(&mut message.pinned, true) { Err("already_pinned") } else { Ok(json!({ "ok": true })) }
        }
        "set_conversation_topic" => {
            let channel = channel(workspace, params)?;
            text(params, "topic").clone_into(&mut channel.topic);
            Ok(json!({"ok": true, "topic": channel.topic}))
        }
        _ => Err("unknown_method"),
    }
}

fn list_channels(workspace: &Workspace) -> Value {
    let channels = workspace.channels.iter().map(|channel| {
        json!({"id": channel.id, "name": channel.name, "topic": {"value": channel.topic}, "is_channel": true})
    });
    json!({"ok": true, "channels": channels.collect::<Vec<_>>(), "response_metadata": {"next_cursor": ""}})
}

fn search(workspace: &Workspace, query: &str, size: usize) -> Value {
    let matches = workspace.channels.iter().flat_map(|channel| {
        let found = channel.messages.iter().filter(|message| contains(&message.text, query));
        found.map(|message| json!({"channel": {"id": channel.id, "name": channel.name}, "ts": message.ts, "text": message.text, "user": message.user}))
    });
    let matches: Vec<Value> = matches.take(size).collect();
    json!({"ok": true, "messages": {"total": matches.len(), "matches": matches}})
}

fn send(
    workspace: &mut Workspace,
    params: &Parameters,
    counter: &mut Counter,
    now: Timestamp,
) -> Result<Value, &'static str> {
    let words = text(params, "text");
    if words.trim().is_empty() {
        return Err("no_text");
    }
    channel(workspace, params)?;
    let ts = format!("{}.{:06}", now.as_second(), counter.next());
    let mut message = Message::new(ts, "U0001".to_owned(), words.to_owned());
    text(params, "thread_ts").clone_into(&mut message.thread_ts);
    let channel = channel(workspace, params)?;
    let answer = json!({"ok": true, "channel": channel.id, "ts": message.ts, "message": message});
    channel.messages.push(message);
    Ok(answer)
}

/// By id or by name, with or without a hash sign.
fn channel<'a>(workspace: &'a mut Workspace, params: &Parameters) -> Result<&'a mut Channel, &'static str> {
    let wanted = text(params, "channel").trim_start_matches('#');
    let mut channels = workspace.channels.iter_mut();
    channels.find(|channel| channel.id == wanted || channel.name == wanted).ok_or("channel_not_found")
}

fn message<'a>(workspace: &'a mut Workspace, params: &Parameters, name: &str) -> Result<&'a mut Message, &'static str> {
    let ts = text(params, name);
    channel(workspace, params)?.messages.iter_mut().find(|message| message.ts == ts).ok_or("message_not_found")
}
