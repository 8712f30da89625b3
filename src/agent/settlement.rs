//! What people say of effects that were unknown when the run ended.

use jiff::Timestamp;

use super::event::Event;
use super::settled_effect::{KeptSettlement, SettledEffect};
use super::state::{LedgerEntry, Run};
use crate::reply::{EffectEntry, EffectSettled, EffectState, Reply, ReplyEvent, Settlement};

/// Why nothing is settled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSettled {
    /// The same was said before.
    #[error("it was settled so before")]
    Already,
    /// Something else was said before.
    #[error("{by} said before that it was {}", match .settlement { Settlement::Done => "done", Settlement::NotDone => "not done" })]
    Otherwise {
        /// What was said.
        settlement: Settlement,
        /// Who said it.
        by: String,
    },
    /// The run has no reply yet, which may find out by itself.
    #[error("the run has not ended, or its reply is not delivered yet")]
    NotEnded,
    /// The run made no such call that is more than reading.
    #[error("the run has no effect of this call id; its reply names them under `effects`, as `jobs show` does")]
    NoSuchCall,
    /// What became of it is known.
    #[error("it is not unknown: it is `{}`", .0.as_str())]
    Known(EffectState),
}

impl From<&LedgerEntry> for EffectEntry {
    fn from(entry: &LedgerEntry) -> Self {
        Self {
            call_id: Some(entry.call_id.clone()),
            tool: entry.tool.name.clone(),
            connection: entry.tool.connection.as_str().to_owned(),
            state: entry.state,
            execution_id: entry.execution_id.clone(),
            summary: entry.summary.clone(),
        }
    }
}

impl Run {
    /// Whether this may be said of a call now.
    pub fn may_settle(&self, said: &SettledEffect) -> Result<(), NotSettled> {
        let reply = self.reply().filter(|_| self.is_delivered()).ok_or(NotSettled::NotEnded)?;
        if let Some(kept) = self.settlement(&said.call_id) {
            let (settlement, by) = (kept.said.settlement, kept.said.by.clone());
            let same = settlement == said.settlement;
            return Err(if same { NotSettled::Already } else { NotSettled::Otherwise { settlement, by } });
        }
        match self.effect(reply, &said.call_id) {
            None => Err(NotSettled::NoSuchCall),
            Some(effect) if effect.state != EffectState::Unknown => Err(NotSettled::Known(effect.state)),
            Some(_) => Ok(()),
        }
    }

    /// What the caller is still to be told of this call, once it is settled: the same event each time.
    pub fn untold_settlement(&self, call_id: &str) -> Option<Reply> {
        let kept = self.settlement(call_id).filter(|kept| !kept.told)?;
        let reply = self.reply()?;
        let effect = EffectEntry { state: kept.said.settlement.into(), ..self.effect(reply, call_id)? };
        let metadata = reply.event.account().map(|account| account.metadata.clone()).unwrap_or_default();
        let settled = EffectSettled { effect, by: kept.said.by.clone(), metadata };
        let event = ReplyEvent::EffectSettled(Box::new(settled));
        Some(Reply::interim(&self.job().id(), &format!("settled:{call_id}"), kept.at, event))
    }

    /// Whether somebody may still have to be told what became of an effect.
    pub(super) fn may_be_settled(&self) -> bool {
        let account = self.reply().and_then(|reply| reply.event.account());
        account.is_some_and(|account| account.effects.iter().any(|effect| effect.state == EffectState::Unknown))
    }

    pub(super) fn keep_settlement(&mut self, said: SettledEffect, at: Timestamp) {
        if let Some(entry) = self.ledger.iter_mut().find(|entry| entry.call_id == said.call_id) {
            entry.state = said.settlement.into();
            entry.open = false;
        }
        self.settlements.push(KeptSettlement { said, at, told: false });
    }

    pub(super) fn keep_told(&mut self, call_id: &str) {
        self.settlements.iter_mut().filter(|kept| kept.said.call_id == call_id).for_each(|kept| kept.told = true);
    }

    pub(super) fn settlement(&self, call_id: &str) -> Option<&KeptSettlement> {
        self.settlements.iter().find(|kept| kept.said.call_id == call_id)
    }

    /// These events again, for what remains of the run.
    pub(super) fn settlement_events(&self) -> impl Iterator<Item = (Timestamp, Event)> + '_ {
        self.settlements.iter().flat_map(|kept| {
            let told = kept.told.then(|| Event::SettlementDelivered { call_id: kept.said.call_id.clone() });
            [Some(Event::EffectSettled(Box::new(kept.said.clone()))), told]
                .into_iter()
                .flatten()
                .map(|event| (kept.at, event))
        })
    }

    /// The effect of this call as the reply tells of it, where there is one of either.
    pub fn told_effect(&self, call_id: &str) -> Option<EffectEntry> {
        self.effect(self.reply()?, call_id)
    }

    /// As the reply names it; one of an earlier version names no calls, and the journal knows them.
    fn effect(&self, reply: &Reply, call_id: &str) -> Option<EffectEntry> {
        let account = reply.event.account()?;
        let named = account.effects.iter().find(|effect| effect.call_id.as_deref() == Some(call_id)).cloned();
        let is_silent = account.effects.iter().all(|effect| effect.call_id.is_none());
        named.or_else(|| {
            let mut ledger = self.ledger.iter().filter(|entry| entry.is_effect());
            is_silent.then(|| ledger.find(|entry| entry.call_id == call_id).map(EffectEntry::from)).flatten()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::conclusion;
    use super::super::run::Step;
    use super::super::script::{Script, says, wants};
    use super::super::state::Conclusion;
    use super::*;
    use crate::reply::{ErrorCode, ErrorDetail};
    use crate::schema::Schema;

    const WRITE: &str = "gmail_send_message";

    fn said(call_id: &str, settlement: Settlement) -> SettledEffect {
        SettledEffect { call_id: call_id.to_owned(), settlement, by: "ann".to_owned() }
    }

    /// One write is unknown, one done.
    fn ended() -> Script {
        let mut script = Script::ready(|_| {});
        let writes =
            [("r1", "gmail_fetch_mails", "{}"), ("w1", WRITE, r#"{"to": "a"}"#), ("w2", WRITE, r#"{"to": "b"}"#)];
        script
            .model(wants(&writes))
            .start("r1")
            .done("r1", "mail")
            .start("w2")
            .done("w2", "sent")
            .start("w1")
            .unknown("w1");
        script.model(says("sent one"));
        assert_eq!(script.run.may_settle(&said("w1", Settlement::Done)), Err(NotSettled::NotEnded));
        let reply = script.reply();
        script.event(Event::Finished(Box::new(reply))).event(Event::Delivered);
        script
    }

    #[test]
    fn an_unknown_effect_is_settled_once_and_its_caller_told_the_same_each_time() {
        let mut script = ended();
        for (call, why) in [
            ("w2", NotSettled::Known(EffectState::Done)),
            ("r1", NotSettled::NoSuchCall),
            ("nobody", NotSettled::NoSuchCall),
        ] {
            assert_eq!(script.run.may_settle(&said(call, Settlement::Done)), Err(why), "{call}");
            assert!(script.try_event(Event::EffectSettled(Box::new(said(call, Settlement::Done)))).is_err(), "{call}");
        }
        assert!(script.try_event(Event::SettlementDelivered { call_id: "w1".into() }).is_err());
        let not_done = said("w1", Settlement::NotDone);
        assert_eq!(script.run.may_settle(&not_done), Ok(()));
        script.event(Event::EffectSettled(Box::new(not_done.clone())));
        assert_eq!(script.run.may_settle(&not_done), Err(NotSettled::Already));
        let otherwise = NotSettled::Otherwise { settlement: Settlement::NotDone, by: "ann".to_owned() };
        assert_eq!(script.run.may_settle(&said("w1", Settlement::Done)), Err(otherwise));
        let told = script.run.untold_settlement("w1").unwrap();
        assert_eq!(script.run.untold_settlement("w1"), Some(told.clone()));
        let ReplyEvent::EffectSettled(settled) = &told.event else { panic!("{told:?}") };
        assert_eq!((settled.effect.state, settled.by.as_str()), (EffectState::NotDone, "ann"));
        assert_eq!((settled.effect.call_id.as_deref(), settled.effect.summary.as_str()), (Some("w1"), "to: a"));
        let problems = Schema::compile(&Reply::schema()).unwrap().problems(&serde_json::to_value(&told).unwrap());
        assert_eq!(problems, Vec::<String>::new());
        script.event(Event::SettlementDelivered { call_id: "w1".into() });
        assert_eq!((script.run.untold_settlement("w1"), script.run.next(script.now)), (None, Step::Done));
    }

    #[test]
    fn what_remains_of_a_run_is_settled_as_its_whole_journal_and_knows_it_afterwards() {
        let script = ended();
        let mut lines: Vec<String> =
            script.run.remains(script.now).unwrap().iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
        for (event, untold) in [
            (Event::EffectSettled(Box::new(said("w1", Settlement::Done))), true),
            (Event::SettlementDelivered { call_id: "w1".into() }, false),
        ] {
            let mut run = Run::replay(&lines).unwrap().unwrap();
            run.apply(super::super::event::Entry::new(script.now, event)).unwrap();
            lines =
                run.remains(script.now).unwrap().iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
            let kept = Run::replay(&lines).unwrap().unwrap();
            assert_eq!(kept.may_settle(&said("w1", Settlement::Done)), Err(NotSettled::Already));
            assert_eq!(kept.untold_settlement("w1").is_some(), untold);
            assert_eq!(kept.reply(), script.run.reply(), "the reply stays as it was");
        }
    }

    #[test]
    fn a_reply_of_an_earlier_version_names_no_calls_and_the_journal_does() {
        let mut script = Script::ready(|_| {});
        script.model(wants(&[("w1", WRITE, r#"{"to": "a"}"#)])).start("w1");
        let cancelled = Conclusion::failed(ErrorDetail::new(ErrorCode::Cancelled, "cancelled"));
        let mut reply = conclusion::reply(&script.run, cancelled, script.now);
        let ReplyEvent::Failed(failed) = &mut reply.event else { panic!("{reply:?}") };
        failed.account.effects[0].call_id = None;
        script.event(Event::Finished(Box::new(reply))).event(Event::Delivered);
        assert_eq!(script.run.may_settle(&said("w1", Settlement::Done)), Ok(()));
    }
}
