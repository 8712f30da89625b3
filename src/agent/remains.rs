//! What is kept of a delivered run when its journal's time is over: enough to give the same reply again.

use jiff::Timestamp;
use serde_json::Value;

use super::approval::ApprovalRules;
use super::event::{Entry, Event, Settings, Started};
use super::state::Run;
use crate::approval::Approval;
use crate::job::{Identifier, Job, Limits, ToolSelection};
use crate::reply::{
    Account, AuthorizationRequired, Completed, ErrorCode, ErrorDetail, Failed, Notice, Reply, ReplyEvent,
};

impl Run {
    /// A journal of its own, which every version reads: the beginning without the caller's words, the last wake-up, and
    /// the end, delivered at `at`. `None` where the run has no reply, or may be opened again and needs its whole journal.
    pub fn remains(&self, at: Timestamp) -> Option<Vec<Entry>> {
        let reply = self.finished.clone().filter(|_| !self.may_be_reopened())?;
        let mut entries = vec![Entry::new(self.started_at, Event::Started(Box::new(self.started_without_words())))];
        if self.wake_up_generation > 0 {
            entries.push(Entry::new(reply.time, Event::WakeUpPublished { generation: self.wake_up_generation }));
        }
        entries.extend([Entry::new(reply.time, Event::Finished(reply)), Entry::new(at, Event::Delivered)]);
        entries.extend(self.settlement_events().map(|(at, event)| Entry::new(at, event)));
        Some(entries)
    }

    /// What is kept of a delivered run that was erased: that there was a run of this id, and that it ended, so that the same
    /// job is not run again. Nothing of its user, of what was said or done. `None` where the run is not delivered.
    pub fn tombstone(&self) -> Option<Vec<Entry>> {
        let reply = self.finished.as_ref().filter(|_| self.delivered)?;
        let mut started = self.started_without_words();
        let job = Job {
            identifier: Identifier::new(ERASED).expect("a legal identifier"),
            connections: Vec::new(),
            tenant: None,
            reply_to: None,
            reply_url: None,
            correlation_id: None,
            ..(*started.job).clone()
        };
        started.job = job.into();
        let reply = Reply { event: without_content(&reply.event), ..(**reply).clone() };
        let (began, ended) = (self.started_at, reply.time);
        let mut entries = vec![Entry::new(began, Event::Started(Box::new(started)))];
        if self.wake_up_generation > 0 {
            entries.push(Entry::new(ended, Event::WakeUpPublished { generation: self.wake_up_generation }));
        }
        entries.extend([Entry::new(ended, Event::Finished(Box::new(reply))), Entry::new(ended, Event::Delivered)]);
        Some(entries)
    }

    /// Whether the run was given up, so that an operator may take its end back. Where its words are not kept any more,
    /// nobody can go on with it.
    pub fn may_be_reopened(&self) -> bool {
        !self.job().prompt.is_empty()
            && matches!(self.reply().map(|reply| &reply.event), Some(ReplyEvent::Failed(failed)) if failed.error.code == ErrorCode::AttemptsExhausted)
    }

    /// The id must be said: one that was derived from the words could not be derived any more. Where an effect is unknown,
    /// its caller may have to be told later what became of it.
    fn started_without_words(&self) -> Started {
        let Job { reply_to, reply_url, correlation_id, .. } = self.job();
        let (reply_to, reply_url, correlation_id) = match self.may_be_settled() {
            true => (reply_to.clone(), reply_url.clone(), correlation_id.clone()),
            false => (None, None, None),
        };
        let job = Job {
            id: Some(self.job().id()),
            prompt: String::new(),
            instructions: None,
            tools: ToolSelection::default(),
            output_schema: None,
            limits: Limits::default(),
            approval: Approval::default(),
            metadata: Value::Null,
            reply_to,
            reply_url,
            correlation_id,
            ..self.job().clone()
        }
        .into();
        let approval = ApprovalRules::default();
        let settings = Settings { instructions: String::new(), approval, ..self.settings().clone() };
        Started { job, settings, ..self.started.clone() }
    }
}

/// In the place of the user, where that is not kept.
const ERASED: &str = "erased";

/// Which end it was, and what it cost.
fn without_content(event: &ReplyEvent) -> ReplyEvent {
    let words = "what was kept of this job was erased";
    let shorn = |account: &Account| Account {
        effects: Vec::new(),
        approvals: Vec::new(),
        retries: Vec::new(),
        notices: vec![Notice { code: ERASED.to_owned(), message: words.to_owned() }],
        metadata: Value::Null,
        ..account.clone()
    };
    match event {
        ReplyEvent::Completed(completed) => ReplyEvent::Completed(Box::new(Completed {
            text: String::new(),
            output: None,
            status: completed.status,
            account: shorn(&completed.account),
        })),
        ReplyEvent::Failed(failed) => {
            let error = ErrorDetail::new(failed.error.code, words);
            ReplyEvent::Failed(Box::new(Failed { error, text: None, account: shorn(&failed.account) }))
        }
        _ => ReplyEvent::AuthorizationRequired(Box::new(AuthorizationRequired {
            identifier: ERASED.to_owned(),
            authorizations: Vec::new(),
            waiting_until: None,
            is_final: true,
            metadata: Value::Null,
        })),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::conclusion;
    use super::super::run::Step;
    use super::super::script::{Script, says, wants};
    use super::super::state::Conclusion;
    use super::*;

    #[test]
    fn what_remains_of_a_run_is_small_and_has_the_same_reply_id_digest_and_generation() {
        let mut script = Script::ready(|started| {
            let job = Arc::make_mut(&mut started.job);
            job.id = None;
            job.prompt = "a secret ".repeat(10_000);
            started.settings.instructions = "a secret".to_owned();
            job.metadata = serde_json::json!({"order": 4711});
            started.digest = started.job.digest();
        });
        assert_eq!(script.run.remains(script.now), None, "it has no reply");
        script.event(Event::WakeUpPublished { generation: 3 }).attempt().model(says("done"));
        let reply = script.reply();
        script.event(Event::Finished(Box::new(reply.clone())));
        let remains = script.run.remains(script.now).unwrap();
        let lines: Vec<String> = remains.iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
        let text = lines.concat();
        assert!(text.len() < 3000 && !text.contains("a secret"), "{text}");
        let run = Run::replay(&lines).unwrap().unwrap();
        assert_eq!((run.next(script.now), run.reply()), (Step::Done, Some(&reply)));
        let kept = |run: &Run| (run.job().id(), run.digest().to_owned(), run.wake_up_generation());
        assert_eq!(kept(&run), kept(&script.run));
    }

    #[test]
    fn a_tombstone_tells_the_same_job_from_another_and_says_nothing_of_its_user() {
        let mut script = Script::ready(|started| {
            let job = Arc::make_mut(&mut started.job);
            job.prompt = "a secret".to_owned();
            job.metadata = serde_json::json!({"a secret": 1});
            job.reply_to = Some("a secret".to_owned());
            started.digest = started.job.digest();
        });
        script.model(wants(&[("w1", "gmail_send_message", r#"{"to": "a secret"}"#)])).start("w1").unknown("w1");
        script.model(says("a secret"));
        let reply = script.reply();
        script.event(Event::Finished(Box::new(reply.clone())));
        assert_eq!(script.run.tombstone(), None, "its reply is on its way");
        script.event(Event::Delivered);
        let lines: Vec<String> =
            script.run.tombstone().unwrap().iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
        let text = lines.concat();
        for word in ["a secret", script.run.job().identifier.as_str(), "gmail"] {
            assert!(!text.contains(word), "{word} is in {text}");
        }
        let run = Run::replay(&lines).unwrap().unwrap();
        assert_eq!(
            (run.job().id(), run.digest(), run.next(script.now)),
            (script.run.job().id(), script.run.digest(), Step::Done)
        );
        let kept = run.reply().unwrap();
        assert_eq!((&kept.id, kept.event.kind()), (&reply.id, reply.event.kind()));
        assert!(!run.may_be_reopened() && !run.may_be_settled());
    }

    #[test]
    fn a_run_that_may_be_opened_again_keeps_its_whole_journal() {
        let mut script = Script::ready(|_| {});
        let given_up = Conclusion::failed(ErrorDetail::new(ErrorCode::AttemptsExhausted, "died"));
        let reply = conclusion::reply(&script.run, given_up, script.now);
        script.event(Event::Finished(Box::new(reply)));
        assert!(script.run.may_be_reopened());
        assert_eq!(script.run.remains(script.now), None);
    }
}
