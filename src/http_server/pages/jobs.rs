//! Finding runs: by id, by how they stand, whose they are and when that changed.

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};
use serde::Deserialize;

use super::calls::job_address;
use super::frame::{Section, Shown, nothing, page, span, time};
use super::{looked_at, reader, sees};
use crate::http_server::Endpoints;
use crate::http_server::tokens::Scope;
use crate::job::Identifier;
use crate::journal::index::{RunCursor, RunQuery};
use crate::key::encode;
use crate::standing::{RunRow, RunState};
use crate::worker::control::finding::{self, FoundRuns};

/// Rows of a page.
const ROWS: usize = 50;
/// How long ago at most, as it is chosen.
const SINCE: [(&str, &str, i64); 3] =
    [("1h", "the last hour", 1), ("24h", "the last day", 24), ("7d", "the last week", 168)];

/// What is looked for; what is empty is not asked about.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Search {
    #[serde(default)]
    state: String,
    #[serde(default)]
    identifier: String,
    #[serde(default)]
    since: String,
    #[serde(default)]
    cursor: String,
}

impl Search {
    /// What is asked of the index; `None` where nothing can be found by it.
    fn query(&self, now: Timestamp) -> Option<RunQuery> {
        let hours = SINCE.iter().find(|(name, ..)| *name == self.since).map(|(_, _, hours)| *hours);
        Some(RunQuery {
            state: given(&self.state).map(RunState::named).map_or(Some(None), |state| state.map(Some))?,
            identifier: given(&self.identifier).map(Identifier::new).map_or(Some(None), |name| name.map(Some))?,
            since: hours.and_then(|hours| now.checked_sub(SignedDuration::from_hours(hours)).ok()),
            cursor: given(&self.cursor).map(RunCursor::parse).map_or(Some(None), |cursor| cursor.map(Some))?,
            limit: ROWS,
        })
    }

    /// The address of the page that begins there.
    fn address(&self, cursor: &RunCursor) -> String {
        let Self { state, identifier, since, .. } = self;
        format!(
            "jobs?state={}&identifier={}&since={}&cursor={cursor}",
            encode(state),
            encode(identifier),
            encode(since)
        )
    }
}

pub(super) async fn show(State(facts): State<Endpoints>, headers: HeaderMap, Query(search): Query<Search>) -> Response {
    let viewer = match reader(&facts, &headers, Section::Jobs, Scope::JobsRead) {
        Ok(viewer) => viewer,
        Err(answer) => return answer,
    };
    let now = facts.pages.clock.now();
    let found = match search.query(now) {
        None => Ok(FoundRuns { rows: Vec::new(), next: None }),
        Some(query) => finding::list(&*facts.pages.journal, &query).await.map_err(|error| error.to_string()),
    };
    let found = found.map(|mut found| {
        found.rows.retain(|row| sees(&facts, &viewer, &row.id, &row.identifier));
        found
    });
    let content = html! { (by_id()) (by_facts(&search)) (found_part(&search, &found, now)) };
    looked_at(&facts, &headers, &viewer, page(&viewer, Section::Jobs, "Jobs", true, &content))
}

fn by_id() -> Markup {
    html! {
        form.search method="get" action="job" role="search" aria-label="By id" {
            div {
                label for="id" { "Job id" }
                input #id name="id" required maxlength="200" autocomplete="off" spellcheck="false";
            }
            button.main { "Show" }
        }
    }
}

fn by_facts(search: &Search) -> Markup {
    html! {
        form.search method="get" action="jobs" role="search" aria-label="By what is known" {
            div {
                label for="state" { "State" }
                select #state name="state" {
                    option value="" { "any" }
                    @for state in RunState::ALL.map(RunState::as_str) {
                        option value=(state) selected[search.state == state] { (state) }
                    }
                }
            }
            div {
                label for="identifier" { "User" }
                input #identifier name="identifier" value=(search.identifier) maxlength="100" autocomplete="off" spellcheck="false";
            }
            div {
                label for="since" { "Changed in" }
                select #since name="since" {
                    option value="" { "any time" }
                    @for (value, words, _) in SINCE { option value=(value) selected[search.since == value] { (words) } }
                }
            }
            button { "Find" }
        }
    }
}

fn found_part(search: &Search, found: &Result<FoundRuns, String>, now: Timestamp) -> Markup {
    html! {
        section data-part="found" aria-label="Runs" {
            @match found {
                Err(why) => p.trouble { "They cannot be told now: " (Shown(why)) },
                Ok(found) => {
                    @if found.rows.is_empty() { (nothing("No such run is known.")) } @else { (table(&found.rows, now)) }
                    @if let Some(next) = &found.next { p.next { a href=(search.address(next)) { "Older ones" } } }
                }
            }
        }
    }
}

fn table(rows: &[RunRow], now: Timestamp) -> Markup {
    html! {
        table.rows {
            thead { tr { th scope="col" { "Job" } th scope="col" { "User" } th scope="col" { "State" } th scope="col" { "Since" } } }
            tbody { @for row in rows {
                tr {
                    td data-label="Job" { a href=(job_address(row.id.key())) { (Shown(&row.id)) } }
                    td data-label="User" { (Shown(&row.identifier)) }
                    td data-label="State" { span class={ "tag " (row.state.as_str()) } { (row.state.as_str()) } }
                    td data-label="Since" { div { (time(row.at)) " " span.hint { (span(row.at, now)) } } }
                }
            } }
        }
    }
}

fn given(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobId;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn what_is_left_out_is_not_asked_about_and_nonsense_finds_nothing() {
        let search = |state: &str, identifier: &str, since: &str, cursor: &str| Search {
            state: state.to_owned(),
            identifier: identifier.to_owned(),
            since: since.to_owned(),
            cursor: cursor.to_owned(),
        };
        let all = search("", " ", "", "").query(now()).unwrap();
        assert!(all.state.is_none() && all.identifier.is_none() && all.since.is_none() && all.cursor.is_none());
        let some = search("waiting", "user_123", "1h", "").query(now()).unwrap();
        assert_eq!((some.state, some.identifier), (Some(RunState::Waiting), Identifier::new("user_123")));
        assert_eq!(some.since.map(|since| now().as_second() - since.as_second()), Some(3600));
        for nonsense in [search("asleep", "", "", ""), search("", &"x".repeat(101), "", ""), search("", "", "", "?")] {
            assert!(nonsense.query(now()).is_none(), "{nonsense:?}");
        }
    }

    #[test]
    fn hostile_names_are_text() {
        let hostile = "\"><script>x</script>";
        let (id, identifier) = (JobId::new(hostile).unwrap(), Identifier::new(hostile).unwrap());
        let row = RunRow { id, identifier, state: RunState::Failed, at: now() };
        let search = Search { identifier: hostile.to_owned(), ..Search::default() };
        let found = Ok(FoundRuns { rows: vec![row], next: None });
        let text = html! { (by_facts(&search)) (found_part(&search, &found, now())) }.into_string();
        assert!(text.contains("&lt;script&gt;x") && text.contains("job?id=%22%3E%3Cscript"), "{text}");
        assert!(!text.contains("<script"), "{text}");
    }
}
