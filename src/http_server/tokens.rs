//! Who may ask over HTTP: bearer tokens, each with what it is good for and for whose jobs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::Sha256;

use crate::job::Identifier;
use crate::key::digest;
use crate::pattern::fits_exactly;

/// One of `[http.tokens]`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// What stands after `Bearer`.
    #[serde(default)]
    #[schemars(with = "String")]
    pub token: SecretString,
    /// The same, in a file.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// Whose jobs it is good for: patterns of identifiers.
    pub identifiers: Vec<String>,
}

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
pub enum Scope {
    /// To send jobs.
    #[serde(rename = "jobs:write")]
    JobsWrite,
    /// To look at them.
    #[serde(rename = "jobs:read")]
    JobsRead,
    /// To decide about calls that wait.
    #[serde(rename = "approvals")]
    Approvals,
    /// To see prompts, arguments and results.
    #[serde(rename = "content")]
    Content,
    /// To act on runs and dead letters.
    #[serde(rename = "operate")]
    Operate,
}

impl Scope {
    /// As in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JobsWrite => "jobs:write",
            Self::JobsRead => "jobs:read",
            Self::Approvals => "approvals",
            Self::Content => "content",
            Self::Operate => "operate",
        }
    }
}

/// All tokens.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Vec<TokenHolder>);

/// Whoever holds a token.
#[derive(Debug)]
pub(crate) struct TokenHolder {
    pub(crate) name: String,
    digest: String,
    scopes: Vec<Scope>,
    identifiers: Vec<String>,
}

impl Tokens {
    /// Reads them, from their files where they have some.
    ///
    /// # Errors
    /// In words that do not repeat a token.
    pub(crate) fn new(configured: &BTreeMap<String, TokenConfig>) -> Result<Self, String> {
        let tokens = configured.iter().map(|(name, config)| {
            let token = match &config.token_file {
                Some(path) => std::fs::read_to_string(path)
                    .map_err(|error| format!("tokens.{name}: the file cannot be read: {error}"))?,
                None => config.token.expose_secret().to_owned(),
            };
            if token.trim().len() < SHORTEST {
                return Err(format!("tokens.{name}: token or token_file must hold at least {SHORTEST} characters"));
            }
            let (scopes, identifiers) = (config.scopes.clone(), config.identifiers.clone());
            Ok(TokenHolder { name: name.clone(), digest: digest(token.trim(), 32), scopes, identifiers })
        });
        tokens.collect::<Result<_, _>>().map(Self)
    }

    /// Whether nobody has one.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whoever holds the token of this name.
    pub(crate) fn named(&self, name: &str) -> Option<&TokenHolder> {
        self.0.iter().find(|known| known.name == name)
    }

    /// Whoever sends this `Authorization`. Digests are compared: how long that takes says nothing of the token.
    pub(crate) fn holder(&self, authorization: &str) -> Option<&TokenHolder> {
        let (scheme, token) = authorization.split_once(' ')?;
        let digest = digest(token.trim(), 32);
        self.0.iter().find(|known| known.digest == digest).filter(|_| scheme.eq_ignore_ascii_case("bearer"))
    }
}

impl TokenHolder {
    /// Signs words, so that they are known again: the key is the token's, and good as long as that.
    pub(crate) fn seal(&self, words: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.mac(words).finalize().into_bytes())
    }

    /// Whether it has signed these words so. How long that takes says nothing.
    pub(crate) fn has_sealed(&self, words: &str, seal: &str) -> bool {
        URL_SAFE_NO_PAD.decode(seal).is_ok_and(|tag| self.mac(words).verify_slice(&tag).is_ok())
    }

    fn mac(&self, words: &str) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(self.digest.as_bytes()).expect("a key may have any length");
        mac.chain_update(words)
    }

    /// Whether it is good for this at all.
    pub(crate) fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Whether it is good for jobs of every user.
    pub(crate) fn covers_all(&self) -> bool {
        self.identifiers.iter().any(|pattern| pattern == "*")
    }

    /// Whether it is good for jobs of this user.
    pub(crate) fn covers(&self, identifier: &Identifier) -> bool {
        self.identifiers.iter().any(|pattern| fits_exactly(pattern, identifier.as_str()))
    }
}

/// A shorter token can be guessed.
const SHORTEST: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(toml: &str) -> Result<Tokens, String> {
        Tokens::new(&toml::from_str(toml).unwrap())
    }

    #[test]
    fn a_token_is_good_for_its_scopes_and_its_users() {
        let text = "[ann]\ntoken = \"0123456789abcdef\"\nscopes = [\"approvals\"]\nidentifiers = [\"acme_*\"]";
        let tokens = tokens(text).unwrap();
        let ann = tokens.holder("Bearer 0123456789abcdef").unwrap();
        assert_eq!((ann.name.as_str(), ann.allows(Scope::Approvals), ann.allows(Scope::Operate)), ("ann", true, false));
        let covers = |name: &str| ann.covers(&Identifier::new(name).unwrap());
        assert!(covers("acme_1") && !covers("other_1"));
        for wrong in ["", "0123456789abcdef", "Basic 0123456789abcdef", "Bearer ", "Bearer 0123456789abcdeF"] {
            assert!(tokens.holder(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_token_that_is_missing_or_short_is_refused_and_not_repeated() {
        for token in ["", "token = \"hunter2\"", "token_file = \"/nowhere/token\""] {
            let problem = tokens(&format!("[ann]\n{token}\nscopes = []\nidentifiers = []")).unwrap_err();
            assert!(problem.starts_with("tokens.ann: ") && !problem.contains("hunter2"), "{problem}");
        }
    }
}
