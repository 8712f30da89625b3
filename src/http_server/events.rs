//! `GET /v1/jobs/{id}/events`: what happens to a job, as server-sent events. Each has the number of its entry in the journal as
//! `id`, so that whoever was cut off goes on behind the last one that they saw.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, sleep_until};

use super::Endpoints;
use super::answers::{not_now, permitted, said};
use super::jobs::{LOOK_EVERY, refused, visible};
use super::tokens::Scope;
use crate::job::JobId;
use crate::worker::control::happenings::{Happening, JournalFollower};
use crate::worker::control::job_door::NotDone;

/// Header: the `id` of the last event that was seen.
const LAST_EVENT_ID: &str = "last-event-id";
/// A stream ends after this time, before its connection does, and whoever wants more goes on where it ended.
const LIFE: Duration = Duration::from_mins(4);
/// Something is said at least so often, so that nobody in between takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A journal that is followed.
struct Following {
    facts: Endpoints,
    id: JobId,
    follower: JournalFollower,
    /// What is still to be told.
    untold: VecDeque<Happening>,
    until: Instant,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

/// `GET /v1/jobs/{id}/events`
pub(super) async fn events(State(facts): State<Endpoints>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    follow(facts, &id, &headers).await.unwrap_or_else(|refused| refused)
}

async fn follow(facts: Endpoints, id: &str, headers: &HeaderMap) -> Result<Response, Response> {
    let token = permitted(&facts.tokens, headers, Scope::JobsRead)?;
    let seen = match headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or_default()) {
        None | Some("") => 0,
        Some(text) => text.parse::<u64>().map_err(|_| {
            said(StatusCode::BAD_REQUEST, "bad_request", "`Last-Event-ID` is the `id` of an event of this stream")
        })?,
    };
    let (id, _) = visible(&facts, token, id).await?;
    let place = facts.streams.clone().try_acquire_owned();
    let place = place.map_err(|_| not_now("as many follow their jobs as `http.max_streams` lets"))?;
    let mut following = Following {
        facts,
        id,
        follower: JournalFollower::default(),
        untold: VecDeque::new(),
        until: Instant::now() + LIFE,
        ended: false,
        _place: place,
    };
    following.read().await.map_err(|error| refused(&error))?;
    // A journal that is shorter than what was seen is another one, or what remains of it.
    if seen <= following.follower.sequence() {
        following.untold.retain(|happening| happening.sequence > seen);
    }
    if following.ended && following.untold.is_empty() {
        // The end was seen: whoever comes again by itself need not.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let stream = unfold(following, |mut following| async {
        let happening = following.next().await?;
        let data = happening.data.to_string();
        let event = Event::default().id(happening.sequence.to_string()).event(happening.kind).data(data);
        Some((Ok::<_, Infallible>(event), following))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

impl Following {
    /// The next thing that happens; `None` after the last one, and where the stream ends before.
    async fn next(&mut self) -> Option<Happening> {
        loop {
            if let Some(happening) = self.untold.pop_front() {
                return Some(happening);
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                () = self.facts.stop.cancelled() => return None,
                () = sleep_until(self.until) => return None,
                () = sleep(LOOK_EVERY) => {}
            }
            let length = self.facts.jobs.length(&self.id).await.ok()?;
            let known = self.follower.sequence();
            // Shorter than it was: the store has lost it, and whoever comes again begins anew.
            if length < known {
                return None;
            }
            if length > known {
                self.read().await.ok()?;
            }
        }
    }

    async fn read(&mut self) -> Result<(), NotDone> {
        let entries = self.facts.jobs.entries(&self.id).await?;
        let happenings = self.follower.read(&entries);
        self.ended |= happenings.iter().any(|happening| happening.is_last);
        self.untold.extend(happenings);
        Ok(())
    }
}
