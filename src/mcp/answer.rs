//! Finding the answer to a request in a body: one JSON document, or a stream of events.

use serde_json::{Map, Value};

use super::McpError;
use super::event_stream::EventStream;
use super::secrets::SentSecrets;
use crate::http::{self, Response};

/// Messages of one stream that are looked at; what goes on longer is cut off.
const MOST_MESSAGES: usize = 100_000;

/// What a server wants to know in the middle of an answer (revisions up to 2025-11-25).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Question {
    pub(super) id: Value,
    pub(super) method: String,
}

/// What was said in answer to the request `id`, as it comes in.
#[derive(Debug, Default)]
pub(super) struct RpcAnswer {
    id: u64,
    events: EventStream,
    messages: usize,
    /// `result` or `error`, as it stands in the JSON-RPC response.
    response: Option<Map<String, Value>>,
    /// Whether the server said that its tools have changed.
    list_changed: bool,
    /// What it may know and nobody else.
    secrets: SentSecrets,
}

impl RpcAnswer {
    pub(super) fn to(id: u64, secrets: SentSecrets) -> Self {
        Self { id, secrets, ..Self::default() }
    }

    /// Looks at what has come of a stream of events; true once the rest does not matter. What the server asks goes to `asked`.
    pub(super) fn is_whole(&mut self, head: &Response, body: &[u8], asked: &mut dyn FnMut(Question)) -> bool {
        if !is_stream(head) {
            return false;
        }
        while self.response.is_none() && self.messages < MOST_MESSAGES {
            let Some(data) = self.events.next(body) else { return false };
            self.messages += 1;
            // Data that is no JSON is no message: the answer may still come.
            if let Ok(message) = http::parse_bounded(&self.secrets.hidden(&data)) {
                self.take(message, asked);
            }
        }
        true
    }

    /// The response in a body that has come to its end.
    pub(super) fn finish(mut self, response: &Response) -> Result<Finished, McpError> {
        if !is_stream(response) {
            let message = http::parse_bounded(&self.secrets.hidden(&response.body));
            let message = message.map_err(|_| McpError::bad_answer(response, "not JSON"))?;
            self.take(message, &mut |_| {});
        }
        let list_changed = self.list_changed;
        let Some(mut message) = self.response else {
            return match is_stream(response) && self.messages < MOST_MESSAGES {
                true => Err(McpError::stream_ended(response.status)),
                false => Err(McpError::bad_answer(response, "no response to the request")),
            };
        };
        match (message.remove("result"), message.remove("error")) {
            (Some(Value::Object(result)), None) => Ok(Finished { result, status: response.status, list_changed }),
            (None, Some(Value::Object(error))) => Err(McpError::from_error(&error, response.status)),
            _ => Err(McpError::bad_answer(response, "neither a result nor an error")),
        }
    }

    fn take(&mut self, message: Value, asked: &mut dyn FnMut(Question)) {
        match message {
            // Revision 2025-03-26 has batches.
            Value::Array(batch) => batch.into_iter().filter(Value::is_object).for_each(|one| self.take(one, asked)),
            Value::Object(message) => match (message.get("method").and_then(Value::as_str), message.get("id")) {
                (Some(method), Some(id)) => asked(Question { id: id.clone(), method: method.to_owned() }),
                (Some(method), None) => self.list_changed |= method == "notifications/tools/list_changed",
                (None, Some(id)) if id.as_u64() == Some(self.id) && self.response.is_none() => {
                    self.response = Some(message);
                }
                (None, _) => {}
            },
            _ => {}
        }
    }
}

/// The result that answers a request.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) result: Map<String, Value>,
    pub(super) status: u16,
    pub(super) list_changed: bool,
}

/// The JSON-RPC error in the body of a refusal, whomever it answers.
pub(super) fn error_in(body: &[u8]) -> Option<Map<String, Value>> {
    match http::parse_bounded(body).ok()? {
        Value::Object(mut message) => match message.remove("error")? {
            Value::Object(error) if error.contains_key("code") => Some(error),
            _ => None,
        },
        _ => None,
    }
}

fn is_stream(head: &Response) -> bool {
    let media_type = head.content_type.as_deref().unwrap_or_default().split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("text/event-stream")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::agent::effect::Ran;

    fn head(content_type: &str, body: &[u8]) -> Response {
        Response {
            status: 200,
            retry_after: None,
            request_id: None,
            should_retry: None,
            content_type: Some(content_type.to_owned()),
            session_id: None,
            wants_authentication: false,
            body: Bytes::copy_from_slice(body),
            room: None,
        }
    }

    /// What is read of `body` where it comes byte by byte, and what was asked.
    fn read(content_type: &str, body: &str) -> (Result<Finished, McpError>, Vec<Question>) {
        let (mut answer, mut asked) = (RpcAnswer::to(7, SentSecrets::default()), Vec::new());
        let mut response = head(content_type, b"");
        for end in 0..=body.len() {
            if answer.is_whole(&response, &body.as_bytes()[..end], &mut |question| asked.push(question)) {
                response.body = Bytes::copy_from_slice(&body.as_bytes()[..end]);
                return (answer.finish(&response), asked);
            }
        }
        response.body = Bytes::copy_from_slice(body.as_bytes());
        (answer.finish(&response), asked)
    }

    fn event(message: &Value) -> String {
        format!("event: message\ndata: {message}\n\n")
    }

    #[test]
    fn the_answer_is_found_in_json_in_batches_and_between_events() {
        let ours = json!({"jsonrpc": "2.0", "id": 7, "result": {"a": 1}});
        let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {}});
        let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
        let question = json!({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {}});
        let foreign = json!({"jsonrpc": "2.0", "id": 6, "result": {"a": 2}});
        let stream = [&progress, &changed, &question, &foreign, &ours, &foreign].map(event).concat();
        for (content_type, body, list_changed, questions) in [
            ("application/json", ours.to_string(), false, 0),
            ("application/json; charset=utf-8", json!([foreign, ours]).to_string(), false, 0),
            ("text/event-stream", event(&ours), false, 0),
            ("Text/Event-Stream; charset=utf-8", stream, true, 1),
            ("text/event-stream", format!(": hi\n\ndata: not json\n\n{}", event(&ours)), false, 0),
        ] {
            let (finished, asked) = read(content_type, &body);
            let finished = finished.unwrap();
            assert_eq!(Value::Object(finished.result), json!({"a": 1}), "{body}");
            assert_eq!((finished.list_changed, asked.len()), (list_changed, questions), "{body}");
        }
    }

    #[test]
    fn what_is_no_answer_proves_nothing() {
        let of = |message: Value| event(&message);
        let half = event(&json!({"jsonrpc": "2.0", "id": 7, "result": {"a": 1}}));
        for (content_type, body) in [
            ("application/json", String::new()),
            ("application/json", "{".to_owned()),
            ("application/json", "[]".to_owned()),
            ("application/json", "null".to_owned()),
            ("application/json", "[[[[{\"id\": 7, \"result\": {}}]]]]".to_owned()),
            ("application/json", json!({"jsonrpc": "2.0", "id": 8, "result": {}}).to_string()),
            ("application/json", json!({"jsonrpc": "2.0", "id": "7", "result": {}}).to_string()),
            ("application/json", json!({"jsonrpc": "2.0", "id": 7}).to_string()),
            ("application/json", json!({"jsonrpc": "2.0", "id": 7, "result": 5}).to_string()),
            ("application/json", json!({"jsonrpc": "2.0", "id": 7, "result": {}, "error": {}}).to_string()),
            ("text/html", "<html>".to_owned()),
            ("text/event-stream", String::new()),
            ("text/event-stream", half[..half.len() - 1].to_owned()),
            ("text/event-stream", of(json!({"jsonrpc": "2.0", "id": 6, "result": {}}))),
            ("text/event-stream", of(json!({"jsonrpc": "2.0", "id": 7}))),
            ("text/event-stream", "data: {\"id\": 7, \"result\": {}\n\n".to_owned()),
        ] {
            let error = read(content_type, &body).0.unwrap_err();
            assert_eq!((error.ran(), error.is_answer()), (Ran::Perhaps, false), "{content_type} {body}: {error}");
        }
    }

    #[test]
    fn a_stream_that_never_answers_is_left_at_some_time() {
        let body = "data: 1\n\n".repeat(MOST_MESSAGES + 1);
        let response = head("text/event-stream", body.as_bytes());
        let mut answer = RpcAnswer::to(7, SentSecrets::default());
        assert!(answer.is_whole(&response, body.as_bytes(), &mut |_| {}));
        assert_eq!(answer.finish(&response).unwrap_err().code(), "bad_answer");
    }

    #[test]
    fn an_error_is_found_whomever_it_answers() {
        for (body, found) in [
            (r#"{"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "no"}}"#, true),
            (r#"{"jsonrpc": "2.0", "error": {"code": -32600}}"#, true),
            (r#"{"error": "invalid_token"}"#, false),
            (r#"{"error": {}}"#, false),
            ("Bad Request", false),
            ("", false),
        ] {
            assert_eq!(error_in(body.as_bytes()).is_some(), found, "{body}");
        }
    }
}
