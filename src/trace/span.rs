//! One span: begun, added to, and sent when it is dropped.

use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use opentelemetry::trace::{Event, Link, SpanId, Status};
use opentelemetry::{Array, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::{Kind, Outlet, Place};

/// A span under way, or nothing. It ends where it is dropped, however that comes about.
#[must_use = "a span that is dropped at once says nothing"]
pub(crate) struct Span(Option<Box<Live>>);

struct Live {
    outlet: Arc<Outlet>,
    place: Place,
    data: Option<SpanData>,
}

impl Span {
    /// Nothing is traced.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    pub(super) fn begin(
        outlet: &Arc<Outlet>,
        kind: Kind,
        name: String,
        parent: Place,
        id: SpanId,
        start: Timestamp,
    ) -> Self {
        let place = parent.with_span(id);
        let data = SpanData {
            span_context: place.context(),
            parent_span_id: parent.span(),
            parent_span_is_remote: parent.is_remote(),
            span_kind: kind.into(),
            name: name.into(),
            start_time: start.into(),
            end_time: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: outlet.scope.clone(),
        };
        Self(Some(Box::new(Live { outlet: outlet.clone(), place, data: Some(data) })))
    }

    /// Whether it is recorded, and may hold what users, models and tools said.
    pub(crate) fn takes_content(&self) -> bool {
        self.0.as_ref().is_some_and(|live| live.outlet.content)
    }

    /// Whether it is recorded.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Says that it is about sending a reply to this queue, or to the one of all who have none.
    pub(crate) fn sends_reply(&mut self, to: Option<&str>) {
        let Some(live) = &mut self.0 else { return };
        let Some(data) = &mut live.data else { return };
        let queue = to.unwrap_or(&live.outlet.replies).to_owned();
        data.name = format!("send {queue}").into();
        data.attributes.extend([
            KeyValue::new("messaging.system", "rabbitmq"),
            KeyValue::new("messaging.destination.name", queue),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.operation.name", "send"),
        ]);
    }

    /// Where others find it.
    pub(crate) fn place(&self) -> Option<Place> {
        self.0.as_ref().map(|live| live.place)
    }

    /// A span below this one that begins now.
    pub(crate) fn child(&self, kind: Kind, name: impl FnOnce() -> String) -> Self {
        let Some(live) = &self.0 else { return Self::none() };
        let start = live.outlet.clock.now();
        Self::begin(&live.outlet, kind, name(), live.place, live.outlet.next_id(), start)
    }

    /// Sets an attribute.
    pub(crate) fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(data) = self.data() {
            data.attributes.push(KeyValue::new(key, value));
        }
    }

    /// Sets an attribute where there is a value.
    pub(crate) fn set_some(&mut self, key: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }

    /// Sets a number that OpenTelemetry has as a signed one.
    pub(crate) fn count(&mut self, key: &'static str, value: u64) {
        self.set(key, i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// Sets an attribute that is a list of words.
    pub(crate) fn list(&mut self, key: &'static str, words: impl IntoIterator<Item = String>) {
        if self.is_on() {
            self.set(key, Value::Array(Array::String(words.into_iter().map(StringValue::from).collect())));
        }
    }

    /// Something happened just now.
    pub(crate) fn event(&mut self, name: &'static str, attributes: Vec<(&'static str, String)>) {
        let Some(live) = &mut self.0 else { return };
        let now = live.outlet.clock.now();
        let attributes = attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect();
        if let Some(data) = &mut live.data {
            data.events.events.push(Event::new(name, now.into(), attributes, 0));
        }
    }

    /// Links it to another span.
    pub(crate) fn link(&mut self, to: Option<Place>) {
        if let (Some(to), Some(data)) = (to, self.data()) {
            data.links.links.push(Link::new(to.context(), Vec::new(), 0));
        }
    }

    /// What it is about failed; `kind` is one of few words (`error.type`).
    pub(crate) fn fail(&mut self, kind: impl Into<String>) {
        let kind = kind.into();
        if let Some(data) = self.data() {
            data.status = Status::error(kind.clone());
            data.attributes.push(KeyValue::new("error.type", kind));
        }
    }

    /// Ends it at a time that has passed.
    pub(crate) fn end_at(mut self, end: Timestamp) {
        if let Some(data) = self.data() {
            data.end_time = end.into();
        }
    }

    fn data(&mut self) -> Option<&mut SpanData> {
        self.0.as_mut()?.data.as_mut()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let Some(mut data) = self.data.take() else { return };
        if data.end_time == SystemTime::UNIX_EPOCH {
            data.end_time = self.outlet.clock.now().into();
        }
        data.end_time = data.end_time.max(data.start_time);
        self.outlet.take(data);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Known, TraceRules, Tracer};
    use super::*;
    use crate::clock::ManualClock;
    use crate::metrics::Metrics;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn rules(room: usize, process: &str) -> TraceRules {
        TraceRules {
            room,
            content: true,
            process: process.to_owned(),
            queue: "jobs".to_owned(),
            replies: "replies".to_owned(),
        }
    }

    #[test]
    fn a_tracer_that_is_off_and_a_caller_who_wants_no_trace_make_nothing() {
        let unsampled = HEADER.replace("-01", "-00");
        let clock = Arc::new(ManualClock::new(NOW));
        let (on, mut spans) = Tracer::new(rules(1, "p"), clock, Arc::new(Metrics::default()));
        for trace in [Tracer::default().trace_of("a", Some(HEADER)), on.trace_of("a", Some(&unsampled))] {
            let name = || unreachable!("nobody asks for its name");
            let span = trace.known_span(Known::Process(1), name, NOW);
            assert!(!trace.is_on() && !span.is_on() && !span.takes_content() && span.place().is_none());
            drop(span.child(Kind::Client, name));
        }
        assert!(spans.try_recv().is_err());
    }

    #[test]
    fn spans_that_find_no_room_are_dropped_and_counted_and_nobody_waits() {
        let (clock, metrics) = (Arc::new(ManualClock::new(NOW)), Arc::new(Metrics::default()));
        let (tracer, mut spans) = Tracer::new(rules(2, "p"), clock, metrics.clone());
        let trace = tracer.trace_of("a", None);
        for _ in 0..5 {
            drop(trace.span(Kind::Internal, || "one".to_owned(), NOW));
        }
        assert!(spans.try_recv().is_ok() && spans.try_recv().is_ok() && spans.try_recv().is_err());
        assert!(metrics.render().contains("agentkit_spans_total{outcome=\"dropped\"} 3"), "{}", metrics.render());
    }

    #[test]
    fn another_process_knows_the_spans_of_an_attempt_and_no_two_spans_are_one() {
        let tracer = |process: &str| {
            let clock = Arc::new(ManualClock::new(NOW));
            Tracer::new(rules(9, process), clock, Arc::new(Metrics::default()))
        };
        let ((one, mut spans), (other, _others)) = (tracer("p"), tracer("q"));
        let (first, second) = (one.trace_of("a", Some(HEADER)), other.trace_of("a", Some(HEADER)));
        assert_eq!(first.place(Known::InvokeAgent(1)), second.place(Known::InvokeAgent(1)));
        assert_ne!(first.place(Known::InvokeAgent(1)), first.place(Known::InvokeAgent(2)));
        assert_ne!(first.place(Known::InvokeAgent(1)), one.trace_of("b", Some(HEADER)).place(Known::InvokeAgent(1)));
        let attempt = first.known_span(Known::InvokeAgent(1), || "invoke".to_owned(), NOW);
        let (mut call, again) =
            (attempt.child(Kind::Client, || "c".to_owned()), second.span(Kind::Client, || "c".to_owned(), NOW));
        assert_ne!(call.place(), again.place());
        call.fail("timed_out");
        drop(call);
        let call = spans.try_recv().unwrap();
        assert_eq!(Some(call.parent_span_id), attempt.place().map(Place::span));
        assert_eq!(call.status, Status::error("timed_out"));
    }
}
