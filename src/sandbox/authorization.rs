//! From no account to an active one: accounts are made, links given out and decided on, changes announced.

use std::sync::Arc;

use jiff::Timestamp;

use super::accounts::{Account, Link, LinkProblem};
use super::catalogue::Connection;
use super::shared::Shared;
use super::state::State;
use super::webhook::StatusChange;

/// Why there can be no account.
#[derive(Debug, Clone, Copy)]
pub(super) enum Problem {
    UnknownConnection,
    DisabledConnection,
}

/// What became of a decision on the consent page.
#[derive(Debug)]
pub(super) enum Consent {
    Denied,
    /// The account is active, or the browser has to go on to the application's verification page.
    Allowed {
        go_to: Option<String>,
    },
}

/// The account, where it exists or the options say that every account does.
pub(super) fn account(shared: &Shared, state: &mut State, connector: &str, identifier: &str) -> Option<Account> {
    if let Some(account) = state.accounts.get(connector, identifier) {
        return Some(account.clone());
    }
    let status = shared.options.initial_status.as_deref()?;
    let connection = shared.catalogue.connection(connector).filter(|connection| connection.enabled)?;
    Some(new_account(state, connection, identifier, status, shared.now()))
}

/// The account, made with `PENDING_AUTH` where it is missing; the flag says whether it was made.
pub(super) fn account_or_new(shared: &Shared, connector: &str, identifier: &str) -> Result<(Account, bool), Problem> {
    let connection = usable(shared, connector)?;
    let mut state = shared.lock();
    match account(shared, &mut state, connector, identifier) {
        Some(account) => Ok((account, false)),
        None => Ok((new_account(&mut state, connection, identifier, "PENDING_AUTH", shared.now()), true)),
    }
}

/// Sets a status; a change (not a creation) is announced by webhook.
pub(super) fn set_status(shared: &Shared, connector: &str, identifier: &str, status: &str) -> Result<Account, Problem> {
    let connection = usable(shared, connector)?;
    let now = shared.now();
    let (account, change) = {
        let mut state = shared.lock();
        let Some((account, old_status)) = state.accounts.set_status(connector, identifier, status, now) else {
            return Ok(new_account(&mut state, connection, identifier, status, now));
        };
        let change = (old_status != status).then(|| StatusChange {
            number: state.next_number(),
            account: account.clone(),
            old_status,
            at: now,
        });
        (account, change)
    };
    if let Some(change) = change {
        announce(shared, change);
    }
    Ok(account)
}

/// Gives out a link for the account, which is made where it is missing.
pub(super) fn new_link(
    shared: &Arc<Shared>,
    connector: &str,
    identifier: &str,
    verification: Option<(String, String)>,
) -> Result<(String, Timestamp), Problem> {
    account_or_new(shared, connector, identifier)?;
    let expiry = shared.now().checked_add(shared.options.link_lifetime).unwrap_or(Timestamp::MAX);
    let token = {
        let mut state = shared.lock();
        let token = state.next_word("link");
        let (connector, identifier) = (connector.to_owned(), identifier.to_owned());
        state.accounts.add_link(token.clone(), Link { connector, identifier, expiry, used: false, verification });
        token
    };
    if let Some(after) = shared.options.consent_after {
        let (own, token) = (Arc::clone(shared), token.clone());
        shared.spawn(async move {
            tokio::time::sleep(after).await;
            // A person who was faster has used the link up.
            let _consent = decide(&own, &token, true);
        });
    }
    Ok((format!("{}/magicLink/{token}", shared.base_url), expiry))
}

/// A decision by the person who opened the link, which is used up by it.
pub(super) fn decide(shared: &Shared, token: &str, allowed: bool) -> Result<Consent, LinkProblem> {
    let (link, request) = {
        let mut state = shared.lock();
        let request = state.next_word("verification");
        let link = state.accounts.use_link(token, shared.now())?;
        if allowed && link.verification.is_some() {
            let account = (link.connector.clone(), link.identifier.clone());
            state.accounts.verifications.insert(request.clone(), account);
        }
        (link, request)
    };
    if !allowed {
        return Ok(Consent::Denied);
    }
    let status = if link.verification.is_some() { "PENDING_VERIFICATION" } else { "ACTIVE" };
    // The connection was usable when the link was made, and the catalogue does not change.
    let _account = set_status(shared, &link.connector, &link.identifier, status);
    let go_to = link.verification.and_then(|(address, state)| {
        let mut address = url::Url::parse(&address).ok()?;
        address.query_pairs_mut().append_pair("auth_request_id", &request).append_pair("state", &state);
        Some(address.to_string())
    });
    Ok(Consent::Allowed { go_to })
}

fn usable<'a>(shared: &'a Shared, connector: &str) -> Result<&'a Connection, Problem> {
    match shared.catalogue.connection(connector) {
        None => Err(Problem::UnknownConnection),
        Some(connection) if !connection.enabled => Err(Problem::DisabledConnection),
        Some(connection) => Ok(connection),
    }
}

fn new_account(state: &mut State, connection: &Connection, identifier: &str, status: &str, now: Timestamp) -> Account {
    let account = Account::new(state.next_number(), connection, identifier, status, now);
    state.accounts.insert(account.clone());
    account
}

fn announce(shared: &Shared, change: StatusChange) {
    let Some(sender) = shared.sender.clone() else { return };
    let clock = shared.options.clock.clone();
    shared.spawn(async move { sender.deliver(&change, &clock).await });
}
