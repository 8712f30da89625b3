//! What a run's calls of models cost so far, as its journal says.

use super::state::Run;
use crate::money::{Amount, ModelCost};

impl Run {
    /// What all its calls of models cost so far.
    pub fn cost(&self) -> ModelCost {
        self.cost_where(self.asked)
    }

    /// The same, where a request is out and may have to be paid, or none is.
    pub(super) fn cost_where(&self, asked: bool) -> ModelCost {
        if self.unknown_cost(asked).is_some() { ModelCost::Unknown } else { ModelCost::of(self.spent.known()) }
    }

    /// What of its cost is known: it is at least this.
    pub fn known_cost(&self) -> Amount {
        self.spent.known()
    }

    /// Why the cost is not known, in a sentence.
    pub(super) fn unknown_cost(&self, asked: bool) -> Option<String> {
        let why = if self.spent.unpriced > 0 {
            format!(
                "of {} answered model call(s) the price (`prices` in config/models.toml, `model.prices`) or the tokens are not \
                 known",
                self.spent.unpriced
            )
        } else if self.usage.unknown || asked {
            "of a model call it is not known how many tokens it took".to_owned()
        } else if self.journal_lost {
            "the store lost how far this run was before".to_owned()
        } else {
            return None;
        };
        let limit =
            self.settings().cost_nano_usd.map(|_| "; `limits.cost` counts only what is known").unwrap_or_default();
        Some(format!("what the run cost is not known, as {why}; it is at least {}{limit}", self.spent.known()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{Entry, Event};
    use super::super::script::{Script, says, wants};
    use super::*;
    use crate::reply::{ErrorCode, Notice};

    fn unknown(notices: &[Notice]) -> Vec<&str> {
        notices.iter().filter(|notice| notice.code == "cost_unknown").map(|notice| notice.message.as_str()).collect()
    }

    #[test]
    fn the_costs_of_all_calls_are_summed_exactly() {
        let mut script = Script::ready(|_| {});
        script.priced(wants(&[("c1", "nonsense", "{}")]), Some(12_345)).priced(says("done"), Some(1));
        let account = script.account();
        assert_eq!(account.usage.cost, ModelCost::of(Amount::of_nano_usd(12_346)));
        assert_eq!(unknown(&account.notices), [""; 0]);
    }

    #[test]
    fn one_call_without_a_price_makes_the_cost_unknown_and_never_nothing() {
        let mut script = Script::ready(|_| {});
        script.priced(wants(&[("c1", "nonsense", "{}")]), Some(12_000_000)).priced(says("done"), None);
        let account = script.account();
        assert_eq!(account.usage.cost, ModelCost::Unknown);
        let said = unknown(&account.notices);
        assert!(said[0].contains("the price") && said[0].contains("at least 0.012 USD") && said.len() == 1, "{said:?}");
    }

    #[test]
    fn a_call_that_was_never_answered_or_without_figures_makes_it_unknown_too() {
        let mut cut_off = Script::ready(|_| {});
        cut_off.event(Event::ModelAsked).attempt().priced(says("done"), Some(5));
        let mut without = says("done");
        without.usage = None;
        let mut silent = Script::ready(|_| {});
        silent.priced(without, None);
        let mut lost = Script::ready(|started| started.journal_lost = true);
        lost.priced(says("done"), Some(5));
        for script in [cut_off, silent, lost] {
            let account = script.account();
            assert_eq!((account.usage.cost, unknown(&account.notices).len()), (ModelCost::Unknown, 1));
        }
    }

    #[test]
    fn a_request_that_was_refused_is_not_paid() {
        use super::super::{conclusion, state::Conclusion};
        for (code, cost) in [
            (ErrorCode::ModelRejected, ModelCost::default()),
            (ErrorCode::ModelQuota, ModelCost::default()),
            (ErrorCode::TokenLimit, ModelCost::default()),
            (ErrorCode::BudgetExceeded, ModelCost::default()),
            (ErrorCode::ContentFiltered, ModelCost::Unknown),
            (ErrorCode::Cancelled, ModelCost::Unknown),
        ] {
            let mut script = Script::ready(|_| {});
            script.event(Event::ModelAsked);
            let failed = Conclusion::failed(crate::reply::ErrorDetail::new(code, "no"));
            let reply = conclusion::reply(&script.run, failed, script.now);
            assert_eq!(reply.event.account().unwrap().usage.cost, cost, "{code:?}");
        }
    }

    #[test]
    fn a_run_that_asked_no_model_cost_nothing() {
        let mut script = Script::ready(|_| {});
        script.asleep(10_000);
        let account = script.account();
        assert_eq!((account.usage.cost, unknown(&account.notices).len()), (ModelCost::default(), 0));
    }

    #[test]
    fn what_reaches_the_limit_ends_the_run_before_the_next_call_with_all_that_was_done() {
        let limit = |nano| Script::ready(|started| started.settings.cost_nano_usd = Some(nano));
        let mut script = limit(1000);
        script.priced(wants(&[("w1", "gmail_send_message", r#"{"to": "a"}"#)]), Some(1000));
        script.start("w1").done("w1", "sent");
        assert_eq!(script.failure(), ErrorCode::BudgetExceeded);
        let account = script.account();
        assert_eq!((account.effects.len(), account.usage.cost), (1, ModelCost::of(Amount::of_nano_usd(1000))));
        let mut script = limit(1001);
        script.priced(wants(&[("c1", "nonsense", "{}")]), Some(1000));
        assert_eq!(script.next(), super::super::run::Step::CallModel);
        script.priced(says("done"), Some(5000));
        assert_eq!(script.account().stop_reason, "answered", "what was paid is given");
        let mut script = limit(1);
        script.priced(wants(&[("c1", "nonsense", "{}")]), None);
        assert_eq!(script.next(), super::super::run::Step::CallModel, "what is not known is not counted, and said");
    }

    #[test]
    fn only_a_run_with_a_limit_or_one_that_reached_it_needs_a_worker_of_this_version() {
        let mut script = Script::ready(|started| started.settings.cost_nano_usd = Some(1));
        script.priced(wants(&[("c1", "nonsense", "{}")]), Some(1));
        let needs = |line: &str| serde_json::from_str::<Entry>(line).unwrap().schema;
        assert_eq!(needs(&script.journal[0]), 6);
        assert_eq!(Entry::new(script.now, Event::Finished(Box::new(script.reply()))).schema, 6);
        let mut script = Script::ready(|_| {});
        script.priced(says("done"), Some(1));
        script.event(Event::Finished(Box::new(script.reply())));
        assert!(script.journal.iter().all(|line| needs(line) == 2), "{:#?}", script.journal);
    }
}
