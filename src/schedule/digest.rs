//! The definition of a digest: one TOML file, checked whole, each problem with file and line.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::audience::{Listed, source};
use super::occurrence::{Occurrence, Schedule};
use super::plan::Missed;
use super::problems::Problems;
use super::recipients::{Recipient, Source};
use super::template::Template;
use crate::approval::Approval;
use crate::digest_store::{Fired, METADATA};
use crate::job::{
    Authorization, ConnectionName, Envelope, Job, JobId, Limits, OfferedEffects, Priority, ToolSelection,
};

/// Recipients of a digest are divided into so many parts, which replicas share out and which a window spreads.
const PORTIONS: u32 = 64;
/// A listed digest with fewer recipients and no window is one part.
const FEW: usize = 256;
/// Missed occurrences are looked for so far back where the definition does not say.
const WINDOW: Duration = Duration::from_hours(24);
/// The longest window for missed occurrences: marks are kept for days, not for ever.
const LONGEST_WINDOW: Duration = Duration::from_hours(31 * 24);
/// The longest window to spread over.
const LONGEST_SPREAD: Duration = Duration::from_hours(24);
/// A digest's job may have so many bytes, whatever the broker takes: the worker's default.
const LARGEST_JOB: usize = 1 << 20;

/// What happens at an occurrence whose recipient's last job still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The recipient gets none this time; the next one covers both.
    Skip,
    /// The recipient gets another.
    Queue,
}

/// A digest as it is defined.
#[derive(Debug, Clone)]
pub struct Digest {
    /// 1 to 64 of `a-z`, `0-9`, `-` and `_`; the file's name without a word.
    pub name: String,
    /// Where it was read from; problems with it are reported under this path.
    pub file: PathBuf,
    /// Whether it fires; what fired before goes on.
    pub enabled: bool,
    /// Five fields, or six with seconds before them, in the local time of each recipient.
    pub cron: String,
    /// IANA zone of recipients who have none.
    pub timezone: String,
    /// The window that jobs are spread over.
    pub spread: Duration,
    /// What is done about missed occurrences.
    pub missed: Missed,
    /// How far back they are looked for.
    pub window: Duration,
    /// What happens where the last job still runs.
    pub overlap: Overlap,
    /// Who gets it.
    pub recipients: Source,
    /// Into how many parts they are divided.
    pub portions: u32,
    prompt: Template,
    instructions: Option<String>,
    connections: Vec<ConnectionName>,
    model: Option<String>,
    tools: ToolSelection,
    limits: Limits,
    authorization: Option<Authorization>,
    output_schema: Option<Value>,
    reply_to: Option<String>,
    priority: Option<Priority>,
    metadata: Map<String, Value>,
}

/// Everything that is wrong with a set of definitions, one line each: `file:line: key: problem`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the digests cannot be used:\n  {}", .0.join("\n  "))]
pub struct BadDigests(pub Vec<String>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Definition {
    name: Option<String>,
    #[serde(default = "yes")]
    enabled: bool,
    cron: String,
    timezone: String,
    spread: Option<String>,
    #[serde(default = "once")]
    missed: Missed,
    missed_window: Option<String>,
    #[serde(default = "skip")]
    overlap: Overlap,
    prompt: String,
    instructions: Option<String>,
    connections: Vec<String>,
    model: Option<String>,
    #[serde(default)]
    tools: Tools,
    #[serde(default)]
    limits: Limits,
    authorization: Option<Authorization>,
    output_schema: Option<Value>,
    reply_to: Option<String>,
    priority: Option<Priority>,
    #[serde(default)]
    metadata: Map<String, Value>,
    recipients: Listed,
}

/// As a job's, but reading tools only unless the definition says otherwise.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tools {
    allow: BTreeSet<String>,
    deny: BTreeSet<String>,
    effects: OfferedEffects,
}

impl Default for Tools {
    fn default() -> Self {
        Self { allow: BTreeSet::new(), deny: BTreeSet::new(), effects: OfferedEffects::Read }
    }
}

fn yes() -> bool {
    true
}

fn once() -> Missed {
    Missed::Once
}

fn skip() -> Overlap {
    Overlap::Skip
}

/// Reads all `*.toml` of a directory, in the order of their names. A directory that does not exist has none.
pub fn load(directory: &Path) -> Result<Vec<Digest>, BadDigests> {
    let bad = |error: std::io::Error| BadDigests(vec![format!("{}: {error}", directory.display())]);
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(bad(error)),
    };
    let files: Result<BTreeSet<PathBuf>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut digests: Vec<Digest> = Vec::new();
    let mut problems = Vec::new();
    for file in files.map_err(bad)?.into_iter().filter(|file| file.extension().is_some_and(|end| end == "toml")) {
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) => {
                problems.push(format!("{}: {error}", file.display()));
                continue;
            }
        };
        match Digest::parse(&text, &file) {
            Ok(digest) => {
                if let Some(other) = digests.iter().find(|other| other.name == digest.name) {
                    let place = Problems::new(&text, &file).place("name");
                    problems.push(format!("{place}: name: `{}` is also in {}", digest.name, other.file.display()));
                }
                digests.push(digest);
            }
            Err(bad) => problems.extend(bad.0),
        }
    }
    if problems.is_empty() { Ok(digests) } else { Err(BadDigests(problems)) }
}

impl Digest {
    /// Reads the definition `text` of `file`. Files of recipients are looked for beside it.
    pub fn parse(text: &str, file: &Path) -> Result<Self, BadDigests> {
        let mut problems = Problems::new(text, file);
        let definition: Definition = match toml::from_str(text) {
            Ok(definition) => definition,
            Err(error) => {
                let line = problems.line(error.span().unwrap_or(0..0));
                return Err(BadDigests(vec![format!("{}:{line}: {}", file.display(), error.message().trim())]));
            }
        };
        let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let name = definition.name.unwrap_or(stem);
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        if !(1..=64).contains(&name.len()) || !name.bytes().all(allowed) {
            problems.add("name", "must be 1 to 64 of `a-z`, `0-9`, `-` and `_` (without it the file's name counts)");
        }
        check_schedule(&definition.cron, &definition.timezone, &mut problems);
        let spread = problems.duration("spread", definition.spread.as_deref(), Duration::ZERO, LONGEST_SPREAD);
        let window = problems.duration("missed_window", definition.missed_window.as_deref(), WINDOW, LONGEST_WINDOW);
        let prompt = Template::new(&definition.prompt).unwrap_or_else(|problem| {
            problems.add("prompt", &problem);
            Template::new("").expect("no placeholder is open in an empty text")
        });
        let recipients = source(definition.recipients, &definition.cron, &prompt, file, &mut problems);
        if definition.metadata.contains_key(METADATA) {
            problems.add("metadata", &format!("`{METADATA}` is the worker's own"));
        }
        let connections = definition.connections.into_iter().enumerate().filter_map(|(index, name)| {
            let read = ConnectionName::new(name);
            if read.is_none() {
                problems.add(&format!("connections.{index}"), "Scalekit has no connection of such a name");
            }
            read
        });
        let connections: Vec<ConnectionName> = connections.collect();
        let few = matches!(&recipients, Source::List(list) if list.len() < FEW) && spread.is_zero();
        let Tools { allow, deny, effects } = definition.tools;
        let digest = Self {
            name,
            file: file.to_owned(),
            enabled: definition.enabled,
            cron: definition.cron,
            timezone: definition.timezone,
            spread,
            missed: definition.missed,
            window,
            overlap: definition.overlap,
            recipients,
            portions: if few { 1 } else { PORTIONS },
            prompt,
            instructions: definition.instructions,
            connections,
            model: definition.model,
            tools: ToolSelection { allow, deny, effects },
            limits: definition.limits,
            authorization: definition.authorization,
            output_schema: definition.output_schema,
            reply_to: definition.reply_to,
            priority: definition.priority,
            metadata: definition.metadata,
        };
        digest.check_job(&mut problems);
        if problems.found.is_empty() { Ok(digest) } else { Err(BadDigests(problems.found)) }
    }

    /// When `recipient` gets it.
    pub fn schedule_of(&self, recipient: &Recipient) -> Result<Schedule, String> {
        let zone = recipient.timezone.as_ref().unwrap_or(&self.timezone);
        Schedule::new(&self.cron, zone, recipient.time)
    }

    /// When recipients without zone and time get it.
    pub fn schedule(&self) -> Schedule {
        Schedule::new(&self.cron, &self.timezone, None).expect("checked when the definition was read")
    }

    /// The job for `recipient` at `occurrence`, covering everything after `since`. It waits for an authorization for
    /// `wait` at most, unless the definition says how long.
    ///
    /// # Errors
    /// Where the recipient lacks a field that the prompt needs.
    pub fn job(
        &self,
        recipient: &Recipient,
        schedule: &Schedule,
        occurrence: Occurrence,
        since: Timestamp,
        wait: Duration,
    ) -> Result<Job, String> {
        let timezone = recipient.timezone.as_ref().unwrap_or(&self.timezone);
        let fired = Fired {
            digest: self.name.clone(),
            recipient: recipient.identifier.as_str().to_owned(),
            occurrence: occurrence.at,
            local: occurrence.local,
            timezone: timezone.clone(),
        };
        let since = since.to_zoned(schedule.zone().clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        let date = occurrence.local.date().to_string();
        let time = occurrence.local.time().strftime("%H:%M").to_string();
        let values = [
            ("date", date.as_str()),
            ("time", &time),
            ("since", &since),
            ("timezone", timezone),
            ("identifier", recipient.identifier.as_str()),
            ("digest", &self.name),
        ];
        let mut metadata = self.metadata.clone();
        metadata.insert(METADATA.to_owned(), fired.to_metadata());
        let authorization = self.authorization.unwrap_or(Authorization { wait_seconds: Some(wait.as_secs()) });
        Ok(Job {
            id: Some(fired.job_id()),
            identifier: recipient.identifier.clone(),
            connections: self.connections.clone(),
            prompt: self.prompt.fill(&values, &recipient.fields)?,
            instructions: self.instructions.clone(),
            model: self.model.clone(),
            tools: self.tools.clone(),
            output_schema: self.output_schema.clone(),
            limits: self.limits,
            authorization,
            approval: Approval::default(),
            priority: self.priority,
            tenant: None,
            progress: false,
            metadata: Value::Object(metadata),
            reply_to: self.reply_to.clone(),
            reply_url: None,
            correlation_id: None,
        })
    }

    /// The job for `recipient` outside the schedule: `mark` makes its id. It leaves no trace in the digest's state.
    pub fn extra_job(
        &self,
        recipient: &Recipient,
        schedule: &Schedule,
        now: Timestamp,
        since: Timestamp,
        wait: Duration,
        mark: &str,
    ) -> Result<Job, String> {
        let local = schedule.zone().to_datetime(now);
        let mut job = self.job(recipient, schedule, Occurrence { at: now, local }, since, wait)?;
        let recipient = crate::key::digest(recipient.identifier.as_str(), 16);
        job.id = JobId::new(format!("digest:{}:{recipient}:{mark}", self.name));
        Ok(job)
    }

    /// A job as it will be published, read as the worker will read it.
    fn check_job(&self, problems: &mut Problems<'_>) {
        let Ok(schedule) = Schedule::new(&self.cron, &self.timezone, None) else { return };
        let fields = self.prompt.fields().into_iter().map(|name| (name.to_owned(), "-".to_owned()));
        let Ok(recipient) = Recipient::from_fields(fields.chain([("identifier".to_owned(), "-".to_owned())])) else {
            return;
        };
        let now = Timestamp::UNIX_EPOCH;
        let occurrence = Occurrence { at: now, local: schedule.zone().to_datetime(now) };
        let Ok(job) = self.job(&recipient, &schedule, occurrence, now, Duration::ZERO) else { return };
        let body = serde_json::to_vec(&job).expect("a job is JSON types only");
        if let Err(invalid) = Job::from_slice(&body, &Envelope::default(), LARGEST_JOB) {
            for problem in &invalid.problems {
                match problem.split_once(": ") {
                    Some((path, text)) => problems.add(path, text),
                    None => problems.add("", problem),
                }
            }
        }
    }
}

fn check_schedule(cron: &str, timezone: &str, problems: &mut Problems<'_>) {
    if let Err(problem) = super::occurrence::time_zone(timezone) {
        problems.add("timezone", &problem);
    }
    match Schedule::new(cron, "UTC", None) {
        Ok(schedule) if schedule.next_after(Timestamp::UNIX_EPOCH).is_none() => {
            problems.add("cron", &format!("`{cron}` never comes"));
        }
        Ok(_) => {}
        Err(problem) => problems.add("cron", &problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = r#"
cron = "0 8 * * mon-fri"
timezone = "Europe/Berlin"
prompt = "Summarize everything since {{since}} for {{name}}."
connections = ["gmail"]
[recipients]
list = [{ identifier = "user_123", name = "Ada" }]
"#;

    fn parse(text: &str) -> Result<Digest, BadDigests> {
        Digest::parse(text, Path::new("digests/morning.toml"))
    }

    fn problems(text: &str) -> Vec<String> {
        parse(text).unwrap_err().0
    }

    #[test]
    fn the_smallest_definition_reads_only_and_catches_up_once() {
        let digest = parse(SMALLEST).unwrap();
        assert_eq!(digest.name, "morning");
        assert_eq!((digest.missed, digest.overlap, digest.portions), (Missed::Once, Overlap::Skip, 1));
        let Source::List(list) = &digest.recipients else { panic!("{:?}", digest.recipients) };
        let schedule = digest.schedule();
        let occurrence = schedule.next_after("2026-03-27T12:00:00Z".parse().unwrap()).unwrap();
        let since = "2026-03-27T07:00:00Z".parse().unwrap();
        let job = digest.job(&list[0], &schedule, occurrence, since, Duration::from_secs(60)).unwrap();
        assert_eq!(job.id().as_str(), "digest:morning:user_123:2026-03-30T08:00:00");
        assert_eq!(job.prompt, "Summarize everything since 2026-03-27T08:00:00+01:00 for Ada.");
        assert_eq!(job.tools.effects, OfferedEffects::Read);
        assert_eq!(job.authorization.wait_seconds, Some(60));
        assert_eq!(Fired::of(&job).unwrap().occurrence, occurrence.at);
    }

    #[test]
    fn a_job_has_all_that_is_defined_and_the_recipients_own_day() {
        let text = r#"
name = "evening"
cron = "0 8 * * *"
timezone = "Europe/Berlin"
prompt = "{{date}} {{time}} {{since}} {{timezone}} {{identifier}} {{digest}} {{name}}"
instructions = "be short"
connections = ["gmail", "calendar"]
model = "gpt-4o"
reply_to = "digests.ready"
priority = "normal"
output_schema = { type = "object" }
[tools]
effects = "all"
allow = ["gmail_fetch_mails"]
deny = ["gmail_send_message"]
[limits]
steps = 7
[authorization]
wait_seconds = 5
[metadata]
kind = "summary"
[recipients]
list = [{ identifier = "kenji", timezone = "Asia/Tokyo", time = "07:30", name = "Kenji", city = "Kyoto" }]
"#;
        let digest = parse(text).unwrap();
        let Source::List(list) = &digest.recipients else { panic!("{:?}", digest.recipients) };
        let schedule = digest.schedule_of(&list[0]).unwrap();
        // The evening before in UTC and in Berlin.
        let occurrence = schedule.next_after("2026-12-31T20:00:00Z".parse().unwrap()).unwrap();
        let since = "2026-12-30T22:30:00Z".parse().unwrap();
        let job = digest.job(&list[0], &schedule, occurrence, since, Duration::from_secs(60)).unwrap();
        assert_eq!(job.prompt, "2027-01-01 07:30 2026-12-31T07:30:00+09:00 Asia/Tokyo kenji evening Kenji");
        let job = serde_json::to_value(&job).unwrap();
        for (pointer, value) in [
            ("/id", serde_json::json!("digest:evening:kenji:2027-01-01T07:30:00")),
            ("/identifier", "kenji".into()),
            ("/instructions", "be short".into()),
            ("/connections", serde_json::json!(["gmail", "calendar"])),
            ("/model", "gpt-4o".into()),
            ("/reply_to", "digests.ready".into()),
            ("/priority", "normal".into()),
            ("/output_schema/type", "object".into()),
            ("/tools/effects", "all".into()),
            ("/tools/allow/0", "gmail_fetch_mails".into()),
            ("/tools/deny/0", "gmail_send_message".into()),
            ("/limits/steps", 7.into()),
            ("/authorization/wait_seconds", 5.into()),
            ("/metadata/kind", "summary".into()),
            ("/metadata/agentkit.digest/occurrence", "2026-12-31T22:30:00Z".into()),
        ] {
            assert_eq!(job.pointer(pointer), Some(&value), "{pointer}");
        }
    }

    #[test]
    fn every_problem_is_named_with_file_and_line() {
        let text = r#"name = "Morning!"
cron = "0 8 * *"
timezone = "Europe/Berlinn"
spread = "soon"
missed_window = "9999h"
prompt = "Hello {{name}}, {{city}}"
connections = ["gmail",
    "a/b"]

[limits]
steps = 0

[recipients]
list = [
    { identifier = "user_1", name = "Ada", city = "London" },
    { name = "Bob", city = "Rome" },
    { identifier = "user_3", name = "Cid" },
    { identifier = "user_1", name = "Ada", city = "Paris" },
]
"#;
        let problems = problems(text);
        for part in [
            "digests/morning.toml:1: name: ",
            "digests/morning.toml:2: cron: ",
            "digests/morning.toml:3: timezone: `Europe/Berlinn`",
            "digests/morning.toml:4: spread: `soon`",
            "digests/morning.toml:5: missed_window: ",
            "digests/morning.toml:8: connections.1: ",
            "digests/morning.toml:16: recipients.list.1: it has no `identifier`",
            "digests/morning.toml:17: recipients.list.2: has no `city`",
            "digests/morning.toml:18: recipients.list.3: is there twice",
        ] {
            assert!(problems.iter().any(|problem| problem.starts_with(part)), "{part} is missing in {problems:#?}");
        }
        let limits = SMALLEST.replace("[recipients]", "[limits]\nsteps = 0\n[recipients]");
        assert!(self::problems(&limits)[0].starts_with("digests/morning.toml:7: limits.steps: "), "{limits}");
    }

    #[test]
    fn typos_types_and_broken_syntax_have_a_line_too() {
        for (old, new, line) in [
            ("cron =", "corn =", ""),
            ("timezone = \"Europe/Berlin\"", "timezone = 1", ":3: "),
            ("connections = [\"gmail\"]", "connections = [", ":7: "),
            ("[recipients]", "missed = \"twice\"\n[recipients]", ":6: "),
            ("[recipients]", "promt = \"x\"\n[recipients]", ":6: "),
            ("[recipients]", "prompt = \"again\"\n[recipients]", ":6: "),
            ("cron = \"0 8 * * mon-fri\"", "cron = \"0 8 30 2 *\"", ":2: "),
        ] {
            let problems = problems(&SMALLEST.replace(old, new));
            let all = problems.join("\n");
            assert!(all.starts_with("digests/morning.toml:") && all.contains(line), "{new}: {all}");
        }
    }

    #[test]
    fn hostile_files_are_refused_without_a_panic() {
        let deep = format!("a = {}", "[".repeat(50_000));
        let long = format!("cron = \"{}\"", "*".repeat(1 << 20));
        for text in ["", "\u{0}", "\u{feff}", "=", "[[", "a.b.c", "recipients = 1", &deep, &long] {
            assert!(!problems(text).is_empty());
        }
    }

    #[test]
    fn a_directory_is_read_whole_and_a_name_is_there_once() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("a.toml", SMALLEST);
        write("b.toml", &format!("enabled = false\n{SMALLEST}"));
        write("c.txt", "not ours");
        let digests = load(folder.path()).unwrap();
        assert_eq!(
            digests.iter().map(|digest| (&*digest.name, digest.enabled)).collect::<Vec<_>>(),
            [("a", true), ("b", false)]
        );
        write("c.toml", &format!("name = \"a\"{SMALLEST}"));
        write("d.toml", "nonsense");
        let problems = load(folder.path()).unwrap_err().0;
        assert!(problems[0].contains("c.toml:1: name: `a` is also in"), "{problems:?}");
        assert!(problems[1].contains("d.toml:1"), "{problems:?}");
        assert_eq!(load(&folder.path().join("none")).unwrap().len(), 0);
    }

    #[test]
    fn files_of_recipients_are_looked_at_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("morning.toml");
        let text = SMALLEST.replace("list = [{ identifier = \"user_123\", name = \"Ada\" }]", "file = \"users.csv\"");
        assert!(Digest::parse(&text, &file).unwrap_err().0[0].contains("morning.toml:7: recipients.file: "));
        std::fs::write(folder.path().join("users.csv"), "identifier\nuser_1\n").unwrap();
        assert!(Digest::parse(&text, &file).unwrap_err().0[0].contains("no column `name`"));
        std::fs::write(folder.path().join("users.csv"), "identifier,name\nuser_1,Ada\n").unwrap();
        assert_eq!(Digest::parse(&text, &file).unwrap().portions, 64);
        for other in ["file = \"users.txt\"", "redis_set = \"\"", "", "file = \"users.csv\"\nredis_set = \"x\""] {
            assert!(Digest::parse(&text.replace("file = \"users.csv\"", other), &file).is_err(), "{other}");
        }
    }
}
