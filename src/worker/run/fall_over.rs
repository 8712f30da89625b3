//! Another model takes over from one that is of no use, at a step's boundary.

use std::time::Duration;

use tracing::warn;

use super::Attempt;
use super::interruption::Interruption;
use crate::agent::event::Event;
use crate::agent::models::RATE_LIMITED;
use crate::llm::LlmError;
use crate::reply::{ErrorCode, ErrorDetail};
use crate::trace::Kind;
use crate::worker::resources::cooldown::SHORTEST;

impl Attempt<'_> {
    /// Whether the present model may be asked now; if not, another one has taken over, as it is known to be of no use or wants
    /// no request for long. Waits where it wants none for a moment.
    pub(super) async fn may_ask_model(&mut self) -> Result<bool, Interruption> {
        let executor = self.executor;
        let model = self.run().model().to_owned();
        if let Some(reason) = executor.fallbacks.trouble(&model)
            && self.fall_over(reason)?
        {
            return Ok(false);
        }
        match executor.cooldowns.remaining(&model).await {
            None => {}
            Some(wait) if wait < SHORTEST => tokio::select! {
                () = self.stop.cancelled() => return Err(Interruption::Shutdown),
                () = tokio::time::sleep(wait) => {}
            },
            Some(wait) => {
                if wait > executor.fallbacks.longest_wait() && self.fall_over(RATE_LIMITED)? {
                    return Ok(false);
                }
                let reason = format!("the model `{model}` asked to come later");
                return Err(Interruption::RateLimited { wait, outline: reason.clone(), reason });
            }
        }
        Ok(true)
    }

    /// The present model failed, as often as it may. Whether it is asked less, or another one takes over.
    pub(super) async fn leaves_after(
        &mut self,
        error: &LlmError,
        wait: Option<Duration>,
    ) -> Result<bool, Interruption> {
        let executor = self.executor;
        if let Some(wait) = wait {
            executor.cooldowns.begin(self.run().model(), wait).await;
        }
        if matches!(error, LlmError::ContextTooLong { .. }) && self.compact_refused_history()? {
            return Ok(true);
        }
        let Some(reason) = executor.fallbacks.reason_to_leave(error) else { return Ok(false) };
        executor.fallbacks.failed(self.run().model(), reason);
        self.fall_over(reason)
    }

    /// Another model takes over, where there is one for this reason.
    fn fall_over(&mut self, reason: &'static str) -> Result<bool, Interruption> {
        let executor = self.executor;
        let chain = executor.fallbacks.chain(self.run(), reason);
        let Some(to) = self.run().next_model(&chain, reason).map(str::to_owned) else { return Ok(false) };
        let from = self.run().model().to_owned();
        warn!(from, to, reason, "the run goes on with another model");
        let (llm, metrics) = (&executor.llm, &executor.metrics);
        metrics.model_switched(&llm.metric_name(&from), &llm.metric_name(&to), reason);
        let mut span = self.span.child(Kind::Internal, || "switch model".to_owned());
        span.set("agentkit.model.from", from.clone());
        span.set("gen_ai.request.model", to.clone());
        span.set("error.type", reason);
        drop(span);
        self.leased.note(vec![Event::ModelSwitched { from, to, reason: reason.to_owned() }])?;
        // Its tools are offered in the form and number that the new one takes.
        self.offer = None;
        Ok(true)
    }

    /// The failure that ends the run: that of the model asked last, with whom the run had left before.
    pub(super) fn last_failure(&self, code: ErrorCode, error: &LlmError) -> ErrorDetail {
        let run = self.run();
        let before =
            run.models_asked().into_iter().filter_map(|used| Some(format!("{} ({})", used.model, used.reason?)));
        let before: Vec<String> = before.collect();
        let text = if before.is_empty() {
            error.to_string()
        } else {
            format!("`{}`: {error}; before it the run left {}", run.model(), before.join(", "))
        };
        let detail = ErrorDetail::new(code, text);
        match error {
            LlmError::ModelGone { .. } => detail.hint(self.executor.fallbacks.hint(run)),
            _ => detail,
        }
    }
}
