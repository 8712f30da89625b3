//! A request, complete with its time limit.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{Body, host};

/// The methods in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Sent without a body.
    Get,
    /// Sent with the request's body, where it has one.
    Post,
}

/// One request, complete with its time limit.
#[derive(Clone)]
#[must_use]
pub struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) timeout: Duration,
    headers: Vec<(Cow<'static, str>, String)>,
    secret_headers: Vec<(String, SecretString)>,
    pub(super) body: Option<Body>,
}

impl Request {
    /// A request for `url` that must be answered whole within `timeout`.
    pub fn new(method: Method, url: Url, timeout: Duration) -> Self {
        Self { method, url, timeout, headers: Vec::new(), secret_headers: Vec::new(), body: None }
    }

    /// Adds `Authorization: Bearer`.
    pub fn bearer(self, token: &SecretString) -> Self {
        self.secret_header("authorization", &format!("Bearer {}", token.expose_secret()).into())
    }

    /// Adds a header that nobody may see.
    pub fn secret_header(mut self, name: &str, value: &SecretString) -> Self {
        self.secret_headers.push((name.to_owned(), value.clone()));
        self
    }

    /// Adds a header. Not for secrets: those go into [`Request::secret_header`].
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// All headers, and which of them nobody may see.
    pub(super) fn all_headers(&self) -> impl Iterator<Item = (&str, &str, bool)> {
        let secret = self.secret_headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret(), true));
        self.headers.iter().map(|(name, value)| (&**name, value.as_str(), false)).chain(secret)
    }

    /// Sets a body that is already printed JSON.
    pub fn json(mut self, body: impl Into<Body>) -> Self {
        self.body = Some(body.into());
        self.header("content-type", "application/json")
    }

    /// Sets a body of this media type.
    pub fn body(mut self, media_type: &'static str, body: impl Into<Body>) -> Self {
        self.body = Some(body.into());
        self.header("content-type", media_type)
    }

    /// Sets a form of names and values as the body.
    pub fn form(mut self, fields: &[(&str, &str)]) -> Self {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.body = Some(body.into());
        self.header("content-type", "application/x-www-form-urlencoded")
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Request")
            .field("method", &self.method)
            .field("host", &host(&self.url))
            .field("path", &self.url.path())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_prints_neither_query_nor_body_nor_token() {
        let url = Url::parse("https://acme.example/oauth/token?identifier=alice").unwrap();
        let request = Request::new(Method::Post, url, Duration::from_secs(1))
            .bearer(&"bearer-1".to_owned().into())
            .form(&[("client_secret", "s3cr3t")]);
        let shown = format!("{request:?}");
        for secret in ["alice", "bearer-1", "s3cr3t"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert_eq!(request.body, Some("client_secret=s3cr3t".into()));
    }
}
