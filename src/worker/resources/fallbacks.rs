//! Which model takes the place of one that is of no use, and which models are known to be of no use: not every run has to find
//! out for itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::models::{CONTEXT_TOO_LONG, MODEL_GONE, QUOTA_EXHAUSTED, RATE_LIMITED};
use crate::agent::run::Run;
use crate::llm::{Llm, LlmError};
use crate::producers::Producers;

/// A model that is gone is looked for again after this time: it may be a deployment that somebody makes anew.
const GONE_FOR: Duration = Duration::from_mins(10);
/// Somebody may have paid after this time.
const QUOTA_FOR: Duration = Duration::from_mins(1);
/// A server that was away is tried again after this time.
const AWAY_FOR: Duration = Duration::from_secs(15);
/// Jobs may name any model: what is known of more is not kept.
const MOST_TROUBLES: usize = 256;

/// A rate limit that does not say when to come back.
pub(crate) const RATE_LIMIT_WAIT: Duration = Duration::from_secs(30);

/// Knows who takes over from whom.
pub(crate) struct Fallbacks {
    llm: Arc<Llm>,
    producers: Producers,
    troubles: Mutex<HashMap<String, Trouble>>,
}

#[derive(Debug, Clone, Copy)]
struct Trouble {
    reason: &'static str,
    until: Instant,
}

impl Fallbacks {
    /// By the configuration of `llm`; a job names no model, be it as a successor, that its producer may not name.
    pub(crate) fn new(llm: Arc<Llm>, producers: Producers) -> Self {
        Self { llm, producers, troubles: Mutex::default() }
    }

    /// A longer wait for a model is none, where another one takes over.
    pub(crate) fn longest_wait(&self) -> Duration {
        Duration::from_secs(self.llm.config().fallback_after_seconds)
    }

    /// Why a run leaves a model that failed like this, where another one may do better.
    pub(crate) fn reason_to_leave(&self, error: &LlmError) -> Option<&'static str> {
        match error {
            LlmError::RateLimited { retry_after, .. } => {
                (retry_after.unwrap_or(RATE_LIMIT_WAIT) > self.longest_wait()).then_some(RATE_LIMITED)
            }
            LlmError::NotSent(_)
            | LlmError::TimedOut
            | LlmError::Interrupted(_)
            | LlmError::Unavailable { .. }
            | LlmError::BadAnswer { .. }
            | LlmError::QuotaExhausted { .. }
            | LlmError::ModelGone { .. }
            | LlmError::ContextTooLong { .. } => Some(error.code()),
            LlmError::Invalid(_)
            | LlmError::Rejected { .. }
            | LlmError::ContentFiltered { .. }
            | LlmError::Credentials { .. } => None,
        }
    }

    /// The models among which one may take over from the run's present one, in this order.
    ///
    /// What the operator configured is for jobs that name no model, whoever sent them. Where nothing is configured, the
    /// successor of a model that is gone takes over in all runs: in that of a job that names its model, only if the job might
    /// have named the successor, too.
    pub(crate) fn chain(&self, run: &Run, reason: &str) -> Vec<String> {
        let named = run.job().model.is_some();
        match &self.llm.config().fallback {
            Some(_) if named => Vec::new(),
            Some(fallback) => {
                let chain = std::iter::once(&run.settings().model).chain(fallback).cloned();
                if reason == CONTEXT_TOO_LONG { self.larger(run.model(), chain).collect() } else { chain.collect() }
            }
            None if reason == MODEL_GONE => {
                let mut chain: Vec<String> = Vec::new();
                let mut last = run.model().to_owned();
                while let Some(next) = self.llm.successor(&last).filter(|next| !chain.contains(next)) {
                    last.clone_from(&next);
                    chain.push(next);
                }
                chain.retain(|model| !named || self.may_be_named(run, model));
                chain
            }
            None => Vec::new(),
        }
    }

    /// Those of `chain` with a larger context window than `model`.
    fn larger(&self, model: &str, chain: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
        let room = self.llm.profile(model).context_window;
        chain.filter(move |other| self.llm.profile(other).context_window > room)
    }

    fn may_be_named(&self, run: &Run, model: &str) -> bool {
        let id = run.job().id();
        let producer = id.producer().filter(|_| self.producers.is_on());
        let allowed = producer.is_none_or(|name| self.producers.named(name).is_some_and(|own| own.may_name(model)));
        allowed && self.llm.allows(model)
    }

    /// What to do where nobody takes over from a model that is gone.
    pub(crate) fn hint(&self, run: &Run) -> String {
        let (model, named) = (run.model(), run.job().model.is_some());
        let whose = if named { "the job's `model`" } else { "`model.model`" };
        let advice = format!("set {whose} to a model that the server has");
        match (&self.llm.config().fallback, self.llm.successor(model)) {
            (Some(_), _) if named => format!("{advice}; `model.fallback` is for jobs that name no model"),
            (None, Some(successor)) if named && !self.may_be_named(run, &successor) => format!(
                "{advice}; its successor `{successor}` may not be named by this job, see `model.allow` and the `models` \
                 of its producer"
            ),
            _ => format!("{advice}, or name models that take over in `model.fallback`"),
        }
    }

    /// The model failed like this just now, whoever asked it.
    pub(crate) fn failed(&self, model: &str, reason: &'static str) {
        let lasts = match reason {
            MODEL_GONE => GONE_FOR,
            QUOTA_EXHAUSTED => QUOTA_FOR,
            "unavailable" | "not_sent" => AWAY_FOR,
            // It may have been this one conversation.
            _ => return,
        };
        let now = Instant::now();
        let mut troubles = self.troubles();
        troubles.retain(|_, trouble| trouble.until > now);
        if troubles.len() < MOST_TROUBLES || troubles.contains_key(model) {
            troubles.insert(model.to_owned(), Trouble { reason, until: now + lasts });
        }
    }

    /// The model answered.
    pub(crate) fn answered(&self, model: &str) {
        self.troubles().remove(model);
    }

    /// Why the model is of no use just now, as far as it is known.
    pub(crate) fn trouble(&self, model: &str) -> Option<&'static str> {
        let trouble = *self.troubles().get(model)?;
        (trouble.until > Instant::now()).then_some(trouble.reason)
    }

    fn troubles(&self) -> MutexGuard<'_, HashMap<String, Trouble>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::clock::SystemClock;
    use crate::http;
    use crate::job::{Envelope, Job, ProducerName};
    use crate::llm::{Config, Profiles};
    use crate::worker::rules::Defaults;

    fn fallbacks(config: &str, producers: Producers) -> Fallbacks {
        let http = http::Client::new(&http::Config::default(), Arc::new(SystemClock)).unwrap();
        let config: Config = serde_json::from_str(config).unwrap();
        Fallbacks::new(Arc::new(Llm::new(config, Profiles::built_in(), http).unwrap()), producers)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_of_a_model_is_forgotten_after_a_while_or_once_it_answers() {
        let known = fallbacks("{}", Producers::default());
        known.failed("gpt-4o", MODEL_GONE);
        known.failed("b", "unavailable");
        known.failed("c", "timed_out");
        assert_eq!(
            [known.trouble("gpt-4o"), known.trouble("b"), known.trouble("c")],
            [Some(MODEL_GONE), Some("unavailable"), None]
        );
        tokio::time::advance(AWAY_FOR).await;
        assert_eq!((known.trouble("gpt-4o"), known.trouble("b")), (Some(MODEL_GONE), None));
        tokio::time::advance(GONE_FOR).await;
        assert_eq!(known.trouble("gpt-4o"), None, "it is looked for again");
        known.failed("gpt-4o", QUOTA_EXHAUSTED);
        known.answered("gpt-4o");
        assert_eq!(known.trouble("gpt-4o"), None);
        for number in 0..2 * MOST_TROUBLES {
            known.failed(&format!("model-{number}"), MODEL_GONE);
        }
        assert_eq!(known.troubles().len(), MOST_TROUBLES, "jobs may name any model");
    }

    /// Who may take over for this reason in a run of such a job, begun with `gpt-4o` where it names no model.
    fn chain(known: &Fallbacks, job: &Value, producer: Option<&str>, reason: &str) -> Vec<String> {
        let mut job = job.clone();
        (job["id"], job["identifier"]) = (json!("j"), json!("user_123"));
        (job["connections"], job["prompt"]) = (json!(["gmail"]), json!("p"));
        let mut job = Job::from_slice(job.to_string().as_bytes(), &Envelope::default(), 10_000).unwrap();
        if let Some(producer) = producer {
            job.id = Some(job.id().of_producer(&ProducerName::new(producer).unwrap()));
        }
        let started = Defaults::default().started(&Arc::new(job), "gpt-4o");
        known.chain(&Run::start(started, Timestamp::UNIX_EPOCH), reason)
    }

    #[test]
    fn a_successor_takes_over_where_nothing_is_said_and_no_producer_gets_a_model_that_it_may_not_name() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"[producers.narrow]\namqp_users = [\"a\"]\nmodels = [\"gpt-4o\"]\n").unwrap();
        file.write_all(b"[producers.wide]\namqp_users = [\"b\"]\nmodels = [\"gpt-*\"]\n").unwrap();
        let (any, own) = (json!({}), json!({"model": "gpt-4o"}));
        let (narrow, wide) = (Some("narrow"), Some("wide"));
        let (none, luna) = ([""; 0], ["gpt-6-luna"]);
        let known = fallbacks("{}", Producers::load(file.path()).unwrap());
        let of = |job, producer, reason| chain(&known, job, producer, reason);
        for (job, producer) in [(&any, None), (&own, None), (&any, narrow), (&any, wide), (&own, wide)] {
            assert_eq!(of(job, producer, MODEL_GONE), luna, "{job} {producer:?}");
        }
        assert_eq!(of(&own, narrow, MODEL_GONE), none, "the producer may not name it");
        assert_eq!(of(&own, Some("nobody"), MODEL_GONE), none, "one that is none any more");
        for reason in ["unavailable", QUOTA_EXHAUSTED, RATE_LIMITED, CONTEXT_TOO_LONG] {
            assert_eq!(of(&any, None, reason), none, "{reason}");
        }
        let allowing = fallbacks(r#"{"allow": ["gpt-4o-mini"]}"#, Producers::default());
        assert_eq!(chain(&allowing, &any, None, MODEL_GONE), luna);
        assert_eq!(chain(&allowing, &own, None, MODEL_GONE), none, "no job may name it");
        let named = fallbacks(r#"{"fallback": ["a", "gpt-6-luna"]}"#, Producers::load(file.path()).unwrap());
        for reason in [MODEL_GONE, "unavailable"] {
            assert_eq!(chain(&named, &any, narrow, reason), ["gpt-4o", "a", "gpt-6-luna"], "the operator's own");
            assert_eq!(chain(&named, &own, wide, reason), none, "a job that names its model");
        }
        assert_eq!(chain(&named, &any, None, CONTEXT_TOO_LONG), luna, "the only one with a larger window");
        assert_eq!(chain(&fallbacks(r#"{"fallback": []}"#, Producers::default()), &own, None, MODEL_GONE), none);
    }

    #[test]
    fn only_what_another_model_may_do_better_is_a_reason_to_leave() {
        let known = fallbacks("{}", Producers::default());
        let limited = |seconds| LlmError::RateLimited { retry_after: seconds, request_id: None };
        let (message, code, param, request_id) = (String::new(), None, None, None);
        let gone = LlmError::ModelGone { status: 404, code: code.clone(), message: message.clone(), request_id: None };
        let away = LlmError::Unavailable { status: 529, retry_after: None, request_id: None };
        let quota = LlmError::QuotaExhausted { code: "insufficient_quota".to_owned(), request_id: None };
        for (error, reason) in [
            (limited(None), Some("rate_limited")),
            (limited(Some(Duration::from_secs(11))), Some("rate_limited")),
            (limited(Some(Duration::from_secs(10))), None),
            (gone, Some("model_gone")),
            (away, Some("unavailable")),
            (quota, Some("quota_exhausted")),
            (LlmError::NotSent(String::new()), Some("not_sent")),
            (LlmError::TimedOut, Some("timed_out")),
            (LlmError::Interrupted(String::new()), Some("interrupted")),
            (LlmError::ContextTooLong { request_id: None }, Some("context_too_long")),
            (LlmError::ContentFiltered { request_id: None }, None),
            (LlmError::Credentials { request_id: None }, None),
            (LlmError::Invalid(String::new()), None),
            (LlmError::Rejected { status: 400, code, param, message, request_id }, None),
        ] {
            assert_eq!(known.reason_to_leave(&error), reason, "{error:?}");
        }
    }
}
