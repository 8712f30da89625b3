//! Runs that wait for their users: how they are parked, found and woken.

mod contract;
mod lost_accounts;
mod many;
mod restart;
mod waiting;
mod webhooks;
