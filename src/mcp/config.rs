//! Which MCP servers there are.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use crate::transport::{Peer, TlsConfig};

/// Longest name of a server: it begins the names of its tools, of which a model reads 64 characters.
const NAME_CHARACTERS: usize = 32;
/// Headers that the worker or the connection itself sets.
const RESERVED: [&str; 9] =
    ["accept", "connection", "content-length", "content-type", "expect", "host", "te", "transfer-encoding", "upgrade"];

/// One MCP server of the operator's, `[mcp.NAME]`; jobs name it as the connection `mcp:NAME`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct McpConfig {
    /// Its endpoint (Streamable HTTP), `https://…/mcp`. Plain `http` is accepted for loopback, and for others where there are
    /// no `headers` or `allow_plaintext_keys` says so.
    pub url: String,
    /// Sent with every request, such as `Authorization`. Never printed.
    #[schemars(with = "BTreeMap<String, String>")]
    pub headers: BTreeMap<String, SecretString>,
    /// Longest wait for one request, in seconds. A call that passes it is unknown unless it is proven not to have been sent.
    pub timeout_seconds: u64,
    /// What is believed of its tools.
    pub trust: HintTrust,
    /// Whether `headers` may go to another machine over `http`.
    pub allow_plaintext_keys: bool,
    /// Whom the server is trusted by, and who we are to it.
    pub tls: TlsConfig,
}

/// What is believed of a tool's annotations, which its server says of itself (MCP: untrusted unless the server is trusted).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HintTrust {
    /// Nothing: every tool is a write unless the operator says otherwise.
    #[default]
    None,
    /// `readOnlyHint` and `idempotentHint`.
    Hints,
}

impl Default for McpConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            headers: BTreeMap::new(),
            timeout_seconds: 60,
            trust: HintTrust::None,
            allow_plaintext_keys: false,
            tls: TlsConfig::default(),
        }
    }
}

impl McpConfig {
    /// Everything that is wrong with the server `name`, `NAME.key: problem` each; empty where it can be used.
    pub fn problems(&self, name: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let legal = |character: char| character.is_ascii_alphanumeric() || "_-".contains(character);
        if !(1..=NAME_CHARACTERS).contains(&name.len()) || !name.chars().all(legal) {
            problems.push(format!("{name}: a name has 1 to {NAME_CHARACTERS} letters, digits, `-` and `_`"));
        }
        if self.timeout_seconds == 0 {
            problems.push(format!("{name}.timeout_seconds: must be at least 1"));
        }
        problems.extend(self.header_problems().into_iter().map(|problem| format!("{name}.headers.{problem}")));
        match endpoint(&self.url) {
            Err(problem) => problems.push(format!("{name}.url: {problem}")),
            Ok(url) => {
                problems.extend(self.tls.problems(url.scheme() == "https").iter().map(|tls| format!("{name}.{tls}")));
                let is_allowed = self.allow_plaintext_keys || self.headers.is_empty();
                let problem = Peer::of_url(&url).key_problem(is_allowed);
                problems.extend(problem.map(|problem| format!("{name}.url: {problem}")));
            }
        }
        problems
    }

    /// The server; `None` where its address cannot be read.
    pub fn peer(&self) -> Option<Peer> {
        Some(Peer::of_url(&endpoint(&self.url).ok()?))
    }

    fn header_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut names = BTreeSet::new();
        for (name, value) in &self.headers {
            if !is_token(name) {
                problems.push(format!("{name}: not the name of a header"));
            } else if is_reserved(name) {
                problems.push(format!("{name}: is set by the worker itself"));
            } else if !names.insert(name.to_ascii_lowercase()) {
                problems.push(format!("{name}: is there twice; upper and lower case do not count"));
            }
            // The value itself is a secret.
            if !value.expose_secret().bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
                problems.push(format!("{name}: its value has other characters than visible ASCII"));
            }
        }
        problems
    }
}

/// The address of an endpoint, or what is wrong with it.
pub(super) fn endpoint(text: &str) -> Result<Url, String> {
    if text.is_empty() {
        return Err("missing".to_owned());
    }
    let url = Url::parse(text).map_err(|error| format!("not an address: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must hold no user; put credentials into headers".to_owned());
    }
    if url.fragment().is_some() {
        return Err("must hold no fragment".to_owned());
    }
    Ok(url)
}

/// Whether this can be a header's name (RFC 9110, token).
pub(super) fn is_token(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(legal)
}

fn is_reserved(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("mcp-") || RESERVED.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str, headers: &[(&str, &str)]) -> McpConfig {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect();
        McpConfig { url: url.to_owned(), headers, ..McpConfig::default() }
    }

    #[test]
    fn a_server_with_its_address_is_enough() {
        for url in ["http://127.0.0.1:3001/mcp", "https://crm.example.com/mcp?team=a", "http://mcp.internal:3001/mcp"] {
            assert_eq!(config(url, &[]).problems("crm"), Vec::<String>::new(), "{url}");
        }
        let secret = config("http://localhost:1/mcp", &[("Authorization", "Bearer s3cret"), ("X-Api-Key", "k")]);
        assert_eq!(secret.problems("my-crm_2"), Vec::<String>::new());
        assert!(!format!("{secret:?}").contains("s3cret"));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_shown() {
        let long = "x".repeat(33);
        let key = [("Authorization", "Bearer s3cret")];
        for (name, config, part) in [
            ("crm", config("", &[]), "crm.url: missing"),
            ("crm", config("ftp://h/mcp", &[]), "crm.url: must begin with https://"),
            ("crm", config("http://", &[]), "crm.url: not an address"),
            ("crm", config("https://user:s3cret@h/mcp", &[]), "crm.url: must hold no user"),
            ("crm", config("https://h/mcp#x", &[]), "crm.url: must hold no fragment"),
            ("crm", config("http://crm.example.com/mcp", &key), "crm.url: the key would go to crm.example.com:80"),
            ("a.b", config("https://h/mcp", &[]), "a.b: a name has"),
            (&long, config("https://h/mcp", &[]), "a name has"),
            ("crm", config("https://h/mcp", &[("Mcp-Session-Id", "1")]), "crm.headers.Mcp-Session-Id: is set by"),
            ("crm", config("https://h/mcp", &[("a b", "s3cret")]), "crm.headers.a b: not the name"),
            ("crm", config("https://h/mcp", &[("A", "s3cret\n")]), "crm.headers.A: its value"),
            ("crm", config("https://h/mcp", &[("A", "1"), ("a", "2")]), "crm.headers.a: is there twice"),
            ("crm", McpConfig { timeout_seconds: 0, ..config("https://h/", &[]) }, "crm.timeout_seconds"),
        ] {
            let problems = config.problems(name).join("\n");
            assert!(problems.contains(part) && !problems.contains("s3cret"), "{part} is missing in {problems}");
        }
        let allowed = McpConfig { allow_plaintext_keys: true, ..config("http://mcp.internal/mcp", &key) };
        assert_eq!(allowed.problems("crm"), Vec::<String>::new());
    }
}
