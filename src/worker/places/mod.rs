//! Who has a place next. Without `fairness.key` jobs start in order of arrival, and none is fetched without a place for it. With a
//! key every job starts as it comes while places are free, which costs nothing; while more jobs wait than there are places, these
//! are shared fairly between keys, and no place stays empty.
//!
//! ## Where jobs wait
//!
//! ```text
//! callers ──> PREFIX.jobs ──> window ──> place            a fair order, decided in the process (`order`)
//!                               │  ▲
//!                  crowd's rest │  │ one at a time, for a free place
//!                               ▼  │
//!                       PREFIX.backlog.{high,normal,low}.N
//! ```
//!
//! A queue is first in, first out, so whoever sends a thousand jobs stands before all others. A worker therefore fetches some
//! more than it has places for: the *window*, half as many again. Of whoever has many in it the newest are *put aside*: moved
//! into a *lane*, a queue beside the job queue, each once; and where many keys have a job each, the newest of the least
//! priority. So the job queue is empty a moment after anything was sent, and nobody's job is ever behind others' unseen. A worker
//! with a free place takes the next job out of a lane where those there are next: one at a time, so that no worker holds what
//! another has a place for.
//!
//! Lanes, and not only a window: a window sees a hundred jobs of a thousand, and to put the others behind in the job queue
//! moves all of them again for each who comes later. Lanes move each job once. Not lanes by the hash of the key alone: two keys
//! would share one by chance. Each priority has one lane for jobs of keys with few, in order of arrival. A key with many gets a
//! lane that has nobody else's, as far as the process knows, and only where there is none, one by hash: such keys share it,
//! first in, first out.
//!
//! ## What cannot be lost
//!
//! The jobs stay messages; Redis knows nothing of their order, and is not asked. Putting aside is publishing, its confirm, and
//! then the ack, as with every message that takes another's place: a death in between leaves two copies of one job, which the
//! journal knows. A worker that dies gives its window back; one that is told to stop puts it behind in the job queue, at no
//! cost to the jobs. Who waits in a window while other workers consume goes behind in the job queue after some seconds, as
//! another may have a place.
//!
//! An earlier version of the worker consumes the job queue beside this one and starts what it finds, in order. It does not know
//! of lanes; what has been in one for ten minutes the broker puts back into the job queue, so after a return to such a version nothing
//! is left behind. A worker of this version puts it aside again: the price is a move for each waiting job every ten minutes. Where an
//! operator makes the queues and has made no lanes, the window alone is shared fairly.
//!
//! ## What bounds it
//!
//! The window counts towards `worker.prefetch_bytes` as places do. What is not fetched is in the broker.

pub(crate) mod filling;
pub(crate) mod flow;
mod lanes;
pub(crate) mod order;
