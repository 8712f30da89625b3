//! Making sure that the user's accounts are ACTIVE, and asking the user where they are not.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::interruption::{Interruption, operator_error};
use super::{Attempt, Executor, RunRules};
use crate::agent::event::Event;
use crate::agent::run::Run;
use crate::clock::{after, milliseconds_between};
use crate::digest_store::Fired;
use crate::job::{ConnectionName, Identifier};
use crate::key::digest;
use crate::reply::{AuthorizationEntry, AuthorizationRequired, ErrorCode, ErrorDetail, Reply, ReplyEvent};
use crate::retry::spread;
use crate::scalekit::{self, AccountStatus};
use crate::worker::resources::accounts::Accepted;
use crate::worker::resources::tool_error::ToolError;

/// A run that was sent to the user so often, and lost the account again each time, does not try for ever.
const MAX_AUTHORIZATIONS: u32 = 5;

impl Attempt<'_> {
    /// Checks all connections of the job before any model is paid.
    pub(super) async fn check_accounts(&mut self) -> Result<(), Interruption> {
        self.progress("accounts", None);
        // Many that have waited for the same account begin together.
        let has_waited = self.run().unmet_authorization().is_some();
        let accepted = if has_waited { Accepted::RecentIfActive } else { Accepted::Fresh };
        let mut missing = Vec::new();
        for connection in self.run().job().connections.clone() {
            if connection.mcp_server().is_some() {
                // There users have no accounts; whether it is there is seen where its tools are listed.
                match self.executor.sources.objection(&connection) {
                    Some(detail) => return self.fail(detail).await,
                    None => continue,
                }
            }
            match self.executor.accounts.account(&self.run().job().identifier, &connection, accepted).await {
                Ok(account) if account.status == AccountStatus::Active => {}
                Ok(account) => missing.push((connection, account.status)),
                Err(error) => match operator_error(&connection, &error) {
                    Some(detail) => return self.fail(detail).await,
                    None => return Err(Interruption::from(&error)),
                },
            }
        }
        if missing.is_empty() {
            debug!("accounts are active");
            return self.leased.note(vec![Event::AccountsReady]);
        }
        Box::pin(self.ask_user(missing, false)).await
    }

    /// Whether these errors say that accounts cannot be used any more; then the user is asked, or the run has failed.
    pub(super) async fn account_trouble(
        &mut self,
        troubles: &[(ConnectionName, &ToolError)],
    ) -> Result<bool, Interruption> {
        let mut missing: Vec<(ConnectionName, AccountStatus)> = Vec::new();
        let mut refused_while_active = false;
        for (connection, error) in troubles {
            if missing.iter().any(|(known, _)| known == connection) {
                continue;
            }
            let job = self.run().job();
            let status = if error.auth_lost() || error.is_forbidden() {
                self.executor.lost_status(&job.identifier, connection).await
            } else {
                None
            };
            if status.is_some() || error.auth_lost() {
                warn!(%connection, error = error.outline(), "the user's account was lost in mid-run");
                debug!(%connection, %error, "the source's words");
                // Scalekit may still call ACTIVE what the provider no longer takes.
                refused_while_active |= status.is_none();
                missing.push((connection.clone(), status.unwrap_or(AccountStatus::Expired)));
            } else if let Some(detail) = match error {
                ToolError::Scalekit(error) => operator_error(connection, error),
                error => error.operator_error(connection),
            } {
                self.fail(detail).await?;
                return Ok(true);
            }
        }
        if missing.is_empty() {
            return Ok(false);
        }
        self.ask_user(missing, refused_while_active).await?;
        Ok(true)
    }

    /// The run waits for nobody any more: webhooks need not find it, and links that were used help nobody.
    pub(super) async fn end_wait(&self, connections: &[ConnectionName]) {
        self.executor.parked.unpark(self.run()).await;
        for connection in connections {
            self.executor.magic_links.forget(&self.run().job().identifier, connection).await;
        }
    }

    /// Tells the caller, once per wait and again when a link has run out, and parks the run; or ends it where waiting is
    /// over or not wanted.
    async fn ask_user(
        &mut self,
        missing: Vec<(ConnectionName, AccountStatus)>,
        refused_while_active: bool,
    ) -> Result<(), Interruption> {
        let now = self.leased.clock().now();
        if let Some((connection, _)) = missing.iter().find(|(_, status)| *status == AccountStatus::Disconnected)
            && !self.executor.rules.relink_disconnected
        {
            let text = format!("the account of `{connection}` was disconnected");
            return self
                .fail(ErrorDetail::new(ErrorCode::AccountDisconnected, text).connection(connection.as_str()))
                .await;
        }
        let wait_seconds = self.run().settings().authorization_seconds;
        let connections: Vec<ConnectionName> = missing.iter().map(|(connection, _)| connection.clone()).collect();
        let (until, told) = match self.run().unmet_authorization() {
            Some(awaited) => (awaited.until, awaited.covers(&connections) && !awaited.wants_new_links(now)),
            None if self.run().authorization_waits() >= MAX_AUTHORIZATIONS => {
                return self.fail(waited_in_vain(&missing)).await;
            }
            None => (after(now, Duration::from_secs(wait_seconds)), false),
        };
        let is_final = wait_seconds == 0;
        if now >= until && !is_final {
            return self.fail(waited_in_vain(&missing)).await;
        }
        if told {
            self.park(connections, until).await;
            return Err(self.parked(now, until));
        }
        if !self.may_ask().await? {
            return self.wait_in_silence(&missing, refused_while_active, now, until).await;
        }
        let mut authorizations = Vec::new();
        for (connection, status) in &missing {
            match self.entry(connection, status).await {
                Ok(entry) => authorizations.push(entry),
                Err(error) => match operator_error(connection, &error) {
                    Some(detail) => return self.fail(detail).await,
                    None => return Err(Interruption::from(&*error)),
                },
            }
        }
        let links_end = authorizations.iter().filter_map(|entry| entry.expires_at).min();
        let job = self.run().job();
        let event = ReplyEvent::AuthorizationRequired(Box::new(AuthorizationRequired {
            identifier: job.identifier.as_str().to_owned(),
            authorizations,
            waiting_until: (!is_final).then_some(until),
            is_final,
            metadata: job.metadata.clone(),
        }));
        info!(connections = missing.len(), is_final, "authorization required");
        if is_final {
            let reply = Reply::terminal(&job.id(), now, event);
            return self.leased.record(vec![Event::Finished(Box::new(reply))]).await;
        }
        // Noted before the user can follow the link: no webhook comes too early.
        self.park(connections.clone(), until).await;
        // Published before it is journalled: after a crash the caller gets the same event again, never none.
        let mark = format!("authorization:{}", self.run().authorizations_requested() + 1);
        let reply = Reply::interim(&job.id(), &mark, now, event);
        self.tell(&reply).await?;
        let requested = Event::AuthorizationRequested { connections, until, links_end, refused_while_active };
        self.leased.record(vec![requested]).await?;
        self.progress("parked", None);
        Err(self.parked(now, until))
    }

    /// Whether the user may be asked: for digests once a day, by the first job that comes to it.
    async fn may_ask(&self) -> Result<bool, Interruption> {
        let Some(fired) = Fired::of(self.run().job()) else { return Ok(true) };
        let answer = self.executor.digests.may_ask(&fired, fired.local.date()).await;
        answer.map_err(|error| Interruption::transient(error.to_string()))
    }

    /// Waits for a user whom another job of the digest has asked today.
    async fn wait_in_silence(
        &mut self,
        missing: &[(ConnectionName, AccountStatus)],
        refused_while_active: bool,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<(), Interruption> {
        if self.run().settings().authorization_seconds == 0 {
            return self.fail(waited_in_vain(missing)).await;
        }
        let connections: Vec<ConnectionName> = missing.iter().map(|(connection, _)| connection.clone()).collect();
        self.park(connections.clone(), until).await;
        let requested = Event::AuthorizationRequested { connections, until, links_end: None, refused_while_active };
        self.leased.record(vec![requested]).await?;
        Err(self.parked(now, until))
    }

    /// Notes the run where webhooks look for it.
    async fn park(&self, connections: Vec<ConnectionName>, until: Timestamp) {
        let keep = Duration::from_millis(milliseconds_between(self.leased.clock().now(), until));
        self.executor.parked.park(self.run().job(), self.message, connections, keep).await;
    }

    fn parked(&self, now: Timestamp, until: Timestamp) -> Interruption {
        Interruption::Authorization { wait: next_look(self.executor.rules, self.run(), now, until) }
    }

    async fn entry(
        &self,
        connection: &ConnectionName,
        status: &AccountStatus,
    ) -> Result<AuthorizationEntry, Arc<scalekit::Error>> {
        let mut entry = AuthorizationEntry {
            connection: connection.as_str().to_owned(),
            status: status.to_string(),
            link: None,
            expires_at: None,
            hint: hint(status, &self.run().job().identifier),
        };
        if *status != AccountStatus::PendingVerification {
            let job = self.run().job();
            let state = digest(job.id().key(), 16);
            let link = self.executor.magic_links.get(&job.identifier, connection, &state).await?;
            entry.link = Some(link.url);
            entry.expires_at = link.expires_at;
        }
        Ok(entry)
    }
}

impl Executor {
    /// The account's status, where Scalekit says that it is anything but ACTIVE.
    pub(super) async fn lost_status(
        &self,
        identifier: &Identifier,
        connection: &ConnectionName,
    ) -> Option<AccountStatus> {
        if connection.mcp_server().is_some() {
            return None;
        }
        let account = self.accounts.account(identifier, connection, Accepted::Fresh).await.ok()?;
        Some(account.status).filter(|status| *status != AccountStatus::Active)
    }
}

/// The longer the user has been waited for, the rarer the looks: a tenth of the time waited, within bounds, and each run
/// a little sooner or later than the others.
pub(crate) fn next_look(rules: RunRules, run: &Run, now: Timestamp, until: Timestamp) -> Duration {
    let (first, longest) = rules.poll;
    let allowed = run.settings().authorization_seconds.saturating_mul(1000);
    let left = milliseconds_between(now, until);
    let waited = Duration::from_millis(allowed.saturating_sub(left));
    let wait = spread((waited / 10).clamp(first, longest.max(first)), run.job().id().as_str());
    wait.min(Duration::from_millis(left.max(1000)))
}

fn waited_in_vain(missing: &[(ConnectionName, AccountStatus)]) -> ErrorDetail {
    let (code, connection) = match missing.iter().find(|(_, status)| *status == AccountStatus::PendingVerification) {
        Some((connection, _)) => (ErrorCode::VerificationPending, connection),
        None => (ErrorCode::AuthorizationExpired, &missing[0].0),
    };
    let names: Vec<String> = missing.iter().map(|(connection, status)| format!("{connection} ({status})")).collect();
    let text = format!("the user did not authorize in time: {}", names.join(", "));
    ErrorDetail::new(code, text).connection(connection.as_str())
}

/// What to do, by the account's status (the table of statuses is Scalekit's).
fn hint(status: &AccountStatus, identifier: &Identifier) -> String {
    match status {
        AccountStatus::Missing => format!(
            "there is no account for identifier `{identifier}` yet: let this user open the link; if the user has connected \
             before, the application used another identifier then, and must use the same one here"
        ),
        AccountStatus::PendingAuth => {
            "let this user open the link and finish the consent; the account stays pending until then".to_owned()
        }
        AccountStatus::PendingVerification => ErrorCode::VerificationPending.hint().to_owned(),
        AccountStatus::Expired => {
            "access was revoked or ran out: let this user open the link again; if that happens often, the connection lacks \
             the offline scope"
                .to_owned()
        }
        AccountStatus::Disconnected => "the account was disconnected: let this user open the link if it is still wanted".to_owned(),
        AccountStatus::Active => "let this user open the link".to_owned(),
        AccountStatus::Other(word) => {
            format!("Scalekit calls the account {word}, which is not ready: let this user open the link")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::retry::Policy;
    use crate::worker::rules::Defaults;

    #[test]
    fn each_status_has_its_own_hint_and_its_own_end() {
        let (identifier, connection) = (Identifier::new("user_123").unwrap(), ConnectionName::new("gmail").unwrap());
        let table = [
            (AccountStatus::Missing, "no account for identifier `user_123`", ErrorCode::AuthorizationExpired),
            (AccountStatus::PendingAuth, "finish the consent", ErrorCode::AuthorizationExpired),
            (AccountStatus::PendingVerification, "verif", ErrorCode::VerificationPending),
            (AccountStatus::Expired, "revoked or ran out", ErrorCode::AuthorizationExpired),
            (AccountStatus::Disconnected, "if it is still wanted", ErrorCode::AuthorizationExpired),
            (AccountStatus::Other("INACTIVE".into()), "INACTIVE", ErrorCode::AuthorizationExpired),
        ];
        let mut hints = std::collections::BTreeSet::new();
        for (status, part, code) in table {
            let hint = hint(&status, &identifier);
            assert!(hint.contains(part), "{status}: {hint}");
            assert!(hints.insert(hint), "{status}");
            let detail = waited_in_vain(&[(connection.clone(), status.clone())]);
            assert_eq!(detail.code, code, "{status}");
            assert!(detail.message.contains(status.as_str()), "{}", detail.message);
        }
    }

    #[test]
    fn runs_that_were_parked_together_do_not_look_together() {
        let (now, until) = (Timestamp::UNIX_EPOCH, after(Timestamp::UNIX_EPOCH, Duration::from_hours(24)));
        let rules = RunRules {
            model_retry: Policy::ONCE,
            tool_retry: Policy::ONCE,
            drain: Duration::ZERO,
            poll: (Duration::from_secs(30), Duration::from_mins(10)),
            relink_disconnected: false,
            settle_by_logs: false,
        };
        let look = |number: u32| {
            let job = json!({"id": format!("j{number}"), "identifier": "u", "connections": ["gmail"], "prompt": "x"});
            let started = Defaults::default().started(&serde_json::from_value(job).unwrap(), "model-1");
            next_look(rules, &Run::start(started, now), now, until)
        };
        let looks: std::collections::BTreeSet<Duration> = (0..100).map(look).collect();
        assert!(looks.len() > 90, "{looks:?}");
        assert!(
            *looks.first().unwrap() >= Duration::from_secs(27) && *looks.last().unwrap() <= Duration::from_secs(33)
        );
    }

    #[test]
    fn what_no_link_can_mend_names_the_end_of_a_wait_for_several() {
        let connection = |name| ConnectionName::new(name).unwrap();
        let missing = [
            (connection("gmail"), AccountStatus::PendingAuth),
            (connection("slack"), AccountStatus::PendingVerification),
        ];
        let detail = waited_in_vain(&missing);
        assert_eq!((detail.code, detail.connection.as_deref()), (ErrorCode::VerificationPending, Some("slack")));
        assert!(detail.message.contains("gmail (PENDING_AUTH), slack (PENDING_VERIFICATION)"), "{}", detail.message);
    }
}
