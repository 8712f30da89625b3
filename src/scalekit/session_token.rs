//! Tokens for the MCP server of a connection: each is good for one user there, for a while, and where that is asked for to read
//! only. (`McpService.CreateConnectionSessionToken`; the server itself is `/mcp/v3/connections/{name}`.)

use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::{Value, json};
use url::Url;

use super::{Error, Operation, Scalekit, object, print};
use crate::http::{Method, Request};
use crate::job::{ConnectionName, Identifier};

/// Asked for; Scalekit gives 60 s to 24 h.
const EXPIRY_SECONDS: u32 = 3_600;

/// What a user's calls are let in by at the MCP server of one connection.
#[derive(Debug, Clone)]
pub struct SessionToken {
    /// Sent as `Authorization: Bearer` to that server alone.
    pub secret: SecretString,
    /// When it ends, where that is said.
    pub expires_at: Option<Timestamp>,
}

impl Scalekit {
    /// A new token for `identifier` at the server of `connection`; with `reads_only` the server lists and runs tools alone that
    /// only read. Whether the user's account can be used it does not say for certain.
    pub async fn session_token(
        &self,
        identifier: &Identifier,
        connection: &ConnectionName,
        reads_only: bool,
    ) -> Result<SessionToken, Error> {
        let body = json!({
            "identifier": identifier.as_str(),
            "expiry": format!("{EXPIRY_SECONDS}s"),
            "access_level": if reads_only { "READ_ONLY" } else { "FULL" },
        });
        let url = self.below("/api/v1/mcp/connections", &[connection.as_str(), "tokens"]);
        let request = Request::new(Method::Post, url, self.control_timeout()).json(print(&body));
        let response = self.control(Operation::SessionToken, request).await?;
        // The answer is never shown, not even an excerpt: what cannot be read may still hold a token.
        let unreadable = || {
            let response = crate::http::Response { body: bytes::Bytes::new(), ..response.clone() };
            Error::bad_answer(&response, "no token for the MCP server")
        };
        let answer = object(&response).map_err(|_| unreadable())?;
        let token = answer.get("token").and_then(Value::as_str);
        let token = token.filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
        Ok(SessionToken {
            secret: token.ok_or_else(unreadable)?.to_owned().into(),
            expires_at: answer.get("expires_at").and_then(|at| at.as_str()?.parse().ok()),
        })
    }

    /// The MCP server of a connection. Upper and lower case count.
    pub fn mcp_server(&self, connection: &ConnectionName) -> Url {
        self.below("/mcp/v3/connections", &[connection.as_str()])
    }

    fn below(&self, path: &str, segments: &[&str]) -> Url {
        let mut url = self.url(path, &[]);
        if let Ok(mut all) = url.path_segments_mut() {
            all.extend(segments);
        }
        url
    }
}
