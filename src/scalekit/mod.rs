//! Scalekit AgentKit over REST: whose accounts are connected, which tools they bring, and running one.
//!
//! The wire form is grpc-gateway's: snake_case, enums as strings, RFC 3339 times (Scalekit's AgentKit OpenAPI document).
//! Calls that only look, and the magic link, are repeated here by Scalekit's own SDK's rule (Java SDK,
//! `MethodRetryPolicies`: on 503 only, never on time-outs, 429 and tool errors). Running a tool is one attempt: there is
//! no idempotency key, so who repeats it must know what the tool does.

mod accounts;
mod credentials;
mod details;
mod error;
mod execute;
mod logs;
mod session_token;
mod token;
mod tools;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use crate::clock::SharedClock;
use crate::http::{self, Method, Request, Response};
use crate::retry::{self, Policy};
use crate::transport::{Peer, TlsConfig};
use crate::webhook::Secrets;

pub use accounts::{Account, AccountStatus, MagicLink};
pub use credentials::{CredentialsNews, OnCredentials};
pub use details::Details;
pub use error::{Error, RateLimitScope};
pub use execute::{ExecuteRequest, ToolAnswer};
pub use logs::{LogStatus, ToolCallLog};
pub use session_token::SessionToken;
pub use tools::ScopedTool;

/// Where Scalekit is, who we are, and how calls are bounded.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `https://….scalekit.com`, `….scalekit.dev` or an own domain. Plain `http` is accepted for loopback, and for others
    /// where `allow_plaintext_keys` says so.
    pub environment_url: String,
    /// Whether the client secret and tokens may go to another machine over `http`.
    pub allow_plaintext_keys: bool,
    /// Whom the environment is trusted by, and who we are to it.
    pub tls: TlsConfig,
    /// `skc_…`, of the environment's API credentials.
    pub client_id: String,
    /// Sent to the token endpoint only, never printed.
    #[schemars(with = "String")]
    pub client_secret: SecretString,
    /// Who may send webhooks: `whsec_` and base64, several separated by commas; empty: nobody.
    #[schemars(with = "String")]
    pub webhook_secret: SecretString,
    /// Longest time for one call that looks up an account or mints a link or token, in milliseconds.
    pub control_timeout_milliseconds: u64,
    /// Longest time for one page of tools and for one run of a tool, in milliseconds.
    pub tool_timeout_milliseconds: u64,
    /// How often calls are repeated that run no tool.
    pub control_retry: Policy,
    /// How often a tool may be run again where that is harmless. Read by whoever calls [`Scalekit::execute`].
    pub tool_retry: Policy,
    /// The page of the calling product that confirms who has just authorized (Scalekit's custom user verification).
    pub user_verify_url: Option<String>,
    /// How long before its end an access token is replaced, in seconds.
    pub token_renew_before_seconds: u64,
    /// Tools asked for in one page, 1 to 100.
    pub page_size: u32,
    /// Most pages of one list; a longer list is an error.
    pub max_pages: u32,
}

impl Default for Config {
    fn default() -> Self {
        // Attempts and first wait as in Scalekit's Java SDK; longer waits than a moment give the place to another run.
        let policy = Policy {
            attempts: 3,
            initial_milliseconds: 1_000,
            max_milliseconds: 2_000,
            max_retry_after_milliseconds: 2_000,
        };
        Self {
            environment_url: String::new(),
            allow_plaintext_keys: false,
            tls: TlsConfig::default(),
            client_id: String::new(),
            client_secret: SecretString::default(),
            webhook_secret: SecretString::default(),
            control_timeout_milliseconds: 20_000,
            tool_timeout_milliseconds: 60_000,
            control_retry: policy,
            tool_retry: policy,
            user_verify_url: None,
            token_renew_before_seconds: 60,
            page_size: 100,
            max_pages: 50,
        }
    }
}

impl Config {
    /// Everything that is wrong, `key: problem` each; empty where the configuration can be used.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |good: bool, problem: &str| {
            if !good {
                problems.push(problem.to_owned());
            }
        };
        check(!self.client_id.is_empty(), "client_id: missing");
        check(!self.client_secret.expose_secret().is_empty(), "client_secret: missing");
        check(self.control_timeout_milliseconds > 0, "control_timeout_milliseconds: must be more than 0");
        check(self.tool_timeout_milliseconds > 0, "tool_timeout_milliseconds: must be more than 0");
        check((1..=100).contains(&self.page_size), "page_size: must be 1 to 100");
        check(self.max_pages > 0, "max_pages: must be at least 1");
        if let Some(url) = &self.user_verify_url {
            let web = Url::parse(url).is_ok_and(|url| ["http", "https"].contains(&url.scheme()));
            check(web && url.len() <= 2048, "user_verify_url: must be an http or https address of at most 2048 bytes");
        }
        if let Err(problem) = Secrets::parse(&self.webhook_secret) {
            problems.push(format!("webhook_secret: {problem}"));
        }
        match base(self) {
            Ok(base) => problems.extend(self.tls.problems(base.scheme() == "https")),
            Err(problem) => problems.insert(0, format!("environment_url: {problem}")),
        }
        problems
    }

    /// The environment; `None` where its address cannot be read.
    pub fn peer(&self) -> Option<Peer> {
        Some(Peer::of_url(&Url::parse(&self.environment_url).ok()?))
    }
}

/// Hears of every repeated call: the operation's name and the [`Error::code`] that caused it.
pub type OnRetry = Arc<dyn Fn(&'static str, &'static str) + Send + Sync>;

/// A client of one Scalekit environment; keeps its token until shortly before it ends.
pub struct Scalekit {
    config: Config,
    base: Url,
    http: http::Client,
    clock: SharedClock,
    tokens: token::AccessTokens,
    on_retry: Option<OnRetry>,
    on_credentials: Option<OnCredentials>,
}

impl fmt::Debug for Scalekit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Scalekit").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

/// What is asked of Scalekit. The same status means different things for different calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Token,
    Details,
    MagicLink,
    ListAccounts,
    ScopedTools,
    SessionToken,
    Execute,
    Logs,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Details => "account_details",
            Self::MagicLink => "magic_link",
            Self::ListAccounts => "list_accounts",
            Self::ScopedTools => "scoped_tools",
            Self::SessionToken => "session_token",
            Self::Execute => "execute_tool",
            Self::Logs => "tool_call_logs",
        }
    }
}

impl Scalekit {
    /// The environment that `config` names, or what is wrong with `config`. Nothing is called yet.
    pub fn new(config: Config, http: http::Client, clock: SharedClock) -> Result<Self, Vec<String>> {
        let problems = config.problems();
        match base(&config) {
            Ok(base) if problems.is_empty() => {
                let tokens = token::AccessTokens::default();
                Ok(Self { config, base, http, clock, tokens, on_retry: None, on_credentials: None })
            }
            _ => Err(problems),
        }
    }

    /// Tells `hook` of every repeated call.
    pub fn on_retry(mut self, hook: OnRetry) -> Self {
        self.on_retry = Some(hook);
        self
    }

    /// How often a tool may be run again where that is harmless.
    pub fn tool_retry(&self) -> Policy {
        self.config.tool_retry
    }

    /// A call that runs no tool: repeated by the policy.
    async fn control(&self, operation: Operation, request: Request) -> Result<Response, Error> {
        self.repeated(operation, || self.authorized(operation, request.clone(), async || Ok(()))).await
    }

    async fn repeated<F>(&self, operation: Operation, call: impl FnMut() -> F) -> Result<Response, Error>
    where
        F: Future<Output = Result<Response, Error>>,
    {
        let notice = |error: &Error, attempt, wait| self.note_retry(operation, error, attempt, wait);
        retry::retry(self.config.control_retry, Error::retry, notice, call).await
    }

    /// One call with our token. Refused as ours, it is sent once more with a new one: the first was stopped at the gate.
    async fn authorized<F>(
        &self,
        operation: Operation,
        request: Request,
        may_leave: impl Fn() -> F,
    ) -> Result<Response, Error>
    where
        F: Future<Output = Result<(), String>>,
    {
        let held_back = |why| Error::NotSent(Details { message: why, ..Details::default() });
        let token = self.token(None).await?;
        may_leave().await.map_err(held_back)?;
        let refused = match self.exchange(operation, request.clone().bearer(&token.secret)).await {
            Err(error @ Error::Credentials(_)) => error,
            result => return self.told(result),
        };
        self.note_retry(operation, &refused, 2, Duration::ZERO);
        let token = self.token(Some(token.generation)).await?;
        may_leave().await.map_err(held_back)?;
        self.told(self.exchange(operation, request.bearer(&token.secret)).await)
    }

    fn tell(&self, news: CredentialsNews) {
        if let Some(hook) = &self.on_credentials {
            hook(news);
        }
    }

    /// Tells what the end of a call shows of our credentials.
    fn told(&self, result: Result<Response, Error>) -> Result<Response, Error> {
        match &result {
            Ok(_) => self.tell(CredentialsNews::Taken),
            Err(Error::Credentials(_)) => self.tell(CredentialsNews::CallRefused),
            Err(_) => {}
        }
        result
    }

    async fn exchange(&self, operation: Operation, request: Request) -> Result<Response, Error> {
        let response = self.http.send(request).await.map_err(|error| Error::from_http(&error))?;
        if (200..300).contains(&response.status) {
            Ok(response)
        } else {
            Err(Error::from_response(operation, &response))
        }
    }

    /// All items under `key` of a list in pages.
    async fn pages(
        &self,
        operation: Operation,
        path: &str,
        query: &[(&str, &str)],
        key: &str,
    ) -> Result<Vec<Value>, Error> {
        let mut items = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        for _ in 0..self.config.max_pages {
            let mut url = self.url(path, query);
            if let Some(token) = seen.last() {
                url.query_pairs_mut().append_pair("page_token", token);
            }
            let request = Request::new(Method::Get, url, self.tool_timeout());
            let response = self.control(operation, request).await?;
            let mut page = object(&response)?;
            match page.remove(key) {
                Some(Value::Array(more)) => items.extend(more),
                None | Some(Value::Null) => {}
                Some(_) => return Err(Error::bad_answer(&response, &format!("`{key}` is not a list"))),
            }
            let next = page.get("next_page_token").and_then(Value::as_str).unwrap_or_default();
            if next.is_empty() {
                return Ok(items);
            }
            if seen.iter().any(|token| token == next) {
                tracing::warn!(
                    operation = operation.as_str(),
                    pages = seen.len(),
                    "a page token came twice; the list ends here"
                );
                return Ok(items);
            }
            seen.push(next.to_owned());
        }
        Err(Error::endless_list(operation, self.config.max_pages))
    }

    fn url(&self, path: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    fn control_timeout(&self) -> Duration {
        Duration::from_millis(self.config.control_timeout_milliseconds)
    }

    /// Longest time for one run of a tool.
    pub fn tool_timeout(&self) -> Duration {
        Duration::from_millis(self.config.tool_timeout_milliseconds)
    }

    fn note_retry(&self, operation: Operation, error: &Error, attempt: u32, wait: Duration) {
        let (operation, reason) = (operation.as_str(), error.code());
        let wait_milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let outline = error.outline();
        tracing::warn!(
            operation,
            reason,
            attempt,
            wait_milliseconds,
            error = outline,
            "a call to Scalekit is repeated"
        );
        tracing::debug!(operation, %error, "Scalekit's words");
        if let Some(hook) = &self.on_retry {
            hook(operation, reason);
        }
    }
}

/// The address of an environment, or what is wrong with it.
fn base(config: &Config) -> Result<Url, String> {
    let text = &config.environment_url;
    if text.is_empty() {
        return Err("missing".into());
    }
    let url = Url::parse(text).map_err(|error| format!("not an address: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with https://".into());
    }
    if let Some(problem) = Peer::of_url(&url).key_problem(config.allow_plaintext_keys) {
        return Err(problem);
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err("must hold neither user, query nor fragment".into());
    }
    Ok(url)
}

fn object(response: &Response) -> Result<Map<String, Value>, Error> {
    serde_json::from_slice(&response.body).map_err(|_| Error::bad_answer(response, "not a JSON object"))
}

/// The same of an answer that may be full of a stranger's values.
fn bounded_object(response: &Response) -> Result<Map<String, Value>, Error> {
    match http::parse_bounded(&response.body) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(Error::bad_answer(response, "not a JSON object")),
    }
}

fn print(value: &Value) -> Bytes {
    value.to_string().into()
}

/// `key` as text, where it is there and not empty; numbers are printed, as ids come in both forms.
fn text(object: &Map<String, Value>, key: &str) -> Option<String> {
    match object.get(key)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Config {
        Config {
            environment_url: url.into(),
            client_id: "skc_1".into(),
            client_secret: "hush".to_owned().into(),
            ..Config::default()
        }
    }

    #[test]
    fn every_problem_of_a_configuration_is_named() {
        let all = Config { page_size: 101, user_verify_url: Some("ftp://x".into()), ..Config::default() }.problems();
        for key in ["environment_url", "client_id", "client_secret", "page_size", "user_verify_url"] {
            assert!(all.iter().any(|problem| problem.starts_with(key)), "{key} is missing in {all:?}");
        }
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        for good in ["https://acme.scalekit.com", "https://a.example/scalekit/", "http://127.0.0.1:1", "http://[::1]:1"]
        {
            assert_eq!(config(good).problems(), [""; 0], "{good}");
        }
        for bad in [
            "http://acme.scalekit.com",
            "http://localhost.evil.example",
            "ftp://localhost",
            "acme",
            "https://u:p@h",
            "https://h?a=b",
        ] {
            assert_eq!(config(bad).problems().len(), 1, "{bad}");
        }
    }

    #[test]
    fn a_configuration_prints_no_secret() {
        assert!(!format!("{:?}", config("https://acme.scalekit.com")).contains("hush"));
    }
}
