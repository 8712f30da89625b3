//! Does what a run says comes next, journals what came of it, and asks again.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::hold::Hold;
use super::interruption::Interruption;
use super::links::Links;
use super::toolbox::{Source, Toolbox, ToolboxError};
use crate::agent::conclusion;
use crate::agent::event::{Event, PinnedTool, ToolOutcome};
use crate::agent::run::{Run, Step};
use crate::agent::selection::{Selected, select};
use crate::agent::tool::{Tool, Toolset};
use crate::agent::turn::Conclusion;
use crate::digest_store::DigestStore;
use crate::llm::{Llm, RenderedTools};
use crate::metrics::Metrics;
use crate::parking::Parking;
use crate::queue::{Destination, Message, Publisher};
use crate::reply::{ErrorCode, ErrorDetail, Progress, Reply, ReplyEvent};
use crate::retry::Policy;
use crate::scalekit::Scalekit;

/// Everything that a run needs from outside.
pub struct Executor {
    /// Accounts, tools and their execution.
    pub scalekit: Arc<Scalekit>,
    /// The model.
    pub llm: Arc<Llm>,
    /// Tool lists.
    pub toolbox: Arc<Toolbox>,
    /// Magic links that were handed out.
    pub links: Links,
    /// How the jobs of digests end, and which of them may ask their users.
    pub digests: Arc<dyn DigestStore>,
    /// Runs that wait for their users.
    pub parking: Arc<dyn Parking>,
    /// Interim replies.
    pub publisher: Arc<dyn Publisher>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Tasks that nothing waits for but the process's end.
    pub tracker: TaskTracker,
    /// Bounds and waits.
    pub rules: Rules,
}

/// Bounds and waits of the executor.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Repeats of a model call in place.
    pub model_retry: Policy,
    /// Repeats of a tool call in place.
    pub tool_retry: Policy,
    /// A step that has started, as a tool call, may still end within this time after the worker was told to stop.
    pub drain: Duration,
    /// First and longest wait between two looks at an account that the user has to authorize.
    pub poll: (Duration, Duration),
    /// Whether an account that somebody disconnected on purpose gets a new link.
    pub relink_disconnected: bool,
    /// Whether Scalekit's tool-call logs (preview) are asked to settle a doubt.
    pub settle_by_logs: bool,
}

/// What one attempt works with, besides the run itself.
pub(super) struct Attempt<'a> {
    pub(super) executor: &'a Executor,
    pub(super) hold: &'a mut Hold,
    /// The message that the attempt is for: where replies go.
    pub(super) message: &'a Message,
    pub(super) stop: &'a CancellationToken,
    pub(super) offer: Option<Offer>,
}

/// The pinned tools with their definitions, and as they stand in every request.
pub(super) struct Offer {
    pub(super) toolset: Toolset,
    pub(super) rendered: RenderedTools,
}

impl Executor {
    /// Goes on with the run until it has a reply to deliver, or something interrupts it.
    pub async fn execute(
        &self,
        hold: &mut Hold,
        message: &Message,
        stop: &CancellationToken,
    ) -> Result<Box<Reply>, Interruption> {
        let mut attempt = Attempt { executor: self, hold, message, stop, offer: None };
        loop {
            let now = attempt.hold.clock().now();
            let step = attempt.hold.run().next(now);
            if stop.is_cancelled() && !matches!(step, Step::Deliver(_) | Step::Done) {
                return Err(Interruption::Shutdown);
            }
            let awaited = attempt.run().unmet_authorization().map(|awaited| awaited.connections.clone());
            let done = match step {
                Step::CheckAccounts => self.in_time(stop, Box::pin(attempt.check_accounts())).await,
                Step::ListTools => self.in_time(stop, Box::pin(attempt.list_tools())).await,
                Step::CallModel => self.in_time(stop, Box::pin(attempt.call_model())).await,
                Step::CallTools(calls) => attempt.call_tools(&calls).await,
                Step::SettleDoubt(call) => attempt.settle_doubt(&call).await,
                Step::Finish(conclusion) => attempt.finish(*conclusion).await,
                Step::Deliver(reply) => return Ok(reply),
                Step::Done => return Err(Interruption::OwnershipLost),
            };
            if let Some(connections) = awaited
                && (attempt.run().unmet_authorization().is_none() || attempt.run().reply().is_some())
            {
                attempt.end_wait(&connections).await;
            }
            done?;
        }
    }
}

impl Executor {
    /// A step that may be left in its middle where it takes too long once the worker was told to stop.
    async fn in_time(
        &self,
        stop: &CancellationToken,
        step: impl Future<Output = Result<(), Interruption>>,
    ) -> Result<(), Interruption> {
        tokio::select! {
            result = step => result,
            () = self.out_of_time(stop) => Err(Interruption::Shutdown),
        }
    }

    /// Ready when the worker was told to stop and what is under way has had its time.
    pub(super) async fn out_of_time(&self, stop: &CancellationToken) {
        stop.cancelled().await;
        tokio::time::sleep(self.rules.drain).await;
    }
}

impl Attempt<'_> {
    pub(super) fn run(&self) -> &Run {
        self.hold.run()
    }

    pub(super) async fn finish(&mut self, conclusion: Conclusion) -> Result<(), Interruption> {
        let reply = conclusion::reply(self.run(), conclusion, self.hold.clock().now());
        self.hold.record(vec![Event::Finished(Box::new(reply))]).await
    }

    pub(super) async fn fail(&mut self, error: ErrorDetail) -> Result<(), Interruption> {
        self.finish(Conclusion::failed(error)).await
    }

    /// Finds the run's tools and pins them.
    async fn list_tools(&mut self) -> Result<(), Interruption> {
        self.progress("tools", None);
        let Some(listed) = self.all_tools().await? else { return Ok(()) };
        let executor = self.executor;
        let (job, model) = (self.run().job(), self.run().settings().model.clone());
        let cap = executor.llm.profile(&model).tool_cap;
        let selected = select(listed, &job.tools, &executor.toolbox.config().deny, &job.prompt, cap);
        if selected.tools.is_empty() {
            return self.fail(nothing_allowed(&selected)).await;
        }
        if selected.left_out > 0 {
            warn!(job.id = %job.id(), tools = selected.tools.len(), left_out = selected.left_out, "more tools than the model takes");
        }
        info!(job.id = %job.id(), job.identifier = %job.identifier, tools = selected.tools.len(), "tools listed");
        let pinned = selected.tools.iter().map(Tool::pinned).collect();
        self.hold.record(vec![Event::ToolsListed { tools: pinned, left_out: selected.left_out }]).await?;
        self.offer = Some(self.render(selected.tools));
        Ok(())
    }

    /// All tools of all connections, or `None` where the run has come to its end for want of them.
    async fn all_tools(&mut self) -> Result<Option<Vec<Tool>>, Interruption> {
        let identifier = self.run().job().identifier.clone();
        let mut all = Vec::new();
        for connection in self.run().job().connections.clone() {
            match self.executor.toolbox.list(&identifier, &connection).await {
                Ok((tools, source)) => {
                    let source = Source::as_str(source);
                    info!(job.id = %self.run().job().id(), %connection, tools = tools.len(), source, "tool list");
                    all.extend(tools);
                }
                Err(ToolboxError::Empty) => {
                    self.fail(empty_list(&connection, &identifier)).await?;
                    return Ok(None);
                }
                Err(ToolboxError::Scalekit(error)) => match self.account_trouble(&[(connection, &error)]).await? {
                    true => return Ok(None),
                    false => return Err(Interruption::from(&*error)),
                },
            }
        }
        Ok(Some(all))
    }

    /// The pinned tools with their definitions; found again after a change of worker.
    pub(super) async fn offer(&mut self) -> Result<Option<&Offer>, Interruption> {
        if self.offer.is_none() {
            let Some(listed) = self.all_tools().await? else { return Ok(None) };
            let pinned = self.run().pinned();
            let tools: Vec<Tool> = pinned.iter().filter_map(|pinned| define(pinned, &listed)).collect();
            if tools.len() < pinned.len() {
                warn!(job.id = %self.run().job().id(), missing = pinned.len() - tools.len(), "pinned tools are gone");
            }
            self.offer = Some(self.render(tools));
        }
        Ok(self.offer.as_ref())
    }

    fn render(&self, tools: Vec<Tool>) -> Offer {
        let profile = self.executor.llm.profile(&self.run().settings().model);
        Offer { rendered: RenderedTools::new(&profile, &tools), toolset: Toolset::new(tools) }
    }

    /// A write had started when its worker died. Without better knowledge its outcome is unknown.
    async fn settle_doubt(&mut self, call_id: &str) -> Result<(), Interruption> {
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
        warn!(job.id = %self.run().job().id(), ?outcome, "a write was under way when its worker stopped");
        self.hold.record(vec![Event::ToolFinished { call_id: call_id.to_owned(), outcome }]).await
    }

    /// Tells the caller how far the run is, where it asked for it: best effort, never waited for.
    pub(super) fn progress(&self, phase: &str, tool: Option<&str>) {
        let job = self.run().job();
        if !job.progress {
            return;
        }
        let data = Progress { step: self.run().steps(), phase: phase.to_owned(), tool: tool.map(str::to_owned) };
        let mark = format!("progress:{}:{phase}", self.run().sequence());
        let reply = Reply::interim(&job.id(), &mark, self.hold.clock().now(), ReplyEvent::Progress(data));
        let message = super::publishing::reply_message(&reply, self.message, job);
        let (publisher, to) = (self.executor.publisher.clone(), job.reply_to.clone());
        if to.is_some() {
            self.executor.tracker.spawn(async move {
                if let Err(error) = publisher.publish(&Destination::Reply(to), message).await {
                    tracing::debug!(%error, "progress could not be told");
                }
            });
        }
    }
}

fn define(pinned: &PinnedTool, listed: &[Tool]) -> Option<Tool> {
    let tool = listed.iter().find(|tool| tool.name == pinned.name && tool.connection == pinned.connection)?;
    Some(Tool { model_name: pinned.model_name.clone(), effect: pinned.effect, ..tool.clone() })
}

fn empty_list(connection: &crate::job::ConnectionName, identifier: &crate::job::Identifier) -> ErrorDetail {
    ErrorDetail::new(
        ErrorCode::NoTools,
        format!("connection `{connection}` lists no tools for `{identifier}`, although its account is ACTIVE"),
    )
    .hint("check under AgentKit > Connections that this connection has tools; the account itself is connected")
    .connection(connection.as_str())
}

fn nothing_allowed(selected: &Selected) -> ErrorDetail {
    ErrorDetail::new(
        ErrorCode::NoTools,
        format!(
            "none of the user's {} tools is allowed by the job's `tools` and the operator's deny list",
            selected.offered
        ),
    )
    .hint("correct `tools.allow`, `tools.deny` and `tools.effects`; `agentkit-worker tools` lists the names")
}
