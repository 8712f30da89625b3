//! Room for large answers: all that are being read, or looked through, share it, so that many at the same time wait for each
//! other instead of filling the memory.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// An answer up to this size needs none.
pub(super) const FREE_BYTES: usize = 64 << 10;
/// What is counted.
const UNIT: usize = 4 << 10;

#[derive(Debug, Clone)]
pub(super) struct Room {
    free: Arc<Semaphore>,
    all: u32,
}

/// A part of the room, free again once nobody has it any more.
#[derive(Debug, Clone)]
#[expect(dead_code, reason = "it is held, not read")]
pub struct Held(Arc<OwnedSemaphorePermit>);

impl Room {
    /// Room for `bytes`.
    pub(super) fn of(bytes: usize) -> Self {
        let all = units(bytes);
        Self { free: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// Room for one answer of `bytes`; waits until there is.
    pub(super) async fn take(&self, bytes: usize) -> Held {
        let permit = self.free.clone().acquire_many_owned(units(bytes).min(self.all)).await;
        Held(Arc::new(permit.expect("the semaphore is never closed")))
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, 1 << 28)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_wait_for_each_other_and_one_that_is_larger_than_all_takes_all() {
        let room = Room::of(10 * UNIT);
        let (one, two) = (room.take(6 * UNIT).await, room.take(4 * UNIT - 1).await);
        let mut waiting = Box::pin(room.take(usize::MAX));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(one.clone());
        drop(one);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(two);
        assert!(futures_util::poll!(&mut waiting).is_ready());
    }
}
