//! Jobs by HTTP: taken, looked at, waited for, cancelled; the same with everything in memory and on a broker and a Redis.

mod door;
mod events;
mod jobs;
mod producers;
mod reply_url;
mod settling;
