//! A model over HTTP that says what a test wrote down for it, turn by turn, over whichever API it is asked.
//!
//! Each request eats one turn. A request too many, a turn left over at [`ScriptedModel::finish`], or a request whose
//! conversation no real server would take fails the test.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::soon;

/// What the model does when it is asked. Made by the functions of [`turn`].
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    act: Act,
    released_by: Option<Arc<Notify>>,
}

#[derive(Debug, Clone)]
enum Act {
    Say(Said),
    Answer { status: u16, headers: Vec<(String, String)>, body: String },
    Raw(Vec<u8>),
    Hang,
    Reset,
}

/// What the model says, in no API's form yet.
#[derive(Debug, Clone, Default)]
struct Said {
    text: Option<String>,
    refusal: Option<String>,
    calls: Vec<(String, Value)>,
    cut: bool,
}

/// The turns of a script.
pub(crate) mod turn {
    use super::{Act, Said, Turn, Value, json};

    /// An answer in words.
    pub(crate) fn text(text: &str) -> Turn {
        say(Said { text: Some(text.to_owned()), ..Said::default() })
    }

    /// Tool calls: names and arguments. Their ids are `call_{request}_{index}`, both from 0.
    pub(crate) fn calls<const N: usize>(calls: [(&str, Value); N]) -> Turn {
        let calls = calls.map(|(name, arguments)| (name.to_owned(), arguments)).to_vec();
        say(Said { calls, ..Said::default() })
    }

    /// A call that sends a mail.
    pub(crate) fn send_mail() -> Turn {
        calls([("gmail_send_message", json!({"to": "sam@example.com", "subject": "Hi", "body": "hello"}))])
    }

    /// A call that reads a mail.
    pub(crate) fn fetch_mails() -> Turn {
        calls([("gmail_fetch_mails", json!({"max_results": 1}))])
    }

    /// A refusal.
    pub(crate) fn refusal(words: &str) -> Turn {
        say(Said { refusal: Some(words.to_owned()), ..Said::default() })
    }

    /// A bare status, with an error body that holds no reason.
    pub(crate) fn status(status: u16) -> Turn {
        act(Act::Answer { status, headers: Vec::new(), body: json!({"error": {"message": "scripted"}}).to_string() })
    }

    /// A failure by the book: `{"error": {"code", …}}`.
    pub(crate) fn error(status_code: u16, code: &str) -> Turn {
        let error = json!({"message": "scripted", "type": code, "param": null, "code": code});
        status(status_code).body(json!({ "error": error }).to_string())
    }

    /// Bytes as they are, instead of an HTTP answer; then the connection is closed.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Turn {
        act(Act::Raw(bytes.into()))
    }

    /// No answer, for as long as the caller waits.
    pub(crate) fn hang() -> Turn {
        act(Act::Hang)
    }

    /// The connection is reset once the request was read.
    pub(crate) fn reset() -> Turn {
        act(Act::Reset)
    }

    fn say(said: Said) -> Turn {
        act(Act::Say(said))
    }

    fn act(act: Act) -> Turn {
        Turn { act, released_by: None }
    }
}

impl Turn {
    /// Adds words to calls.
    pub(crate) fn with_text(mut self, text: &str) -> Self {
        if let Act::Say(said) = &mut self.act {
            said.text = Some(text.to_owned());
        }
        self
    }

    /// The answer is cut at the output limit.
    pub(crate) fn cut(mut self) -> Self {
        if let Act::Say(said) = &mut self.act {
            said.cut = true;
        }
        self
    }

    /// Sets the body of a status.
    pub(crate) fn body(mut self, text: impl Into<String>) -> Self {
        if let Act::Answer { body, .. } = &mut self.act {
            *body = text.into();
        }
        self
    }

    /// Adds a header to a status.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        if let Act::Answer { headers, .. } = &mut self.act {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Adds `retry-after` in seconds to a status.
    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        self.header("retry-after", &seconds.to_string())
    }

    /// The turn waits for `notify` (one permit is kept) after the request was read.
    pub(crate) fn released_by(mut self, notify: &Arc<Notify>) -> Self {
        self.released_by = Some(Arc::clone(notify));
        self
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Captured {
    /// `POST /v1/chat/completions`
    pub(crate) line: String,
    /// Names in small letters.
    pub(crate) headers: Vec<(String, String)>,
    /// The bytes of the body.
    pub(crate) bytes: Vec<u8>,
    /// The body as JSON; null where it is none.
    pub(crate) body: Value,
}

impl Captured {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// What it says of the results of the calls before it.
    pub(crate) fn tool_results(&self) -> Vec<String> {
        let messages = self.body["messages"].as_array().unwrap().iter();
        let results = messages.filter(|message| message["role"] == "tool");
        results.map(|message| message["content"].as_str().unwrap().to_owned()).collect()
    }
}

/// The server. Dropped without [`ScriptedModel::finish`] it fails the test, unless that is failing already.
#[must_use]
pub(crate) struct ScriptedModel {
    address: String,
    shared: Arc<Shared>,
    arrived: watch::Receiver<usize>,
    _server: AbortOnDropHandle<()>,
    finished: bool,
}

struct Shared {
    turns: Mutex<VecDeque<Turn>>,
    requests: Mutex<Vec<Captured>>,
    problems: Mutex<Vec<String>>,
    arrivals: watch::Sender<usize>,
    /// Whether looks at models, with which a worker tries its key, are turns of the script.
    looks_are_turns: bool,
}

impl ScriptedModel {
    /// Serves `turns` in their order on a port of its own.
    pub(crate) async fn start(turns: impl IntoIterator<Item = Turn>) -> Self {
        Self::serving(turns, false).await
    }

    /// The same, where looks at models are turns, too.
    pub(crate) async fn with_looks(turns: impl IntoIterator<Item = Turn>) -> Self {
        Self::serving(turns, true).await
    }

    async fn serving(turns: impl IntoIterator<Item = Turn>, looks_are_turns: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (arrivals, arrived) = watch::channel(0);
        let shared = Arc::new(Shared {
            turns: Mutex::new(turns.into_iter().collect()),
            requests: Mutex::default(),
            problems: Mutex::default(),
            arrivals,
            looks_are_turns,
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Self { address, shared, arrived, _server: AbortOnDropHandle::new(server), finished: false }
    }

    /// What to set as the base URL.
    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<Captured> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Waits until `count` requests have come.
    pub(crate) async fn wait_for_requests(&self, count: usize) {
        let mut arrived = self.arrived.clone();
        soon("a request to the model", arrived.wait_for(|arrived| *arrived >= count)).await.unwrap();
    }

    /// Ends the script: panics where a request broke a rule or came too many, or a turn is left over. Gives the requests.
    pub(crate) fn finish(mut self) -> Vec<Captured> {
        self.finished = true;
        let problems = self.shared.problems.lock().unwrap().clone();
        assert!(problems.is_empty(), "the model was asked wrongly: {problems:#?}");
        let left = self.shared.turns.lock().unwrap().len();
        assert_eq!(left, 0, "turns of the scripted model were left over");
        self.requests()
    }
}

impl Drop for ScriptedModel {
    fn drop(&mut self) {
        assert!(self.finished || std::thread::panicking(), "the scripted model was not finished");
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with the server: no task outlives its test.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(answer(stream, Arc::clone(&shared)));
    }
}

/// One request a connection.
async fn answer(mut stream: TcpStream, shared: Arc<Shared>) {
    let Some(request) = read_request(&mut stream).await else { return };
    if request.line.starts_with("GET ") && !shared.looks_are_turns {
        let _ = stream.write_all(&http(200, &[], &json!({"id": "scripted-1", "object": "model"}).to_string())).await;
        return;
    }
    let turn = shared.turns.lock().unwrap().pop_front();
    let index = {
        let mut requests = shared.requests.lock().unwrap();
        requests.push(request.clone());
        requests.len() - 1
    };
    let found = problems(&request.body);
    shared.problems.lock().unwrap().extend(found.into_iter().map(|problem| format!("request {index}: {problem}")));
    if turn.is_none() {
        shared.problems.lock().unwrap().push(format!("request {index} came after the last turn: {}", request.line));
    }
    shared.arrivals.send_modify(|arrived| *arrived += 1);
    // Nothing a client could take for a passing failure.
    let turn = turn.unwrap_or_else(|| turn::status(400));
    if let Some(notify) = &turn.released_by {
        notify.notified().await;
    }
    let bytes = match turn.act {
        Act::Say(said) if request.line.ends_with("/responses") => http(200, &[], &said.as_response(index)),
        Act::Say(said) if request.line.ends_with("/v1/messages") => http(200, &[], &said.as_message(index)),
        Act::Say(said) => http(200, &[], &said.as_completion(index)),
        Act::Answer { status, headers, body } => http(status, &headers, &body),
        Act::Raw(bytes) => bytes,
        Act::Hang => std::future::pending().await,
        Act::Reset => return stream.set_zero_linger().unwrap(),
    };
    // The client may be gone: that is its test's business.
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
}

async fn read_request(stream: &mut TcpStream) -> Option<Captured> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = bytes.split_off(head_end + 4);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Captured { line, headers, body: serde_json::from_slice(&body).unwrap_or_default(), bytes: body })
}

/// A whole HTTP answer.
pub(crate) fn http(status: u16, headers: &[(String, String)], body: &str) -> Vec<u8> {
    let headers: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let headers = headers.concat();
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\nx-request-id: req_scripted\r\n\
         content-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}

impl Said {
    fn as_completion(&self, request: usize) -> String {
        let calls: Vec<Value> = self
            .calls
            .iter()
            .enumerate()
            .map(|(index, (name, arguments))| {
                let function = json!({"name": name, "arguments": arguments.to_string()});
                json!({"id": format!("call_{request}_{index}"), "type": "function", "function": function})
            })
            .collect();
        let mut message = json!({"role": "assistant", "content": self.text, "refusal": self.refusal});
        let mut finish = "stop";
        if !calls.is_empty() {
            message["tool_calls"] = json!(calls);
            finish = "tool_calls";
        }
        json!({
            "id": format!("chatcmpl-{request}"),
            "object": "chat.completion",
            "model": "scripted-1",
            "choices": [{"index": 0, "message": message, "finish_reason": if self.cut { "length" } else { finish }}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110,
                "prompt_tokens_details": {"cached_tokens": 50}}
        })
        .to_string()
    }

    fn as_message(&self, request: usize) -> String {
        let mut content =
            vec![json!({"type": "thinking", "thinking": format!("thought {request}"), "signature": "b64="})];
        content.extend(self.text.iter().map(|text| json!({"type": "text", "text": text})));
        content.extend(self.calls.iter().enumerate().map(|(index, (name, input))| {
            json!({"type": "tool_use", "id": format!("call_{request}_{index}"), "name": name, "input": input})
        }));
        let reason = match (self.cut, &self.refusal, self.calls.is_empty()) {
            (true, _, _) => "max_tokens",
            (_, Some(_), _) => "refusal",
            (_, None, true) => "end_turn",
            (_, None, false) => "tool_use",
        };
        let details = self.refusal.as_ref().map(|words| json!({"type": "refusal", "explanation": words}));
        json!({
            "id": format!("msg_{request}"),
            "type": "message",
            "role": "assistant",
            "model": "scripted-1",
            "content": content,
            "stop_reason": reason,
            "stop_sequence": null,
            "stop_details": details,
            "usage": {"input_tokens": 30, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 50,
                "output_tokens": 10}
        })
        .to_string()
    }

    fn as_response(&self, request: usize) -> String {
        let mut output = vec![
            json!({"type": "reasoning", "id": format!("rs_{request}"), "summary": [], "encrypted_content": "b64="}),
        ];
        let mut content = Vec::new();
        content.extend(self.text.iter().map(|text| json!({"type": "output_text", "text": text, "annotations": []})));
        content.extend(self.refusal.iter().map(|refusal| json!({"type": "refusal", "refusal": refusal})));
        if !content.is_empty() {
            let id = format!("msg_{request}");
            output.push(
                json!({"type": "message", "id": id, "role": "assistant", "status": "completed", "content": content}),
            );
        }
        output.extend(self.calls.iter().enumerate().map(|(index, (name, arguments))| {
            json!({"type": "function_call", "id": format!("fc_{request}_{index}"), "status": "completed",
                "call_id": format!("call_{request}_{index}"), "name": name, "arguments": arguments.to_string()})
        }));
        json!({
            "id": format!("resp_{request}"),
            "object": "response",
            "model": "scripted-1",
            "status": if self.cut { "incomplete" } else { "completed" },
            "incomplete_details": self.cut.then(|| json!({"reason": "max_output_tokens"})),
            "error": null,
            "output": output,
            "usage": {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110,
                "input_tokens_details": {"cached_tokens": 50}}
        })
        .to_string()
    }
}

/// What a real server would refuse a request for. Written anew here, not taken from the code under test.
fn problems(body: &Value) -> Vec<String> {
    let list = |name: &str| body[name].as_array().cloned().unwrap_or_default();
    let mut problems = tool_problems(&list("tools"));
    let mut open: Vec<String> = Vec::new();
    let mut known = HashSet::new();
    let mut reasoning = false;
    for entry in list("messages").into_iter().chain(list("input")) {
        let kind = entry["type"].as_str().unwrap_or_default();
        if reasoning && (kind == "function_call_output" || entry["role"] == "user") {
            problems.push("reasoning without what it led to".to_owned());
        }
        reasoning = kind == "reasoning";
        let answered = match (kind, entry["role"].as_str()) {
            ("function_call_output", _) => entry["call_id"].as_str(),
            (_, Some("tool")) => entry["tool_call_id"].as_str(),
            _ => None,
        };
        if let Some(id) = answered {
            match open.iter().position(|open| open == id) {
                Some(position) => drop(open.remove(position)),
                None => problems.push(format!("an answer to {id}, which is not an open call")),
            }
            continue;
        }
        let new_turn = matches!(entry["role"].as_str(), Some("user" | "system" | "developer"))
            || entry["role"] == "assistant" && !body["messages"].is_null();
        if new_turn && !open.is_empty() {
            problems.push(format!("calls without an answer: {open:?}"));
            open.clear();
        }
        let calls = match kind {
            "function_call" => vec![entry["call_id"].clone()],
            _ => entry["tool_calls"].as_array().into_iter().flatten().map(|call| call["id"].clone()).collect(),
        };
        for id in calls.iter().map(|id| id.as_str().unwrap_or_default().to_owned()) {
            if id.is_empty() || !known.insert(id.clone()) {
                problems.push(format!("call id {id:?} is empty or used twice"));
            }
            open.push(id);
        }
    }
    if !open.is_empty() {
        problems.push(format!("calls without an answer: {open:?}"));
    }
    problems
}

fn tool_problems(tools: &[Value]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut names = HashSet::new();
    if tools.len() > 128 {
        problems.push(format!("{} tools", tools.len()));
    }
    for tool in tools {
        let function = if tool["function"].is_object() { &tool["function"] } else { tool };
        let name = function["name"].as_str().unwrap_or_default();
        let legal = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if name.is_empty() || name.len() > 64 || !legal || !names.insert(name) {
            problems.push(format!("tool name {name:?} is illegal or used twice"));
        }
        let parameters = if tool["input_schema"].is_object() { &tool["input_schema"] } else { &function["parameters"] };
        if parameters["type"] != "object" {
            problems.push(format!("the parameters of {name} are no object"));
        }
    }
    problems
}
