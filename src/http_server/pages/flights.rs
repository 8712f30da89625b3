//! Runs that a worker has in its hands, of all workers, and what became of others lately.

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::calls::job_address;
use super::frame::{Shown, nothing, span};
use super::sees;
use super::session::Viewer;
use crate::http_server::Endpoints;
use crate::job::{Identifier, JobId};
use crate::journal::index::RunQuery;
use crate::standing::RunState;
use crate::worker::control::finding;
use crate::worker::control::timeline::Timeline;

/// So many are shown, those that changed last.
const MOST: usize = 20;
/// So many that have ended are counted.
const MOST_ENDED: usize = 100;

/// A run under way.
pub(super) struct Flight {
    pub(super) id: JobId,
    pub(super) identifier: Identifier,
    pub(super) doing: String,
    pub(super) steps: u32,
    pub(super) since: Timestamp,
}

/// How many ended so in the last hour; whether there are more than were counted.
pub(super) struct Lately {
    pub(super) state: RunState,
    pub(super) count: usize,
    pub(super) more: bool,
}

/// Those that whoever looks may know of.
pub(super) async fn flights(facts: &Endpoints, viewer: &Viewer<'_>) -> Result<Vec<Flight>, String> {
    let query = RunQuery { state: Some(RunState::Running), limit: MOST, ..RunQuery::default() };
    let found = finding::list(&*facts.pages.journal, &query).await.map_err(|error| error.to_string())?;
    let now = facts.pages.clock.now();
    let seen = found.rows.into_iter().filter(|row| sees(facts, viewer, &row.id, &row.identifier));
    let read = seen.map(|row| async move {
        let lines = facts.pages.journal.read(&row.id).await.ok()?;
        let timeline = Timeline::read(&lines).ok()??;
        let since = timeline.rows().first()?.at;
        let (_, steps) = timeline.counts();
        Some(Flight { id: row.id, identifier: row.identifier, doing: timeline.run().doing(now), steps, since })
    });
    Ok(futures_util::future::join_all(read).await.into_iter().flatten().collect())
}

/// What ended in the last hour, of all users.
pub(super) async fn lately(facts: &Endpoints) -> Result<Vec<Lately>, String> {
    let since = facts.pages.clock.now().checked_sub(SignedDuration::from_hours(1)).ok();
    let mut all = Vec::new();
    for state in [RunState::Completed, RunState::Failed] {
        let query = RunQuery { state: Some(state), since, limit: MOST_ENDED, ..RunQuery::default() };
        let found = finding::list(&*facts.pages.journal, &query).await.map_err(|error| error.to_string())?;
        all.push(Lately { state, count: found.rows.len(), more: found.next.is_some() });
    }
    Ok(all)
}

/// Them as a table.
pub(super) fn flights_part(flights: &Result<Vec<Flight>, String>, now: Timestamp) -> Markup {
    html! {
        section data-part="flights" aria-labelledby="flights" {
            h2 #flights { "In flight" }
            @match flights {
                Err(why) => p.trouble { "They cannot be told now: " (Shown(why)) },
                Ok(flights) if flights.is_empty() => (nothing("No worker has a run in its hands.")),
                Ok(flights) => table.rows {
                    thead { tr { th scope="col" { "Job" } th scope="col" { "User" } th scope="col" { "It is at" } th.number scope="col" { "Turns" } th.number scope="col" { "Age" } } }
                    tbody { @for flight in flights {
                        tr {
                            td data-label="Job" { a href=(job_address(flight.id.key())) { (Shown(&flight.id)) } }
                            td data-label="User" { (Shown(&flight.identifier)) }
                            td data-label="It is at" { (Shown(&flight.doing)) }
                            td.number data-label="Turns" { (flight.steps) }
                            td.number data-label="Age" { (span(flight.since, now)) }
                        }
                    } }
                },
            }
        }
    }
}

/// What ended lately, in words.
pub(super) fn lately_part(lately: &Result<Vec<Lately>, String>) -> Markup {
    html! {
        section data-part="lately" aria-labelledby="lately" {
            h2 #lately { "In the last hour" }
            @match lately {
                Err(why) => p.trouble { "It cannot be told now: " (Shown(why)) },
                Ok(lately) => dl.tiles { @for ended in lately {
                    div.tile {
                        dd { @if ended.more { "more than " } (ended.count) }
                        dt { a href=(format!("jobs?state={}&since=1h", ended.state.as_str())) { (ended.state.as_str()) } }
                    }
                } },
            }
        }
    }
}
