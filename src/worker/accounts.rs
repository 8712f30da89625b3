//! Making sure that the user's accounts are ACTIVE, and asking the user where they are not.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::executor::Attempt;
use super::interruption::Interruption;
use super::wake_up::due;
use crate::agent::event::Event;
use crate::clock::milliseconds_between;
use crate::digest_store::Fired;
use crate::job::{ConnectionName, Identifier};
use crate::key::{Key, digest};
use crate::queue::Destination;
use crate::reply::{AuthorizationEntry, AuthorizationRequired, ErrorCode, ErrorDetail, Reply, ReplyEvent};
use crate::scalekit::{self, Account, AccountStatus};

/// A link that runs out sooner than this is not handed out again.
const LINK_MARGIN: Duration = Duration::from_secs(60);
/// A link without a known end is handed out again for so long.
const LINK_DEFAULT: Duration = Duration::from_secs(300);
/// A run that was sent to the user so often, and lost the account again each time, does not try for ever.
const MAX_AUTHORIZATIONS: u32 = 5;

/// A magic link as it is remembered, so that ten jobs of one user give one link.
#[derive(Serialize, Deserialize)]
struct RememberedLink {
    link: String,
    expires_at: Option<Timestamp>,
}

impl Attempt<'_> {
    /// Checks all connections of the job before any model is paid.
    pub(super) async fn check_accounts(&mut self) -> Result<(), Interruption> {
        self.progress("accounts", None);
        let mut missing = Vec::new();
        for connection in self.run().job().connections.clone() {
            match self.executor.scalekit.account(&self.run().job().identifier, &connection).await {
                Ok(account) if account.status == AccountStatus::Active => {}
                Ok(account) => missing.push((connection, account.status)),
                Err(error) => match operator_error(&connection, &error) {
                    Some(detail) => return self.fail(detail).await,
                    None => return Err(Interruption::from(&error)),
                },
            }
        }
        if missing.is_empty() {
            info!(job.id = %self.run().job().id(), job.identifier = %self.run().job().identifier, "accounts are active");
            return self.hold.record(vec![Event::AccountsReady]).await;
        }
        self.ask_user(missing).await
    }

    /// Whether `error` says that the account cannot be used any more; then the user is asked, or the run has failed.
    pub(super) async fn account_trouble(
        &mut self,
        connection: &ConnectionName,
        error: &scalekit::Error,
    ) -> Result<bool, Interruption> {
        if let Some(detail) = operator_error(connection, error) {
            self.fail(detail).await?;
            return Ok(true);
        }
        if !error.auth_lost() {
            return Ok(false);
        }
        warn!(job.id = %self.run().job().id(), %connection, %error, "the user's account was lost in mid-run");
        let account = self.executor.scalekit.account(&self.run().job().identifier, connection).await;
        let status = account.map_or(AccountStatus::Expired, |Account { status, .. }| status);
        // Scalekit may still call ACTIVE what the provider no longer takes.
        let status = if status == AccountStatus::Active { AccountStatus::Expired } else { status };
        self.ask_user(vec![(connection.clone(), status)]).await?;
        Ok(true)
    }

    /// Tells the caller, once per wait, and parks the run; or ends it where waiting is over or not wanted.
    async fn ask_user(&mut self, missing: Vec<(ConnectionName, AccountStatus)>) -> Result<(), Interruption> {
        let now = self.hold.clock().now();
        if let Some((connection, _)) = missing.iter().find(|(_, status)| *status == AccountStatus::Disconnected)
            && !self.executor.rules.relink_disconnected
        {
            let text = format!("the account of `{connection}` was disconnected");
            return self
                .fail(ErrorDetail::new(ErrorCode::AccountDisconnected, text).connection(connection.as_str()))
                .await;
        }
        if let Some((_, until)) = self.run().awaited_authorization() {
            if now >= until {
                return self.fail(waited_in_vain(&missing)).await;
            }
            return Err(Interruption::Authorization { wait: self.next_look(now, until) });
        }
        if self.run().authorizations_requested() >= MAX_AUTHORIZATIONS {
            return self.fail(waited_in_vain(&missing)).await;
        }
        if !self.may_ask().await? {
            return self.wait_in_silence(missing, now).await;
        }
        let mut authorizations = Vec::new();
        for (connection, status) in &missing {
            match self.entry(connection, status).await {
                Ok(entry) => authorizations.push(entry),
                Err(error) => match operator_error(connection, &error) {
                    Some(detail) => return self.fail(detail).await,
                    None => return Err(Interruption::from(&error)),
                },
            }
        }
        let wait_seconds = self.run().settings().authorization_seconds;
        let until = due(now, Duration::from_secs(wait_seconds));
        let is_final = wait_seconds == 0;
        let job = self.run().job();
        let event = ReplyEvent::AuthorizationRequired(Box::new(AuthorizationRequired {
            identifier: job.identifier.as_str().to_owned(),
            authorizations,
            waiting_until: (!is_final).then_some(until),
            is_final,
            metadata: job.metadata.clone(),
        }));
        info!(job.id = %job.id(), job.identifier = %job.identifier, connections = missing.len(), is_final, "authorization required");
        if is_final {
            let reply = Reply::terminal(&job.id(), now, event);
            return self.hold.record(vec![Event::Finished(Box::new(reply))]).await;
        }
        // Published before it is journalled: after a crash the caller gets the same event again, never none.
        let mark = format!("authorization:{}", self.run().authorizations_requested() + 1);
        let reply = Reply::interim(&job.id(), &mark, now, event);
        let message = super::settlement::reply_message(&reply, self.message, job);
        let published = self.executor.publisher.publish(&Destination::Reply(job.reply_to.clone()), message).await;
        let published = published.map_err(|error| Interruption::Transient { reason: error.to_string() })?;
        self.executor.metrics.replied(reply.event.kind(), published == crate::queue::Published::FellBack);
        let connections = missing.into_iter().map(|(connection, _)| connection).collect();
        self.hold.record(vec![Event::AuthorizationRequested { connections, until }]).await?;
        self.progress("parked", None);
        Err(Interruption::Authorization { wait: self.executor.rules.poll.0 })
    }

    /// Whether the user may be asked: for digests once a day, by the first job that comes to it.
    async fn may_ask(&self) -> Result<bool, Interruption> {
        let Some(fired) = Fired::of(self.run().job()) else { return Ok(true) };
        let answer = self.executor.digests.may_ask(&fired, fired.local.date()).await;
        answer.map_err(|error| Interruption::Transient { reason: error.to_string() })
    }

    /// Waits for a user whom another job of the digest has asked today.
    async fn wait_in_silence(
        &mut self,
        missing: Vec<(ConnectionName, AccountStatus)>,
        now: Timestamp,
    ) -> Result<(), Interruption> {
        let wait_seconds = self.run().settings().authorization_seconds;
        if wait_seconds == 0 {
            return self.fail(waited_in_vain(&missing)).await;
        }
        let until = due(now, Duration::from_secs(wait_seconds));
        let connections = missing.into_iter().map(|(connection, _)| connection).collect();
        self.hold.record(vec![Event::AuthorizationRequested { connections, until }]).await?;
        Err(Interruption::Authorization { wait: self.executor.rules.poll.0 })
    }

    /// The longer the user has been waited for, the rarer the looks: a tenth of the time waited, within bounds.
    fn next_look(&self, now: Timestamp, until: Timestamp) -> Duration {
        let (first, longest) = self.executor.rules.poll;
        let allowed = self.run().settings().authorization_seconds.saturating_mul(1000);
        let left = milliseconds_between(now, until);
        let waited = Duration::from_millis(allowed.saturating_sub(left));
        (waited / 10).clamp(first, longest.max(first)).min(Duration::from_millis(left.max(1000)))
    }

    async fn entry(
        &self,
        connection: &ConnectionName,
        status: &AccountStatus,
    ) -> Result<AuthorizationEntry, scalekit::Error> {
        let mut entry = AuthorizationEntry {
            connection: connection.as_str().to_owned(),
            status: status.to_string(),
            link: None,
            expires_at: None,
            hint: hint(status, &self.run().job().identifier),
        };
        if *status != AccountStatus::PendingVerification {
            let link = self.link(connection).await?;
            entry.link = Some(link.link);
            entry.expires_at = link.expires_at;
        }
        Ok(entry)
    }

    /// The link that this user was given last for this connection, while it works; else a new one.
    async fn link(&self, connection: &ConnectionName) -> Result<RememberedLink, scalekit::Error> {
        let identifier = &self.run().job().identifier;
        let now = self.hold.clock().now();
        let key = Key::new(&["link", identifier.as_str(), connection.as_str()]);
        if let Ok(Some(value)) = self.executor.cache.get(&key).await
            && let Ok(link) = serde_json::from_slice::<RememberedLink>(&value)
        {
            return Ok(link);
        }
        let fresh = self
            .executor
            .scalekit
            .magic_link(identifier, connection, &digest(self.run().job().id().as_str(), 16))
            .await?;
        let link = RememberedLink { link: fresh.expose().to_owned(), expires_at: fresh.expires_at };
        let lasts = link.expires_at.map_or(LINK_DEFAULT, |end| Duration::from_millis(milliseconds_between(now, end)));
        if let Some(ttl) = lasts.checked_sub(LINK_MARGIN) {
            let value = serde_json::to_vec(&link).expect("a link is text");
            if let Err(error) = self.executor.cache.put(&key, value.into(), ttl).await {
                warn!(%error, "a magic link could not be remembered; another job of the user may get another one");
            }
        }
        Ok(link)
    }
}

/// An error that no user and no waiting can mend.
pub(super) fn operator_error(connection: &ConnectionName, error: &scalekit::Error) -> Option<ErrorDetail> {
    let (code, text) = match error {
        scalekit::Error::ConnectionNotFound { .. } => {
            (ErrorCode::ConnectionNotFound, format!("Scalekit knows no connection `{connection}`"))
        }
        scalekit::Error::ConnectionDisabled { .. } => {
            (ErrorCode::ConnectionDisabled, format!("connection `{connection}` is not enabled"))
        }
        _ => return None,
    };
    Some(ErrorDetail::new(code, text).connection(connection.as_str()))
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
        AccountStatus::Active | AccountStatus::Other(_) => "let this user open the link".to_owned(),
    }
}
