//! The one way out: replies, wake-ups, dead letters, acks and requeues, in the order in which nothing can get lost.

mod broker_dead_letters;
mod dead_letter;
mod defer;
pub(crate) mod disposition;
mod finish;
mod hold_delivery;
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

pub(crate) struct Settler {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) publisher: Arc<dyn Publisher>,
    pub(crate) holder: Arc<dyn Holder>,
    pub(crate) parked: Arc<ParkedIndex>,
    pub(crate) digests: Arc<dyn DigestStore>,
    pub(crate) clock: SharedClock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) rules: Arc<WorkerRules>,
    pub(crate) stop: CancellationToken,
    /// Runs under way whose deliveries were exchanged for held messages.
    pub(crate) exchanged: watch::Sender<usize>,
}

/// Whom a delivery is about.
pub(crate) struct Subject<'a> {
    /// The job in its message, where there is one.
    pub(crate) job: Option<&'a Job>,
    /// The job's run, where it is ours.
    pub(crate) run: Option<LeasedRun>,
}

/// How a message leaves the worker's hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
enum Exit {
    Ack,
    Requeue,
}

impl Exit {
    /// Acked once the broker has `confirmed` what takes the message's place.
    fn once(confirmed: bool) -> Self {
        if confirmed { Self::Ack } else { Self::Requeue }
    }
}

impl Settler {
    /// Does what `disposition` says, and then acks or requeues: no delivery leaves by any other way.
    pub(crate) async fn settle(&self, delivery: InFlightDelivery, subject: Subject<'_>, disposition: Disposition) {
        // Boxed: its future is large, and everything that ends here would carry it along.
        match Box::pin(self.carry_out(&delivery, subject, disposition)).await {
            Exit::Ack => delivery.ack().await,
            Exit::Requeue => delivery.requeue().await,
        }
    }

    async fn carry_out(&self, delivery: &InFlightDelivery, subject: Subject<'_>, disposition: Disposition) -> Exit {
        let Subject { job, mut run } = subject;
        match (disposition, job, &mut run) {
            (Disposition::Finish(end), Some(job), Some(run)) => self.finish(delivery, job, run, end).await,
            (Disposition::RepeatReply(reply), Some(job), _) => {
                release(run.as_ref()).await;
                info!("the job has its reply already; it is sent again");
                match self.send_reply(&reply, delivery, job).await {
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
            (Disposition::Defer(deferral), ..) => self.defer(delivery, &mut run, deferral).await,
            (Disposition::Requeue { end: Some(detail) }, _, Some(run)) => self.hand_over(delivery, run, detail).await,
            (Disposition::DeadLetter(what), job, _) => self.dead_letter(delivery, job, run, what).await,
            (Disposition::DropStale(stale), ..) => {
                release(run.as_ref()).await;
                match stale {
                    // Every poll of a webhook's would say so.
                    Stale::WebhookCopy => debug!(?stale, "a copy of the run's message is done with"),
                    _ => info!(?stale, "a copy of the run's message is done with"),
                }
                Exit::Ack
            }
            (Disposition::Requeue { .. }, ..) => {
                release(run.as_ref()).await;
                Exit::Requeue
            }
            (disposition @ (Disposition::Finish(_) | Disposition::RepeatReply(_) | Disposition::Refuse { .. }), ..) => {
                warn!(?disposition, "there is nobody to answer");
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
            _ => self.defer_unjournalled(delivery, run, JOURNAL_WAIT, Reason::GivenBack).await,
        }
    }
}

async fn release(run: Option<&LeasedRun>) {
    if let Some(run) = run {
        run.release().await;
    }
}
