//! Stand-ins for Scalekit's REST API and its MCP servers, for an operator's own MCP server, for both OpenAI model APIs and for
//! Anthropic's, on one loopback port.
//!
//! They keep accounts, a small world of mails, events and channels per identifier, and a rule-based model, so that the
//! real clients run against them unchanged. Everything is reached over HTTP only; people steer it by the page at `/`, tests
//! through `/_sandbox/`:
//!
//! | route | does |
//! |---|---|
//! | `POST /_sandbox/accounts` | `{connector, identifier, status}`: sets an account's status, any word; `GET` lists all |
//! | `POST /_sandbox/faults` | one fault or a list of them, appended in order; `GET` lists what is left, `DELETE` clears |
//! | `GET /_sandbox/requests` | `{counts, recent}` of the product's requests; `DELETE` clears |
//! | `GET /_sandbox/world/{identifier}` | everything the identifier owns, and the `effects` tools had on it |
//! | `POST /_sandbox/mcp` | how the MCP servers answer, see below; `GET` shows that, and the operator's register: its `contacts`, and the `calls` of its tools with `changed` for each |
//! | `DELETE /_sandbox/mcp/sessions` | ends all sessions of MCP, as a server does that starts anew |
//! | `POST /_sandbox/reset` | forgets everything but the tokens given out |
//!
//! A fault is `{on, kind, tool?, skip?, times?, delay_ms?}`. `on` is a group of routes: `token`, `details`, `magic_link`,
//! `accounts`, `scoped`, `tools`, `execute`, `logs`, `model`, `consent`, `mcp_token`, `mcp_list`, `mcp_call` or `mcp` (what else
//! is asked of an MCP server); `tool` narrows `execute` and `mcp_call` to one tool; `skip` requests pass first, then `times` (1)
//! are met. Kinds:
//!
//! | kind | what the client sees |
//! |---|---|
//! | `status` | `status` (500) in the service's own error form with `error_code`, `tool_error_code`, `message`, `headers`; or with `body`, `html: true`, `truncated: true`; nothing was done |
//! | `delay` | the usual answer after `delay_ms` |
//! | `reset` | a broken connection; nothing was done |
//! | `commit_then_timeout` | silence; it was done |
//! | `commit_then_reset` | a broken connection; it was done |
//! | `half_answer` | half of the answer's body, then a broken connection; it was done |
//! | `big_answer` | the usual answer with `big_answer_bytes` of padding |
//! | `rpc_result` | at MCP servers: `result` as the result, whatever it is; nothing was done |
//! | `stream_ends` | at MCP servers: a stream that ends in good order without the response; it was done |
//! | `stream_stalls` | at MCP servers: a stream on which the response never comes; it was done |
//!
//! At MCP servers `status` answers with a JSON-RPC error of `rpc_code` (-32603) and `message`.
//!
//! The MCP servers are `POST /mcp/v3/connections/{name}`, one for each connection, with the tokens of
//! `POST /api/v1/mcp/connections/{name}/tokens`; and `POST /mcp/crm`, a register of contacts as an operator may have one, for
//! whoever brings its bearer token. `POST /_sandbox/mcp` takes these, and what is left out is as by default:
//!
//! | field | means |
//! |---|---|
//! | `speaks` | `both` (default), `modern` (revision 2026-07-28) or `legacy` (2025-03-26 to 2025-11-25, with a handshake) |
//! | `answers` | `json` (default) or `sse` |
//! | `sessions` | whether the handshake begins a session (`true`) |
//! | `page_size`, `ttl_ms` | of the lists of tools: 50 on a page, good for 60,000 ms |
//! | `more_tools` | so many further tools of the register, all of which only read (0) |
//!
//! Each layer uses those below it:
//!
//! | layer | files |
//! |---|---|
//! | gate: what every request passes | `gate`, `fault_injection`, `connection` |
//! | doors: the routes | `scalekit`, `mcp`, `model`, `consent_page`, `control`, `page` |
//! | what several doors do | `authorization`, which makes accounts active; `execution`, which runs tools |
//! | what all routes hold | `shared`, `state` |
//! | what knows nothing of the server | `accounts`, `catalogue`, `crm`, `data`, `faults`, `mcp_state`, `options`, `request_log`, `route_group`, `tool_calls`, `webhook`, `world` |

mod accounts;
mod authorization;
mod catalogue;
mod connection;
mod consent_page;
mod control;
mod crm;
mod data;
mod execution;
mod fault_injection;
mod faults;
mod gate;
mod mcp;
mod mcp_state;
mod model;
mod options;
mod page;
mod request_log;
mod route_group;
mod scalekit;
mod shared;
mod state;
mod tool_calls;
mod webhook;
mod world;

use std::future::IntoFuture as _;
use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use options::{SandboxOptions, WebhookTarget};

use shared::Shared;

/// Running stand-ins; they stop when this is dropped.
#[derive(Debug)]
pub struct Sandbox {
    shared: Arc<Shared>,
    server: JoinHandle<io::Result<()>>,
}

impl Sandbox {
    /// Binds the port and serves. Fails when the port is taken or the webhook's secret is not `whsec_` and base64.
    pub async fn start(options: SandboxOptions) -> Result<Self, io::Error> {
        let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
        let base_url = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared::new(options, base_url)?);
        let application = gate::router(&shared);
        let stop = shared.stop.clone();
        let server = axum::serve(
            connection::CuttableListener(listener),
            application.into_make_service_with_connect_info::<connection::Cut>(),
        )
        .with_graceful_shutdown(async move { stop.cancelled().await });
        let server = tokio::spawn(server.into_future());
        Ok(Self { shared, server })
    }

    /// Base URL of the stand-in for Scalekit, without a slash at the end.
    pub fn scalekit_url(&self) -> &str {
        &self.shared.base_url
    }

    /// Base URL of the stand-in for the model APIs; ends with `/v1`.
    pub fn model_url(&self) -> String {
        format!("{}/v1", self.shared.base_url)
    }

    /// Base URL of the stand-in for Anthropic's API, without a slash at the end.
    pub fn messages_url(&self) -> &str {
        &self.shared.base_url
    }

    /// Base URL of the control API; ends with `/_sandbox`.
    pub fn control_url(&self) -> String {
        format!("{}/_sandbox", self.shared.base_url)
    }

    /// The client id that `POST /oauth/token` accepts.
    pub fn client_id(&self) -> &'static str {
        shared::CLIENT_ID
    }

    /// The client secret that `POST /oauth/token` accepts. It opens nothing but this stand-in.
    pub fn client_secret(&self) -> &'static str {
        shared::CLIENT_SECRET
    }

    /// The key that the model APIs accept. It opens nothing but this stand-in.
    pub fn api_key(&self) -> &'static str {
        shared::API_KEY
    }

    /// URL of the MCP server of the kind that an operator runs.
    pub fn crm_url(&self) -> String {
        format!("{}/mcp/crm", self.shared.base_url)
    }

    /// The bearer token that this server takes. It opens nothing but this stand-in.
    pub fn crm_token(&self) -> &'static str {
        shared::CRM_TOKEN
    }

    /// Names of the enabled connections.
    pub fn connection_names(&self) -> Vec<&str> {
        self.shared.catalogue.connections().filter(|connection| connection.enabled).map(|c| c.name.as_str()).collect()
    }

    /// Stops serving; requests that hang by a fault are cut off.
    pub async fn stop(mut self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        // An error of the accept loop has nobody left to care about it.
        let _ended = (&mut self.server).await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
    }
}
