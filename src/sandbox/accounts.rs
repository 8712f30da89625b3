//! Connected accounts and the magic links that make them active.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::catalogue::Connection;
use super::shared::{Shared, State};
use super::webhook::StatusChange;

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
}

/// A link that was given out.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) connector: String,
    pub(super) identifier: String,
    pub(super) expiry: Timestamp,
    pub(super) used: bool,
    /// Where the browser goes after consent when the application verifies users itself, and the state to bring along.
    verification: Option<(String, String)>,
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

    pub(super) fn link(&self, token: &str) -> Option<&Link> {
        self.links.get(token)
    }

    fn get_mut(&mut self, connector: &str, identifier: &str) -> Option<&mut Account> {
        self.by_name.get_mut(&(connector.to_owned(), identifier.to_owned()))
    }
}

/// Why an account cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Problem {
    UnknownConnection,
    DisabledConnection,
}

/// What became of a decision on the consent page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Consent {
    Unknown,
    Expired,
    Used,
    Denied,
    /// The account is active, or the browser has to go on to the application's verification page.
    Allowed {
        go_to: Option<String>,
    },
}

impl Shared {
    /// The account, where it exists or the options say that every account does.
    pub(super) fn account(&self, state: &mut State, connector: &str, identifier: &str) -> Option<Account> {
        if let Some(account) = state.accounts.get_mut(connector, identifier) {
            return Some(account.clone());
        }
        let status = self.options.initial_status.as_deref()?;
        let connection = self.catalogue.connection(connector).filter(|connection| connection.enabled)?;
        Some(self.insert(state, connection, identifier, status))
    }

    /// The account, made with `PENDING_AUTH` where it is missing; the flag says whether it was made.
    pub(super) fn account_or_new(&self, connector: &str, identifier: &str) -> Result<(Account, bool), Problem> {
        let connection = self.usable(connector)?;
        let mut state = self.lock();
        match self.account(&mut state, connector, identifier) {
            Some(account) => Ok((account, false)),
            None => Ok((self.insert(&mut state, connection, identifier, "PENDING_AUTH"), true)),
        }
    }

    /// Notes that a tool ran on the account.
    pub(super) fn mark_used(&self, state: &mut State, account: &Account) {
        if let Some(account) = state.accounts.get_mut(&account.connector, &account.identifier) {
            account.last_used_at = Some(self.now());
        }
    }

    /// Sets a status; a change (not a creation) is announced by webhook.
    pub(super) fn set_status(
        self: &Arc<Self>,
        connector: &str,
        identifier: &str,
        status: &str,
    ) -> Result<Account, Problem> {
        let connection = self.usable(connector)?;
        let now = self.now();
        let (account, change) = {
            let mut state = self.lock();
            let Some(account) = state.accounts.get_mut(connector, identifier) else {
                return Ok(self.insert(&mut state, connection, identifier, status));
            };
            let old_status = std::mem::replace(&mut account.status, status.to_owned());
            account.updated_at = now;
            if account.is_active() {
                account.token_expires_at = now.checked_add(PROVIDER_TOKEN_LIFETIME).ok();
            }
            let account = account.clone();
            let change = (old_status != status).then(|| StatusChange {
                number: state.next_number(),
                account: account.clone(),
                old_status,
                at: now,
            });
            (account, change)
        };
        if let Some(change) = change {
            self.announce(change);
        }
        Ok(account)
    }

    /// Gives out a link for the account, which is made where it is missing.
    pub(super) fn new_link(
        self: &Arc<Self>,
        connector: &str,
        identifier: &str,
        verification: Option<(String, String)>,
    ) -> Result<(String, Timestamp), Problem> {
        self.account_or_new(connector, identifier)?;
        let now = self.now();
        let expiry = now.checked_add(self.options.link_lifetime).unwrap_or(Timestamp::MAX);
        let token = {
            let mut state = self.lock();
            let token = state.next_word("link");
            let (connector, identifier) = (connector.to_owned(), identifier.to_owned());
            let link = Link { connector, identifier, expiry, used: false, verification };
            state.accounts.links.insert(token.clone(), link);
            token
        };
        if let Some(after) = self.options.consent_after {
            let (shared, token) = (Arc::clone(self), token.clone());
            self.spawn(async move {
                tokio::time::sleep(after).await;
                shared.decide(&token, true);
            });
        }
        Ok((format!("{}/magicLink/{token}", self.base_url), expiry))
    }

    /// A decision by the person who opened the link, which is used up by it.
    pub(super) fn decide(self: &Arc<Self>, token: &str, allowed: bool) -> Consent {
        let now = self.now();
        let (link, request) = {
            let mut state = self.lock();
            let request = state.next_word("verification");
            let Some(link) = state.accounts.links.get_mut(token) else {
                return Consent::Unknown;
            };
            if link.used {
                return Consent::Used;
            }
            if link.expiry <= now {
                return Consent::Expired;
            }
            link.used = true;
            let link = link.clone();
            if allowed && link.verification.is_some() {
                let account = (link.connector.clone(), link.identifier.clone());
                state.accounts.verifications.insert(request.clone(), account);
            }
            (link, request)
        };
        if !allowed {
            return Consent::Denied;
        }
        let status = if link.verification.is_some() { "PENDING_VERIFICATION" } else { "ACTIVE" };
        // The connection was usable when the link was made, and the catalogue does not change.
        let _account = self.set_status(&link.connector, &link.identifier, status);
        let go_to = link.verification.and_then(|(address, state)| {
            let mut address = url::Url::parse(&address).ok()?;
            address.query_pairs_mut().append_pair("auth_request_id", &request).append_pair("state", &state);
            Some(address.to_string())
        });
        Consent::Allowed { go_to }
    }

    fn usable(&self, connector: &str) -> Result<&Connection, Problem> {
        match self.catalogue.connection(connector) {
            None => Err(Problem::UnknownConnection),
            Some(connection) if !connection.enabled => Err(Problem::DisabledConnection),
            Some(connection) => Ok(connection),
        }
    }

    fn insert(&self, state: &mut State, connection: &Connection, identifier: &str, status: &str) -> Account {
        let now = self.now();
        let active = status == "ACTIVE";
        let account = Account {
            id: format!("ca_{}", 24_834_495_000_000_000 + state.next_number()),
            connector: connection.name.clone(),
            connection_id: connection.id.clone(),
            provider: connection.provider.clone(),
            identifier: identifier.to_owned(),
            status: status.to_owned(),
            token_expires_at: if active { now.checked_add(PROVIDER_TOKEN_LIFETIME).ok() } else { None },
            last_used_at: None,
            updated_at: now,
        };
        let key = (account.connector.clone(), account.identifier.clone());
        state.accounts.by_name.insert(key, account.clone());
        account
    }
}
