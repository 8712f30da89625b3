//! What is kept of a delivered run when its journal's time is over: enough to give the same reply again.

use jiff::Timestamp;
use serde_json::Value;

use super::approval::ApprovalRules;
use super::event::{Entry, Event, Settings, Started};
use super::state::Run;
use crate::approval::Approval;
use crate::job::{Job, Limits, ToolSelection};
use crate::reply::{ErrorCode, ReplyEvent};

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
        Some(entries)
    }

    /// Whether the run was given up, so that an operator may take its end back.
    pub fn may_be_reopened(&self) -> bool {
        matches!(self.reply().map(|reply| &reply.event), Some(ReplyEvent::Failed(failed)) if failed.error.code == ErrorCode::AttemptsExhausted)
    }

    /// The id must be said: one that was derived from the words could not be derived any more.
    fn started_without_words(&self) -> Started {
        let job = Job {
            id: Some(self.job().id()),
            prompt: String::new(),
            instructions: None,
            tools: ToolSelection::default(),
            output_schema: None,
            limits: Limits::default(),
            approval: Approval::default(),
            metadata: Value::Null,
            reply_to: None,
            reply_url: None,
            correlation_id: None,
            ..self.job().clone()
        }
        .into();
        let approval = ApprovalRules::default();
        let settings = Settings { instructions: String::new(), approval, ..self.settings().clone() };
        Started { job, settings, ..self.started.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::conclusion;
    use super::super::run::Step;
    use super::super::script::{Script, says};
    use super::super::state::Conclusion;
    use super::*;
    use crate::reply::ErrorDetail;

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
    fn a_run_that_may_be_opened_again_keeps_its_whole_journal() {
        let mut script = Script::ready(|_| {});
        let given_up = Conclusion::failed(ErrorDetail::new(ErrorCode::AttemptsExhausted, "died"));
        let reply = conclusion::reply(&script.run, given_up, script.now);
        script.event(Event::Finished(Box::new(reply)));
        assert!(script.run.may_be_reopened());
        assert_eq!(script.run.remains(script.now), None);
    }
}
