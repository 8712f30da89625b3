//! Running tool calls: journalled before they leave, repeated only where that is safe, in doubt reported.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::interruption::Interruption;
use super::lease::Lease;
use super::outbound_call::{CallEnd, OutboundCall};
use super::{Attempt, Executor, trace_content};
use crate::agent::effect::{Effect, InDoubt, Ran, in_doubt};
use crate::agent::event::{Event, NOT_SECURED, NOT_WITNESSED, Plan, ToolOutcome};
use crate::agent::result;
use crate::job::ConnectionName;
use crate::retry::{RetryDecision, retry};
use crate::trace::{Kind, Place, Span};
use crate::worker::message::wake_up::WitnessedCall;
use crate::worker::resources::tool_error::ToolError;
use crate::worker::resources::tool_source::{ToolRequest, ToolUser};

/// What is waited for longer than this is no work.
const MOMENT: Duration = Duration::from_secs(1);

impl Attempt<'_> {
    /// Runs the calls of one batch at the same time.
    pub(super) async fn call_tools(&mut self, call_ids: &[String]) -> Result<(), Interruption> {
        let calls: Vec<OutboundCall> = call_ids.iter().filter_map(|call_id| self.call(call_id)).collect();
        let started = calls.iter().map(|call| Event::ToolStarted { call_id: call.call_id.clone() });
        self.leased.record(started.collect()).await?;
        if self.run().has_lost_writes()
            && let Some(call) = calls.iter().find(|call| in_doubt(call.tool.effect, Ran::Perhaps) == InDoubt::Unknown)
        {
            return self.leave_in_doubt(call).await;
        }
        let (forbidden, calls): (Vec<_>, Vec<_>) =
            calls.into_iter().partition(|call| self.executor.tool_catalog.forbids(&call.tool));
        self.forbid(&forbidden).await?;
        if calls.is_empty() {
            return Ok(());
        }
        let mut witnessed = self.witness(&calls).await?;
        for call in &calls {
            self.progress("tool_call", Some(&call.tool.name));
        }
        let (executor, lease) = (self.executor, self.leased.lease().clone());
        let mut under_way: FuturesUnordered<_> = calls
            .iter()
            .map(|call| {
                let (lease, span) = (&lease, tool_span(self.span, call));
                async move { (call, executor.call(call, lease, span).await) }
            })
            .collect();
        let mut hindered: Vec<(ConnectionName, ToolError)> = Vec::new();
        let mut out_of_time = std::pin::pin!(executor.out_of_time(self.stop));
        loop {
            let finished = tokio::select! {
                finished = under_way.next() => finished,
                // What is still out stays started in the journal: a read runs again, a write is in doubt.
                () = &mut out_of_time => return Err(Interruption::Shutdown),
            };
            let Some((call, (ended, retries))) = finished else { break };
            let call_id = call.call_id.clone();
            let mut events: Vec<Event> = witnessed.take().into_iter().chain(retries).collect();
            events.push(match ended {
                CallEnd::Outcome(outcome) => Event::ToolFinished { call_id, outcome },
                CallEnd::NotRun(error) => {
                    let reason = error.code().to_owned();
                    hindered.push((call.tool.connection.clone(), error));
                    Event::ToolNotRun { call_id, reason }
                }
            });
            // The last one of a batch that only reads waits for what comes next.
            if under_way.is_empty() && hindered.is_empty() && call.tool.effect == Effect::Read {
                self.leased.note(events)?;
            } else {
                self.leased.record(events).await?;
            }
        }
        let troubles: Vec<_> = hindered.iter().map(|(connection, error)| (connection.clone(), error)).collect();
        match hindered.first() {
            None => Ok(()),
            Some(_) if Box::pin(self.account_trouble(&troubles)).await? => Ok(()),
            Some((connection, error)) => Err(Interruption::of_source(connection, error)),
        }
    }

    /// The operator has forbidden these since they were pinned.
    async fn forbid(&mut self, calls: &[OutboundCall]) -> Result<(), Interruption> {
        for call in calls {
            warn!(tool = call.tool.name, "the call is not made: its tool is forbidden by now");
            let message = "nothing was done, as the operator does not allow this tool any more".to_owned();
            let outcome = ToolOutcome::Failed { message, execution_id: None };
            self.leased.record(vec![Event::ToolFinished { call_id: call.call_id.clone(), outcome }]).await?;
        }
        Ok(())
    }

    /// Has the journal survive what was asked for, and the broker know of a call that is more than reading, before it leaves;
    /// such a call is alone in its batch. Returns the wake-up that tells of it, to be journalled with what follows. A broker
    /// that takes nothing for hours is waited for, which is no working time: then the call starts anew.
    async fn witness(&mut self, calls: &[OutboundCall]) -> Result<Option<Event>, Interruption> {
        let Some(call) = calls.iter().find(|call| call.tool.effect != Effect::Read) else { return Ok(None) };
        let (entries, generation) = (self.run().sequence(), self.run().wake_up_generation());
        if let Err(error) = self.leased.lease().secure(entries).await {
            warn!(%error, tool = call.tool.name, "a call that is more than reading waits: what its run did may get lost");
            self.hold_back(call, NOT_SECURED, false).await?;
            return Err(error.into());
        }
        let witnessed = WitnessedCall { id: call.call_id.clone(), tool: call.tool.name.clone() };
        let asked = Instant::now();
        let testified = tokio::select! {
            testified = self.witness.testify(entries, generation, witnessed) => {
                testified.map_err(|error| Interruption::Unwitnessed(error.to_string()))
            }
            () = self.executor.out_of_time(self.stop) => Err(Interruption::Shutdown),
        };
        match testified {
            Ok(generation) => {
                if asked.elapsed() > MOMENT {
                    self.hold_back(call, NOT_WITNESSED, true).await?;
                }
                Ok(Some(Event::WakeUpPublished { generation }))
            }
            Err(why) => {
                self.hold_back(call, NOT_WITNESSED, false).await?;
                Err(why)
            }
        }
    }

    /// Journals that a call which had started has not left, and where it does now that it starts anew. Both in one step: a
    /// journal that lost the second half alone would have the call made twice, and be no shorter than the broker knows.
    async fn hold_back(&mut self, call: &OutboundCall, reason: &str, leaves_now: bool) -> Result<(), Interruption> {
        let call_id = || call.call_id.clone();
        let held = Event::ToolNotRun { call_id: call_id(), reason: reason.to_owned() };
        let anew = leaves_now.then(|| Event::ToolStarted { call_id: call_id() });
        self.leased.record([held].into_iter().chain(anew).collect()).await
    }

    /// A write that may have been made before the store lost the run's journal. It is alone in its batch.
    async fn leave_in_doubt(&mut self, call: &OutboundCall) -> Result<(), Interruption> {
        warn!(tool = call.tool.name, "a write is not made: its run may have made it before the store lost its journal");
        let message = "the store lost how far this run was before, and the call may have been made then".to_owned();
        let outcome = ToolOutcome::Unknown { message, execution_id: None };
        self.leased.record(vec![Event::ToolFinished { call_id: call.call_id.clone(), outcome }]).await
    }

    /// A write had started when its worker died. Without better knowledge its outcome is unknown.
    pub(super) async fn settle_doubt(&mut self, call_id: &str) -> Result<(), Interruption> {
        let settled = match self.call(call_id) {
            Some(call) => self.executor.settled_by_logs(&call).await,
            None => None,
        };
        let outcome = match settled {
            Some(outcome) => outcome,
            None => ToolOutcome::Unknown {
                message: "the worker stopped while the call was under way".to_owned(),
                execution_id: None,
            },
        };
        let name = CallEnd::Outcome(outcome.clone()).name();
        warn!(outcome = name, "a write was under way when its worker stopped");
        self.leased.record(vec![Event::ToolFinished { call_id: call_id.to_owned(), outcome }]).await
    }

    /// The call of the open turn with this id.
    fn call(&self, call_id: &str) -> Option<OutboundCall> {
        let run = self.run();
        let Plan::Run { tool, arguments, .. } = &run.open_call(call_id)?.plan else { return None };
        Some(OutboundCall {
            call_id: call_id.to_owned(),
            tool: tool.clone(),
            arguments: arguments.clone(),
            identifier: run.job().identifier.clone(),
            run_id: run.job().id(),
            reads_only: self.reads_only(),
            left: Duration::try_from(run.remaining(self.leased.clock().now())).unwrap_or_default(),
            result_bytes: run.settings().result_bytes,
            known_executions: run.known_executions(call_id),
        })
    }
}

/// The span of a call, its repeats included.
fn tool_span(attempt: &Span, call: &OutboundCall) -> Span {
    let tool = &call.tool;
    let mut span = attempt.child(Kind::Internal, || format!("execute_tool {}", tool.name));
    if !span.is_on() {
        return span;
    }
    span.set("gen_ai.operation.name", "execute_tool");
    span.set("gen_ai.tool.name", tool.name.clone());
    span.set("gen_ai.tool.call.id", call.call_id.clone());
    span.set("gen_ai.tool.type", "function");
    span.set("agentkit.tool.effect", tool.effect.as_str());
    span.set("agentkit.tool.connection", tool.connection.as_str().to_owned());
    trace_content::arguments(&mut span, &call.arguments);
    span
}

/// How it ended.
fn tool_ended(span: &mut Span, ended: &CallEnd) {
    span.set("agentkit.tool.outcome", ended.name());
    match ended {
        CallEnd::Outcome(outcome) => {
            let (content, execution_id) = match outcome {
                ToolOutcome::Done { content, execution_id } => (content, execution_id),
                ToolOutcome::Failed { message, execution_id } | ToolOutcome::Unknown { message, execution_id } => {
                    span.fail(ended.name());
                    (message, execution_id)
                }
            };
            span.set_some("agentkit.tool.execution_id", execution_id.clone());
            trace_content::result(span, content);
        }
        CallEnd::NotRun(error) => span.fail(error.code()),
    }
}

impl Executor {
    /// Calls as often as that is safe. A process that was paused for long may have lost the run: whether it is still ours
    /// is asked before anything leaves.
    async fn call(&self, call: &OutboundCall, lease: &Lease, mut span: Span) -> (CallEnd, Vec<Event>) {
        let OutboundCall { tool, run_id, .. } = call;
        let effect = tool.effect;
        let (mut retries, began) = (Vec::new(), Instant::now());
        let traceparent = span.place().map(Place::header);
        let run = run_id.unique();
        let user = ToolUser { identifier: &call.identifier, run: &run, reads_only: call.reads_only };
        let execute = || async {
            let request = ToolRequest {
                user,
                connection: &tool.connection,
                tool: &tool.name,
                arguments: &call.arguments,
                left: call.left.saturating_sub(began.elapsed()),
                traceparent: traceparent.as_deref(),
            };
            let may_leave = || async { lease.assure().await.map_err(|why| why.to_string()) };
            self.sources.call(&request, may_leave).await
        };
        let decide = |error: &ToolError| {
            let may_repeat = !error.is_answer() && in_doubt(effect, error.ran()) == InDoubt::RunAgain;
            let has_time = began.elapsed() < call.left;
            if may_repeat && has_time { error.retry_tool() } else { RetryDecision::Stop }
        };
        let notice = |error: &ToolError, attempt: u32, wait: Duration| {
            let wait_milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            let effect = effect.as_str();
            let outline = error.outline();
            warn!(tool = tool.name, effect, attempt, wait_milliseconds, error = outline, "the tool call is repeated");
            debug!(tool = tool.name, %error, "the source's words");
            self.metrics.tool_retried(error.code());
            span.event("retry", vec![("error.type", error.code().to_owned())]);
            retries.push(Event::Retried { call: tool.name.clone(), reason: error.code().to_owned() });
        };
        let executed = retry(self.rules.tool_retry, decide, notice, execute).await;
        let ended = match executed {
            Ok(answer) => {
                if answer.list_changed {
                    self.tool_catalog.forget(&call.identifier, &tool.connection).await;
                }
                let content = result::render(&answer.data, call.result_bytes);
                CallEnd::Outcome(ToolOutcome::Done { content, execution_id: answer.execution_id })
            }
            Err(error) => {
                self.classify_failure(call, error, 1 + u32::try_from(retries.len()).unwrap_or(u32::MAX - 1)).await
            }
        };
        let outcome = ended.name();
        tool_ended(&mut span, &ended);
        drop(span);
        self.metrics.tool_called(&tool.name, effect.as_str(), outcome, began.elapsed().as_secs_f64());
        let took_milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if matches!(ended, CallEnd::Outcome(ToolOutcome::Unknown { .. })) {
            warn!(
                tool = tool.name,
                effect = effect.as_str(),
                took_milliseconds,
                "whether the call did anything is unknown"
            );
        } else {
            debug!(tool = tool.name, effect = effect.as_str(), outcome, took_milliseconds, "tool call");
        }
        (ended, retries)
    }
}
