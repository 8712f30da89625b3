//! What became of the jobs: four counters that must be zero, and what is told beside them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::jobs::Accepted;

/// How often each subject was sent.
pub(crate) type Sent = BTreeMap<String, u64>;

/// The result.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// Accepted jobs without a terminal reply.
    pub(crate) lost: Vec<String>,
    /// Jobs with terminal replies that differ.
    pub(crate) duplicated: Vec<String>,
    /// Mails that were sent more than once.
    pub(crate) repeated: Vec<String>,
    /// Messages and runs that came to no end.
    pub(crate) stuck: Vec<String>,
    /// Replies that say more or less than what happened.
    pub(crate) untrue: Vec<String>,
    /// Jobs that failed: none has a reason to.
    pub(crate) failed: Vec<String>,
    pub(crate) completed: u64,
    /// Jobs that failed as the store lost how far they were.
    pub(crate) lost_journals: u64,
    pub(crate) mails: u64,
    pub(crate) unknown: u64,
    /// Those of unknown state that were not sent.
    pub(crate) unknown_not_sent: u64,
}

impl Audit {
    /// Compares what was asked for, what was answered and what was done.
    pub(crate) fn of(jobs: &[Accepted], replies: &BTreeMap<String, Vec<Value>>, sent: &Sent) -> Self {
        let repeated = sent.iter().filter(|(_, times)| **times > 1).map(|(subject, _)| subject.clone()).collect();
        let mut audit = Self { repeated, mails: sent.values().sum(), ..Self::default() };
        for job in jobs {
            match replies.get(&job.id).map(Vec::as_slice).unwrap_or_default() {
                [] => audit.lost.push(job.id.clone()),
                [reply] => audit.compare(job, reply, sent),
                [first, ..] => {
                    audit.duplicated.push(job.id.clone());
                    audit.compare(job, first, sent);
                }
            }
        }
        audit
    }

    /// Every mail is accounted for: done means sent once, unknown covers the rest, and nothing is sent in secret.
    fn compare(&mut self, job: &Accepted, reply: &Value, sent: &Sent) {
        let effects = reply["data"]["effects"].as_array().cloned().unwrap_or_default();
        let count = |state: &str| effects.iter().filter(|effect| effect["state"] == state).count();
        let (done, unknown, failed) = (count("done"), count("unknown"), count("failed"));
        let present = job.subjects.iter().filter(|subject| sent.contains_key(*subject)).count();
        self.unknown += unknown as u64;
        self.unknown_not_sent += (done + unknown).saturating_sub(present) as u64;
        let completed = reply["type"] == "agentkit.job.completed";
        if completed {
            self.completed += 1;
        } else if tells_of_loss(reply) {
            self.lost_journals += 1;
        } else {
            self.failed.push(format!("{}: {}", job.id, reply["data"]["error"]));
        }
        let status = reply["data"]["status"].as_str().unwrap_or_default();
        // One whose journal is gone says that nobody knows what it did before, whether it failed for that or went on in doubt.
        let doubted = tells_of_loss(reply) || (unknown > 0 && notices_loss(reply));
        let covered = (done <= present && present <= done + unknown) || doubted;
        let told = !completed || (unknown > 0) == (status == "completed_with_unknown_effects");
        let explained = present == job.subjects.len() || unknown + failed > 0 || !completed;
        if !(covered && told && explained) {
            self.untrue.push(format!(
                "{}: {present} of {} mails sent; the reply says {status:?} with {done} done, {unknown} unknown, {failed} failed",
                job.id,
                job.subjects.len()
            ));
        }
    }

    /// Prints everything and fails where a counter is not zero.
    pub(crate) fn conclude(&self, jobs: usize) {
        println!(
            "chaos: {jobs} jobs, {} completed, {} failed, {} without their journals; {} mails sent, {} effects unknown ({} of them did not happen)",
            self.completed,
            self.failed.len(),
            self.lost_journals,
            self.mails,
            self.unknown,
            self.unknown_not_sent
        );
        let counters = [
            ("lost", &self.lost),
            ("duplicated terminal ids", &self.duplicated),
            ("repeated writes", &self.repeated),
            ("stuck", &self.stuck),
            ("untrue replies", &self.untrue),
            ("failed jobs", &self.failed),
        ];
        for (name, offenders) in counters {
            println!("chaos: {name}: {}", offenders.len());
        }
        let problems: Vec<_> = counters.iter().filter(|(_, offenders)| !offenders.is_empty()).collect();
        assert!(problems.is_empty(), "{problems:#?}");
    }
}

/// Whether a job failed as the store had lost its journal. Nothing else may make one fail.
fn tells_of_loss(reply: &Value) -> bool {
    let error = &reply["data"]["error"];
    error["code"] == "internal" && error["message"].as_str().unwrap_or_default().contains("the store lost")
}

/// Whether a job says that what it had done before the store lost its journal is not listed.
fn notices_loss(reply: &Value) -> bool {
    let notices = reply["data"]["notices"].as_array().map(Vec::as_slice).unwrap_or_default();
    notices.iter().any(|notice| notice["code"] == "journal_lost")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn audited(replies: &[Value], sent: &[(&str, u64)]) -> Audit {
        let subjects = vec!["one".to_owned(), "two".to_owned()];
        let job = Accepted { id: "job".to_owned(), identifier: "user".to_owned(), subjects };
        let replies = [("job".to_owned(), replies.to_vec())].into_iter().filter(|(_, replies)| !replies.is_empty());
        let sent = sent.iter().map(|(subject, times)| ((*subject).to_owned(), *times)).collect();
        Audit::of(&[job], &replies.collect(), &sent)
    }

    fn reply(status: &str, states: &[&str]) -> Value {
        let effects: Vec<Value> = states.iter().map(|state| json!({ "state": state })).collect();
        json!({"type": "agentkit.job.completed", "data": {"status": status, "effects": effects}})
    }

    #[test]
    fn an_honest_account_is_accepted() {
        let honest = audited(&[reply("completed", &["done", "done"])], &[("one", 1), ("two", 1)]);
        honest.conclude(1);
        let doubtful = reply("completed_with_unknown_effects", &["unknown"]);
        audited(std::slice::from_ref(&doubtful), &[("one", 1)]).conclude(1);
        let audit = audited(&[doubtful], &[]);
        audit.conclude(1);
        assert_eq!((audit.unknown, audit.unknown_not_sent), (1, 1));
    }

    #[test]
    fn what_must_not_happen_is_found() {
        let done = reply("completed", &["done", "done"]);
        let all = [("one", 1), ("two", 1)];
        assert_eq!(audited(&[], &all).lost.len(), 1);
        assert_eq!(audited(&[done.clone(), reply("completed", &["done"])], &all).duplicated.len(), 1);
        assert_eq!(audited(std::slice::from_ref(&done), &[("one", 2), ("two", 1)]).repeated, ["one"]);
        assert_eq!(audited(&[done], &[("one", 1)]).untrue.len(), 1, "done, but not sent");
        assert_eq!(audited(&[reply("completed", &["done"])], &all).untrue.len(), 1, "sent in secret");
        assert_eq!(audited(&[reply("completed", &["done", "unknown"])], &all).untrue.len(), 1, "a doubt not told");
        assert_eq!(audited(&[reply("completed", &[])], &[]).untrue.len(), 1, "not done, without a word");
        let mut begun_anew = reply("completed_with_unknown_effects", &["unknown"]);
        assert_eq!(audited(std::slice::from_ref(&begun_anew), &all).untrue.len(), 1, "more than is in doubt");
        begun_anew["data"]["notices"] = json!([{"code": "journal_lost"}]);
        assert_eq!(audited(&[begun_anew], &all).untrue, <[&str; 0]>::default(), "what it did before is not listed");
        let failed = json!({"type": "agentkit.job.failed", "data": {"error": {}}});
        assert_eq!(audited(&[failed], &[]).failed.len(), 1);
    }
}
