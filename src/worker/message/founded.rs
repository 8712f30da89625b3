//! What a message that nobody signed may say, once the journal of its run is known: nothing that the journal does not say.

use super::in_flight_delivery::InFlightDelivery;
use super::wake_up::{Reason, Trust, WakeUp};
use crate::agent::run::{BadJournal, Run};

/// What is left of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Founded {
    /// This, which is known now.
    Known(WakeUp),
    /// Nothing: the message is a job as its caller sent it.
    AsSent,
    /// It says that more was done than the journal knows of: forged, or the journal has lost it. Nothing is done for it.
    Not,
}

impl WakeUp {
    /// What the message says in truth, where `run` is what the journal tells of its run; `None` where it knows of none.
    pub(crate) fn founded_on(&self, run: Option<&Run>) -> Founded {
        if self.trust == Trust::Ours {
            return Founded::Known(self.clone());
        }
        let Some(run) = run else {
            let was_at_work = self.effects || self.entries.is_some() || self.call.is_some();
            return if was_at_work || self.reason == Reason::Seal { Founded::Not } else { Founded::AsSent };
        };
        // Of a run that has ended less may be kept.
        let loss_is_known = run.has_lost_entries() && self.generation <= run.wake_up_generation();
        if self.entries > Some(run.sequence()) && run.reply().is_none() && !loss_is_known {
            return Founded::Not;
        }
        let reason = match &self.reason {
            Reason::JournalLost | Reason::GivenBack | Reason::DeliveryLimit => Reason::Unsaid,
            reason => reason.clone(),
        };
        Founded::Known(Self {
            // One more than the journal knows, as its publisher may not have come so far as to journal it.
            generation: self.generation.min(run.wake_up_generation().saturating_add(1)),
            effects: run.has_effects(),
            saw_live_owner: self.saw_live_owner,
            is_copy: self.is_copy,
            ..Self::new(reason)
        })
    }
}

impl InFlightDelivery {
    /// Takes from a message that nobody signed what the journal of its run does not say; false where it says that more was
    /// done. What it says of the run of another job does not matter.
    pub(crate) fn learn_what_is_founded(&mut self, digest: &str, replayed: &Result<Option<Run>, BadJournal>) -> bool {
        let (Some(wake_up), Ok(run)) = (self.wake_up(), replayed) else { return true };
        if run.as_ref().is_some_and(|run| run.digest() != digest) {
            return true;
        }
        match wake_up.founded_on(run.as_ref()) {
            Founded::Known(known) => self.learn(Some(known)),
            Founded::AsSent => self.learn(None),
            Founded::Not => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::agent::event::{Entry, Event};
    use crate::job::{Envelope, Job};
    use crate::worker::message::wake_up::WitnessedCall;
    use crate::worker::rules::Defaults;

    fn run() -> Run {
        let body = br#"{"id": "a", "prompt": "x", "identifier": "u", "connections": ["gmail"]}"#;
        let job = Job::from_slice(body, &Envelope::default(), 1000).unwrap();
        let mut run = Run::start(Defaults::default().started(&job.into(), "m"), Timestamp::UNIX_EPOCH);
        for event in
            [Event::AttemptStarted { worker: "w".into(), alone: false }, Event::WakeUpPublished { generation: 4 }]
        {
            run.apply(Entry::new(Timestamp::UNIX_EPOCH, event)).unwrap();
        }
        run
    }

    fn unproven(reason: Reason) -> WakeUp {
        WakeUp { generation: 4, trust: Trust::Unproven, ..WakeUp::new(reason) }
    }

    #[test]
    fn without_a_journal_nothing_is_left_of_it_and_what_was_done_is_not_done_again() {
        for reason in [Reason::Webhook, Reason::JournalLost, Reason::Continue, Reason::DeliveryLimit] {
            let met = WakeUp { generation: u32::MAX, saw_live_owner: true, ..unproven(reason) };
            assert_eq!(met.founded_on(None), Founded::AsSent, "{met:?}");
        }
        let call = Some(WitnessedCall { id: "c".into(), tool: "send".into() });
        for said in [
            unproven(Reason::Seal),
            WakeUp { effects: true, ..unproven(Reason::Continue) },
            WakeUp { entries: Some(0), ..unproven(Reason::Continue) },
            WakeUp { call, ..unproven(Reason::Continue) },
        ] {
            assert_eq!(said.founded_on(None), Founded::Not, "{said:?}");
            let ours = WakeUp { trust: Trust::Ours, ..said };
            assert_eq!(ours.founded_on(None), Founded::Known(ours.clone()));
        }
    }

    #[test]
    fn beside_a_journal_it_says_what_the_journal_says() {
        let run = run();
        let known = |reason, generation| Founded::Known(WakeUp { generation, ..WakeUp::new(reason) });
        for reason in [Reason::JournalLost, Reason::GivenBack, Reason::DeliveryLimit] {
            assert_eq!(unproven(reason).founded_on(Some(&run)), known(Reason::Unsaid, 4));
        }
        let far = WakeUp { generation: u32::MAX, effects: true, entries: Some(3), ..unproven(Reason::Continue) };
        assert_eq!(far.founded_on(Some(&run)), known(Reason::Continue, 5), "{run:?}");
        let more = WakeUp { entries: Some(run.sequence() + 1), ..far };
        assert_eq!(more.founded_on(Some(&run)), Founded::Not);
    }
}
