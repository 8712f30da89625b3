//! Connected accounts and the magic links that make them active, as plain data.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::catalogue::Connection;

/// How long a provider's token is said to be good for.
const PROVIDER_TOKEN_LIFETIME: Duration = Duration::from_hours(1);

/// One user's account at one connection.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) id: String,
    pub(super) connector: String,
    pub(super) connection_id: String,
    pub(super) provider: String,
    pub(super) identifier: String,
    /// Any word; tools run only on `ACTIVE`.
    pub(super) status: String,
    pub(super) token_expires_at: Option<Timestamp>,
    pub(super) last_used_at: Option<Timestamp>,
    pub(super) updated_at: Timestamp,
}

impl Account {
    pub(super) fn new(number: u64, connection: &Connection, identifier: &str, status: &str, now: Timestamp) -> Self {
        let mut account = Self {
            id: format!("ca_{}", 24_834_495_000_000_000 + number),
            connector: connection.name.clone(),
            connection_id: connection.id.clone(),
            provider: connection.provider.clone(),
            identifier: identifier.to_owned(),
            status: String::new(),
            token_expires_at: None,
            last_used_at: None,
            updated_at: now,
        };
        account.set_status(status, now);
        account
    }

    /// As the API gives it, without credentials.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "id": self.id, "connection_id": self.connection_id, "connector": self.connector,
            "provider": self.provider, "identifier": self.identifier, "authorization_type": "OAUTH",
            "status": self.status, "token_expires_at": self.token_expires_at,
            "last_used_at": self.last_used_at, "updated_at": self.updated_at,
        })
    }

    pub(super) fn is_active(&self) -> bool {
        self.status == "ACTIVE"
    }

    fn set_status(&mut self, status: &str, now: Timestamp) {
        status.clone_into(&mut self.status);
        self.updated_at = now;
        if self.is_active() {
            self.token_expires_at = now.checked_add(PROVIDER_TOKEN_LIFETIME).ok();
        }
    }
}

/// A link that was given out.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) connector: String,
    pub(super) identifier: String,
    pub(super) expiry: Timestamp,
    pub(super) used: bool,
    /// Where the browser goes after consent when the application verifies users itself, and the state to bring along.
    pub(super) verification: Option<(String, String)>,
}

/// Why a link cannot be followed.
#[derive(Debug, Clone, Copy)]
pub(super) enum LinkProblem {
    Unknown,
    Used,
    Expired,
}

/// All accounts and links.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    by_name: BTreeMap<(String, String), Account>,
    links: BTreeMap<String, Link>,
    /// Verification requests that are open: id to account.
    pub(super) verifications: BTreeMap<String, (String, String)>,
}

impl Accounts {
    pub(super) fn all(&self) -> impl Iterator<Item = &Account> {
        self.by_name.values()
    }

    pub(super) fn by_id(&self, id: &str) -> Option<&Account> {
        self.all().find(|account| account.id == id)
    }

    pub(super) fn of(&self, identifier: &str) -> impl Iterator<Item = &Account> {
        self.all().filter(move |account| account.identifier == identifier)
    }

    pub(super) fn get(&self, connector: &str, identifier: &str) -> Option<&Account> {
        self.by_name.get(&(connector.to_owned(), identifier.to_owned()))
    }

    pub(super) fn insert(&mut self, account: Account) {
        self.by_name.insert((account.connector.clone(), account.identifier.clone()), account);
    }

    /// Gives an account another status: the account as it is now, and the status that it had. `None` where it is missing.
    pub(super) fn set_status(
        &mut self,
        connector: &str,
        identifier: &str,
        status: &str,
        now: Timestamp,
    ) -> Option<(Account, String)> {
        let account = self.get_mut(connector, identifier)?;
        let old_status = account.status.clone();
        account.set_status(status, now);
        Some((account.clone(), old_status))
    }

    /// Notes that a tool ran on the account.
    pub(super) fn mark_used(&mut self, account: &Account, now: Timestamp) {
        if let Some(account) = self.get_mut(&account.connector, &account.identifier) {
            account.last_used_at = Some(now);
        }
    }

    pub(super) fn add_link(&mut self, token: String, link: Link) {
        self.links.insert(token, link);
    }

    /// The link, if it can still be followed.
    pub(super) fn link(&self, token: &str, now: Timestamp) -> Result<&Link, LinkProblem> {
        match self.links.get(token) {
            None => Err(LinkProblem::Unknown),
            Some(link) if link.used => Err(LinkProblem::Used),
            Some(link) if link.expiry <= now => Err(LinkProblem::Expired),
            Some(link) => Ok(link),
        }
    }

    /// The link, which is used up by this.
    pub(super) fn use_link(&mut self, token: &str, now: Timestamp) -> Result<Link, LinkProblem> {
        let link = self.link(token, now)?.clone();
        self.links.insert(token.to_owned(), Link { used: true, ..link.clone() });
        Ok(link)
    }

    fn get_mut(&mut self, connector: &str, identifier: &str) -> Option<&mut Account> {
        self.by_name.get_mut(&(connector.to_owned(), identifier.to_owned()))
    }
}
