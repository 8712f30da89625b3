//! The one way out: replies, wake-ups, dead letters, acks and requeues, in the order in which nothing can get lost.

mod broker_dead_letters;
mod dead_letter;
mod defer;
pub(crate) mod disposition;
mod ended;
mod finish;
mod hold_delivery;
mod post;
mod publish;
mod refuse;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::disposition::{Disposition, JOURNAL_WAIT, REPLY_WAIT, Stale};
use super::message::in_flight_delivery::InFlightDelivery;
use super::message::wake_up::Reason;
use super::resources::parked_index::ParkedIndex;
use super::resources::poster::Poster;
use super::rules::WorkerRules;
use super::run::interruption::Interruption;
use super::run::leased_run::LeasedRun;
use crate::agent::event::{Event, Pause};
use crate::clock::SharedClock;
use crate::digest_store::DigestStore;
use crate::job::Job;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::queue::{Holder, Publisher};
use crate::trace::Tracer;

pub(crate) struct Settler {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) publisher: Arc<dyn Publisher>,
    pub(crate) holder: Arc<dyn Holder>,
    pub(crate) parked: Arc<ParkedIndex>,
    pub(crate) digests: Arc<dyn DigestStore>,
    pub(crate) clock: SharedClock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tracer: Tracer,
    pub(crate) poster: Arc<Poster>,
    pub(crate) rules: Arc<WorkerRules>,
    pub(crate) stop: CancellationToken,
    /// Runs under way whose deliveries were exchanged for held messages.
    pub(crate) exchanged: watch::Sender<usize>,
}

/// How a message leaves the worker's hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
enum Exit {
    Ack,
    Requeue,
    /// What cannot be published anew: dead-lettered by the broker's own hand.
    Reject,
    /// Not yet: the store has lost the run's journal or its end, which is to be decided about first.
    JournalLost,
}

impl Exit {
    /// Acked once the broker has `confirmed` what takes the message's place.
    fn once(confirmed: bool) -> Self {
        if confirmed { Self::Ack } else { Self::Requeue }
    }
}

impl Settler {
    /// Does what `disposition` says to a message whose run is not ours, and then acks or requeues it: no delivery leaves by
    /// any other way than here.
    pub(crate) async fn settle(&self, delivery: InFlightDelivery, job: Option<&Job>, disposition: Disposition) {
        match Box::pin(self.carry_out(&delivery, job, &mut None, disposition)).await {
            Exit::Ack => delivery.ack().await,
            Exit::Reject => delivery.reject().await,
            Exit::Requeue | Exit::JournalLost => delivery.requeue().await,
        }
    }

    /// The same to the message of a run of ours; both are given back where the store has lost the run's journal.
    pub(crate) async fn settle_run(
        &self,
        delivery: InFlightDelivery,
        job: &Job,
        run: LeasedRun,
        disposition: Disposition,
    ) -> Option<(InFlightDelivery, LeasedRun)> {
        let mut run = Some(run);
        // Boxed: its future is large, and everything that ends here would carry it along.
        match Box::pin(self.carry_out(&delivery, Some(job), &mut run, disposition)).await {
            Exit::Ack => delivery.ack().await,
            Exit::Reject => delivery.reject().await,
            Exit::Requeue => delivery.requeue().await,
            Exit::JournalLost => return run.map(|run| (delivery, run)),
        }
        None
    }

    async fn carry_out(
        &self,
        delivery: &InFlightDelivery,
        job: Option<&Job>,
        run: &mut Option<LeasedRun>,
        disposition: Disposition,
    ) -> Exit {
        match (disposition, job, &mut *run) {
            (Disposition::Finish(end), Some(job), Some(run)) => self.finish(delivery, job, run, end).await,
            (Disposition::RepeatReply(reply), Some(job), _) => {
                release(run.as_ref()).await;
                info!("the job has its reply already; it is sent again");
                match self.send_reply(&reply, delivery, job, None).await {
                    Ok(()) => Exit::Ack,
                    Err(error) => self.reply_waits(delivery, None, REPLY_WAIT, &error).await,
                }
            }
            (Disposition::Refuse { mark, error }, Some(job), _) => {
                release(run.as_ref()).await;
                match self.refuse(delivery, job, &mark, error).await {
                    Ok(()) => Exit::Ack,
                    Err(error) => self.reply_waits(delivery, None, REPLY_WAIT, &error).await,
                }
            }
            (Disposition::Defer(deferral), _, run) => self.defer(delivery, run, deferral).await,
            (Disposition::Requeue { end: Some(detail) }, _, Some(run)) => self.hand_over(delivery, run, detail).await,
            (Disposition::DeadLetter(what), job, _) => self.dead_letter(delivery, job, run.as_ref(), what).await,
            (Disposition::DropStale(stale), ..) => {
                release(run.as_ref()).await;
                match stale {
                    // Every poll of a webhook's would say so.
                    Stale::WebhookCopy => debug!(stale = stale.as_str(), "a copy of the run's message is done with"),
                    _ => info!(stale = stale.as_str(), "a copy of the run's message is done with"),
                }
                Exit::Ack
            }
            (Disposition::Requeue { .. }, ..) => {
                release(run.as_ref()).await;
                Exit::Requeue
            }
            (disposition @ (Disposition::Finish(_) | Disposition::RepeatReply(_) | Disposition::Refuse { .. }), ..) => {
                warn!(disposition = disposition.outline(), "there is nobody to answer");
                Exit::Requeue
            }
        }
    }

    /// The message goes back to the queue at once, at no cost to the job.
    async fn hand_over(&self, delivery: &InFlightDelivery, run: &mut LeasedRun, detail: String) -> Exit {
        match run.record(vec![Event::AttemptEnded { cause: Pause::Shutdown, detail }]).await {
            Ok(()) => {
                run.release().await;
                Exit::Requeue
            }
            Err(Interruption::OwnershipLost) => Exit::Requeue,
            Err(Interruption::JournalLost) => Exit::JournalLost,
            Err(error) => {
                warn!(%error, "the end of the attempt could not be journalled");
                self.defer_unjournalled(delivery, run, Duration::ZERO, Reason::GivenBack).await
            }
        }
    }

    /// An entry that the run needed could not be journalled.
    async fn not_journalled(&self, delivery: &InFlightDelivery, run: &LeasedRun, error: &Interruption) -> Exit {
        match error {
            Interruption::OwnershipLost => Exit::Requeue,
            Interruption::JournalLost => Exit::JournalLost,
            _ => self.defer_unjournalled(delivery, run, JOURNAL_WAIT, Reason::GivenBack).await,
        }
    }
}

async fn release(run: Option<&LeasedRun>) {
    if let Some(run) = run {
        run.release().await;
    }
}
