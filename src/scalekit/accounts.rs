//! Connected accounts: whether a user's account can be used, and the link under which they authorize it.

use std::fmt;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use url::Url;

use super::{Error, Operation, Scalekit, object, print, text};
use crate::http::{Method, Request};
use crate::job::{ConnectionName, Identifier};

/// A user's account of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Scalekit's id (`ca_…`), where there is an account.
    pub id: Option<String>,
    /// Whether it can be used.
    pub status: AccountStatus,
}

/// Whether an account can be used, and who must do what where not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountStatus {
    /// Good; says nothing about scopes.
    Active,
    /// The authorization ended and could not be refreshed: a new link.
    Expired,
    /// The user has not finished: a link.
    PendingAuth,
    /// The user is done, the calling product has not confirmed who it was: no link helps.
    PendingVerification,
    /// Cut by hand.
    Disconnected,
    /// There is no account: a link makes one, unless the connection does not exist.
    Missing,
    /// A word we do not know; not ready.
    Other(String),
}

impl AccountStatus {
    /// The status as Scalekit writes it, `MISSING` where there is no account.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Active => "ACTIVE",
            Self::Expired => "EXPIRED",
            Self::PendingAuth => "PENDING_AUTH",
            Self::PendingVerification => "PENDING_VERIFICATION",
            Self::Disconnected => "DISCONNECTED",
            Self::Missing => "MISSING",
            Self::Other(word) => word,
        }
    }

    fn from_wire(word: &str) -> Self {
        match word {
            "ACTIVE" => Self::Active,
            "EXPIRED" => Self::Expired,
            "PENDING_AUTH" => Self::PendingAuth,
            "PENDING_VERIFICATION" => Self::PendingVerification,
            "DISCONNECTED" => Self::Disconnected,
            other => Self::Other(other.chars().take(60).collect()),
        }
    }
}

impl fmt::Display for AccountStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A link under which a user authorizes. Whoever opens it binds *their* account: for the user's eyes only.
#[derive(Debug, Clone)]
pub struct MagicLink {
    link: SecretString,
    /// When it ends, where Scalekit says so.
    pub expires_at: Option<Timestamp>,
}

impl MagicLink {
    /// The link itself, for the one reply that delivers it.
    pub fn expose(&self) -> &str {
        self.link.expose_secret()
    }
}

impl Scalekit {
    /// Reads a user's account. No account is a status, not an error. Holds no secrets of the user: the endpoint that
    /// gives out tokens is not used.
    pub async fn account(&self, identifier: &Identifier, connection: &ConnectionName) -> Result<Account, Error> {
        let account = self.read_account(identifier, connection).await?;
        if account.status != AccountStatus::Expired {
            return Ok(account);
        }
        // A refresh can be under way: an account is only taken for expired when it is so twice.
        self.read_account(identifier, connection).await
    }

    /// A new link for the user; makes the account where there is none. `state` (at most 512 bytes) comes back to the
    /// product's verification page.
    pub async fn magic_link(
        &self,
        identifier: &Identifier,
        connection: &ConnectionName,
        state: &str,
    ) -> Result<MagicLink, Error> {
        let mut body = json!({"connector": connection.as_str(), "identifier": identifier.as_str(), "state": state});
        if let Some(url) = &self.config.user_verify_url {
            body["user_verify_url"] = url.as_str().into();
        }
        let url = self.url("/api/v1/connected_accounts/magic_link", &[]);
        let request = Request::new(Method::Post, url, self.control_timeout()).json(print(&body));
        let response = self.control(Operation::MagicLink, request).await?;
        let answer = object(&response)?;
        let is_web = |link: &&str| Url::parse(link).is_ok_and(|url| ["http", "https"].contains(&url.scheme()));
        let Some(link) = answer.get("link").and_then(Value::as_str).filter(is_web) else {
            return Err(Error::bad_answer(&response, "no link"));
        };
        let expires_at = answer.get("expiry").and_then(Value::as_str).and_then(|text| text.parse().ok());
        Ok(MagicLink { link: link.to_owned().into(), expires_at })
    }

    /// How many accounts a connection has, for a check of its name: [`Error::ConnectionNotFound`] where Scalekit says
    /// that there is none. An empty list may mean either a new connection or a wrong name.
    pub async fn accounts_of(&self, connection: &ConnectionName) -> Result<u64, Error> {
        let query = [("connection_names", connection.as_str()), ("page_size", "1")];
        let url = self.url("/api/v1/connected_accounts", &query);
        let request = Request::new(Method::Get, url, self.control_timeout());
        let response = self.control(Operation::ListAccounts, request).await?;
        let answer = object(&response)?;
        let listed = answer.get("connected_accounts").and_then(Value::as_array).map_or(0, Vec::len);
        let total = text(&answer, "total_size").and_then(|text| text.parse().ok());
        Ok(total.unwrap_or(0).max(listed as u64))
    }

    async fn read_account(&self, identifier: &Identifier, connection: &ConnectionName) -> Result<Account, Error> {
        let query = [("connector", connection.as_str()), ("identifier", identifier.as_str())];
        let url = self.url("/api/v1/connected_accounts/details", &query);
        let request = Request::new(Method::Get, url, self.control_timeout());
        let response = match self.control(Operation::Details, request).await {
            Err(Error::AccountUnknown(_)) => return Ok(Account { id: None, status: AccountStatus::Missing }),
            result => result?,
        };
        let answer = object(&response)?;
        let account = answer.get("connected_account").and_then(Value::as_object);
        let status = account.and_then(|account: &Map<String, Value>| text(account, "status"));
        let (Some(account), Some(status)) = (account, status) else {
            return Err(Error::bad_answer(&response, "no account with a status"));
        };
        Ok(Account { id: text(account, "id"), status: AccountStatus::from_wire(&status) })
    }
}
