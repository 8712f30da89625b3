//! The `recipients` of a definition, checked as far as they can be at the start.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::occurrence::Schedule;
use super::problems::Problems;
use super::recipients::{self, Recipient, Source};
use super::template::Template;

/// As it stands in the file; exactly one of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listed {
    list: Option<Vec<Map<String, Value>>>,
    file: Option<PathBuf>,
    redis_set: Option<String>,
}

/// Where the recipients come from; files are looked for beside `file`.
pub(super) fn source(
    listed: Listed,
    cron: &str,
    prompt: &Template,
    file: &Path,
    problems: &mut Problems<'_>,
) -> Source {
    let beside = |path: PathBuf| file.parent().map_or_else(|| path.clone(), |folder| folder.join(&path));
    match listed {
        Listed { list: Some(list), file: None, redis_set: None } => Source::List(list_of(list, cron, prompt, problems)),
        Listed { list: None, file: Some(path), redis_set: None } => {
            let path = beside(path);
            let kind = path.extension().map(|end| end.to_string_lossy().to_ascii_lowercase());
            match kind.as_deref() {
                Some("csv") => check_csv(&path, prompt, problems),
                Some("ndjson" | "jsonl") => {
                    if let Err(error) = std::fs::metadata(&path) {
                        problems.add("recipients.file", &format!("{}: {error}", path.display()));
                    }
                    return Source::Ndjson(path);
                }
                _ => problems.add("recipients.file", "its name must end in `.csv`, `.ndjson` or `.jsonl`"),
            }
            Source::Csv(path)
        }
        Listed { list: None, file: None, redis_set: Some(set) } if !set.is_empty() => Source::Set(set),
        _ => {
            problems.add("recipients", "needs exactly one of `list`, `file` and `redis_set`");
            Source::List(Vec::new())
        }
    }
}

fn list_of(
    list: Vec<Map<String, Value>>,
    cron: &str,
    prompt: &Template,
    problems: &mut Problems<'_>,
) -> Vec<Recipient> {
    let mut recipients: Vec<Recipient> = Vec::new();
    for (index, object) in list.into_iter().enumerate() {
        let path = format!("recipients.list.{index}");
        let recipient = match Recipient::from_json(object) {
            Ok(recipient) => recipient,
            Err(problem) => {
                problems.add(&path, &problem);
                continue;
            }
        };
        if let Some(zone) = &recipient.timezone
            && let Err(problem) = Schedule::new(cron, zone, recipient.time)
            && Schedule::new(cron, "UTC", None).is_ok()
        {
            problems.add(&path, &problem);
        }
        for field in prompt.fields() {
            if !recipient.fields.contains_key(field) {
                problems.add(&path, &format!("has no `{field}`, which the prompt needs"));
            }
        }
        if recipients.iter().any(|other| other.identifier == recipient.identifier && other.time == recipient.time) {
            problems.add(&path, "is there twice");
        }
        recipients.push(recipient);
    }
    recipients
}

fn check_csv(path: &Path, prompt: &Template, problems: &mut Problems<'_>) {
    use std::io::{BufRead, Read};
    let mut first = String::new();
    let read =
        std::fs::File::open(path).and_then(|file| std::io::BufReader::new(file.take(64 * 1024)).read_line(&mut first));
    if let Err(error) = read {
        return problems.add("recipients.file", &format!("{}: {error}", path.display()));
    }
    match recipients::header(first.trim_start_matches('\u{feff}').trim_end()) {
        Err(problem) => problems.add("recipients.file", &format!("{}:1: {problem}", path.display())),
        Ok(names) => {
            for field in prompt.fields() {
                if !names.iter().any(|name| name == field) {
                    let problem = format!("{}:1: there is no column `{field}`, which the prompt needs", path.display());
                    problems.add("recipients.file", &problem);
                }
            }
        }
    }
}
