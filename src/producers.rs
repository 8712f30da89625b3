//! Who may hand over jobs, and for whom: the users of the broker that jobs come from, and what the operator allows each.
//!
//! The broker vouches for a message's user: it refuses one whose `user_id` is not the user that published it
//! (RabbitMQ, "Validated User-ID"), unless that user has the tag `impersonator`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::job::{Job, OfferedEffects, ProducerName};
use crate::pattern::fits_exactly;

/// Where producers are named; see `config/README.md`.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProducersConfig {
    /// The file, if not `producers.toml` beside the configuration file.
    pub file: Option<PathBuf>,
    /// What stands there.
    #[serde(skip)]
    pub all: Producers,
}

impl ProducersConfig {
    /// Reads the file; without one of its own, that beside the file `configuration`, where it exists. Returns whether there
    /// is one.
    ///
    /// # Errors
    /// Every problem, in words.
    pub fn read(&mut self, configuration: Option<&PathBuf>) -> Result<bool, Vec<String>> {
        let usual = configuration.map(|file| file.with_file_name("producers.toml")).filter(|file| file.exists());
        let Some(file) = self.file.clone().or(usual) else { return Ok(false) };
        self.all = Producers::load(&file)?;
        Ok(true)
    }
}

/// All producers, each by its name, and who decides about calls that wait.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Producers {
    by_name: BTreeMap<String, Producer>,
    deciders: Vec<String>,
    /// Whether there is a file: one that names nobody lets nobody in.
    is_on: bool,
}

/// What one producer may ask for. A list of patterns that is left out allows everything.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Producer {
    /// Users of the broker that are this producer.
    #[serde(default)]
    pub amqp_users: Vec<String>,
    /// Names of `[http.tokens]` that are this producer.
    #[serde(default)]
    pub tokens: Vec<String>,
    /// Users for whom its jobs may act.
    #[serde(default = "everything")]
    pub identifiers: Vec<String>,
    /// Connections that its jobs may use.
    #[serde(default = "everything")]
    pub connections: Vec<String>,
    /// Models that its jobs may name.
    #[serde(default = "everything")]
    pub models: Vec<String>,
    /// What the tools of its jobs may do.
    #[serde(default)]
    pub effects: OfferedEffects,
    /// Queues that its replies may go to; those that the broker names itself (`amq.…`) always may.
    #[serde(default = "everything")]
    pub reply_to: Vec<String>,
}

fn everything() -> Vec<String> {
    vec!["*".to_owned()]
}

/// Queues of the broker's own making: exclusive ones, and those of direct replies. Nobody else can consume them.
const BROKERS_OWN: &str = "amq.";

impl Producers {
    /// Reads a file with a table `[producers.NAME]` for each.
    ///
    /// # Errors
    /// Every problem, in words.
    pub fn load(file: &Path) -> Result<Self, Vec<String>> {
        let named = |problem: &dyn std::fmt::Display| format!("{}: {problem}", file.display());
        let text = std::fs::read_to_string(file).map_err(|error| vec![named(&error)])?;
        Self::parse(&text).map_err(|problems| problems.iter().map(|problem| named(problem)).collect())
    }

    fn parse(text: &str) -> Result<Self, Vec<String>> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[serde(default)]
            deciders: Vec<String>,
            producers: BTreeMap<String, Producer>,
        }
        let File { deciders, producers } = toml::from_str(text).map_err(|error| vec![error.message().to_owned()])?;
        let mut problems = Vec::new();
        let mut owners: BTreeMap<(&str, &str), &str> = BTreeMap::new();
        for (name, producer) in &producers {
            if ProducerName::new(name.as_str()).is_none() {
                problems.push(format!(
                    "producers.{}: a name has 1 to 32 letters, digits, `-`, `_` and `.`",
                    name.escape_debug()
                ));
            }
            let known = [("amqp_users", &producer.amqp_users), ("tokens", &producer.tokens)];
            if known.iter().all(|(_, names)| names.is_empty()) {
                problems.push(format!("producers.{name}: needs `amqp_users` or `tokens`, or nothing comes from it"));
            }
            for (kind, who) in known.iter().flat_map(|(kind, names)| names.iter().map(move |who| (*kind, who))) {
                if let Some(other) = owners.insert((kind, who), name) {
                    problems.push(format!("producers.{name}.{kind}: `{who}` is producer `{other}` already"));
                }
            }
        }
        if problems.is_empty() { Ok(Self { by_name: producers, deciders, is_on: true }) } else { Err(problems) }
    }

    /// Whether they are asked for: if not, whoever may publish a job may act for everybody.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether a user of the broker may decide about calls that wait, by a message.
    pub fn may_decide(&self, user: Option<&str>) -> bool {
        !self.is_on || self.deciders.iter().any(|decider| Some(decider.as_str()) == user)
    }

    /// Whether replies of what `user` sends may go to `queue`.
    pub fn may_be_answered_at(&self, user: Option<&str>, queue: &str) -> bool {
        self.may_answer(user.and_then(|user| self.of_user(user)).map(|(_, producer)| producer), queue)
    }

    /// Whether replies of what `producer` sends, or nobody who is one, may go to `queue`.
    pub fn may_answer(&self, producer: Option<&Producer>, queue: &str) -> bool {
        !self.is_on || producer.map_or(queue.starts_with(BROKERS_OWN), |own| own.may_be_answered_at(queue))
    }

    /// Names of all tokens that are producers.
    pub fn tokens(&self) -> impl Iterator<Item = &String> {
        self.by_name.values().flat_map(|producer| &producer.tokens)
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The producer of this name.
    pub fn named(&self, name: &str) -> Option<&Producer> {
        self.by_name.get(name)
    }

    /// The producer that a user of the broker is.
    pub fn of_user(&self, user: &str) -> Option<(&str, &Producer)> {
        self.find(|producer| &producer.amqp_users, user)
    }

    /// The producer that the holder of a token is.
    pub fn of_token(&self, token: &str) -> Option<(&str, &Producer)> {
        self.find(|producer| &producer.tokens, token)
    }

    fn find(&self, names: fn(&Producer) -> &Vec<String>, name: &str) -> Option<(&str, &Producer)> {
        let found = self.by_name.iter().find(|(_, producer)| names(producer).iter().any(|own| own == name));
        found.map(|(name, producer)| (name.as_str(), producer))
    }
}

impl Producer {
    fn may_be_answered_at(&self, queue: &str) -> bool {
        queue.starts_with(BROKERS_OWN) || is_one_of(&self.reply_to, queue)
    }

    /// Whether its jobs may name this model.
    pub fn may_name(&self, model: &str) -> bool {
        is_one_of(&self.models, model)
    }

    /// What `job` asks for that it may not, each as `field: problem`.
    pub fn objections(&self, job: &Job) -> Vec<String> {
        let mut objections = Vec::new();
        let mut object = |field: &str, what: &str| {
            objections.push(format!("{field}: `{what}` is none of those that this producer may use"));
        };
        if !is_one_of(&self.identifiers, job.identifier.as_str()) {
            object("identifier", job.identifier.as_str());
        }
        for connection in job.connections.iter().filter(|name| !is_one_of(&self.connections, name.as_str())) {
            object("connections", connection.as_str());
        }
        if let Some(model) = job.model.as_ref().filter(|model| !self.may_name(model)) {
            object("model", model);
        }
        if let Some(queue) = job.reply_to.as_ref().filter(|queue| !self.may_be_answered_at(queue)) {
            object("reply_to", queue);
        }
        if self.effects == OfferedEffects::Read && job.tools.effects != OfferedEffects::Read {
            objections.push("tools.effects: must be \"read\" in jobs of this producer".to_owned());
        }
        objections
    }
}

fn is_one_of(patterns: &[String], text: &str) -> bool {
    patterns.iter().any(|pattern| fits_exactly(pattern, text))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::job::Envelope;

    const BILLING: &str = r#"
        [producers.billing]
        amqp_users = ["billing"]
        identifiers = ["acme_*", "root"]
        connections = ["gmail"]
        models = ["gpt-4o"]
        effects = "read"
        reply_to = ["billing.*"]
    "#;

    fn objections(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut job = json!({"identifier": "acme_1", "connections": ["gmail"], "prompt": "p",
            "tools": {"effects": "read"}, "reply_to": "billing.replies"});
        change(&mut job);
        let job = Job::from_slice(job.to_string().as_bytes(), &Envelope::default(), 1 << 20).unwrap();
        let producers = Producers::parse(BILLING).unwrap();
        producers.of_user("billing").unwrap().1.objections(&job)
    }

    #[test]
    fn a_producer_may_do_what_is_allowed_and_each_thing_beyond_is_named() {
        assert_eq!(objections(|_| {}), [""; 0]);
        assert_eq!(objections(|job| job["model"] = "gpt-4o".into()), [""; 0]);
        assert_eq!(objections(|job| job["reply_to"] = "amq.gen-abc".into()), [""; 0]);
        assert_eq!(objections(|job| job["reply_to"] = "amq.rabbitmq.reply-to.x".into()), [""; 0]);
        assert_eq!(objections(|job| job["identifier"] = "root".into()), [""; 0]);
        for (field, value) in [
            ("identifier", json!("other_1")),
            ("identifier", json!("rooted")),
            ("identifier", json!("ROOT")),
            ("identifier", json!("ACME_1")),
            ("connections", json!(["slack"])),
            ("model", json!("gpt-4o-mini")),
            ("reply_to", json!("shipping.replies")),
            ("tools", json!({})),
        ] {
            let found = objections(|job| job[field] = value.clone());
            assert!(found.len() == 1 && found[0].starts_with(field), "{field} {value}: {found:?}");
        }
        assert_eq!(objections(|job| job["connections"] = json!(["slack", "gmail", "notion"])).len(), 2);
    }

    #[test]
    fn a_file_that_is_wrong_is_refused_whole() {
        for (text, word) in [
            ("[producers.a]\n", "needs `amqp_users`"),
            ("[producers.a]\namqp_users = [\"x\"]\nnonsense = 1\n", "nonsense"),
            ("[producers.a]\namqp_users = [\"x\"]\n[producers.b]\namqp_users = [\"x\"]\n", "is producer `a` already"),
            ("[producers.\"\"]\namqp_users = [\"x\"]\n", "a name has"),
            ("[producers.\"a\\u0000b\"]\namqp_users = [\"x\"]\n", "producers.a\\0b: a name has"),
            ("[producer.a]\n", "producer"),
            ("[producers.a]\namqp_users = [\"x\"]\neffects = \"all of them\"\n", "unknown variant"),
        ] {
            let problems = Producers::parse(text).unwrap_err();
            assert!(problems[0].contains(word), "{text}: {problems:?}");
        }
        let all = Producers::parse("[producers.a]\namqp_users = [\"x\"]\n").unwrap();
        assert!(all.is_on() && all.of_user("x").is_some() && all.of_user("a").is_none());
        assert!(!Producers::default().is_on());
        let nobody = Producers::parse("deciders = [\"ann\"]\n[producers]\n").unwrap();
        assert!(
            nobody.is_on()
                && nobody.may_decide(Some("ann"))
                && !nobody.may_decide(Some("x"))
                && !nobody.may_decide(None)
        );
        assert!(Producers::default().may_decide(None) && Producers::default().may_be_answered_at(None, "q"));
        assert!(all.may_be_answered_at(Some("x"), "q") && !all.may_be_answered_at(Some("y"), "q"));
        assert!(all.may_be_answered_at(None, "amq.gen-x"));
    }
}
