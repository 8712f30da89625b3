//! What a person says to a call that waits for approval, by whichever door it comes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::job::JobId;
use crate::key::digest;

/// Begins the id of every approval.
const PREFIX: &str = "ap_";
/// Longest reason or name in characters.
const LONGEST_WORDS: usize = 1000;

/// What became of a call that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A person allowed it.
    Approve,
    /// A person forbade it.
    Deny,
    /// A person allowed it with other arguments.
    Edit,
    /// Nobody said anything in time.
    Expired,
}

impl Verdict {
    /// As in replies and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Deny => "deny",
            Self::Edit => "edit",
            Self::Expired => "expired",
        }
    }

    /// Whether the call is made.
    pub fn allows(self) -> bool {
        matches!(self, Self::Approve | Self::Edit)
    }
}

/// The way by which a decision came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// A message in `agentkit.decisions`.
    Amqp,
    /// `POST /v1/approvals/{id}`.
    Http,
    /// The page behind the event's link.
    Link,
    /// `jobs approve` or `jobs deny`.
    Cli,
    /// None: the time was over.
    Expiry,
}

impl Door {
    /// As in replies and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amqp => "amqp",
            Self::Http => "http",
            Self::Link => "link",
            Self::Cli => "cli",
            Self::Expiry => "expiry",
        }
    }
}

/// What a person says to a call that waits.
#[derive(Debug, Clone, PartialEq)]
pub enum Ruling {
    /// Make it.
    Approve,
    /// Do not make it.
    Deny,
    /// Make it with these arguments.
    Edit(Map<String, Value>),
}

impl Ruling {
    /// What becomes of the call by it.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Approve => Verdict::Approve,
            Self::Deny => Verdict::Deny,
            Self::Edit(_) => Verdict::Edit,
        }
    }
}

/// A decision about one call: bound to its run, to the call and to the arguments that the person saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The run.
    pub job: JobId,
    /// The approval's id, as in `agentkit.job.approval_required`.
    pub approval: String,
    /// The digest of the arguments, as there.
    pub arguments_digest: String,
    /// What is said.
    pub ruling: Ruling,
    /// Why, for the model and the journal.
    pub reason: Option<String>,
    /// Who says it.
    pub by: Option<String>,
}

/// The body of a message in `agentkit.decisions`, and of `POST /v1/approvals/{id}`, where job and approval are in the path.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecisionBody {
    /// The job's id.
    #[serde(default)]
    pub job: Option<JobId>,
    /// The approval's id, as in `agentkit.job.approval_required`.
    #[serde(default)]
    #[schemars(length(min = 1, max = 500))]
    pub approval: Option<String>,
    /// The digest of the arguments that were seen, as there.
    #[schemars(length(min = 1, max = 100))]
    pub arguments_digest: String,
    /// What is decided.
    pub decision: Decided,
    /// With `edit`: what the call is made with instead, whole.
    #[serde(default)]
    pub arguments: Option<Map<String, Value>>,
    /// Why; a denied call's is told to the model.
    #[serde(default)]
    #[schemars(length(max = 1000))]
    pub reason: Option<String>,
    /// Who decides.
    #[serde(default)]
    #[schemars(length(max = 1000))]
    pub by: Option<String>,
}

/// What a person can decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decided {
    /// The call is made.
    Approve,
    /// It is not.
    Deny,
    /// It is made with other arguments.
    Edit,
}

impl DecisionBody {
    /// The JSON Schema of a message in `agentkit.decisions`.
    pub fn schema() -> Value {
        let mut schema = schemars::schema_for!(Self).to_value();
        schema["title"] = "agentkit-worker decision".into();
        schema["required"] = serde_json::json!(["job", "approval", "arguments_digest", "decision"]);
        schema
    }

    /// Reads a decision's bytes.
    ///
    /// # Errors
    /// In words for whoever sent them.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let body: Self = serde_json::from_slice(bytes).map_err(|error| format!("not a decision: {error}"))?;
        for (name, words) in [("reason", &body.reason), ("by", &body.by)] {
            if words.as_ref().is_some_and(|words| words.chars().count() > LONGEST_WORDS) {
                return Err(format!("`{name}` is longer than {LONGEST_WORDS} characters"));
            }
        }
        Ok(body)
    }

    /// The decision about this approval of this job.
    ///
    /// # Errors
    /// Where arguments and decision do not go together.
    pub fn about(self, job: JobId, approval: String) -> Result<Decision, String> {
        let ruling = match (self.decision, self.arguments) {
            (Decided::Approve, None) => Ruling::Approve,
            (Decided::Deny, None) => Ruling::Deny,
            (Decided::Edit, Some(arguments)) => Ruling::Edit(arguments),
            (Decided::Edit, None) => return Err("`edit` needs `arguments`".to_owned()),
            (_, Some(_)) => return Err("`arguments` go with `edit` only".to_owned()),
        };
        let Self { arguments_digest, reason, by, .. } = self;
        Ok(Decision { job, approval, arguments_digest, ruling, reason, by })
    }

    /// The decision of a message, which says itself what it is about.
    ///
    /// # Errors
    /// Where it does not, or arguments and decision do not go together.
    pub fn complete(mut self) -> Result<Decision, String> {
        match (self.job.take(), self.approval.take()) {
            (Some(job), Some(approval)) => {
                // As it came it may be one that no job can have.
                let job = JobId::new(job.key()).ok_or("`job` is no id of a job")?;
                // The approval's id tells whose job of that id it is.
                let run = job_of(&approval).filter(|run| run.as_str() == job.as_str()).unwrap_or(job);
                self.about(run, approval)
            }
            _ => Err("`job` and `approval` are needed".to_owned()),
        }
    }
}

/// The id of the approval that is asked for a call of `job`; `call` tells it from all others of the run.
pub fn approval_id(job: &JobId, call: &str) -> String {
    format!("{PREFIX}{}.{}", URL_SAFE_NO_PAD.encode(job.key()), digest(format!("{}\0{call}", job.key()), 12))
}

/// The job that an approval of this id is of, as the id itself tells.
pub fn job_of(id: &str) -> Option<JobId> {
    let (job, _) = id.strip_prefix(PREFIX)?.split_once('.')?;
    JobId::from_key(str::from_utf8(&URL_SAFE_NO_PAD.decode(job).ok()?).ok()?)
}

/// The digest of a call's arguments, in whatever order they stand.
pub fn arguments_digest(arguments: &Map<String, Value>) -> String {
    // serde_json's map is sorted by key, so the text is canonical.
    format!("sha256:{}", digest(serde_json::to_vec(arguments).expect("JSON values print"), 32))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_decision_is_about_the_run_that_its_approval_names_and_no_other_of_the_same_id() {
        let nobodys = JobId::new("order-1").unwrap();
        let billing = nobodys.of_producer(&crate::job::ProducerName::new("billing").unwrap());
        let decided = |job: &str, approval: &str| {
            let body = json!({"job": job, "approval": approval, "arguments_digest": "d", "decision": "deny"});
            DecisionBody::read(body.to_string().as_bytes()).unwrap().complete()
        };
        for run in [&nobodys, &billing] {
            let approval = approval_id(run, "c1");
            assert_eq!(job_of(&approval).as_ref(), Some(run));
            assert_eq!(decided("order-1", &approval).unwrap().job, *run);
            assert_eq!(decided("order-2", &approval).unwrap().job.as_str(), "order-2", "which has no such approval");
            assert!(decided("billing\0order-1", &approval).is_err());
        }
        assert_ne!(approval_id(&nobodys, "c1"), approval_id(&billing, "c1"));
    }

    #[test]
    fn an_approvals_id_names_its_job_and_its_call() {
        for name in ["order-4711", "ü/?%.\n", "ap_.", &"x".repeat(200)] {
            let job = JobId::new(name).unwrap();
            let id = approval_id(&job, "1|c1");
            assert_eq!(job_of(&id), Some(job.clone()));
            assert_ne!(id, approval_id(&job, "1|c2"));
            assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)), "{id}");
        }
        for id in ["", "ap_", "ap_.", "ap_%.0", "ap_AA", "b3JkZXI.0", "ap_AA.0"] {
            assert_eq!(job_of(id), None, "{id}");
        }
    }

    #[test]
    fn a_decision_is_read_whole_or_not_at_all() {
        let whole = json!({"job": "j", "approval": "ap_x", "arguments_digest": "sha256:0", "decision": "approve"});
        let read = |change: &dyn Fn(&mut Value)| {
            let mut body = whole.clone();
            change(&mut body);
            DecisionBody::read(body.to_string().as_bytes()).and_then(DecisionBody::complete)
        };
        assert_eq!(read(&|_| {}).unwrap().ruling, Ruling::Approve);
        assert_eq!(read(&|body| body["decision"] = "deny".into()).unwrap().ruling, Ruling::Deny);
        let edit = read(&|body| (body["decision"], body["arguments"]) = ("edit".into(), json!({"to": "b"}))).unwrap();
        assert_eq!(edit.ruling, Ruling::Edit(json!({"to": "b"}).as_object().unwrap().clone()));
        for (field, value) in [
            ("decision", json!("edit")),
            ("decision", json!("expired")),
            ("arguments", json!({})),
            ("arguments", json!([])),
            ("job", json!("")),
            ("job", json!("\0internal")),
            ("job", Value::Null),
            ("approval", Value::Null),
            ("typo", json!(1)),
            ("by", json!("x".repeat(1001))),
            ("arguments_digest", Value::Null),
        ] {
            assert!(read(&|body| body[field] = value.clone()).is_err(), "{field}: {value}");
        }
        assert!(DecisionBody::read(b"approve").is_err());
    }

    #[test]
    fn the_digest_of_arguments_does_not_depend_on_their_order() {
        let one: Map<String, Value> = serde_json::from_str(r#"{"a": 1, "b": 2}"#).unwrap();
        let other: Map<String, Value> = serde_json::from_str(r#"{"b": 2, "a": 1}"#).unwrap();
        assert_eq!(arguments_digest(&one), arguments_digest(&other));
        assert_eq!(arguments_digest(&one).len(), "sha256:".len() + 64);
    }
}
