//! Dead letters that the broker made itself: their callers were told nothing, and nobody counted them.

use std::time::Duration;

use tracing::{debug, warn};

use super::Settler;
use super::disposition::{Deferral, Disposition};
use crate::queue::{DeadLetterQueue, QueueError};
use crate::worker::message::dead_letter::is_from_the_broker;
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::wake_up::{Reason, Trust, WakeUp};

/// From one look at the number of letters to the next.
const LOOK_EVERY: Duration = Duration::from_mins(1);

impl Settler {
    /// Looks through the dead letters at the start and whenever their number has changed, for ever. Several workers may: the
    /// broker gives a letter to one of them.
    pub(crate) async fn watch_dead_letters(&self, letters: &dyn DeadLetterQueue) {
        let mut known = 0;
        loop {
            match letters.count().await {
                Ok(count) if count == known => {}
                Ok(count) => match self.answer_for_the_broker(letters).await {
                    Ok(()) => known = count,
                    Err(error) => warn!(%error, "the dead letters could not be looked through"),
                },
                Err(error) => debug!(%error, "the dead letters could not be counted"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sends each letter that the broker made through the door by which all messages come in: there its run's reply is
    /// delivered, or it is given up in good order.
    async fn answer_for_the_broker(&self, letters: &dyn DeadLetterQueue) -> Result<(), QueueError> {
        for mut letter in letters.take(&is_from_the_broker).await? {
            letter.message = self.rules.senders.believed(std::mem::take(&mut letter.message), &self.rules.header_key);
            let letter = InFlightDelivery::new(letter, self.rules.hold_at_most, &self.rules.header_key);
            warn!(
                message.id = letter.message().properties.message_id,
                "the broker gave a message up; its caller is told"
            );
            let said = match WakeUp::said_by(letter.wake_up()) {
                // That the broker gave it up is known, and nothing else.
                said if said.trust == Trust::Unproven => WakeUp { effects: said.effects, ..WakeUp::new(said.reason) },
                said => said,
            };
            let says = WakeUp { reason: Reason::DeliveryLimit, ..said };
            let deferral = Deferral::saying(Duration::ZERO, says);
            self.settle(letter, None, Disposition::Defer(deferral)).await;
        }
        Ok(())
    }
}
