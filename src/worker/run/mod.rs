//! Does what a run says comes next, journals what came of it, and asks again. Each step has a file of its own.

pub(crate) mod ask_approval;
pub(crate) mod attempt_trace;
mod audited;
mod call_model;
mod call_tools;
pub(crate) mod check_accounts;
mod classify_failure;
mod compact_history;
mod fall_over;
pub(crate) mod interruption;
pub(crate) mod lease;
pub(crate) mod leased_run;
mod list_tools;
mod money;
mod outbound_call;
mod progress;
pub(crate) mod revocation;
mod searchable;
mod trace_content;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::interruption::Interruption;
use self::leased_run::LeasedRun;
use self::searchable::Searchable;
use super::message::posting::addressed;
use super::message::reply_message::reply_message;
use super::message::signature::HeaderKey;
use super::message::witness::Witness;
use super::resources::accounts::SharedAccounts;
use super::resources::cooldown::Cooldowns;
use super::resources::credentials::{Credentials, Service};
use super::resources::fallbacks::Fallbacks;
use super::resources::magic_links::MagicLinks;
use super::resources::offers::{Offer, Offers};
use super::resources::parked_index::ParkedIndex;
use super::resources::poster::Poster;
use super::resources::spending::Spending;
use super::resources::tool_catalog::ToolCatalog;
use super::resources::tool_source::ToolSources;
use crate::agent::conclusion;
use crate::agent::event::Event;
use crate::agent::run::{Run, Step};
use crate::agent::turn::Conclusion;
use crate::approval::link::Links;
use crate::digest_store::DigestStore;
use crate::job::OfferedEffects;
use crate::llm::Llm;
use crate::metrics::Metrics;
use crate::queue::{Message, Published, Publisher, QueueError};
use crate::reply::{ErrorDetail, Reply};
use crate::retry::Policy;
use crate::scalekit::Scalekit;
use crate::trace::{Kind, Span, Tracer};

/// Everything that a run needs from outside.
pub(crate) struct Executor {
    /// Its log of tool calls.
    pub scalekit: Arc<Scalekit>,
    /// Tools and their execution.
    pub sources: Arc<ToolSources>,
    /// Whether the users' accounts can be used.
    pub accounts: Arc<SharedAccounts>,
    pub llm: Arc<Llm>,
    /// Signs replies on their way to addresses.
    pub header_key: HeaderKey,
    /// Brings them there.
    pub poster: Arc<Poster>,
    pub tool_catalog: Arc<ToolCatalog>,
    pub offers: Offers,
    /// Whether the worker's own credentials are taken.
    pub credentials: Arc<Credentials>,
    /// Models that asked to be left alone.
    pub cooldowns: Cooldowns,
    /// The operator's budgets.
    pub spending: Arc<Spending>,
    /// Who takes over from which model.
    pub fallbacks: Fallbacks,
    /// Magic links that were handed out.
    pub magic_links: Arc<MagicLinks>,
    /// How the jobs of digests end, and which of them may ask their users.
    pub digests: Arc<dyn DigestStore>,
    /// Makes the links by which people approve.
    pub approval_links: Arc<Links>,
    /// Runs that wait for their users.
    pub parked: Arc<ParkedIndex>,
    /// Interim replies.
    pub publisher: Arc<dyn Publisher>,
    pub metrics: Arc<Metrics>,
    pub tracer: Tracer,
    /// Tasks that nothing waits for but the process's end.
    pub tracker: TaskTracker,
    /// Bounds and waits.
    pub rules: RunRules,
}

/// Bounds and waits of the executor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunRules {
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
    pub(super) leased: &'a mut LeasedRun,
    /// The message that the attempt is for: where replies go.
    pub(super) message: &'a Message,
    /// Knows of calls that are more than reading before they leave.
    pub(super) witness: &'a Witness,
    pub(super) stop: &'a CancellationToken,
    /// The attempt in its trace.
    pub(super) span: &'a Span,
    offer: Option<Arc<Offer>>,
    /// All that the run may find, where its model may search for further tools.
    searchable: Option<Searchable>,
}

impl Executor {
    /// Goes on with the run until it has a reply to deliver, or something interrupts it.
    pub(crate) async fn execute(
        &self,
        leased: &mut LeasedRun,
        message: &Message,
        witness: &Witness,
        stop: &CancellationToken,
        span: &Span,
    ) -> Result<Box<Reply>, Interruption> {
        let mut attempt =
            Attempt { executor: self, leased, message, witness, stop, span, offer: None, searchable: None };
        loop {
            let now = attempt.leased.clock().now();
            let step = attempt.leased.run().next(now);
            if stop.is_cancelled() && !matches!(step, Step::Deliver(_) | Step::Done) {
                return Err(Interruption::Shutdown);
            }
            let awaited = attempt.run().unmet_authorization().map(|awaited| awaited.connections.clone());
            // Boxed: a run that waits for its model shall not carry along what other steps need.
            let done = match step {
                Step::CheckAccounts => self.in_time(stop, Box::pin(attempt.check_accounts())).await,
                Step::ListTools => self.in_time(stop, Box::pin(attempt.list_tools())).await,
                Step::AskApproval(calls) => self.in_time(stop, Box::pin(attempt.ask_approval(&calls))).await,
                Step::AwaitApproval => self.in_time(stop, Box::pin(attempt.await_approval())).await,
                Step::ExpireApprovals(approvals) => attempt.expire_approvals(&approvals).await,
                Step::CallModel => self.in_time(stop, Box::pin(attempt.call_model())).await,
                Step::CallTools(calls) => Box::pin(attempt.call_tools(&calls)).await,
                Step::SettleDoubt(call) => Box::pin(attempt.settle_doubt(&call)).await,
                Step::Finish(conclusion) => attempt.finish(*conclusion).await,
                Step::Deliver(reply) => return Ok(reply),
                Step::Done => return Err(Interruption::OwnershipLost),
            };
            if let Some(connections) = awaited
                && (attempt.run().unmet_authorization().is_none() || attempt.run().reply().is_some())
            {
                attempt.end_wait(&connections).await;
            }
            let model = attempt.run().model();
            done.map_err(|why| self.judged(why, model))?;
        }
    }

    /// Whoever refuses one run and takes others' calls with the same credentials refuses the run.
    fn judged(&self, why: Interruption, model: &str) -> Interruption {
        let services = [Service::Scalekit, Service::Provider(self.llm.provider(model))];
        match why {
            Interruption::Credentials { reason, outline }
                if !services.into_iter().any(|service| self.credentials.is_refused(service)) =>
            {
                Interruption::Transient { reason, outline }
            }
            why => why,
        }
    }

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
        self.leased.run()
    }

    /// Whether the run may not change anything, by its job or by the operator.
    pub(super) fn reads_only(&self) -> bool {
        let ceiling = self.executor.tool_catalog.config().effects_ceiling;
        [self.run().job().tools.effects, ceiling].contains(&OfferedEffects::Read)
    }

    /// Tells the caller something that the run cannot go on without; whether the run is still ours is asked before.
    pub(super) async fn tell(&self, reply: &Reply) -> Result<(), Interruption> {
        let job = self.run().job();
        let message = reply_message(reply, self.message, job);
        self.leased.lease().assure().await?;
        let mut span = self.span.child(Kind::Producer, || "send".to_owned());
        span.sends_reply(job.reply_to.as_deref());
        let (to, message) = addressed(message, job, &self.executor.header_key);
        let published = self.executor.publisher.publish(&to, message).await;
        if published.is_err() {
            span.fail("not_published");
        }
        drop(span);
        let published = published.map_err(|error| match error {
            QueueError::NotTaken { .. } => Interruption::ReplyNotTaken(error.to_string()),
            error => Interruption::transient(error.to_string()),
        })?;
        self.executor.metrics.replied(reply.event.kind(), published == Published::FellBack);
        Ok(())
    }

    pub(super) async fn finish(&mut self, conclusion: Conclusion) -> Result<(), Interruption> {
        let reply = conclusion::reply(self.run(), conclusion, self.leased.clock().now());
        self.leased.record(vec![Event::Finished(Box::new(reply))]).await
    }

    pub(super) async fn fail(&mut self, error: ErrorDetail) -> Result<(), Interruption> {
        self.finish(Conclusion::failed(error)).await
    }
}
