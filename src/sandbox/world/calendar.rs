//! A calendar and the tools on it.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::counter::Counter;
use super::dates::midnight;
use super::gmail::ADDRESS;
use super::outcome::{Outcome, ProviderError};
use super::parameters::{Parameters, contains, count, text, texts};

/// The events of one person.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Calendar {
    events: Vec<Event>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Event {
    id: String,
    summary: String,
    description: String,
    location: String,
    start: Timestamp,
    end: Timestamp,
    attendees: Vec<String>,
    status: String,
}

#[derive(Deserialize)]
pub(super) struct SeedEvent {
    /// Days after today.
    day: i64,
    starts_at_minute: i64,
    minutes: i64,
    summary: String,
    location: String,
}

impl Calendar {
    pub(super) fn new(seed: Vec<SeedEvent>, now: Timestamp) -> Self {
        Self { events: seed.into_iter().enumerate().map(|(index, event)| event.into_event(index, now)).collect() }
    }
}

impl SeedEvent {
    fn into_event(self, index: usize, now: Timestamp) -> Event {
        let start = later(midnight(now, self.day), self.starts_at_minute);
        Event {
            id: format!("ev{index}"),
            summary: self.summary,
            description: String::new(),
            location: self.location,
            start,
            end: later(start, self.minutes),
            attendees: Vec::new(),
            status: "confirmed".to_owned(),
        }
    }
}

impl Event {
    fn to_json(&self) -> Value {
        json!({
            "id": self.id, "summary": self.summary, "description": self.description, "location": self.location,
            "status": self.status, "start": {"dateTime": self.start}, "end": {"dateTime": self.end},
            "attendees": self.attendees.iter().map(|email| json!({ "email": email })).collect::<Vec<_>>(),
        })
    }
}

pub(super) fn run(
    calendar: &mut Calendar,
    action: &str,
    params: &Parameters,
    counter: &mut Counter,
    now: Timestamp,
) -> Outcome {
    match action {
        "list_events" | "search_events" => list(calendar, params),
        "get_event_by_id" => Ok(calendar.events[index(calendar, params)?].to_json()),
        "list_calendars" => Ok(json!({"items": [{"id": "primary", "summary": ADDRESS, "primary": true}]})),
        "query_freebusy" => free_busy(calendar, params),
        "create_event" => create(calendar, params, counter),
        "quick_add_event" => {
            let event = new_event(counter, text(params, "text"), later(now, 60), 60);
            Ok(added(calendar, event))
        }
        "update_event" => update(calendar, params),
        "delete_event" => {
            let index = index(calendar, params)?;
            calendar.events.remove(index);
            Ok(json!({}))
        }
        _ => Err(ProviderError::not_built(action)),
    }
}

fn list(calendar: &Calendar, params: &Parameters) -> Outcome {
    let found = window(calendar, params)?.into_iter().filter(|event| contains(&event.summary, text(params, "query")));
    let items: Vec<Value> = found.take(count(params, "max_results", 250)).map(Event::to_json).collect();
    Ok(json!({"kind": "calendar#events", "items": items}))
}

fn free_busy(calendar: &Calendar, params: &Parameters) -> Outcome {
    let busy: Vec<Value> =
        window(calendar, params)?.iter().map(|event| json!({"start": event.start, "end": event.end})).collect();
    Ok(json!({"calendars": {"primary": {"busy": busy}}}))
}

fn window<'a>(calendar: &'a Calendar, params: &Parameters) -> Result<Vec<&'a Event>, ProviderError> {
    let (from, to) = (instant(params, "time_min")?, instant(params, "time_max")?);
    let overlaps = |event: &&Event| from.is_none_or(|from| event.end > from) && to.is_none_or(|to| event.start < to);
    let mut events: Vec<&Event> = calendar.events.iter().filter(overlaps).collect();
    events.sort_by_key(|event| event.start);
    Ok(events)
}

fn create(calendar: &mut Calendar, params: &Parameters, counter: &mut Counter) -> Outcome {
    let start = instant(params, "start_datetime")?.ok_or_else(|| bad("start_datetime"))?;
    let minutes = count(params, "event_duration_hour", 0) * 60 + count(params, "event_duration_minutes", 0);
    let minutes = if minutes == 0 { 30 } else { i64::try_from(minutes).unwrap_or(30) };
    let mut event = new_event(counter, text(params, "summary"), start, minutes);
    event.attendees = texts(params, "attendees_emails");
    text(params, "description").clone_into(&mut event.description);
    text(params, "location").clone_into(&mut event.location);
    Ok(added(calendar, event))
}

fn update(calendar: &mut Calendar, params: &Parameters) -> Outcome {
    let start = instant(params, "start_datetime")?;
    let index = index(calendar, params)?;
    let event = &mut calendar.events[index];
    if let Some(start) = start {
        let length = event.end.duration_since(event.start);
        event.start = start;
        event.end = start.checked_add(length).unwrap_or(start);
    }
    for (name, field) in [("summary", &mut event.summary), ("location", &mut event.location)] {
        if params.contains_key(name) {
            text(params, name).clone_into(field);
        }
    }
    Ok(event.to_json())
}

fn new_event(counter: &mut Counter, summary: &str, start: Timestamp, minutes: i64) -> Event {
    Event {
        id: format!("ev-new{}", counter.next()),
        summary: summary.to_owned(),
        description: String::new(),
        location: String::new(),
        start,
        end: later(start, minutes),
        attendees: Vec::new(),
        status: "confirmed".to_owned(),
    }
}

fn added(calendar: &mut Calendar, event: Event) -> Value {
    let answer = event.to_json();
    calendar.events.push(event);
    answer
}

fn index(calendar: &Calendar, params: &Parameters) -> Result<usize, ProviderError> {
    let id = text(params, "event_id");
    calendar.events.iter().position(|event| event.id == id).ok_or_else(ProviderError::not_found)
}

/// With an offset, or without one and then in UTC.
fn instant(params: &Parameters, name: &str) -> Result<Option<Timestamp>, ProviderError> {
    let written = text(params, name);
    if written.is_empty() {
        return Ok(None);
    }
    let parsed = written.parse::<Timestamp>().or_else(|_| format!("{written}Z").parse());
    parsed.map(Some).map_err(|_| bad(name))
}

fn bad(name: &str) -> ProviderError {
    ProviderError::bad_parameters(format!("missing or invalid {name} parameter"))
}

fn later(start: Timestamp, minutes: i64) -> Timestamp {
    start.checked_add(SignedDuration::from_mins(minutes)).unwrap_or(start)
}
