//! Whether Scalekit and the models' providers take the worker's credentials. While one of them does not, jobs wait and lose no attempt, a
//! look now and then finds out whether it does again, and the operator is told once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tracing::{debug, error, info};

use crate::llm::{DEFAULT_PROVIDER, Llm, LlmError};
use crate::metrics::Metrics;
use crate::retry::spread;
use crate::scalekit::{self, CredentialsNews, Scalekit};

/// Between two looks at a credential that is refused: the first wait, which doubles, and the longest.
const FIRST_LOOK: Duration = Duration::from_secs(1);
const LONGEST_LOOK: Duration = Duration::from_secs(15);
/// A call that Scalekit refuses although it took another one so lately was not refused for the credential's sake.
const LATELY: Duration = Duration::from_secs(10);

/// Who is shown a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service<'a> {
    Scalekit,
    /// A provider of models.
    Provider(&'a str),
}

impl Service<'_> {
    /// As in metrics.
    fn as_str(&self) -> &str {
        match self {
            Self::Scalekit => "scalekit",
            Self::Provider(DEFAULT_PROVIDER) => "model",
            Self::Provider(name) => name,
        }
    }

    fn problem(self) -> String {
        match self {
            Self::Scalekit => {
                "Scalekit refuses the worker's credentials (scalekit.client_id, scalekit.client_secret)".to_owned()
            }
            Self::Provider(DEFAULT_PROVIDER) => {
                "the model's server refuses the worker's key (model.api_key)".to_owned()
            }
            Self::Provider(name) => {
                format!("the models' provider `{name}` refuses the worker's key (providers.{name}.api_key)")
            }
        }
    }

    fn advice(self) -> String {
        match self {
            Self::Scalekit => {
                "compare SCALEKIT_CLIENT_ID, SCALEKIT_CLIENT_SECRET and SCALEKIT_ENV_URL with Settings > API credentials of the \
                 environment, and start the worker anew with the right ones"
                    .to_owned()
            }
            Self::Provider(DEFAULT_PROVIDER) => {
                "compare OPENAI_API_KEY and OPENAI_BASE_URL with the provider's page of keys, and start the worker anew with the \
                 right ones"
                    .to_owned()
            }
            Self::Provider(name) => format!(
                "compare api_key and base_url of [providers.{name}] with the provider's page of keys, and start the worker anew \
                 with the right ones"
            ),
        }
    }
}

/// What is known of one credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nothing speaks against it.
    Taken,
    /// Nobody tries.
    Refused,
    /// Still refused as far as is known, but a look could not tell: one run at a time tries.
    OnTrial,
}

struct Known {
    standing: watch::Sender<Standing>,
    /// Who tries.
    trials: Arc<Semaphore>,
    taken_at: Mutex<Option<Instant>>,
    /// Whether a look itself was refused since the credential was: only then a look that is not refused proves something. Some
    /// servers tell everybody of their models.
    look_tells: AtomicBool,
}

impl Known {
    fn new() -> Self {
        Self {
            standing: watch::Sender::new(Standing::Taken),
            trials: Arc::new(Semaphore::new(1)),
            taken_at: Mutex::default(),
            look_tells: AtomicBool::new(false),
        }
    }
}

/// What is known of all credentials, for all runs of a process.
pub(crate) struct Credentials {
    scalekit: Known,
    /// Each of the models' providers, the default one first.
    providers: Vec<(String, Known)>,
    metrics: Arc<Metrics>,
}

impl Credentials {
    /// Nobody has refused anything: Scalekit, the default provider, and `named` ones.
    pub(crate) fn new<'n>(metrics: Arc<Metrics>, named: impl Iterator<Item = &'n str>) -> Self {
        let providers = [DEFAULT_PROVIDER].into_iter().chain(named);
        let providers = providers.map(|name| (name.to_owned(), Known::new())).collect();
        let credentials = Self { scalekit: Known::new(), providers, metrics };
        for service in credentials.services() {
            credentials.metrics.credential_stands(service.as_str(), true);
        }
        credentials
    }

    /// Why the worker cannot do its work, in words for the operator.
    pub(crate) fn problem(&self) -> Option<String> {
        let refused = self.services().filter(|service| self.is_refused(*service));
        let problems: Vec<_> = refused.map(Service::problem).collect();
        (!problems.is_empty()).then(|| format!("{}: jobs wait", problems.join("; ")))
    }

    /// Whether the credential is refused as far as is known.
    pub(crate) fn is_refused(&self, service: Service<'_>) -> bool {
        *self.of(service).standing.borrow() != Standing::Taken
    }

    /// Whether the credential was ever seen to be taken.
    pub(crate) fn was_taken(&self, service: Service<'_>) -> bool {
        self.of(service).taken_at().is_some()
    }

    /// The service did what it does only for who has the credential.
    pub(crate) fn taken(&self, service: Service<'_>) {
        let known = self.of(service);
        *known.taken_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if *known.standing.borrow() == Standing::Taken {
            return;
        }
        if known.standing.send_replace(Standing::Taken) != Standing::Taken {
            known.look_tells.store(false, Ordering::Relaxed);
            self.metrics.credential_stands(service.as_str(), true);
            info!(service = service.as_str(), "the credential is taken again: jobs go on");
        }
    }

    /// The service refused the credential itself.
    pub(crate) fn refused(&self, service: Service<'_>) {
        if self.of(service).standing.send_replace(Standing::Refused) == Standing::Taken {
            self.metrics.credential_stands(service.as_str(), false);
            error!(
                service = service.as_str(),
                advice = service.advice(),
                "{}: jobs wait and lose no attempt",
                service.problem()
            );
        }
    }

    /// What Scalekit's edge has heard.
    pub(crate) fn hear_of_scalekit(&self, news: CredentialsNews) {
        let lately = |at: Instant| at.elapsed() < LATELY;
        match news {
            CredentialsNews::Taken => self.taken(Service::Scalekit),
            CredentialsNews::CallRefused if self.scalekit.taken_at().is_some_and(lately) => {}
            CredentialsNews::Refused | CredentialsNews::CallRefused => self.refused(Service::Scalekit),
        }
    }

    /// Waits until a run that asks a model of `provider` may begin. Who is let through to try is alone with that while the
    /// permits are kept.
    pub(crate) async fn admitted(&self, provider: &str) -> Vec<OwnedSemaphorePermit> {
        let mut permits = Vec::new();
        for service in [Service::Scalekit, Service::Provider(provider)] {
            permits.extend(self.of(service).admitted().await);
        }
        permits
    }

    fn services(&self) -> impl Iterator<Item = Service<'_>> {
        [Service::Scalekit].into_iter().chain(self.providers.iter().map(|(name, _)| Service::Provider(name)))
    }

    fn of(&self, service: Service<'_>) -> &Known {
        match service {
            Service::Scalekit => &self.scalekit,
            Service::Provider(name) => {
                let known = self.providers.iter().find(|(known, _)| known == name);
                &known.unwrap_or(&self.providers[0]).1
            }
        }
    }
}

impl Known {
    fn taken_at(&self) -> Option<Instant> {
        *self.taken_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn admitted(&self) -> Option<OwnedSemaphorePermit> {
        let mut standing = self.standing.subscribe();
        loop {
            let seen = *standing.borrow_and_update();
            let permit = match seen {
                Standing::Taken => return None,
                Standing::Refused => None,
                Standing::OnTrial => tokio::select! {
                    permit = self.trials.clone().acquire_owned() => permit.ok(),
                    _ = standing.changed() => continue,
                },
            };
            if permit.is_some() && *self.standing.borrow() == Standing::OnTrial {
                return permit;
            }
            if permit.is_none() && standing.changed().await.is_err() {
                return None;
            }
        }
    }
}

/// What a look at a credential found.
enum Look {
    Taken,
    Refused,
    /// Nobody answered, or the answer says nothing of it.
    Unknown,
}

/// Looks at the credentials: at the start, and while one is refused.
pub(crate) struct CredentialWatch {
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) scalekit: Arc<Scalekit>,
    pub(crate) llm: Arc<Llm>,
    /// Whether they are looked at before anybody has used them.
    pub(crate) at_start: bool,
}

impl CredentialWatch {
    /// Never ends.
    pub(crate) async fn keep(&self) {
        if self.at_start {
            let used = self.llm.providers().map(Service::Provider);
            join_all([Service::Scalekit].into_iter().chain(used).map(|service| self.look_at_start(service))).await;
        }
        join_all(self.credentials.services().map(|service| self.look_while_refused(service))).await;
    }

    async fn look_at_start(&self, service: Service<'_>) {
        let refused = match service {
            Service::Scalekit => matches!(self.scalekit.has_token().await, Err(scalekit::Error::Credentials(_))),
            Service::Provider(name) => {
                let refused = matches!(self.provider(name).await, Look::Refused);
                self.credentials.of(service).look_tells.store(refused, Ordering::Relaxed);
                refused
            }
        };
        if refused {
            self.credentials.refused(service);
        }
    }

    async fn look_while_refused(&self, service: Service<'_>) {
        let known = self.credentials.of(service);
        let mut standing = known.standing.subscribe();
        loop {
            if standing.wait_for(|standing| *standing != Standing::Taken).await.is_err() {
                return;
            }
            let mut wait = FIRST_LOOK;
            while self.credentials.is_refused(service) {
                match self.look(service).await {
                    Look::Refused => known.look_tells.store(true, Ordering::Relaxed),
                    Look::Taken if service == Service::Scalekit || known.look_tells.load(Ordering::Relaxed) => {
                        self.credentials.taken(service);
                        break;
                    }
                    Look::Taken => {
                        known.standing.send_if_modified(|standing| {
                            let tries = *standing == Standing::Refused;
                            if tries {
                                *standing = Standing::OnTrial;
                            }
                            tries
                        });
                    }
                    Look::Unknown => {}
                }
                let again = tokio::time::sleep(spread(wait, service.as_str()));
                tokio::select! {
                    () = again => {}
                    _ = standing.wait_for(|standing| *standing == Standing::Taken) => break,
                }
                wait = (wait * 2).min(LONGEST_LOOK);
            }
        }
    }

    async fn look(&self, service: Service<'_>) -> Look {
        match service {
            Service::Scalekit => match self.scalekit.try_credentials().await {
                Ok(()) => Look::Taken,
                Err(scalekit::Error::Credentials(_)) => Look::Refused,
                Err(error) => {
                    debug!(error = error.outline(), "whether Scalekit takes the credentials cannot be told");
                    Look::Unknown
                }
            },
            Service::Provider(name) => self.provider(name).await,
        }
    }

    async fn provider(&self, name: &str) -> Look {
        match self.llm.show_key(name).await {
            Ok(()) | Err(LlmError::Rejected { .. } | LlmError::BadAnswer { .. }) => Look::Taken,
            Err(LlmError::Credentials { .. }) => Look::Refused,
            Err(error) => {
                debug!(
                    provider = name,
                    error = error.outline(),
                    "whether the models' provider takes the key cannot be told"
                );
                Look::Unknown
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const MODEL: Service<'_> = Service::Provider(DEFAULT_PROVIDER);

    fn credentials() -> Credentials {
        Credentials::new(Arc::new(Metrics::default()), ["anthropic"].into_iter())
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_goes_on_while_a_credential_is_refused_and_all_do_once_it_is_taken() {
        let credentials = credentials();
        assert_eq!((credentials.admitted(DEFAULT_PROVIDER).await.len(), credentials.problem()), (0, None));
        credentials.refused(MODEL);
        assert!(credentials.problem().unwrap().contains("model.api_key"));
        assert!(credentials.admitted(DEFAULT_PROVIDER).now_or_never().is_none());
        let (taken, admitted) =
            tokio::join!(async { credentials.taken(MODEL) }, credentials.admitted(DEFAULT_PROVIDER));
        assert_eq!((taken, admitted.len(), credentials.problem()), ((), 0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_refuses_its_key_keeps_nobody_from_the_others() {
        let credentials = credentials();
        let anthropic = Service::Provider("anthropic");
        credentials.refused(anthropic);
        let problem = credentials.problem().unwrap();
        assert!(problem.contains("`anthropic`") && problem.contains("providers.anthropic.api_key"), "{problem}");
        assert_eq!(credentials.admitted(DEFAULT_PROVIDER).await.len(), 0);
        assert!(credentials.admitted("anthropic").now_or_never().is_none());
        assert_eq!((credentials.was_taken(MODEL), credentials.was_taken(anthropic)), (false, false));
        credentials.taken(anthropic);
        assert_eq!((credentials.problem(), credentials.was_taken(anthropic)), (None, true));
    }

    #[tokio::test(start_paused = true)]
    async fn where_a_look_cannot_tell_one_run_at_a_time_tries() {
        let credentials = credentials();
        credentials.refused(MODEL);
        credentials.of(MODEL).standing.send_replace(Standing::OnTrial);
        let first = credentials.admitted(DEFAULT_PROVIDER).await;
        assert_eq!(first.len(), 1);
        assert!(credentials.admitted(DEFAULT_PROVIDER).now_or_never().is_none(), "somebody tries");
        drop(first);
        let second = credentials.admitted(DEFAULT_PROVIDER).await;
        credentials.refused(MODEL);
        drop(second);
        assert!(credentials.admitted(DEFAULT_PROVIDER).now_or_never().is_none(), "it was refused once more");
    }

    #[tokio::test(start_paused = true)]
    async fn who_refuses_one_call_and_took_another_a_moment_ago_does_not_refuse_the_credential() {
        let credentials = credentials();
        credentials.hear_of_scalekit(CredentialsNews::Taken);
        credentials.hear_of_scalekit(CredentialsNews::CallRefused);
        assert!(!credentials.is_refused(Service::Scalekit));
        tokio::time::advance(LATELY).await;
        credentials.hear_of_scalekit(CredentialsNews::CallRefused);
        assert!(credentials.is_refused(Service::Scalekit));
        credentials.hear_of_scalekit(CredentialsNews::Taken);
        assert!(!credentials.is_refused(Service::Scalekit));
        credentials.hear_of_scalekit(CredentialsNews::Refused);
        assert!(credentials.is_refused(Service::Scalekit), "the token endpoint leaves no doubt");
    }
}
