//! Scalekit and the model for the benchmark, as a process of its own: answers that were printed before the first request
//! came, so that it costs little beside what is measured. What it is asked is counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::recording::{Call, now};
use crate::role::Role;

/// Bytes of one tool definition, as the model gets it.
const TOOL_BYTES: usize = 1024;
/// Bytes of what the tool answers.
const RESULT_BYTES: usize = 2048;
/// The tool that the model calls.
const TOOL: &str = "gmail_fetch_mails";

/// How it is set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upstream {
    /// Tools of each user.
    pub(crate) tools: usize,
    /// How long the model and a tool take.
    pub(crate) model: Duration,
    pub(crate) tool: Duration,
    /// Whether it answers hostile prompts as they want it to.
    pub(crate) hostile: bool,
}

/// Prompts: an answer nested 50 levels deep, one of 400 strings, and eight calls that are answered with 16 MiB each.
pub(crate) const DEEP: &str = "a deep answer";
pub(crate) const BACKTRACKING: &str = "an answer of strings";
pub(crate) const LARGE: &str = "large answers";
/// Bytes of such an answer.
const LARGE_BYTES: usize = 16 << 20;

/// What it was asked since it was told to count anew.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// By path.
    pub(crate) requests: BTreeMap<String, u64>,
    /// Bytes of their bodies.
    pub(crate) bytes: u64,
    /// Requests that it has not answered yet, at present and at most.
    pub(crate) open: u64,
    pub(crate) open_at_most: u64,
    /// Milliseconds since the first one.
    pub(crate) since_first: f64,
}

/// The process, seen from the benchmark.
pub(crate) struct StandIn {
    role: Role,
    pub(crate) url: String,
    client: reqwest::Client,
}

impl StandIn {
    pub(crate) async fn start(upstream: Upstream) -> Self {
        let milliseconds = |duration: Duration| duration.as_millis().to_string();
        let (model, tool) = (milliseconds(upstream.model), milliseconds(upstream.tool));
        let role = Role::of_this_program(&[
            "stand-in",
            &upstream.tools.to_string(),
            &model,
            &tool,
            &upstream.hostile.to_string(),
        ])
        .await;
        let url = format!("http://127.0.0.1:{}", role.ready());
        Self { role, url, client: crate::support::sandbox_peer::plain_client() }
    }

    pub(crate) fn process(&self) -> u32 {
        self.role.process()
    }

    pub(crate) async fn count_anew(&self) {
        self.ask::<Value>("reset").await;
    }

    pub(crate) async fn figures(&self) -> Figures {
        self.ask("figures").await
    }

    /// Keeps the calls that come from now on, instead of counting alone.
    pub(crate) async fn record(&self) {
        self.ask::<Value>("record").await;
    }

    /// Ends that, and gives what came.
    pub(crate) async fn recorded(&self) -> Vec<Call> {
        self.ask("recorded").await
    }

    async fn ask<T: for<'de> Deserialize<'de>>(&self, what: &str) -> T {
        self.client.get(format!("{}/bench/{what}", self.url)).send().await.unwrap().json().await.unwrap()
    }
}

#[derive(Default)]
struct State {
    figures: Figures,
    first: Option<Instant>,
    recorded: Option<Vec<Call>>,
}

struct Server {
    upstream: Upstream,
    state: Mutex<State>,
    token: Vec<u8>,
    account: Vec<u8>,
    tools: Vec<u8>,
    result: Vec<u8>,
    calls: Vec<u8>,
    says: Vec<u8>,
    model: Vec<u8>,
    hostile: Option<Hostile>,
}

/// Answers to hostile prompts.
struct Hostile {
    deep: Vec<u8>,
    strings: Vec<u8>,
    calls: Vec<u8>,
    result: Vec<u8>,
}

impl Hostile {
    fn new() -> Self {
        let says = |content: &Value| {
            answer(&completion("stop", &json!({"role": "assistant", "content": content.to_string()})))
        };
        let call = |at: usize| json!({"id": format!("large_{at}"), "type": "function", "function": {"name": TOOL, "arguments": format!("{{\"max_results\":{at}}}")}});
        let calls: Vec<Value> = (0..8).map(call).collect();
        Self {
            deep: says(&(0..50).fold(json!(1), |value, _| json!([value]))),
            strings: says(&vec![format!("{}b", "a".repeat(60)); 400].into()),
            calls: answer(&completion(
                "tool_calls",
                &json!({"role": "assistant", "content": null, "tool_calls": calls}),
            )),
            result: answer(&json!({"data": {"text": "x".repeat(LARGE_BYTES)}, "execution_id": "320000000002"})),
        }
    }

    fn answer(&self, path: &str, body: &[u8]) -> Option<&Vec<u8>> {
        let says = |words: &str| body.windows(words.len()).any(|window| window == words.as_bytes());
        match path {
            "/api/v1/execute_tool" if says("\"mallory\"") => Some(&self.result),
            "/v1/chat/completions" if says(DEEP) => Some(&self.deep),
            "/v1/chat/completions" if says(BACKTRACKING) => Some(&self.strings),
            "/v1/chat/completions" if says(LARGE) && !has_result(body) => Some(&self.calls),
            _ => None,
        }
    }
}

/// Plays the part: prints the port, answers until the benchmark is gone.
pub(crate) async fn play(arguments: &[String]) {
    let number = |index: usize| arguments[index].parse::<u64>().unwrap();
    let upstream = Upstream {
        tools: usize::try_from(number(0)).unwrap(),
        model: Duration::from_millis(number(1)),
        tool: Duration::from_millis(number(2)),
        hostile: arguments[3] == "true",
    };
    let server = Arc::new(Server::new(upstream));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            // A client that goes away has nothing to be told.
            let _ = server.serve(stream).await;
        });
    }
}

impl Server {
    fn new(upstream: Upstream) -> Self {
        let account = json!({"connected_account": {
            "id": "ca_1", "identifier": "user", "connector": "gmail", "provider": "GMAIL", "status": "ACTIVE",
            "authorization_type": "OAUTH", "last_used_at": "2026-11-22T08:00:00Z", "updated_at": "2026-11-22T08:00:00Z",
        }});
        let call =
            json!({"id": "call_1", "type": "function", "function": {"name": TOOL, "arguments": "{\"max_results\":5}"}});
        Self {
            upstream,
            hostile: upstream.hostile.then(Hostile::new),
            model: answer(&json!({"id": "gpt-4o", "object": "model", "created": 1_715_367_049, "owned_by": "system"})),
            state: Mutex::default(),
            token: answer(&json!({"access_token": "benchmark", "token_type": "Bearer", "expires_in": 86_399})),
            account: answer(&account),
            tools: answer(
                &json!({"tools": tools(upstream.tools), "next_page_token": "", "prev_page_token": "", "total_size": upstream.tools}),
            ),
            result: answer(&json!({"data": {"messages": mails()}, "execution_id": "320000000001"})),
            calls: answer(&completion(
                "tool_calls",
                &json!({"role": "assistant", "content": null, "tool_calls": [call]}),
            )),
            says: answer(&completion(
                "stop",
                &json!({"role": "assistant", "content": "You have five new mails. ".repeat(8)}),
            )),
        }
    }

    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut buffer = Vec::new();
        while let Some(request) = Request::read(&mut stream, &mut buffer).await? {
            let Parts { path, body } = request.parts(&buffer);
            let text: Vec<u8>;
            let (answer, wait) = if let Some(what) = path.strip_prefix("/bench/") {
                text = self.control(what);
                (&text, Duration::ZERO)
            } else {
                self.state.lock().unwrap().note(path, &request, &buffer);
                self.answer(path, body)
            };
            buffer.drain(..request.end);
            if !wait.is_zero() {
                // Thousands wait at the same time.
                buffer.shrink_to_fit();
                tokio::time::sleep(wait).await;
            }
            stream.write_all(answer).await?;
            self.state.lock().unwrap().figures.open -= 1;
        }
        Ok(())
    }

    fn answer(&self, path: &str, body: &[u8]) -> (&Vec<u8>, Duration) {
        if let Some(answer) = self.hostile.as_ref().and_then(|hostile| hostile.answer(path, body)) {
            return (answer, Duration::ZERO);
        }
        match path {
            "/oauth/token" => (&self.token, Duration::ZERO),
            "/api/v1/connected_accounts/details" => (&self.account, Duration::ZERO),
            "/api/v1/tools/scoped" => (&self.tools, Duration::ZERO),
            "/api/v1/execute_tool" => (&self.result, self.upstream.tool),
            "/v1/chat/completions" if has_result(body) => (&self.says, self.upstream.model),
            "/v1/chat/completions" => (&self.calls, self.upstream.model),
            path if path.starts_with("/v1/models/") => (&self.model, Duration::ZERO),
            other => panic!("nobody asks for {other}"),
        }
    }

    fn control(&self, what: &str) -> Vec<u8> {
        let mut state = self.state.lock().unwrap();
        state.figures.open += 1;
        match what {
            "reset" => {
                state.figures = Figures { open: state.figures.open, ..Figures::default() };
                state.first = None;
            }
            "record" => state.recorded = Some(Vec::new()),
            "recorded" => return answer(&serde_json::to_value(state.recorded.take()).unwrap()),
            _ => {}
        }
        let since_first = state.first.map_or(0.0, |first| first.elapsed().as_secs_f64() * 1000.0);
        answer(&serde_json::to_value(Figures { since_first, ..state.figures.clone() }).unwrap())
    }
}

impl State {
    fn note(&mut self, path: &str, request: &Request, buffer: &[u8]) {
        let figures = &mut self.figures;
        match figures.requests.get_mut(path) {
            Some(count) => *count += 1,
            None => drop(figures.requests.insert(path.to_owned(), 1)),
        }
        figures.bytes += (request.end - request.head) as u64;
        figures.open += 1;
        figures.open_at_most = figures.open_at_most.max(figures.open);
        self.first.get_or_insert_with(Instant::now);
        if let Some(recorded) = &mut self.recorded {
            recorded.push(request.call(buffer));
        }
    }
}

/// Where the parts of a request are in the buffer.
struct Request {
    /// Where its body begins, and where it ends.
    head: usize,
    end: usize,
}

/// Parts of a request.
struct Parts<'a> {
    /// Without the query.
    path: &'a str,
    body: &'a [u8],
}

impl Request {
    /// `None` where the client goes away between two requests.
    async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Self>> {
        let (mut head, mut looked) = (None, 0_usize);
        loop {
            if head.is_none() {
                let from = looked.saturating_sub(3);
                head = buffer[from..].windows(4).position(|window| window == b"\r\n\r\n").map(|at| from + at + 4);
                looked = buffer.len();
            }
            if let Some(head) = head {
                let end = head + length(&buffer[..head]);
                if buffer.len() >= end {
                    return Ok(Some(Self { head, end }));
                }
                buffer.reserve(end - buffer.len());
            }
            if stream.read_buf(buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn parts<'a>(&self, buffer: &'a [u8]) -> Parts<'a> {
        let target = target(buffer);
        Parts { path: target.split('?').next().unwrap(), body: &buffer[self.head..self.end] }
    }

    fn call(&self, buffer: &[u8]) -> Call {
        /// What every client sets by itself.
        const OWN: [&str; 5] = ["host", "content-length", "accept", "accept-encoding", "user-agent"];
        let lines = str::from_utf8(&buffer[..self.head]).unwrap().split("\r\n");
        let mut lines = lines.filter(|line| !line.is_empty());
        let method = lines.next().unwrap().split(' ').next().unwrap().to_owned();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
        Call {
            at: now(),
            method,
            target: target(buffer).to_owned(),
            headers: headers.filter(|(name, _)| !OWN.contains(&name.as_str())).collect(),
            body: String::from_utf8(buffer[self.head..self.end].to_vec()).unwrap(),
        }
    }
}

fn target(buffer: &[u8]) -> &str {
    let line = buffer.split(|byte| *byte == b'\r').next().unwrap();
    str::from_utf8(line).unwrap().split(' ').nth(1).unwrap()
}

fn length(head: &[u8]) -> usize {
    const NAME: &str = "content-length:";
    let mut lines = str::from_utf8(head).unwrap().split("\r\n");
    let is_length = |line: &&str| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME));
    lines.find(is_length).map_or(0, |line| line[NAME.len()..].trim().parse().unwrap())
}

/// Whether a conversation holds a tool's result. Its messages come before its tools, which are not looked through.
fn has_result(body: &[u8]) -> bool {
    let messages = body.windows(8).position(|window| window == b"\"tools\":").map_or(body, |end| &body[..end]);
    messages.windows(13).any(|window| window == b"\"role\":\"tool\"")
}

fn answer(body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_1\r\ncontent-length";
    format!("{head}: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn completion(finish: &str, message: &Value) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_795_000_000, "model": "gpt-4o",
        "service_tier": "default", "system_fingerprint": "benchmark",
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": 4000, "completion_tokens": 50, "total_tokens": 4050,
            "prompt_tokens_details": {"cached_tokens": 3968, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
    })
}

fn tools(count: usize) -> Vec<Value> {
    let tool = |number: usize| {
        let name = if number == 0 { TOOL.to_owned() } else { format!("gmail_tool_{number}") };
        json!({
            "identifier": "user", "connected_account_id": "ca_1",
            "tool": {
                "id": format!("tool_{number}"), "provider": "GMAIL", "tags": [], "is_default": true,
                "definition": definition(&name),
            },
        })
    };
    (0..count).map(tool).collect()
}

/// Of [`TOOL_BYTES`], half of them the parameters.
fn definition(name: &str) -> Value {
    let parameter =
        |kind: &str| json!({"type": kind, "description": "What this one is for, in a line as they usually are."});
    let schema = json!({"type": "object", "required": [], "properties": {
        "max_results": parameter("integer"), "query": parameter("string"), "page_token": parameter("string"),
        "label_ids": {"type": "array", "items": {"type": "string"}}, "format": parameter("string"),
    }});
    let printed = json!({"name": name, "description": "", "strict": false, "parameters": schema}).to_string().len();
    let description = "Does what its name says with the user's mail. ".repeat(20);
    json!({
        "name": name, "display_name": name, "description": &description[..TOOL_BYTES - printed],
        "annotations": {"read_only_hint": true}, "input_schema": schema,
    })
}

fn mails() -> Vec<Value> {
    let mail = |number: usize| {
        json!({
            "id": format!("mail-{number}"), "from": "alice@example.com", "subject": "The plan for tomorrow",
            "date": "2026-11-22T08:00:00Z", "snippet": "x".repeat(RESULT_BYTES / 5 - 130), "is_unread": true,
        })
    };
    (0..5).map(mail).collect()
}
