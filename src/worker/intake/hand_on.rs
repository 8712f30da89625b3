//! Messages that this worker has no place for, as new ones for whoever has: the broker does not count them towards its delivery
//! limit.

use std::time::Duration;

use super::Intake;
use crate::queue::{Delivery, Destination};
use crate::worker::message::fresh::was_handed_on;
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::version::is_newer;
use crate::worker::settle::disposition::{Deferral, Disposition};

/// A message that no worker had a place for is handed on again after this time.
const HAND_ON_WAIT: Duration = Duration::from_secs(1);

impl Intake {
    /// Gives a delivery to a worker that has a place for it: at once, and where that did not help, after a moment.
    pub(crate) async fn hand_on(&self, delivery: Delivery, lane: Destination) {
        let delivery = self.in_flight(delivery);
        let again = was_handed_on(delivery.message());
        let to = if again { Destination::Wait(HAND_ON_WAIT) } else { lane };
        self.put_in_flight(delivery, to).await;
    }

    /// Puts a delivery elsewhere, where it waits for its turn.
    pub(crate) async fn put(&self, delivery: Delivery, to: Destination) {
        self.put_in_flight(self.in_flight(delivery), to).await;
    }

    /// One that is not due yet goes to where it is waited for that, and one that only a newer worker can read to where one finds
    /// it as it is.
    async fn put_in_flight(&self, delivery: InFlightDelivery, to: Destination) {
        let deferral = match delivery.wake_up().and_then(|wake_up| wake_up.remaining(self.clock.now())) {
            _ if is_newer(delivery.message()) => Deferral::Left,
            Some(remaining) => Deferral::NotDue { remaining },
            None => Deferral::HandedOn { to },
        };
        self.settler.settle(delivery, None, Disposition::Defer(deferral)).await;
    }
}
