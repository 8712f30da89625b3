//! What is known of each model: dated data, so that a provider's changes are edits of a table.

use jiff::civil::Date;
use serde::Deserialize;

use super::price::{self, Price, price_on};

const BUILT_IN: &str = include_str!("../../config/models.toml");

/// A shutdown is warned of so many days ahead.
const NOTICE_DAYS: i32 = 90;

/// The form of the wire that a model is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// `POST {base}/chat/completions`.
    ChatCompletions,
    /// `POST {base}/responses`.
    Responses,
    /// Anthropic's `POST {base}/v1/messages`. Never a model's own, as routers serve it over chat completions: its provider's.
    #[serde(skip)]
    Messages,
}

/// The field of a chat completions request that caps the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenField {
    /// OpenAI's present name; reasoning models refuse the old one.
    MaxCompletionTokens,
    /// The old name, the only one that many compatible servers know.
    MaxTokens,
}

/// The role that carries instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemRole {
    /// What every compatible server knows.
    System,
    /// `developer`, its name for reasoning models.
    Developer,
}

/// How a model learns of the schema that its answer shall fit, over the Messages API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputSchema {
    /// In words.
    Told,
    /// By `output_config.format`, where the schema is within its grammar: then no other answer can be written.
    Enforced,
}

/// What a model's requests must look like. The default is the generic profile, which any compatible server should take.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// The wire to speak.
    pub api: Api,
    /// The field that caps the output (chat completions).
    pub token_field: TokenField,
    /// The role of system messages.
    pub system_role: SystemRole,
    /// The reasoning effort to send; `None` leaves the server's default.
    pub reasoning_effort: Option<String>,
    /// The efforts it accepts; empty where it does not reason.
    pub reasoning_efforts: Vec<String>,
    /// Whether `temperature` may be sent.
    pub temperature: bool,
    /// Whether `parallel_tool_calls` may be sent.
    pub parallel_tool_calls: bool,
    /// Whether `prompt_cache_key` and `safety_identifier` may be sent.
    pub identifiers: bool,
    /// How the model learns of a job's `output_schema` (Messages API).
    pub output_schema: OutputSchema,
    /// Most tools in one request.
    pub tool_cap: usize,
    /// Longest description of a tool, in characters.
    pub description_cap: usize,
    /// Input and output together, in tokens.
    pub context_window: u64,
    /// Most tokens of one answer, reasoning included.
    pub max_output: u64,
    /// The day on which the provider takes it away.
    pub shutdown: Option<Date>,
    /// The model that the provider names instead.
    pub successor: Option<String>,
    /// What its tokens cost; empty where that is not known. For the names as they stand and their dated snapshots.
    pub prices: Vec<Price>,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            api: Api::ChatCompletions,
            token_field: TokenField::MaxTokens,
            system_role: SystemRole::System,
            reasoning_effort: None,
            reasoning_efforts: Vec::new(),
            temperature: true,
            parallel_tool_calls: true,
            identifiers: false,
            output_schema: OutputSchema::Told,
            tool_cap: 128,
            description_cap: 1024,
            context_window: 32_768,
            max_output: 32_768,
            shutdown: None,
            successor: None,
            prices: Vec::new(),
        }
    }
}

impl Profile {
    /// Whether the model thinks before it speaks.
    pub fn reasons(&self) -> bool {
        !self.reasoning_efforts.is_empty()
    }

    /// The same model spoken to over `api`. Reasoning models of the Responses API refuse tools on chat completions
    /// unless they do not reason, so there the effort becomes `none` where the model has it.
    pub fn over(mut self, api: Api) -> Self {
        let loses_reasoning = self.api == Api::Responses && api == Api::ChatCompletions;
        if loses_reasoning && self.reasoning_efforts.iter().any(|effort| effort == "none") {
            self.reasoning_effort = Some("none".to_owned());
        }
        self.api = api;
        self
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(effort) = &self.reasoning_effort
            && !self.reasoning_efforts.contains(effort)
        {
            problems.push(format!("reasoning_effort `{effort}` is not one of its reasoning_efforts"));
        }
        for (field, zero) in [
            ("tool_cap", self.tool_cap == 0),
            ("description_cap", self.description_cap == 0),
            ("context_window", self.context_window == 0),
            ("max_output", self.max_output == 0),
        ] {
            if zero {
                problems.push(format!("{field} must be at least 1"));
            }
        }
        problems.extend(price::problems(&self.prices));
        problems
    }
}

/// What requests to the models look like, by name of the model or its beginning.
#[derive(Debug, Clone)]
pub struct Profiles(Vec<(String, Profile)>);

impl Profiles {
    /// The table that is compiled in.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("a test parses the built-in table")
    }

    /// Reads a table in the form of `config/models.toml`. The error names every problem, one a line.
    pub fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[serde(default)]
            model: Vec<toml::Table>,
        }
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut profiles = Vec::new();
        let mut problems = Vec::new();
        for (index, table) in file.model.into_iter().enumerate() {
            match parse_entry(table) {
                Ok((names, profile)) => profiles.extend(names.into_iter().map(|name| (name, profile.clone()))),
                Err(found) => {
                    problems.extend(found.iter().map(|problem| format!("model entry {}: {problem}", index + 1)));
                }
            }
        }
        if problems.is_empty() { Ok(Self(profiles)) } else { Err(problems.join("\n")) }
    }

    /// This table with another laid over it.
    pub fn overlaid_with(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The profile of a model; the generic one where the table does not know it.
    pub fn lookup(&self, name: &str) -> Profile {
        self.find(name).cloned().unwrap_or_default()
    }

    /// What to tell the operator of a model that is gone on `today` or will be within 90 days.
    pub fn shutdown_warning(&self, name: &str, today: Date) -> Option<String> {
        let profile = self.find(name)?;
        let shutdown = profile.shutdown?;
        let days = today.until(shutdown).map_or(i32::MAX, |span| span.get_days());
        if days > NOTICE_DAYS {
            return None;
        }
        let when = match days {
            ..=0 => format!("was taken out of its provider's API on {shutdown}"),
            1 => format!("leaves its provider's API on {shutdown}, in 1 day"),
            days => format!("leaves its provider's API on {shutdown}, in {days} days"),
        };
        let successor = self.successor(name).map(|name| format!("; the named successor is {name}"));
        Some(format!("model {name} {when}{}", successor.unwrap_or_default()))
    }

    /// The model that the provider names instead: where `name` begins with a provider's name, the same provider's.
    pub fn successor(&self, name: &str) -> Option<String> {
        let successor = self.find(name)?.successor.as_ref()?;
        Some(match name.rsplit_once('/') {
            Some((provider, _)) => format!("{provider}/{successor}"),
            None => successor.clone(),
        })
    }

    /// What a request to the model costs on `day` whose input has so many tokens. Of a model of which only the beginning of
    /// the name is known, and of a fine-tuned one, that is not known.
    pub fn price(&self, name: &str, day: Date, input_tokens: u64) -> Option<&Price> {
        let bare = bare(name);
        let (pattern, profile) = self.entry(name).filter(|(pattern, _)| is_snapshot(pattern, bare))?;
        let is_tuned = name.rsplit('/').next().is_some_and(|name| name.starts_with("ft:"));
        price_on(&profile.prices, day, input_tokens).filter(|_| !is_tuned && !pattern.ends_with('*'))
    }

    /// The name of the table under which it knows the model.
    pub fn known_as(&self, name: &str) -> Option<&str> {
        self.entry(name).map(|(pattern, _)| pattern.as_str())
    }

    fn find(&self, name: &str) -> Option<&Profile> {
        self.entry(name).map(|(_, profile)| profile)
    }

    fn entry(&self, name: &str) -> Option<&(String, Profile)> {
        let bare = bare(name);
        let fitting = self.0.iter().filter(|(pattern, _)| covers(pattern, bare));
        fitting.max_by_key(|(pattern, _)| pattern.len())
    }
}

fn bare(name: &str) -> &str {
    let bare = name.rsplit('/').next().unwrap_or(name);
    let bare = bare.strip_prefix("ft:").unwrap_or(bare);
    bare.rsplit_once("anthropic.").map_or(bare, |(_, name)| name)
}

/// Whether `name` is that of the entry, or it with a date (`-2024-08-06`, `@20260922`) or `-latest`: `-mini` is another model.
fn is_snapshot(pattern: &str, name: &str) -> bool {
    name.strip_prefix(pattern).is_some_and(|rest| {
        let rest = rest.strip_prefix(['-', '@']).unwrap_or(rest);
        let is_date = rest.len() >= 8 && rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        rest.is_empty() || rest == "latest" || is_date
    })
}

fn covers(pattern: &str, name: &str) -> bool {
    if let Some(start) = pattern.strip_suffix('*') {
        return name.starts_with(start);
    }
    name.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', ':', '@']))
}

fn parse_entry(mut table: toml::Table) -> Result<(Vec<String>, Profile), Vec<String>> {
    let mut problems = Vec::new();
    let names = table.remove("names").unwrap_or_else(|| toml::Value::Array(Vec::new()));
    let names: Vec<String> = names.try_into().unwrap_or_default();
    if names.is_empty() || names.iter().any(|name| name.trim_end_matches('*').is_empty()) {
        problems.push("names must be a list of names, none of them empty".to_owned());
    }
    match table.try_into::<Profile>() {
        Ok(profile) => {
            problems.extend(profile.problems());
            if !profile.prices.is_empty() && names.iter().any(|name| name.ends_with('*')) {
                problems.push("prices are a model's own: no name with a `*` has any".to_owned());
            }
            if problems.is_empty() { Ok((names, profile)) } else { Err(problems) }
        }
        Err(error) => {
            problems.push(error.message().to_owned());
            Err(problems)
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn the_built_in_table_is_sound() {
        let profiles = Profiles::parse(BUILT_IN).unwrap();
        for (name, profile) in &profiles.0 {
            assert!(profile.successor.is_none() || profile.shutdown.is_some(), "{name}");
            if let Some(successor) = &profile.successor {
                let successor = profiles.find(successor).unwrap_or_else(|| panic!("{successor} is not in the table"));
                assert_eq!(successor.shutdown, None, "the successor of {name} is leaving too");
            }
        }
    }

    #[test]
    fn the_longest_name_that_fits_wins() {
        let profiles = Profiles::built_in();
        let shutdown = |name: &str| profiles.lookup(name).shutdown;
        assert_eq!(shutdown("gpt-4o"), Some(date(2027, 1, 14)));
        assert_eq!(shutdown("gpt-4o-mini-2024-07-18"), Some(date(2027, 1, 14)));
        assert_eq!(shutdown("gpt-4o-2024-05-13"), Some(date(2026, 10, 23)));
        assert_eq!(shutdown("gpt-5-mini"), Some(date(2026, 12, 11)));
        assert_eq!(shutdown("gpt-5.6-sol"), None);
        assert_eq!(shutdown("ft:gpt-4o-mini-2024-07-18:acme::id"), Some(date(2027, 1, 14)));
        assert_eq!(shutdown("openai/gpt-4.1"), Some(date(2027, 1, 14)));
        assert_eq!(profiles.lookup("gpt-6.1-sol").api, Api::Responses);
        for name in ["claude-opus-4-1-20250805", "anthropic/claude-opus-4-1", "us.anthropic.claude-opus-4-1-v1:0"] {
            assert_eq!(shutdown(name), Some(date(2026, 8, 5)), "{name}");
        }
        assert!(profiles.lookup("claude-sonnet-4-5").temperature && !profiles.lookup("claude-sonnet-5-5").temperature);
        assert!(!profiles.lookup("claude-later-9").temperature, "what is new takes less");
        assert_eq!(profiles.lookup("gpt-6-luna").context_window, 1_050_000);
    }

    #[test]
    fn a_successor_is_looked_for_at_the_same_provider() {
        let profiles = Profiles::built_in();
        let successor = |name: &str| profiles.successor(name);
        assert_eq!(successor("gpt-4o").as_deref(), Some("gpt-6-luna"));
        assert_eq!(successor("azure/gpt-4o").as_deref(), Some("azure/gpt-6-luna"));
        assert_eq!(successor("gateway/openai/gpt-4o-mini").as_deref(), Some("gateway/openai/gpt-6-luna"));
        assert_eq!((successor("gpt-6-luna"), successor("llama3"), successor("")), (None, None, None));
    }

    #[test]
    fn a_price_is_a_models_own_and_of_its_dated_snapshots() {
        let profiles = Profiles::built_in();
        let input = |name: &str| {
            let price = profiles.price(name, date(2026, 11, 30), 1000)?;
            Some(price.of(&crate::agent::message::Usage { input_tokens: 1000, ..Default::default() }).to_string())
        };
        for name in ["gpt-4o", "gpt-4o-2024-08-06", "openai/gpt-4o", "chat/openai/gpt-4o-2024-11-20"] {
            assert_eq!(input(name).as_deref(), Some("0.0025 USD"), "{name}");
        }
        assert_eq!(input("gpt-4o-mini-2024-07-18").as_deref(), Some("0.00015 USD"));
        assert_eq!(input("gpt-6-luna").as_deref(), Some("0.0001 USD"));
        for name in [
            "gpt-4o-audio-preview",
            "gpt-4o-2024-05-13",
            "ft:gpt-4o-2024-08-06:acme::id",
            "gpt-6-nova",
            "llama3",
            "",
            "gpt-4o-12",
        ] {
            assert_eq!(input(name), None, "{name}");
        }
        let long = |tokens| profiles.price("gpt-6-luna", date(2026, 11, 30), tokens).unwrap().output;
        assert_ne!(long(272_000), long(272_001));
    }

    #[test]
    fn an_unknown_model_gets_the_generic_profile() {
        let profiles = Profiles::built_in();
        for name in ["llama3.2:3b", "my-deployment", "gpt-4ooo", "o33", "", "/", "ft:"] {
            assert_eq!(profiles.lookup(name), Profile::default(), "{name}");
        }
    }

    #[test]
    fn a_shutdown_is_warned_of_within_ninety_days_and_after() {
        let profiles = Profiles::built_in();
        assert_eq!(profiles.shutdown_warning("gpt-4o", date(2026, 10, 15)), None);
        let warning = profiles.shutdown_warning("gpt-4o", date(2026, 10, 16)).unwrap();
        assert!(warning.contains("2027-01-14, in 90 days") && warning.contains("gpt-6-luna"), "{warning}");
        assert!(profiles.shutdown_warning("gpt-4o", date(2027, 1, 13)).unwrap().contains("in 1 day;"));
        assert!(profiles.shutdown_warning("gpt-4o", date(2027, 1, 14)).unwrap().contains("was taken out"));
        assert!(profiles.shutdown_warning("gpt-4o", date(2031, 1, 1)).unwrap().contains("was taken out"));
        assert_eq!(profiles.shutdown_warning("gpt-6-luna", date(2026, 11, 22)), None);
        assert_eq!(profiles.shutdown_warning("llama3", date(2026, 11, 22)), None);
    }

    #[test]
    fn every_problem_of_a_table_is_named() {
        let text = r#"
            [[model]]
            names = []
            tool_cap = 0
            [[model]]
            names = ["a"]
            reasoning_effort = "low"
            [[model]]
            names = ["b"]
            colour = "red"
            [[model]]
            names = ["c", "*"]
            shutdown = "soon"
            [[model]]
            names = ["d-*"]
            prices = [{ input = 1, output = 1 }, { input = 1, output = 2 }]
        "#;
        let problems = Profiles::parse(text).unwrap_err();
        for expected in [
            "model entry 1: names",
            "model entry 1: tool_cap",
            "model entry 2: reasoning_effort `low`",
            "model entry 3: unknown field `colour`",
            "model entry 4: names",
            "model entry 5: prices: there are two",
            "model entry 5: prices are a model's own",
        ] {
            assert!(problems.contains(expected), "{expected} is missing in:\n{problems}");
        }
        assert_eq!(problems.lines().filter(|line| line.starts_with("model entry 4")).count(), 2, "{problems}");
        assert!(Profiles::parse("models = 1").is_err());
        assert!(Profiles::parse("[[model").is_err());
    }

    #[test]
    fn an_operators_table_overlays_the_built_in_one() {
        let own = Profiles::parse("[[model]]\nnames = [\"gpt-4o\", \"house\"]\ncontext_window = 7").unwrap();
        let profiles = Profiles::built_in().overlaid_with(own);
        assert_eq!(profiles.lookup("gpt-4o").context_window, 7);
        assert_eq!(profiles.lookup("house-2").context_window, 7);
        assert_eq!(profiles.lookup("gpt-4.1").context_window, 1_047_576);
    }

    #[test]
    fn a_reasoning_model_spoken_to_over_chat_completions_does_not_reason() {
        let luna = Profiles::built_in().lookup("gpt-6-luna");
        assert_eq!(luna.clone().over(Api::ChatCompletions).reasoning_effort.as_deref(), Some("none"));
        assert_eq!(luna.clone().over(Api::Responses), luna);
    }
}
