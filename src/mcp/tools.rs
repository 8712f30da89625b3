//! The two things that are asked of a server: which tools it has, and to run one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tracing::{debug, warn};

use super::answer::Finished;
use super::mirror::Mirror;
use super::post::Post;
use super::{Caller, Endpoint, Era, McpError, McpFailure, content};
use crate::retry::retry;

/// Most pages and tools of one list; a longer list is an error.
const MOST_PAGES: usize = 50;
const MOST_TOOLS: usize = 10_000;
/// Longest name of a tool, in characters (MCP 2026-07-28: SHOULD).
const NAME_CHARACTERS: usize = 128;

/// The tools of a server.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedTools {
    /// `{name, title?, description?, inputSchema?, annotations?, …}`; only `name` is certain, 1 to 128 characters, each once.
    pub tools: Vec<Value>,
    /// How long the list may be kept, where the server says so (`ttlMs`).
    pub keep: Option<Duration>,
    /// Whether everybody gets the same (`cacheScope`).
    pub is_public: bool,
}

/// A tool to run.
#[derive(Debug, Clone, Copy)]
pub struct CallRequest<'a> {
    /// The tool's name at the server.
    pub tool: &'a str,
    /// The arguments.
    pub arguments: &'a Map<String, Value>,
    /// What is left of the run's time; the endpoint's own limit counts besides.
    pub left: Duration,
    /// Where the call stands in a trace (W3C `traceparent`), where it is traced.
    pub traceparent: Option<&'a str>,
}

/// The answer of a tool that ran.
#[derive(Debug, Clone, PartialEq)]
pub struct Called {
    /// The structured part of its result, else its text; other kinds of content in words.
    pub data: Value,
    /// Whether the server said meanwhile that its tools have changed.
    pub list_changed: bool,
}

impl Endpoint {
    /// All tools, in the server's order.
    pub async fn list(&self, caller: Caller<'_>) -> Result<ListedTools, McpError> {
        let notice = |error: &McpError, attempt, wait: Duration| {
            let wait_milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            let outline = error.outline();
            warn!(attempt, wait_milliseconds, error = outline, "a request to an MCP server is repeated");
            debug!(%error, "the MCP server's words");
        };
        retry(self.retry, McpError::retry, notice, || self.list_once(caller)).await
    }

    /// Runs a tool once. It is sent a second time only where the server has not taken the first: for its session, or its
    /// headers. `may_leave` is asked right before anything is sent; where it says why not, that is [`McpError::NotSent`].
    pub async fn call<F>(
        &self,
        caller: Caller<'_>,
        request: &CallRequest<'_>,
        may_leave: impl Fn() -> F,
    ) -> Result<Called, McpError>
    where
        F: Future<Output = Result<(), String>>,
    {
        if request.left.is_zero() {
            return Err(McpError::NotSent(McpFailure { message: "the run's time is over".to_owned(), status: None }));
        }
        let known = self.mirrors.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known.is_none() || self.era().is_none() {
            // No call finds out what kind of server this is.
            self.list_once(caller).await.map_err(McpError::before_the_call)?;
        }
        match self.call_once(caller, request, &may_leave).await {
            Err(McpError::HeadersDiffer(_)) => {
                self.list_once(caller).await.map_err(McpError::before_the_call)?;
                self.call_once(caller, request, &may_leave).await
            }
            result => result,
        }
    }

    async fn call_once<F>(
        &self,
        caller: Caller<'_>,
        request: &CallRequest<'_>,
        may_leave: &impl Fn() -> F,
    ) -> Result<Called, McpError>
    where
        F: Future<Output = Result<(), String>>,
    {
        let params = Map::from_iter([
            ("name".to_owned(), request.tool.into()),
            ("arguments".to_owned(), Value::Object(request.arguments.clone())),
        ]);
        let mirrored = {
            let mirrors = self.mirrors.lock().unwrap_or_else(PoisonError::into_inner);
            let of_tool = mirrors.as_ref().and_then(|all| all.get(request.tool)).into_iter().flatten();
            of_tool.filter_map(|mirror| Some((mirror.header.clone(), mirror.value(request.arguments)?))).collect()
        };
        let post = Post {
            name: Some(request.tool),
            mirrored,
            traceparent: request.traceparent,
            ..Post::new("tools/call", params, self.timeout.min(request.left))
        };
        called(self.ask(caller, &post, may_leave).await?)
    }

    async fn list_once(&self, caller: Caller<'_>) -> Result<ListedTools, McpError> {
        let mut listed = ListedTools { tools: Vec::new(), keep: None, is_public: true };
        let (mut names, mut mirrors) = (BTreeSet::new(), BTreeMap::new());
        let mut cursors: Vec<String> = Vec::new();
        for _ in 0..MOST_PAGES {
            let cursor = cursors.last().map(|cursor| ("cursor".to_owned(), cursor.as_str().into()));
            let post = Post::new("tools/list", cursor.into_iter().collect(), self.timeout);
            let Finished { mut result, status, .. } = self.ask(caller, &post, &async || Ok(())).await?;
            check_complete(&result, status)?;
            let Some(Value::Array(tools)) = result.remove("tools") else {
                return Err(McpError::bad_result(status, "`tools` is not a list"));
            };
            let keep = result.get("ttlMs").and_then(Value::as_u64).map(Duration::from_millis);
            listed.keep = [listed.keep, keep].into_iter().flatten().min();
            listed.is_public &= result.get("cacheScope").and_then(Value::as_str) == Some("public");
            for tool in tools {
                if let Some((name, of_tool)) = self.usable(&tool)
                    && names.insert(name.clone())
                {
                    mirrors.insert(name, of_tool);
                    listed.tools.push(tool);
                }
            }
            if listed.tools.len() > MOST_TOOLS {
                return Err(McpError::bad_result(status, &format!("more than {MOST_TOOLS} tools")));
            }
            let next = result.get("nextCursor").and_then(Value::as_str).unwrap_or_default();
            let is_over = next.is_empty() || cursors.iter().any(|cursor| cursor == next);
            if is_over {
                if !next.is_empty() {
                    warn!(pages = cursors.len() + 1, "a cursor of an MCP server came twice; the list ends here");
                }
                *self.mirrors.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(mirrors));
                return Ok(listed);
            }
            cursors.push(next.to_owned());
        }
        Err(McpError::bad_result(200, &format!("more than {MOST_PAGES} pages")))
    }

    /// A tool's name and the headers that it wants, unless it cannot be offered.
    fn usable(&self, tool: &Value) -> Option<(String, Vec<Mirror>)> {
        let name = tool.get("name").and_then(Value::as_str).unwrap_or_default();
        if !(1..=NAME_CHARACTERS).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            warn!(host = self.url.host_str(), "a tool without a usable name is left out");
            return None;
        }
        if self.era() == Some(Era::Legacy) {
            return Some((name.to_owned(), Vec::new()));
        }
        match Mirror::all(tool) {
            Ok(mirrors) => Some((name.to_owned(), mirrors)),
            Err(problem) => {
                warn!(tool = name, problem, "the tool is left out for the headers that it wants");
                None
            }
        }
    }
}

/// The meaning of a result of `tools/call`.
fn called(finished: Finished) -> Result<Called, McpError> {
    let Finished { mut result, status, list_changed } = finished;
    check_complete(&result, status)?;
    if result.get("isError") == Some(&json!(true)) {
        let parts = result.get("content").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        return Err(McpError::tool_failed(parts, status));
    }
    match content::of_result(&mut result) {
        Some(data) => Ok(Called { data, list_changed }),
        None => Err(McpError::bad_result(status, "the result has no content")),
    }
}

/// Servers of the legacy era do not say it.
fn check_complete(result: &Map<String, Value>, status: u16) -> Result<(), McpError> {
    match result.get("resultType") {
        None => Ok(()),
        Some(kind) if kind == "complete" => Ok(()),
        Some(kind) if kind == "input_required" => Err(McpError::wants_input(result.get("inputRequests"), status)),
        Some(_) => Err(McpError::bad_result(status, "a kind of result that this client does not know")),
    }
}
