//! The messages of a run: the one in a worker's hands, the wake-ups that follow it, its replies and dead letters.

pub(crate) mod dead_letter;
pub(crate) mod decision_message;
pub(crate) mod founded;
pub(crate) mod fresh;
pub(crate) mod in_flight_delivery;
pub(crate) mod posting;
pub(crate) mod reply_message;
pub(crate) mod scheduled;
pub(crate) mod sender;
pub(crate) mod signature;
pub(crate) mod version;
pub(crate) mod wake_up;
pub(crate) mod witness;
