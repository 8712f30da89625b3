//! Spans of what happens to a job, in the form of OpenTelemetry, or nothing at all: a tracer that is off makes no span and costs
//! nothing.
//!
//! A job's trace is its caller's (`traceparent`); one whose caller has none is named by the job's id. The ids of its attempts'
//! spans follow from the trace, the job and the attempt's number: so a later attempt knows those of an earlier one without being
//! told, and a worker that died leaves no gap.

mod place;
mod span;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use opentelemetry::InstrumentationScope;
use opentelemetry::trace::{SpanId, SpanKind};
use opentelemetry_sdk::trace::SpanData;
use tokio::sync::mpsc;

pub(crate) use self::place::Place;
pub(crate) use self::span::Span;
use crate::clock::SharedClock;
use crate::key::digest;
use crate::metrics::Metrics;

/// The conventions that names of spans and attributes are taken from.
const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/gen-ai/0.1.0";

/// What a span is about, to its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A message was taken.
    Consumer,
    /// A message was published.
    Producer,
    /// Somebody was asked.
    Client,
    /// Neither.
    Internal,
}

impl From<Kind> for SpanKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Consumer => Self::Consumer,
            Kind::Producer => Self::Producer,
            Kind::Client => Self::Client,
            Kind::Internal => Self::Internal,
        }
    }
}

/// Makes spans, or none.
#[derive(Clone, Default)]
pub(crate) struct Tracer(Option<Arc<Outlet>>);

/// Where spans go.
struct Outlet {
    sender: mpsc::Sender<SpanData>,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    scope: InstrumentationScope,
    /// Makes ids that no other process makes.
    process: String,
    /// The queue that jobs come from.
    queue: String,
    /// Where replies go that have no queue of their own.
    replies: String,
    made: AtomicU64,
    content: bool,
}

/// How a process traces.
#[derive(Debug, Clone)]
pub(crate) struct TraceRules {
    /// Spans that may wait to be sent.
    pub(crate) room: usize,
    /// Whether spans may hold what users, models and tools said.
    pub(crate) content: bool,
    /// The process, unique at every start.
    pub(crate) process: String,
    /// The queue that jobs come from.
    pub(crate) queue: String,
    /// Where replies go that have no queue of their own.
    pub(crate) replies: String,
}

impl Outlet {
    /// Never waits: a span that finds no room is counted.
    fn take(&self, span: SpanData) {
        if self.sender.try_send(span).is_err() {
            self.metrics.spans("dropped", 1);
        }
    }

    fn next_id(&self) -> SpanId {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        span_id(&format!("{}/{number}", self.process))
    }
}

impl Tracer {
    /// A tracer whose spans come out at the receiver, as long as there is room for them.
    pub(crate) fn new(
        rules: TraceRules,
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> (Self, mpsc::Receiver<SpanData>) {
        let TraceRules { room, content, process, queue, replies } = rules;
        let (sender, receiver) = mpsc::channel(room);
        let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(SCHEMA_URL)
            .build();
        let outlet =
            Outlet { sender, clock, metrics, scope, process, queue, replies, made: AtomicU64::new(0), content };
        (Self(Some(Arc::new(outlet))), receiver)
    }

    /// The trace of a job whose message has this `traceparent`; none where nothing is traced, or the caller does not want it.
    pub(crate) fn trace_of(&self, job: &str, traceparent: Option<&str>) -> Trace {
        let made = || {
            let outlet = self.0.as_ref()?;
            let caller = traceparent.and_then(Place::of_header);
            let place = caller.unwrap_or_else(|| Place::of_job(job));
            place.is_sampled().then(|| Traced { outlet: outlet.clone(), caller: place, job: job.to_owned() })
        };
        Trace(made())
    }
}

/// The trace of one job, or none.
#[derive(Clone, Default)]
pub(crate) struct Trace(Option<Traced>);

#[derive(Clone)]
struct Traced {
    outlet: Arc<Outlet>,
    /// Without a span where the caller has none.
    caller: Place,
    job: String,
}

/// A span whose id is known to whoever knows the number of the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// The attempt's message.
    Process(u32),
    /// The attempt itself.
    InvokeAgent(u32),
}

impl Trace {
    /// Whether anything is traced.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The queue that jobs come from; empty where nothing is traced.
    pub(crate) fn queue(&self) -> &str {
        self.0.as_ref().map_or("", |traced| &traced.outlet.queue)
    }

    /// A span below the caller's.
    pub(crate) fn span(&self, kind: Kind, name: impl FnOnce() -> String, start: Timestamp) -> Span {
        let Some(traced) = &self.0 else { return Span::none() };
        Span::begin(&traced.outlet, kind, name(), traced.caller, traced.outlet.next_id(), start)
    }

    /// A span of an attempt, below its caller's or below the attempt's message.
    pub(crate) fn known_span(&self, known: Known, name: impl FnOnce() -> String, start: Timestamp) -> Span {
        let Some(traced) = &self.0 else { return Span::none() };
        let (kind, parent) = match known {
            Known::Process(_) => (Kind::Consumer, traced.caller),
            Known::InvokeAgent(number) => (Kind::Internal, traced.place(Known::Process(number))),
        };
        Span::begin(&traced.outlet, kind, name(), parent, traced.id(known), start)
    }

    /// A span below an attempt's, which may be over.
    pub(crate) fn span_below(&self, known: Known, kind: Kind, name: impl FnOnce() -> String, start: Timestamp) -> Span {
        let Some(traced) = &self.0 else { return Span::none() };
        Span::begin(&traced.outlet, kind, name(), traced.place(known), traced.outlet.next_id(), start)
    }

    /// Where the span of an attempt stands.
    pub(crate) fn place(&self, known: Known) -> Option<Place> {
        Some(self.0.as_ref()?.place(known))
    }
}

impl Traced {
    fn id(&self, known: Known) -> SpanId {
        let (what, number) = match known {
            Known::Process(number) => ("process", number),
            Known::InvokeAgent(number) => ("invoke_agent", number),
        };
        span_id(&format!("{}/{}/{what}/{number}", self.caller.trace(), self.job))
    }

    fn place(&self, known: Known) -> Place {
        self.caller.with_span(self.id(known))
    }
}

fn span_id(name: &str) -> SpanId {
    SpanId::from_hex(&digest(name, 8)).unwrap_or(SpanId::INVALID)
}
