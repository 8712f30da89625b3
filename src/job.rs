//! The job message: what a caller asks for, checked whole before anything is done with it.

mod id;
mod priority;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::id::MAX_ID_BYTES;
pub use self::id::{JobId, ProducerName};
pub use self::priority::Priority;
use crate::approval::Approval;
use crate::key::digest;
use crate::money::{Amount, Currency};
use crate::schema::{MAX_DEPTH, Schema, depth, has_more_values};

/// Longest AMQP short string in bytes.
const MAX_SHORT_BYTES: usize = 255;

/// JSON values in one job, its metadata and schema included: read, each takes some thirty times its two bytes.
const MAX_VALUES: usize = 50_000;
/// Connections of one job, and names in each of its lists of tools.
const MAX_CONNECTIONS: usize = 10;
const MAX_TOOLS: usize = 1000;

/// Names an end user at Scalekit: 1 to 100 characters, any characters (Scalekit's own field limit).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Identifier(#[schemars(length(min = 1, max = 100))] String);

impl Identifier {
    /// An identifier made of `text`, or `None` where it is empty or longer than 100 characters.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        (!text.is_empty() && text.chars().count() <= 100).then_some(Self(text))
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Names a connection as it stands in the Scalekit dashboard: case-sensitive, 1 to 400 of `[a-zA-Z0-9_: -]`
/// (Scalekit's `connector` field rule). Not a provider's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ConnectionName(#[schemars(length(min = 1, max = 400), regex(pattern = "^[a-zA-Z0-9_: -]*$"))] String);

impl ConnectionName {
    /// A connection name made of `text`, or `None` where Scalekit would refuse it.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let allowed = |character: char| character.is_ascii_alphanumeric() || "_: -".contains(character);
        ((1..=400).contains(&text.len()) && text.chars().all(allowed)).then_some(Self(text))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The operator's MCP server that it names (`mcp:NAME`), if it is none of Scalekit's connections.
    pub fn mcp_server(&self) -> Option<&str> {
        self.0.strip_prefix("mcp:")
    }
}

impl fmt::Display for ConnectionName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A prompt job: run this prompt for this user with these connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Names the job; the same id is never run twice. Without one the message's `message_id` counts, else one is
    /// derived from the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<JobId>,
    /// The end user whose connected accounts are used.
    pub identifier: Identifier,
    /// Connections whose tools the agent may use.
    #[schemars(length(min = 1, max = MAX_CONNECTIONS), extend("uniqueItems" = true))]
    pub connections: Vec<ConnectionName>,
    /// What the agent shall do.
    #[schemars(length(min = 1))]
    pub prompt: String,
    /// How the agent shall behave; the worker's own default applies where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// The model's name; the configured default applies where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub model: Option<String>,
    /// Which tools the agent may see.
    #[serde(default)]
    pub tools: ToolSelection,
    /// JSON Schema of the wanted `output`; the answer is then given as JSON as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub output_schema: Option<Value>,
    /// Bounds of the run; the configured ones apply where absent, and cannot be exceeded.
    #[serde(default)]
    pub limits: Limits,
    /// What to do while the user has not authorized a connection.
    #[serde(default)]
    pub authorization: Authorization,
    /// Which writes wait for a person.
    #[serde(default, skip_serializing_if = "Approval::is_unsaid")]
    pub approval: Approval,
    /// Before or behind which other jobs it starts: `normal` where absent, `low` for what a digest fires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// The customer that the user belongs to: whose jobs share places fairly, where `fairness.key` is `tenant`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub tenant: Option<String>,
    /// Whether progress events are wanted.
    #[serde(default)]
    pub progress: bool,
    /// Any JSON, echoed back in every reply.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub metadata: Value,
    /// Queue for the replies; the message property of that name counts where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub reply_to: Option<String>,
    /// Where replies are POSTed instead, signed (Standard Webhooks): an https address. Those that cannot be delivered there go
    /// to `reply_to`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub reply_url: Option<String>,
    /// Echoed in every reply; the message property of that name counts where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub correlation_id: Option<String>,
}

/// Which of the user's tools a run may see.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolSelection {
    /// Only these tools, where not empty.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schemars(length(max = MAX_TOOLS))]
    pub allow: BTreeSet<String>,
    /// Never these tools.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schemars(length(max = MAX_TOOLS))]
    pub deny: BTreeSet<String>,
    /// Whether tools that change something are offered.
    #[serde(default)]
    pub effects: OfferedEffects,
}

/// Whether a run is offered tools that change something at the provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OfferedEffects {
    /// Reading and writing tools.
    #[default]
    All,
    /// Reading tools only.
    Read,
}

/// Bounds of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Requests to the model; the worker's `limits.steps_at_most` bounds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub steps: Option<u32>,
    /// Tool calls of the whole run, those that failed included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tool_calls: Option<u32>,
    /// Input plus output tokens of all model calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tokens: Option<u64>,
    /// Working time in seconds; waiting for the user or for a free worker does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub seconds: Option<u64>,
    /// What all model calls may cost: the run ends before the next one once it is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // As the type itself: what is wrong in it would else be told as "none of these".
    #[schemars(with = "CostLimit")]
    pub cost: Option<CostLimit>,
}

/// What a run may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CostLimit {
    /// In whole billionths; at most a million.
    #[schemars(range(min = 1e-9, max = 1e6))]
    pub amount: Amount,
    /// US dollars, as prices are.
    pub currency: Currency,
}

/// What to do while the user has not authorized a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Authorization {
    /// Seconds to wait for the user, at most 30 days; 0: tell the caller and finish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 2_592_000))]
    pub wait_seconds: Option<u64>,
}

/// What the message's properties say of a job, as far as the body may leave it out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    /// AMQP `message_id`.
    pub message_id: Option<String>,
    /// AMQP `correlation_id`.
    pub correlation_id: Option<String>,
    /// AMQP `reply_to`.
    pub reply_to: Option<String>,
    /// Whose job it is, where the worker has said so.
    pub producer: Option<ProducerName>,
}

impl Envelope {
    /// `id` as that of a job in this message.
    pub fn owned(&self, id: JobId) -> JobId {
        self.producer.as_ref().map_or(id.clone(), |producer| id.of_producer(producer))
    }
}

/// The bytes are not a job. Every problem is named; what could still be read of the sender's address is kept, so that
/// the caller can be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a job: {}", problems.join("; "))]
pub struct InvalidJob {
    /// `path: problem`, at least one.
    pub problems: Vec<String>,
    /// The id, if one could be read.
    pub id: Option<JobId>,
    /// Where a reply can go, if that could be read.
    pub reply_to: Option<String>,
    /// Echoed in the reply, if it could be read.
    pub correlation_id: Option<String>,
}

static SCHEMA: LazyLock<Schema> =
    LazyLock::new(|| Schema::compile(&Job::schema()).expect("the schema derived from `Job` is a valid schema"));

impl Job {
    /// The JSON Schema of the body, as printed by `schema job`.
    pub fn schema() -> Value {
        let mut schema = schemars::schema_for!(Job).to_value();
        schema["title"] = "agentkit-worker job".into();
        schema
    }

    /// Reads a job from a message. Afterwards `id` is set, derived from the body where nobody gave one, and
    /// `reply_to` and `correlation_id` are taken over from the properties.
    pub fn from_slice(body: &[u8], envelope: &Envelope, max_bytes: usize) -> Result<Self, Box<InvalidJob>> {
        let refuse = |problems: Vec<String>, value: &Value| {
            let text = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
            let short = |text: String| (1..=MAX_SHORT_BYTES).contains(&text.len()).then_some(text);
            Box::new(InvalidJob {
                problems,
                id: text("id")
                    .or_else(|| envelope.message_id.clone())
                    .and_then(JobId::new)
                    .map(|id| envelope.owned(id)),
                reply_to: text("reply_to").or_else(|| envelope.reply_to.clone()).and_then(short),
                correlation_id: text("correlation_id").or_else(|| envelope.correlation_id.clone()).and_then(short),
            })
        };
        if body.len() > max_bytes {
            let problem = format!("the body has {} bytes, more than the {max_bytes} allowed", body.len());
            return Err(refuse(vec![problem], &Value::Null));
        }
        if has_more_values(body, MAX_VALUES) {
            let problem = format!("the body holds more than the {MAX_VALUES} JSON values allowed");
            return Err(refuse(vec![problem], &Value::Null));
        }
        let value: Value = match serde_json::from_slice(body) {
            Ok(value) => value,
            Err(error) => return Err(refuse(vec![format!("the body is not JSON: {error}")], &Value::Null)),
        };
        if depth(&value) > MAX_DEPTH {
            return Err(refuse(vec![format!("the body is nested deeper than {MAX_DEPTH} levels")], &value));
        }
        let problems = long_lists(&value);
        if !problems.is_empty() {
            return Err(refuse(problems, &value));
        }
        let mut problems = SCHEMA.problems(&value);
        if let Some(schema) = value.get("output_schema").filter(|schema| schema.is_object())
            && let Err(error) = Schema::compile(schema)
        {
            problems.push(format!("output_schema: not a usable JSON Schema: {error}"));
        }
        if value.get("id").is_none() && envelope.message_id.as_ref().is_some_and(|id| id.len() > MAX_ID_BYTES) {
            problems.push(format!("message_id: longer than {MAX_ID_BYTES} bytes"));
        }
        // The schema counts characters, the broker bytes.
        for (field, most) in [("id", MAX_ID_BYTES), ("reply_to", MAX_SHORT_BYTES), ("correlation_id", MAX_SHORT_BYTES)]
        {
            if value.get(field).and_then(Value::as_str).is_some_and(|text| text.len() > most) {
                problems.push(format!("{field}: longer than {most} bytes"));
            }
        }
        if !problems.is_empty() {
            return Err(refuse(problems, &value));
        }
        let mut job: Self = match serde_json::from_value(value) {
            Ok(job) => job,
            Err(error) => return Err(refuse(vec![error.to_string()], &Value::Null)),
        };
        job.reply_to = job.reply_to.or_else(|| envelope.reply_to.clone().filter(|queue| !queue.is_empty()));
        job.correlation_id = job.correlation_id.or_else(|| envelope.correlation_id.clone());
        if job.id.is_none() {
            job.id = envelope.message_id.clone().and_then(JobId::new).or_else(|| JobId::new(job.derived_id()));
        }
        job.id = job.id.map(|id| envelope.owned(id));
        Ok(job)
    }

    /// The id; every job that came through [`Job::from_slice`] has one.
    pub fn id(&self) -> JobId {
        self.id.clone().unwrap_or_else(|| JobId::of_text(self.derived_id()))
    }

    /// A digest of what shall be done: equal for two messages that ask for the same. Where the answer goes and how soon it
    /// comes do not count, so a caller may ask again with a new reply queue.
    pub fn digest(&self) -> String {
        let work =
            Self { id: None, reply_to: None, reply_url: None, correlation_id: None, priority: None, ..self.clone() };
        let bytes = serde_json::to_vec(&work).expect("a job is made of JSON types only");
        digest(bytes, 16)
    }

    /// Whether the id was made by us, because nobody gave one.
    pub fn has_derived_id(&self) -> bool {
        self.id.as_ref().is_some_and(|id| id.as_str() == self.derived_id())
    }

    fn derived_id(&self) -> String {
        format!("job-{}", self.digest())
    }
}

/// Lists that are longer than they may be: told before anything looks at what stands in them.
fn long_lists(job: &Value) -> Vec<String> {
    let lists = [("connections", MAX_CONNECTIONS), ("tools/allow", MAX_TOOLS), ("tools/deny", MAX_TOOLS)];
    let long = lists.into_iter().filter_map(|(path, most)| {
        let found = job.pointer(&format!("/{path}"))?.as_array()?.len();
        (found > most).then(|| format!("{}: has {found} items, {most} are allowed", path.replace('/', ".")))
    });
    long.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MAX: usize = 1 << 20;

    fn read(value: &Value) -> Result<Job, Box<InvalidJob>> {
        Job::from_slice(&serde_json::to_vec(value).unwrap(), &Envelope::default(), MAX)
    }

    fn smallest() -> Value {
        json!({"identifier": "user_123", "connections": ["gmail"], "prompt": "hello"})
    }

    #[test]
    fn the_smallest_job_gets_defaults_and_a_derived_id() {
        let job = read(&smallest()).unwrap();
        assert!(job.has_derived_id());
        assert_eq!(job.tools.effects, OfferedEffects::All);
        assert_eq!(job.id(), read(&smallest()).unwrap().id());
    }

    #[test]
    fn the_full_job_of_the_documentation_is_read() {
        let job = read(&json!({
            "id": "order-1", "identifier": "user_123", "connections": ["gmail", "googlecalendar"], "prompt": "p",
            "instructions": "i", "model": "gpt-4o", "tools": {"allow": ["gmail_fetch_mails"], "deny": [], "effects": "read"},
            "output_schema": {"type": "object"},
            "limits": {"steps": 20, "tool_calls": 60, "tokens": 200_000, "seconds": 600},
            "authorization": {"wait_seconds": 86400},
            "approval": {"writes": "untrusted", "tools": ["gmail_send_*"], "recipients": ["*@example.com"],
                "wait_seconds": 86400, "on_expiry": "deny", "edit": true},
            "priority": "high", "tenant": "acme",
            "progress": false, "metadata": {"any": "json"},
            "reply_to": "answers", "correlation_id": "c-1"
        }))
        .unwrap();
        assert_eq!(job.id().as_str(), "order-1");
        assert_eq!(job.limits.tokens, Some(200_000));
        assert_eq!((job.priority, job.tenant.as_deref()), (Some(Priority::High), Some("acme")));
        assert_eq!(
            job.digest(),
            Job { priority: None, ..job.clone() }.digest(),
            "a job that is sent again with more haste"
        );
        let again: Job = serde_json::from_value(serde_json::to_value(&job).unwrap()).unwrap();
        assert_eq!(again, job);
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let error = read(&json!({
            "identifier": "", "connections": [], "promt": "typo", "limits": {"steps": 0, "setps": 1}, "model": 4,
            "priority": "urgent", "tenant": ""
        }))
        .unwrap_err();
        let all = error.problems.join("\n");
        for part in [
            "identifier: ",
            "connections: ",
            "promt",
            "\"prompt\"",
            "limits.steps: ",
            "setps",
            "model: ",
            "priority: ",
            "tenant: ",
        ] {
            assert!(all.contains(part), "{part} is missing in:\n{all}");
        }
    }

    #[test]
    fn properties_fill_what_the_body_leaves_out_and_the_body_wins() {
        let envelope = Envelope {
            message_id: Some("m-1".into()),
            correlation_id: Some("c-1".into()),
            reply_to: Some("answers".into()),
            producer: None,
        };
        let job = Job::from_slice(smallest().to_string().as_bytes(), &envelope, MAX).unwrap();
        assert_eq!((job.id().as_str(), job.reply_to.as_deref()), ("m-1", Some("answers")));
        let mut value = smallest();
        value["id"] = "b-1".into();
        let job = Job::from_slice(value.to_string().as_bytes(), &envelope, MAX).unwrap();
        assert_eq!(job.id().as_str(), "b-1");
    }

    #[test]
    fn the_same_id_of_two_producers_is_two_ids_that_callers_see_as_one() {
        let of = |producer: &str| Envelope { producer: ProducerName::new(producer), ..Envelope::default() };
        let mut value = smallest();
        value["id"] = "order-1".into();
        let read = |envelope: &Envelope| Job::from_slice(value.to_string().as_bytes(), envelope, MAX).unwrap();
        let (nobodys, billing, shipping) = (read(&Envelope::default()), read(&of("billing")), read(&of("shipping")));
        assert!(billing.id() != shipping.id() && billing.id() != nobodys.id());
        assert_eq!(billing.digest(), nobodys.digest());
        for job in [&nobodys, &billing, &shipping] {
            assert_eq!((job.id().as_str(), job.id().to_string().as_str()), ("order-1", "order-1"));
            assert_eq!(JobId::from_key(job.id().key()), Some(job.id()));
            assert_eq!(job.id().of_nobody(), nobodys.id());
            let again: Job = serde_json::from_value(serde_json::to_value(job).unwrap()).unwrap();
            assert_eq!(again, *job, "a journal keeps whose job it is");
        }
        assert_eq!((billing.id().producer(), nobodys.id().producer()), (Some("billing"), None));
        assert_eq!((&*billing.id().unique(), &*nobodys.id().unique()), ("order-1@billing", "order-1"));
        let derived = Job::from_slice(smallest().to_string().as_bytes(), &of("billing"), MAX).unwrap();
        assert!(derived.has_derived_id() && derived.id().producer() == Some("billing"));
        let refused = Job::from_slice(br#"{"id": "order-1"}"#, &of("billing"), MAX).unwrap_err();
        assert_eq!(refused.id, Some(billing.id()));
    }

    #[test]
    fn no_id_from_outside_reaches_into_the_jobs_of_a_producer() {
        for id in ["billing\0order-1", "\0order-1", "\0data-began"] {
            let mut value = smallest();
            value["id"] = id.into();
            assert!(read(&value).is_err());
            assert_eq!(JobId::new(id), None);
            let envelope = Envelope { message_id: Some(id.into()), ..Envelope::default() };
            let job = Job::from_slice(smallest().to_string().as_bytes(), &envelope, MAX).unwrap();
            assert!(job.has_derived_id(), "the message's id is none");
        }
        assert_eq!(JobId::from_key("\0data-began"), None);
        assert_eq!(JobId::from_key("billing\0a\0b"), None);
        assert_eq!(JobId::internal("data-began").key(), "\0data-began");
        for name in ["", "a\0b", "a@b", "a/b", "ä", &"x".repeat(33)] {
            assert_eq!(ProducerName::new(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_refused_job_keeps_its_return_address() {
        let error = read(&json!({"id": "x", "reply_to": "answers", "correlation_id": "c"})).unwrap_err();
        assert_eq!(error.reply_to.as_deref(), Some("answers"));
        assert_eq!(error.correlation_id.as_deref(), Some("c"));
        assert_eq!(error.id, JobId::new("x"));
    }

    #[test]
    fn the_digest_ignores_the_return_address_and_nothing_else() {
        let job = read(&smallest()).unwrap();
        let mut value = smallest();
        value["reply_to"] = "elsewhere".into();
        assert_eq!(read(&value).unwrap().digest(), job.digest());
        value["prompt"] = "other".into();
        assert_ne!(read(&value).unwrap().digest(), job.digest());
    }

    #[test]
    fn a_cost_is_dollars_above_nothing_and_whatever_else_it_is_is_refused_in_words() {
        let limited = |cost: &str| {
            let body = smallest().to_string();
            let body = body.replacen('{', &format!("{{\"limits\": {{\"cost\": {cost}}}, "), 1);
            Job::from_slice(body.as_bytes(), &Envelope::default(), MAX)
        };
        let amount = |amount: &str| limited(&format!("{{\"amount\": {amount}, \"currency\": \"USD\"}}"));
        for (text, nano) in [
            ("0.20", 200_000_000),
            ("1", 1_000_000_000),
            ("1e-9", 1),
            ("0.1234567891234567891234567891234567", 123_456_789),
            ("1000000", 1_000_000_000_000_000),
        ] {
            let job = amount(text).unwrap();
            assert_eq!(job.limits.cost.unwrap().amount.nano_usd(), nano, "{text}");
            let again: Job = serde_json::from_value(serde_json::to_value(&job).unwrap()).unwrap();
            assert_eq!((again.digest(), &again), (job.digest(), &job), "{text}");
        }
        assert_ne!(amount("0.2").unwrap().digest(), amount("0.3").unwrap().digest());
        let none = ["0", "-0", "-1", "-1e-300", "1e-10", "4.9e-324", "1000000.1", "1e308", "18446744073709551616"];
        let strange =
            ["1e309", "NaN", "-Infinity", "\"NaN\"", "\"0.2\"", "null", "true", "[]", "{}", "0x1", "1_000", ""];
        for text in none.into_iter().chain(strange) {
            let problems = amount(text).expect_err(text).problems;
            let told = problems.iter().all(|problem| {
                (problem.starts_with("limits.cost.amount: ") || problem.starts_with("the body is not JSON: "))
                    && problem.len() < 300
            });
            assert!(told && !problems.is_empty(), "{text}: {problems:?}");
        }
        for cost in ["0.2", "{}", "{\"amount\": 1}", "{\"currency\": \"USD\"}"] {
            assert!(limited(cost).is_err(), "{cost}");
        }
        for currency in ["EUR", "usd", "", "USD ", "XBT"] {
            let problems = limited(&json!({"amount": 1, "currency": currency}).to_string()).unwrap_err().problems;
            assert!(problems[0].starts_with("limits.cost.currency: ") && problems[0].contains("USD"), "{problems:?}");
        }
        let more = limited(&json!({"amount": 1, "currency": "USD", "per": "day"}).to_string()).unwrap_err().problems;
        assert!(more[0].contains("per"), "{more:?}");
    }

    #[test]
    fn hostile_bodies_are_refused() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let huge = format!("{{\"prompt\": \"{}\"}}", "x".repeat(2 << 20));
        for body in ["", "nul", "\u{0}", "{\"a\":", "[]", "\"text\"", "1e999", &deep, &huge] {
            let error = Job::from_slice(body.as_bytes(), &Envelope::default(), MAX).unwrap_err();
            assert!(!error.problems.is_empty() && error.to_string().len() < 10_000);
        }
        for field in ["id", "reply_to", "correlation_id"] {
            let mut value = smallest();
            value[field] = "é".repeat(200).into();
            let problems = read(&value).unwrap_err().problems;
            assert!(
                problems[0].starts_with(field),
                "200 characters of two bytes are no AMQP short string: {problems:?}"
            );
        }
    }

    #[test]
    fn lists_without_end_are_counted_and_not_looked_into() {
        let long = |field: &str, of: usize| {
            let mut value = smallest();
            *value.pointer_mut(field).unwrap() = (0..of).map(|at| Value::from(at.to_string())).collect();
            value
        };
        let mut tools = smallest();
        tools["tools"] = json!({"allow": vec!["a b"; 1001], "deny": vec![1; 1001]});
        let problems = read(&tools).unwrap_err().problems;
        assert_eq!(problems.len(), 2, "nothing is said of what stands in them: {problems:?}");
        assert!(problems[0].starts_with("tools.allow: has 1001 items"), "{problems:?}");
        assert!(read(&long("/connections", 11)).unwrap_err().problems[0].starts_with("connections: has 11 items"));
        assert!(read(&long("/connections", 10)).is_ok());
        // 500,000 of them are not even read.
        let body = json!({"identifier": "u", "prompt": "p", "connections": vec![""; 500_000]}).to_string();
        let error = Job::from_slice(body.as_bytes(), &Envelope::default(), 8 << 20).unwrap_err();
        assert_eq!(error.problems, ["the body holds more than the 50000 JSON values allowed"]);
    }

    #[test]
    fn problems_are_told_in_a_bounded_number() {
        let mut value = smallest();
        for at in 0..40_000 {
            value[format!("unknown-{at}")] = Value::Null;
        }
        value["tools"] = json!({"allow": vec![1; 1000], "deny": vec![1; 1000]});
        let error = read(&value).unwrap_err();
        assert!(error.problems.len() < 30 && error.to_string().len() < 10_000, "{}", error.problems.len());
    }

    #[test]
    fn a_body_too_deep_to_be_journalled_is_refused() {
        let nested =
            |levels: usize| serde_json::from_str::<Value>(&("[".repeat(levels) + &"]".repeat(levels))).unwrap();
        let mut value = smallest();
        value["metadata"] = nested(63);
        assert!(read(&value).is_ok());
        value["metadata"] = nested(64);
        assert!(read(&value).is_err());
    }

    #[test]
    fn hostile_identifiers_are_kept_as_they_are() {
        for name in ["a:b", "a%3Ab", "../x", &"é".repeat(100), "a\nb"] {
            let mut value = smallest();
            value["identifier"] = name.into();
            assert_eq!(read(&value).unwrap().identifier.as_str(), name);
        }
        assert_eq!(Identifier::new("é".repeat(101)), None);
        assert_eq!(ConnectionName::new("a/b"), None);
    }
}
