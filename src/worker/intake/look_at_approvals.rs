//! Looking whether a run that waits for a person's approval can go on, without claiming it and without a word in its journal.

use super::Intake;
use crate::agent::run::{Run, Step};
use crate::job::Job;
use crate::worker::message::wake_up::WakeUp;
use crate::worker::run::ask_approval::next_look_at_approvals;
use crate::worker::settle::disposition::{Deferral, Disposition};

impl Intake {
    /// `None` where the run is to be claimed: somebody has decided, its time is over, or it is about something else.
    pub(super) async fn look_at_approvals(&self, job: &Job, wake_up: &WakeUp) -> Option<Disposition> {
        let run = self.journal.read(&job.id()).await.ok().and_then(|lines| Run::replay(&lines).ok().flatten())?;
        let now = self.clock.now();
        let waits = run.next(now) == Step::AwaitApproval && run.approvals().told() && !run.is_under_way();
        let is_current = wake_up.generation >= run.wake_up_generation() && run.digest() == job.digest();
        if !waits || !is_current || run.has_lost_entries() {
            return None;
        }
        Some(Disposition::Defer(Deferral::same(next_look_at_approvals(self.executor.rules, &run, now))))
    }
}
