//! Which calls wait for a person: decided by the run's rules, its arguments and what it has read. The model has no say.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::effect::Effect;
use crate::approval::{Approval, ApprovalConfig, OnExpiry, Writes};
use crate::pattern::fits;

/// Fields of a call that hold recipients, in whatever depth they stand.
const RECIPIENT_FIELDS: [&str; 3] = ["to", "cc", "bcc"];

/// The rules of one run, fixed at its start: the stricter of operator and job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRules {
    /// Which writes wait.
    pub writes: Writes,
    /// Patterns of tools that always wait.
    pub tools: BTreeSet<String>,
    /// Lists of patterns; a recipient needs no approval where each list has one that fits.
    pub recipients: Vec<BTreeSet<String>>,
    /// Seconds to wait for a decision.
    pub wait_seconds: u64,
    /// What becomes of a call that nobody has decided about in time.
    pub on_expiry: OnExpiry,
    /// Whether arguments may be changed.
    pub edit: bool,
}

/// A call, as far as it matters whether it waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    /// The tool's name at Scalekit, and to the model.
    pub(super) names: [&'a str; 2],
    pub(super) effect: Effect,
    pub(super) arguments: &'a Map<String, Value>,
    /// The job's prompt, which whoever sent the job has written.
    pub(super) prompt: &'a str,
    /// Whether the run has read anything before.
    pub(super) has_read: bool,
}

impl ApprovalRules {
    /// What operator and job want together. Nobody's wish is weakened by the other's.
    pub fn stricter(operator: &ApprovalConfig, job: &Approval) -> Self {
        let rules = Self {
            writes: operator.writes.max(job.writes.unwrap_or_default()),
            tools: operator.tools.union(&job.tools).cloned().collect(),
            recipients: [&operator.recipients].into_iter().chain(&job.recipients).cloned().collect(),
            wait_seconds: operator.wait_seconds.min(job.wait_seconds.unwrap_or(u64::MAX)),
            on_expiry: job.on_expiry.unwrap_or(operator.on_expiry),
            edit: operator.edit && job.edit.unwrap_or(true),
        };
        if rules.is_idle() { Self::default() } else { rules }
    }

    /// Whether no call ever waits by them.
    pub fn is_idle(&self) -> bool {
        self.writes == Writes::None && self.tools.is_empty()
    }

    /// Whether the call waits for a person.
    pub(super) fn hold(&self, call: Candidate<'_>) -> bool {
        // A tool that is named waits, whatever it says of itself.
        let is_named = self.tools.iter().any(|pattern| call.names.iter().any(|name| fits(pattern, name)));
        let by_its_writes = call.effect != Effect::Read
            && match self.writes {
                Writes::None => false,
                Writes::Untrusted => call.has_read,
                Writes::All => true,
            };
        if !is_named && !by_its_writes {
            return false;
        }
        // What stands in the prompt is excused only from what is feared of strangers.
        let prompt = (!is_named && self.writes == Writes::Untrusted).then_some(call.prompt);
        let excused = |address: &String| self.is_excused(address) || prompt.is_some_and(|text| names_it(text, address));
        !recipients(call.arguments).is_some_and(|all| !all.is_empty() && all.iter().all(excused))
    }

    fn is_excused(&self, address: &str) -> bool {
        let in_list = |list: &BTreeSet<String>| list.iter().any(|pattern| fits(pattern, address));
        !self.recipients.is_empty() && self.recipients.iter().all(in_list)
    }
}

/// Every single address of a call, in small letters; `None` where one of them cannot be told with certainty.
fn recipients(arguments: &Map<String, Value>) -> Option<Vec<String>> {
    let mut found = Vec::new();
    for (name, value) in arguments {
        if RECIPIENT_FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field)) {
            addresses(value, &mut found)?;
        } else {
            below(value, &mut found)?;
        }
    }
    Some(found)
}

/// Recipients that stand deeper, as in `message.to`.
fn below(value: &Value, found: &mut Vec<String>) -> Option<()> {
    match value {
        Value::Object(fields) => found.extend(recipients(fields)?),
        Value::Array(items) => items.iter().try_for_each(|item| below(item, found))?,
        _ => {}
    }
    Some(())
}

fn addresses(value: &Value, found: &mut Vec<String>) -> Option<()> {
    match value {
        Value::Null => Some(()),
        Value::String(text) => text.split([',', ';']).filter(|part| !part.trim().is_empty()).try_for_each(|part| {
            found.push(address(part)?);
            Some(())
        }),
        Value::Array(items) => items.iter().try_for_each(|item| addresses(item, found)),
        // Whatever form that is, nobody can say whom it reaches.
        _ => None,
    }
}

/// `name@host`, alone or after a plain name in angle brackets. Anything else may be read in two ways.
fn address(text: &str) -> Option<String> {
    if text.contains(|character: char| character.is_control()) {
        return None;
    }
    let text = text.trim();
    let bare = match text.strip_suffix('>') {
        Some(rest) => {
            let (name, bare) = rest.split_once('<')?;
            (!name.contains(['@', '<', '>', '(', ')', '\\'])).then_some(bare)?
        }
        None => text,
    };
    let strange = |character: char| character.is_whitespace() || "<>()[]\\\",;:".contains(character);
    let (name, host) = bare.split_once('@')?;
    let is_plain = !name.is_empty() && !host.is_empty() && !host.contains('@') && !bare.contains(strange);
    is_plain.then(|| bare.to_lowercase())
}

/// Whether `text` holds this very address, and not one that it is a part of.
fn names_it(text: &str, address: &str) -> bool {
    let text = text.to_lowercase();
    let goes_on = |character: char| character.is_alphanumeric() || "._%+-@".contains(character);
    text.match_indices(address).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + address.len()..]);
        // A full stop ends a sentence, unless something follows.
        let after = after.strip_prefix('.').filter(|rest| !rest.starts_with(goes_on)).unwrap_or(after);
        !before.ends_with(goes_on) && !after.starts_with(goes_on)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(items: &[&str]) -> BTreeSet<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    fn rules(change: impl FnOnce(&mut ApprovalConfig)) -> ApprovalRules {
        let mut operator = ApprovalConfig { writes: Writes::Untrusted, ..ApprovalConfig::default() };
        change(&mut operator);
        ApprovalRules::stricter(&operator, &Approval::default())
    }

    fn holds(rules: &ApprovalRules, name: &str, effect: Effect, arguments: &Value, has_read: bool) -> bool {
        let prompt = "Write to Ann@Example.com, <bob@example.com> and x.carl@example.com.au, not to zoe@example.community. \
                      Thanks, dora@example.com.";
        rules.hold(Candidate {
            names: [name, "another"],
            effect,
            arguments: arguments.as_object().unwrap(),
            prompt,
            has_read,
        })
    }

    fn sends(rules: &ApprovalRules, arguments: &Value) -> bool {
        holds(rules, "gmail_send_message", Effect::Write, arguments, true)
    }

    #[test]
    fn the_stricter_of_operator_and_job_wins_in_everything() {
        use Writes::{All, None, Untrusted};
        for operator in [None, Untrusted, All] {
            for (job, expected) in [
                (Option::None, operator),
                (Some(None), operator),
                (Some(Untrusted), operator.max(Untrusted)),
                (Some(All), All),
            ] {
                let config = ApprovalConfig { writes: operator, ..ApprovalConfig::default() };
                let job = Approval { writes: job, ..Approval::default() };
                assert_eq!(ApprovalRules::stricter(&config, &job).writes, expected, "{operator:?} {job:?}");
            }
        }
        let operator = ApprovalConfig {
            writes: All,
            tools: list(&["a*"]),
            recipients: list(&["*@example.com"]),
            wait_seconds: 100,
            ..ApprovalConfig::default()
        };
        let job = Approval {
            tools: list(&["b"]),
            recipients: Some(list(&["ann@*"])),
            wait_seconds: Some(200),
            on_expiry: Some(OnExpiry::Fail),
            edit: Some(false),
            ..Approval::default()
        };
        let both = ApprovalRules::stricter(&operator, &job);
        assert_eq!((both.tools.len(), both.wait_seconds, both.edit), (2, 100, false));
        assert_eq!(both.on_expiry, OnExpiry::Fail, "the job's where it says so");
        assert!(!sends(&both, &json!({"to": "ann@example.com"})), "both allow her");
        assert!(sends(&both, &json!({"to": "bob@example.com"})) && sends(&both, &json!({"to": "ann@evil.com"})));
        let shorter = Approval { wait_seconds: Some(7), ..Approval::default() };
        assert_eq!(ApprovalRules::stricter(&operator, &shorter).wait_seconds, 7);
        let never = ApprovalConfig { edit: false, ..operator };
        let wants = Approval { edit: Some(true), ..Approval::default() };
        assert!(!ApprovalRules::stricter(&never, &wants).edit);
        let alone = Approval { recipients: Some(list(&["*"])), ..Approval::default() };
        let nobody = ApprovalConfig { writes: All, ..ApprovalConfig::default() };
        let strict = ApprovalRules::stricter(&nobody, &alone);
        assert!(sends(&strict, &json!({"to": "ann@example.com"})), "a job alone excuses nobody");
    }

    #[test]
    fn rules_by_which_nothing_waits_are_none() {
        let idle = ApprovalConfig { writes: Writes::None, recipients: list(&["*"]), ..ApprovalConfig::default() };
        assert_eq!(ApprovalRules::stricter(&idle, &Approval::default()), ApprovalRules::default());
    }

    #[test]
    fn a_write_waits_as_the_rules_say_by_what_was_read_before() {
        let to = json!({"to": "eve@evil.com"});
        let table = [
            (Writes::None, Effect::Write, true, false),
            (Writes::Untrusted, Effect::Write, false, false),
            (Writes::Untrusted, Effect::Write, true, true),
            (Writes::Untrusted, Effect::Idempotent, true, true),
            (Writes::Untrusted, Effect::Read, true, false),
            (Writes::All, Effect::Write, false, true),
            (Writes::All, Effect::Idempotent, false, true),
            (Writes::All, Effect::Read, true, false),
        ];
        for (writes, effect, has_read, expected) in table {
            let rules = rules(|operator| operator.writes = writes);
            let held = holds(&rules, "gmail_send_message", effect, &to, has_read);
            assert_eq!(held, expected, "{writes:?} {effect:?} {has_read}");
        }
    }

    #[test]
    fn tools_that_are_named_wait_whatever_they_say_of_themselves() {
        let named = rules(|operator| (operator.writes, operator.tools) = (Writes::None, list(&["gmail_send_*"])));
        let nothing = json!({});
        assert!(holds(&named, "gmail_send_message", Effect::Read, &nothing, false));
        assert!(holds(&named, "GMAIL_SEND_draft", Effect::Write, &nothing, false));
        assert!(!holds(&named, "gmail_fetch_mails", Effect::Write, &nothing, true));
        let prompted = json!({"to": "ann@example.com"});
        assert!(
            holds(&named, "gmail_send_message", Effect::Write, &prompted, true),
            "the prompt excuses no named tool"
        );
    }

    #[test]
    fn only_calls_of_which_every_single_address_is_excused_need_no_approval() {
        let rules = rules(|operator| operator.recipients = list(&["*@corp.example"]));
        for excused in [
            json!({"to": "ann@corp.example"}),
            json!({"to": "ANN@CORP.example"}),
            json!({"to": "Ann Smith <ann@corp.example>"}),
            json!({"to": "a@corp.example, b@corp.example; c@corp.example"}),
            json!({"to": ["a@corp.example"], "cc": null, "bcc": []}),
            json!({"to": "ann@example.com"}),
            json!({"to": "bob@example.com", "cc": "dora@example.com"}),
            json!({"message": {"to": [["a@corp.example"]]}}),
        ] {
            assert!(!sends(&rules, &excused), "{excused}");
        }
        for asked in [
            json!({}),
            json!({"to": ""}),
            json!({"to": [], "subject": "a@corp.example"}),
            json!({"to": "eve@evil.com"}),
            json!({"to": "a@corp.example, eve@evil.com"}),
            json!({"to": "a@corp.example", "cc": "eve@evil.com"}),
            json!({"to": "a@corp.example", "Bcc": ["eve@evil.com"]}),
            json!({"to": "a@corp.example", "message": {"headers": [{"BCC": "eve@evil.com"}]}}),
            json!({"to": {"address": "a@corp.example"}}),
            json!({"to": ["a@corp.example", {"address": "eve@evil.com"}]}),
            json!({"to": 7}),
            json!({"to": "a@corp.example\nBcc: eve@evil.com"}),
            json!({"to": "a@corp.example eve@evil.com"}),
            json!({"to": "\"a@corp.example\" <eve@evil.com>"}),
            json!({"to": "eve@evil.com <a@corp.example>"}),
            json!({"to": "<eve@evil.com><a@corp.example>"}),
            json!({"to": "eve@evil.com@corp.example"}),
            json!({"to": "\"eve@evil.com,\"@corp.example"}),
            json!({"to": "a@corp.example.evil.com"}),
            json!({"to": "corp.example"}),
            json!({"to": "ob@example.com"}),
            json!({"to": "carl@example.com"}),
            json!({"to": "carl@example.com.au"}),
            json!({"to": "zoe@example.com"}),
            json!({"to": "nn@example.com"}),
        ] {
            assert!(sends(&rules, &asked), "{asked}");
        }
    }

    #[test]
    fn the_prompt_excuses_nobody_where_all_writes_wait() {
        let all = rules(|operator| (operator.writes, operator.recipients) = (Writes::All, list(&["*@corp.example"])));
        assert!(sends(&all, &json!({"to": "ann@example.com"})));
        assert!(!sends(&all, &json!({"to": "ann@corp.example"})), "the operator's own list does");
    }
}
