//! Where a connection's tools come from: Scalekit over REST, Scalekit's MCP server of the connection, or an MCP server of the
//! operator's. Who lists and runs tools asks here, and does not know which it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::session_tokens::SessionTokens;
pub(crate) use super::session_tokens::ToolUser;
use super::tool_error::ToolError;
use crate::agent::effect::Ran;
use crate::agent::tool::Tool;
use crate::clock::SharedClock;
use crate::http;
use crate::job::ConnectionName;
use crate::key::{Key, digest};
use crate::mcp::{self, CallRequest, Caller, Endpoint, HintTrust, McpConfig};
use crate::reply::ErrorDetail;
use crate::retry::Policy;
use crate::scalekit::{self, ExecuteRequest, Scalekit};

/// How one of Scalekit's connections is reached, `[connections.NAME]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionConfig {
    /// By which of Scalekit's doors.
    pub source: ScalekitDoor,
}

/// By which door Scalekit's tools are listed and run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScalekitDoor {
    /// REST, with the environment's credentials.
    #[default]
    Scalekit,
    /// The connection's MCP server, with a token for one user and one run, which may not write where the run may not.
    ScalekitMcp,
}

/// A tool to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ToolRequest<'a> {
    pub(crate) user: ToolUser<'a>,
    pub(crate) connection: &'a ConnectionName,
    /// The name at its source.
    pub(crate) tool: &'a str,
    pub(crate) arguments: &'a Map<String, Value>,
    /// What is left of the run's time. It bounds calls to MCP servers.
    pub(crate) left: Duration,
    pub(crate) traceparent: Option<&'a str>,
}

/// What a tool that ran said.
pub(crate) struct SourceAnswer {
    pub(crate) data: Value,
    /// Scalekit's id of the run of the tool.
    pub(crate) execution_id: Option<String>,
    /// Whether the source said that its tools are others by now.
    pub(crate) list_changed: bool,
}

/// The tools of a source.
pub(crate) struct SourceList {
    pub(crate) tools: Vec<Tool>,
    /// How long the list may be kept, where the source says so.
    pub(crate) keep: Option<Duration>,
    /// Whether every user gets the same.
    pub(crate) is_public: bool,
}

/// Under which keys a list is kept.
#[derive(Debug)]
pub(crate) struct ListKeys {
    /// The user's own.
    pub(crate) own: Key,
    /// Everybody's, where the source may say that all get the same.
    pub(crate) public: Option<Key>,
}

/// All sources that this worker knows.
pub struct ToolSources {
    scalekit: Arc<Scalekit>,
    over_mcp: BTreeMap<ConnectionName, Endpoint>,
    tokens: SessionTokens,
    servers: BTreeMap<String, Server>,
}

/// An MCP server of the operator's.
pub(crate) struct Server {
    pub(crate) endpoint: Endpoint,
    trust: HintTrust,
}

enum Source<'a> {
    Scalekit,
    ScalekitMcp(&'a Endpoint),
    Server(&'a Server),
}

impl ToolSources {
    /// Scalekit alone.
    pub fn new(scalekit: Arc<Scalekit>, clock: SharedClock) -> Self {
        let tokens = SessionTokens::new(scalekit.clone(), clock);
        Self { scalekit, over_mcp: BTreeMap::new(), tokens, servers: BTreeMap::new() }
    }

    /// Reaches these connections by their MCP servers at Scalekit.
    pub fn over_mcp(
        mut self,
        connections: &BTreeMap<ConnectionName, ConnectionConfig>,
        retry: Policy,
        http: &http::Client,
    ) -> Self {
        let named = connections.iter().filter(|(_, config)| config.source == ScalekitDoor::ScalekitMcp);
        self.over_mcp = named
            .map(|(connection, _)| {
                let url = self.scalekit.mcp_server(connection);
                (connection.clone(), Endpoint::at(url, self.scalekit.tool_timeout(), retry, http.clone()))
            })
            .collect();
        self
    }

    /// Adds an MCP server of the operator's, or says what is wrong with its address.
    pub fn server(mut self, name: &str, config: &McpConfig, retry: Policy, http: http::Client) -> Result<Self, String> {
        let endpoint = Endpoint::new(config, retry, http)?;
        self.servers.insert(name.to_owned(), Server { endpoint, trust: config.trust });
        Ok(self)
    }

    /// The operator's MCP servers, by name.
    pub(crate) fn servers(&self) -> &BTreeMap<String, Server> {
        &self.servers
    }

    /// Why there can be no tools of this connection, if the configuration says so.
    pub(crate) fn objection(&self, connection: &ConnectionName) -> Option<ErrorDetail> {
        self.source(connection).err().and_then(|error| error.operator_error(connection))
    }

    /// Whether the operator believes what the connection's tools say of themselves.
    pub(crate) fn believes(&self, connection: &ConnectionName) -> bool {
        matches!(self.source(connection), Ok(Source::Server(server)) if server.trust == HintTrust::Hints)
    }

    /// Under which keys the connection's tools are kept for this user. A list is another one for those who may only read, and
    /// where the server is another.
    pub(crate) fn list_keys(&self, user: ToolUser<'_>, connection: &ConnectionName) -> ListKeys {
        let (identifier, name) = (user.identifier.as_str(), connection.as_str());
        match self.source(connection) {
            Ok(Source::ScalekitMcp(_)) => {
                let access = if user.reads_only { "mcp-read" } else { "mcp" };
                ListKeys { own: Key::new(&["tools", identifier, name, access]), public: None }
            }
            Ok(Source::Server(server)) => {
                let place = digest(server.endpoint.address().as_str(), 8);
                ListKeys {
                    own: Key::new(&["tools", identifier, name, &place]),
                    public: Some(Key::new(&["tools-of-all", name, &place])),
                }
            }
            Ok(Source::Scalekit) | Err(_) => ListKeys { own: Key::new(&["tools", identifier, name]), public: None },
        }
    }

    /// All tools of the connection for this user.
    pub(crate) async fn list(&self, user: ToolUser<'_>, connection: &ConnectionName) -> Result<SourceList, ToolError> {
        let (listed, server) = match self.source(connection)? {
            Source::Scalekit => {
                let listed = self.scalekit.scoped_tools(user.identifier, connection).await?;
                let tools = listed.iter().filter_map(|scoped| Tool::from_definition(&scoped.definition, connection));
                return Ok(SourceList { tools: tools.collect(), keep: None, is_public: false });
            }
            Source::ScalekitMcp(endpoint) => {
                let mut refused = None;
                loop {
                    let token = self.tokens.get(user, connection, refused).await?;
                    match Box::pin(endpoint.list(token.caller())).await {
                        Err(mcp::McpError::Unauthorized(_)) if refused.is_none() => refused = Some(token.generation),
                        result => break (result.map_err(of_user)?, None),
                    }
                }
            }
            Source::Server(server) => {
                let caller = Caller { session: user.identifier.as_str(), bearer: None };
                (Box::pin(server.endpoint.list(caller)).await?, connection.mcp_server())
            }
        };
        let read = |definition: &Value| match server {
            Some(server) => Tool::of_server(definition, server, connection),
            None => Tool::from_definition(definition, connection),
        };
        Ok(SourceList {
            tools: listed.tools.iter().filter_map(read).collect(),
            keep: listed.keep,
            // What Scalekit lists is for one user's token.
            is_public: listed.is_public && server.is_some(),
        })
    }

    /// Runs a tool once. `may_leave` is asked right before anything is sent that runs it.
    pub(crate) async fn call<F>(
        &self,
        request: &ToolRequest<'_>,
        may_leave: impl Fn() -> F,
    ) -> Result<SourceAnswer, ToolError>
    where
        F: Future<Output = Result<(), String>>,
    {
        let ToolRequest { user, connection, tool, arguments, left, traceparent } = *request;
        let call = CallRequest { tool, arguments, left, traceparent };
        let called = match self.source(connection)? {
            Source::Scalekit => {
                let (identifier, run_id) = (user.identifier, user.run);
                let request = ExecuteRequest { tool, identifier, connection, params: arguments, run_id, traceparent };
                let answer = self.scalekit.execute(&request, may_leave).await?;
                let (data, execution_id) = (answer.data, answer.execution_id);
                return Ok(SourceAnswer { data, execution_id, list_changed: false });
            }
            Source::ScalekitMcp(endpoint) => {
                let mut refused = None;
                loop {
                    let token = self.tokens.get(user, connection, refused).await.map_err(before_the_call)?;
                    match Box::pin(endpoint.call(token.caller(), &call, &may_leave)).await {
                        // It was stopped at the gate.
                        Err(mcp::McpError::Unauthorized(_)) if refused.is_none() => refused = Some(token.generation),
                        result => break result.map_err(of_user)?,
                    }
                }
            }
            Source::Server(server) => {
                let caller = Caller { session: user.identifier.as_str(), bearer: None };
                Box::pin(server.endpoint.call(caller, &call, &may_leave)).await?
            }
        };
        Ok(SourceAnswer { data: called.data, execution_id: None, list_changed: called.list_changed })
    }

    fn source(&self, connection: &ConnectionName) -> Result<Source<'_>, ToolError> {
        if let Some(name) = connection.mcp_server() {
            let unknown = || ToolError::NotConfigured { known: self.servers.keys().cloned().collect() };
            return self.servers.get(name).map(Source::Server).ok_or_else(unknown);
        }
        Ok(self.over_mcp.get(connection).map_or(Source::Scalekit, Source::ScalekitMcp))
    }
}

/// A fresh token of the user's that is refused: the account is to be looked at.
fn of_user(error: mcp::McpError) -> ToolError {
    match error {
        mcp::McpError::Unauthorized(failure) => {
            let details =
                scalekit::Details { message: failure.message, status: failure.status, ..scalekit::Details::default() };
            scalekit::Error::AuthorizationLost { code: "mcp_unauthorized".to_owned(), details }.into()
        }
        error => error.into(),
    }
}

/// No token for the call, so it was not sent.
fn before_the_call(error: scalekit::Error) -> scalekit::Error {
    match error.ran() {
        Ran::No => error,
        Ran::Perhaps => scalekit::Error::NoToken(error.details().clone()),
    }
}
