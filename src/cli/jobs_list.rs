//! `jobs list`: finds runs.

use std::process::ExitCode;

use clap::Args;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde_json::json;

use super::CommandError;
use super::output::plain;
use crate::job::Identifier;
use crate::journal::Journal;
use crate::journal::index::{MOST_ROWS, RunCursor, RunQuery};
use crate::standing::{RunRow, RunState};
use crate::worker::control::finding;

/// Which runs are listed.
#[derive(Debug, Args)]
pub struct JobListArguments {
    /// Those that stand so: queued, running, waiting, completed or failed
    #[arg(long, value_name = "S")]
    pub state: Option<String>,
    /// Those of this user
    #[arg(long, value_name = "ID")]
    pub identifier: Option<String>,
    /// Those that changed since then (2026-11-30T09:00:00Z), or so long ago at most (2h, 3 days)
    #[arg(long, value_name = "T")]
    pub since: Option<String>,
    /// So many at most, up to 1000
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// Those behind this place, as the list before named it
    #[arg(long, value_name = "PLACE")]
    pub cursor: Option<String>,
    /// Print one JSON object a line instead: `id`, `identifier`, `state`, `at`
    #[arg(long)]
    pub json: bool,
}

/// Carries out `jobs list`.
pub(super) async fn list(
    arguments: &JobListArguments,
    journal: &dyn Journal,
    now: Timestamp,
) -> Result<ExitCode, CommandError> {
    let query = query(arguments, now).map_err(CommandError::Usage)?;
    let found = finding::list(journal, &query).await?;
    let next = found.next.map(|next| next.to_string());
    for row in &found.rows {
        if arguments.json {
            println!("{}", json!(row));
            continue;
        }
        let RunRow { id, identifier, state, at } = row;
        let at = at.strftime("%Y-%m-%d %H:%M:%SZ");
        println!("{at}  {:<9}  {}  {}", state.as_str(), plain(identifier.as_str()), plain(&id.unique()));
    }
    match next {
        Some(next) => eprintln!("there are more: --cursor {next}"),
        None if found.rows.is_empty() => eprintln!("no such run is known"),
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn query(arguments: &JobListArguments, now: Timestamp) -> Result<RunQuery, String> {
    let state = |name: &String| {
        let names = || RunState::ALL.map(RunState::as_str).join(", ");
        RunState::named(name).ok_or_else(|| format!("--state: one of {}", names()))
    };
    let identifier =
        |name: &String| Identifier::new(name.clone()).ok_or_else(|| "--identifier: 1 to 100 characters".to_owned());
    let since = |text: &String| {
        let problem = || "--since: a time such as 2026-11-30T09:00:00Z, or how long ago, such as 2h".to_owned();
        let ago = |span: Span| now.to_zoned(TimeZone::UTC).checked_sub(span.abs()).ok().map(|then| then.timestamp());
        text.parse().ok().or_else(|| text.parse().ok().and_then(ago)).ok_or_else(problem)
    };
    let cursor =
        |text: &String| RunCursor::parse(text).ok_or_else(|| "--cursor: as the list before named it".to_owned());
    if !(1..=MOST_ROWS).contains(&arguments.limit) {
        return Err(format!("--limit: 1 to {MOST_ROWS}"));
    }
    Ok(RunQuery {
        state: arguments.state.as_ref().map(state).transpose()?,
        identifier: arguments.identifier.as_ref().map(identifier).transpose()?,
        since: arguments.since.as_ref().map(since).transpose()?,
        cursor: arguments.cursor.as_ref().map(cursor).transpose()?,
        limit: arguments.limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_asked_for_in_words_that_people_use_and_nonsense_is_named() {
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        let asked = |change: &dyn Fn(&mut JobListArguments)| {
            let (state, identifier, since, cursor) = (None, None, None, None);
            let mut arguments = JobListArguments { state, identifier, since, limit: 100, cursor, json: false };
            change(&mut arguments);
            query(&arguments, now)
        };
        let since = |text: &str| asked(&|list| list.since = Some(text.to_owned())).map(|query| query.since.unwrap());
        for (text, time) in [
            ("2026-11-30T09:00:00Z", "2026-11-30T09:00:00Z"),
            ("2026-11-30T09:00:00+02:00", "2026-11-30T07:00:00Z"),
            ("2h", "2026-11-30T10:00:00Z"),
            ("1h 30m", "2026-11-30T10:30:00Z"),
            ("3 days", "2026-11-27T12:00:00Z"),
            ("2 weeks ago", "2026-11-16T12:00:00Z"),
        ] {
            assert_eq!(since(text), Ok(time.parse().unwrap()), "{text}");
        }
        for nonsense in ["", "yesterday", "2026-11-30", "5", "99999999999 years"] {
            assert!(since(nonsense).unwrap_err().starts_with("--since: "), "{nonsense}");
        }
        assert!(asked(&|list| list.state = Some("done".to_owned())).unwrap_err().contains("running, waiting"));
        assert!(asked(&|list| list.identifier = Some(String::new())).is_err());
        assert!(asked(&|list| list.cursor = Some("?".to_owned())).is_err());
        assert!(asked(&|list| list.limit = 0).is_err() && asked(&|list| list.limit = 1001).is_err());
    }
}
