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
    pub(crate) mails: u64,
    pub(crate) unknown: u64,
    /// Those of unknown state that were not sent.
    pub(crate) unknown_not_sent: u64,
}

impl Audit {
    /// Compares what was asked for, what was answered and what was done.
    pub(crate) fn of(jobs: &[Accepted], replies: &BTreeMap<String, Vec<Value>>, sent: &Sent) -> Self {
        let mut audit = Self::default();
        audit.repeated = sent.iter().filter(|(_, times)| **times > 1).map(|(subject, _)| subject.clone()).collect();
        audit.mails = sent.values().sum();
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
        } else {
            self.failed.push(format!("{}: {}", job.id, reply["data"]["error"]));
        }
        let status = reply["data"]["status"].as_str().unwrap_or_default();
        let covered = done <= present && present <= done + unknown;
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
            "chaos: {jobs} jobs, {} completed, {} failed; {} mails sent, {} effects unknown ({} of them did not happen)",
            self.completed,
            self.failed.len(),
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
