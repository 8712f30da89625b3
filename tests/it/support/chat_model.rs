//! What a model says over the chat completions API, for a test that plays one.

use serde_json::{Value, json};

use super::http_peer::{Answer, Received};

fn completion(message: &Value) -> Answer {
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11});
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    Answer::json(
        200,
        &json!({"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}),
    )
}

/// An answer in words.
pub(crate) fn says(text: &str) -> Answer {
    completion(&json!({"role": "assistant", "content": text}))
}

/// One tool call.
pub(crate) fn wants(id: &str, tool: &str, arguments: &Value) -> Answer {
    let function = json!({"name": tool, "arguments": arguments.to_string()});
    let call = json!({"id": id, "type": "function", "function": function});
    completion(&json!({"role": "assistant", "content": null, "tool_calls": [call]}))
}

/// What the user of a request wants.
pub(crate) fn prompt(request: &Received) -> String {
    request.json()["messages"][1]["content"].as_str().unwrap().to_owned()
}

/// How many results of tools a request has.
pub(crate) fn tool_results(request: &Received) -> usize {
    request.json()["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "tool").count()
}
