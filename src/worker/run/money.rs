//! What a model call costs, and what is set aside for it before it leaves where there are budgets.

use std::time::Duration;

use super::Attempt;
use super::call_model::Unanswered;
use super::interruption::Interruption;
use crate::agent::message::ModelReply;
use crate::agent::run::may_have_cost;
use crate::clock::utc_day;
use crate::llm::{LlmError, ModelRequest};
use crate::money::Amount;
use crate::worker::resources::spending::{HeldMoney, NotHeld};

/// What is set aside for others is settled within seconds, mostly.
const BUSY_WAIT: Duration = Duration::from_secs(5);

impl Attempt<'_> {
    /// What the answer costs, where its tokens and a price of them are known.
    pub(super) fn price_of(&self, reply: &ModelReply) -> Option<Amount> {
        let (usage, day) = (reply.usage?, utc_day(self.leased.clock().now()));
        let price = self.executor.llm.price(self.run().model(), day, usage.input_tokens)?;
        Some(price.of(&usage))
    }

    /// What a request that is over costs, where that is known.
    pub(super) fn cost_of(&self, result: &Result<ModelReply, LlmError>) -> Option<Amount> {
        match result {
            Ok(reply) => self.price_of(reply),
            Err(error) if may_have_cost(error.code()) => None,
            Err(_) => Some(Amount::ZERO),
        }
    }

    /// Sets aside what the request may cost at most; `number` tells it from others for the same turn. Nothing is asked where
    /// there are no budgets. What is set aside for a request that is cut off, by whatever, is spent.
    pub(super) async fn hold_for(
        &self,
        request: &ModelRequest<'_>,
        number: u32,
    ) -> Result<Option<HeldMoney>, Unanswered> {
        let (spending, run) = (&self.executor.spending, self.run());
        if !spending.is_on() {
            return Ok(None);
        }
        let now = self.leased.clock().now();
        let holder = format!("{}:{}:{number}", run.job().id().unique(), run.sequence());
        let most = self.executor.llm.most(request, utc_day(now));
        match spending.hold(run.job(), now, request.model, holder, most).await {
            Ok(held) => Ok(Some(held)),
            Err(NotHeld::Busy(reason)) => {
                let outline = reason.clone();
                Err(Unanswered::Lost(Interruption::RateLimited { wait: BUSY_WAIT, reason, outline }))
            }
            Err(NotHeld::Exceeded { scope, detail }) => {
                self.executor.metrics.budget_exceeded(scope.as_str());
                Err(Unanswered::OverBudget(detail))
            }
            Err(NotHeld::Unavailable(error)) => {
                Err(Unanswered::Lost(Interruption::JournalUnavailable(error.to_string())))
            }
        }
    }
}
