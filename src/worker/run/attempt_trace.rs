//! The spans of one attempt: its message, itself, and what was waited for before it; those of a worker that was never heard of
//! again are made up for by its successor.

use jiff::Timestamp;

use super::interruption::Interruption;
use crate::agent::run::{AttemptBefore, Run};
use crate::job::JobId;
use crate::queue::Message;
use crate::reply::{Reply, ReplyEvent, TotalUsage};
use crate::trace::{Kind, Known, Span, Trace, Tracer};

/// What the agent is called in traces.
const AGENT: &str = env!("CARGO_PKG_NAME");

/// The spans of an attempt under way; the message's ends with this value.
pub(crate) struct AttemptTrace {
    /// The attempt's own.
    pub(crate) span: Span,
    usage: TotalUsage,
    _process: Span,
}

/// The trace of the job that `message` brings.
pub(crate) fn trace_of(tracer: &Tracer, message: &Message, job: &JobId) -> Trace {
    tracer.trace_of(job.key(), message.properties.traceparent())
}

impl AttemptTrace {
    /// The attempt that `run` has just begun over `message`.
    pub(crate) fn begin(tracer: &Tracer, message: &Message, run: &Run) -> Self {
        let (job, now) = (run.job().id(), run.attempt_began());
        let trace = trace_of(tracer, message, &job);
        let usage = run.usage();
        if !trace.is_on() {
            return Self { span: Span::none(), usage, _process: Span::none() };
        }
        let number = run.attempts();
        match run.attempt_before() {
            None => {
                if let Some(published) = message.properties.timestamp {
                    waited(&trace, "queue", published, now);
                }
            }
            Some(AttemptBefore { ended, pause: Some(pause), .. }) => waited(&trace, pause.as_str(), ended, now),
            Some(AttemptBefore { began, ended, pause: None }) => {
                let (mut process, mut span) = spans(&trace, run, number - 1, began);
                process.fail("worker_lost");
                span.fail("worker_lost");
                span.end_at(ended);
                process.end_at(ended);
                waited(&trace, "worker_lost", ended, now);
            }
        }
        let (process, span) = spans(&trace, run, number, now);
        Self { span, usage, _process: process }
    }

    /// The attempt is over.
    pub(crate) fn end(&mut self, run: &Run, result: Option<&Result<Box<Reply>, Interruption>>) {
        let span = std::mem::replace(&mut self.span, Span::none());
        let mut span = span;
        let used = run.usage();
        span.count("gen_ai.usage.input_tokens", used.input_tokens.saturating_sub(self.usage.input_tokens));
        span.count("gen_ai.usage.output_tokens", used.output_tokens.saturating_sub(self.usage.output_tokens));
        match result {
            Some(Ok(reply)) => match &reply.event {
                ReplyEvent::Failed(failed) => span.fail(failed.error.code.as_str()),
                _ => span.set("agentkit.outcome", "completed"),
            },
            Some(Err(why)) if why.is_failure() => span.fail(why.name()),
            Some(Err(why)) => span.set("agentkit.outcome", why.name()),
            None => span.fail("panic"),
        }
    }
}

/// A span for what was waited for before an attempt.
fn waited(trace: &Trace, reason: &str, from: Timestamp, to: Timestamp) {
    let mut span = trace.span(Kind::Internal, || format!("wait {reason}"), from);
    span.set("agentkit.wait.reason", reason.to_owned());
    if reason == "queue" {
        message_attributes(&mut span, trace);
    }
    span.end_at(to);
}

fn message_attributes(span: &mut Span, trace: &Trace) {
    span.set("messaging.system", "rabbitmq");
    span.set("messaging.destination.name", trace.queue().to_owned());
}

/// The span of an attempt's message, and the attempt's own, which is linked to the one before.
fn spans(trace: &Trace, run: &Run, number: u32, start: Timestamp) -> (Span, Span) {
    let job = run.job().id();
    let mut process = trace.known_span(Known::Process(number), || format!("process {}", trace.queue()), start);
    message_attributes(&mut process, trace);
    process.set("messaging.operation.type", "process");
    process.set("messaging.operation.name", "process");
    process.set("messaging.message.id", job.to_string());
    let mut span = trace.known_span(Known::InvokeAgent(number), || format!("invoke_agent {AGENT}"), start);
    span.set("gen_ai.operation.name", "invoke_agent");
    span.set("gen_ai.agent.name", AGENT);
    span.set("gen_ai.conversation.id", job.to_string());
    span.set("gen_ai.request.model", run.model().to_owned());
    span.count("agentkit.attempt", number.into());
    if number > 1 {
        span.link(trace.place(Known::InvokeAgent(number - 1)));
    }
    (process, span)
}

/// A span for a reply that is published after an attempt, where there was one. `to` is the caller's queue, if it has one.
pub(crate) fn send_span(trace: &Trace, attempt: Option<u32>, to: Option<&str>, now: Timestamp) -> Span {
    let name = || "send".to_owned();
    let mut span = match attempt {
        Some(number) => trace.span_below(Known::Process(number), Kind::Producer, name, now),
        None => trace.span(Kind::Producer, name, now),
    };
    span.sends_reply(to);
    span
}
