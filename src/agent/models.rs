//! Which models a run asks: the one that it began with, and those that took its place.

use super::asked_models::is_for_good;
pub use super::asked_models::{CONTEXT_TOO_LONG, MODEL_GONE, QUOTA_EXHAUSTED, RATE_LIMITED};
use super::state::Run;
use crate::reply::ModelUse;

impl Run {
    /// The model that is asked now, by the name that the configuration has for it.
    pub fn model(&self) -> &str {
        &self.models.present().name
    }

    /// Whether the run ever left a model for another one.
    pub fn has_switched_models(&self) -> bool {
        self.models.all.len() > 1
    }

    /// Which of `chain` takes the place of the present model, which the run leaves for this reason: the first that the run
    /// has not left. Where the reason is for good, it may be one that was left for something that passes, before nobody is
    /// asked at all.
    pub fn next_model<'c>(&self, chain: &'c [String], reason: &str) -> Option<&'c str> {
        let others = || chain.iter().map(String::as_str).filter(|name| *name != self.model() && !name.is_empty());
        let known = |name: &str| self.models.find(name);
        others().find(|name| known(name).is_none_or(|model| !model.is_out)).or_else(|| {
            let may_be_back = |name: &&str| known(name).is_some_and(|model| !model.is_out_for_good());
            others().find(may_be_back).filter(|_| is_for_good(reason))
        })
    }

    /// All models that were to be asked, where there was more than one.
    pub fn models_asked(&self) -> Vec<ModelUse> {
        if !self.has_switched_models() {
            return Vec::new();
        }
        let uses = self.models.all.iter().enumerate().map(|(index, model)| ModelUse {
            model: model.name.clone(),
            calls: model.answers,
            reason: model.left_for.clone().filter(|_| index != self.models.present),
        });
        uses.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{Event, Pause};
    use super::super::message::{AssistantMessage, Message};
    use super::super::script::{Script, says, wants};
    use super::*;

    const READ: &str = "gmail_fetch_mails";

    fn switched(from: &str, to: &str, reason: &str) -> Event {
        Event::ModelSwitched { from: from.into(), to: to.into(), reason: reason.into() }
    }

    fn chain(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn next(script: &Script, names: &[&str], reason: &str) -> Option<String> {
        script.run.next_model(&chain(names), reason).map(str::to_owned)
    }

    fn uses(script: &Script) -> Vec<(String, u32, Option<String>)> {
        let account = script.account();
        account.models.into_iter().map(|used| (used.model, used.calls, used.reason)).collect()
    }

    #[test]
    fn the_model_that_takes_over_stays_and_the_reply_tells_of_all() {
        let mut script = Script::ready(|_| {});
        script.model(wants(&[("c1", READ, "{}")])).start("c1").done("c1", "mails");
        script.event(switched("model-1", "model-2", MODEL_GONE)).model(wants(&[("c2", READ, "{\"a\": 1}")]));
        assert_eq!(script.run.model(), "model-2");
        script.start("c2").done("c2", "more mails").pause(Pause::RateLimited).attempt();
        assert_eq!(script.run.model(), "model-2", "a wait does not bring the first one back");
        let mut answer = says("done");
        answer.model = Some("model-2-0601".into());
        script.model(answer);
        let expected = [("model-1".into(), 1, Some(MODEL_GONE.into())), ("model-2".into(), 2, None)];
        assert_eq!(uses(&script), expected);
        let account = script.account();
        assert_eq!(account.model.as_deref(), Some("model-2-0601"));
        let notice = account.notices.iter().find(|notice| notice.code == "model_fallback").unwrap();
        assert!(notice.message.contains("model-1") && notice.message.contains("model-2"), "{notice:?}");
    }

    #[test]
    fn a_run_that_asked_one_model_tells_of_no_others() {
        let mut script = Script::ready(|_| {});
        script.model(says("done"));
        assert_eq!(uses(&script), []);
    }

    #[test]
    fn each_is_tried_once_until_a_wait_and_one_that_is_gone_never_again() {
        let all = ["model-1", "b", "c"];
        let mut script = Script::ready(|_| {});
        assert_eq!(next(&script, &all, "unavailable").as_deref(), Some("b"));
        script.event(switched("model-1", "b", "unavailable"));
        assert_eq!(next(&script, &all, MODEL_GONE).as_deref(), Some("c"));
        script.event(switched("b", "c", MODEL_GONE));
        assert_eq!(next(&script, &all, "unavailable"), None, "all were tried");
        assert_eq!(next(&script, &all, QUOTA_EXHAUSTED).as_deref(), Some("model-1"), "which may be back");
        assert!(script.try_event(switched("c", "b", "unavailable")).is_err(), "it is gone for good");
        script.pause(Pause::Transient).attempt();
        assert_eq!(next(&script, &all, "unavailable").as_deref(), Some("model-1"), "after a wait it may be back");
        script.event(switched("c", "model-1", "unavailable"));
        assert_eq!(next(&script, &all, "unavailable"), None);
        script.event(Event::ModelAsked).pause(Pause::Shutdown).attempt();
        assert_eq!(next(&script, &all, "unavailable"), None, "what was no wait for a model brings none back");
        script.model(wants(&[("c1", READ, "{}")])).start("c1").done("c1", "mails");
        assert_eq!(next(&script, &all, "unavailable").as_deref(), Some("c"), "the run got further");
        assert_eq!(next(&script, &["model-1", ""], "unavailable"), None, "nobody takes over from itself");
    }

    #[test]
    fn a_switch_follows_at_a_step_boundary_from_the_present_model_to_another_one() {
        let mut script = Script::ready(|_| {});
        for (from, to) in [("b", "c"), ("model-1", "model-1"), ("model-1", ""), ("", "b")] {
            assert!(script.try_event(switched(from, to, MODEL_GONE)).is_err(), "{from} {to}");
        }
        assert!(script.try_event(switched("model-1", "b", MODEL_GONE)).is_ok());
        assert!(script.run.check(&[switched("model-1", "b", MODEL_GONE), Event::ModelAsked]).is_err());
        script.model(wants(&[("c1", READ, "{}")]));
        assert!(script.try_event(switched("model-1", "b", MODEL_GONE)).is_err(), "in the middle of a turn");
    }

    #[test]
    fn what_only_the_former_model_can_read_is_not_sent_to_the_next_one() {
        let mut script = Script::ready(|_| {});
        let mut turn = wants(&[("c1", READ, "{}")]);
        turn.message.provider_items = vec![serde_json::json!({"type": "reasoning", "encrypted_content": "b64="})];
        script.model(turn).start("c1").done("c1", "mails").event(switched("model-1", "b", "unavailable"));
        let own = script.run.messages().iter().filter_map(|message| match message {
            Message::Assistant(AssistantMessage { provider_items, calls, .. }) => {
                Some((provider_items.len(), calls.len()))
            }
            _ => None,
        });
        assert_eq!(own.collect::<Vec<_>>(), [(0, 1)]);
    }

    #[test]
    fn only_a_question_that_may_have_cost_something_makes_the_usage_unknown() {
        for (reason, unknown) in
            [(MODEL_GONE, false), ("unavailable", false), ("timed_out", true), ("bad_answer", true)]
        {
            let mut script = Script::ready(|_| {});
            script.event(Event::ModelAsked).event(switched("model-1", "b", reason)).model(says("done"));
            assert_eq!(script.account().usage.unknown, unknown, "{reason}");
        }
    }
}
