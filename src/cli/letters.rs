//! Dead letters as the command line sees them.

use std::collections::BTreeSet;

use anyhow::anyhow;

use super::jobs::encryption;
use super::output::plain;
use super::which_run::{Whose, ambiguous};
use super::{CommandError, Context};
use crate::app;
use crate::queue::Delivery;
use crate::queue::amqp::DeadLetters;
use crate::worker::control::dead_letters::{LetterFacts, LetterReader};
use crate::worker::message::signature::HeaderKey;

/// A dead letter, taken from the queue for as long as this lives.
pub(super) struct Letter {
    pub(super) facts: LetterFacts,
    pub(super) delivery: Delivery,
}

/// Reads letters as the workers do.
pub(super) fn reader(context: &Context) -> Result<LetterReader, CommandError> {
    Ok(LetterReader {
        senders: app::senders(&context.config),
        header_key: HeaderKey::of(&context.config.scalekit.client_secret),
        max_job_bytes: context.config.worker.max_job_bytes,
        encryption: encryption(context)?,
    })
}

/// The letters that are `wanted`, and the others without their bodies. Each is held until the last was taken, as one that
/// goes back may be the next one taken; those not settled go back in their order when they are dropped.
pub(super) async fn take_all(
    context: &Context,
    wanted: impl Fn(&LetterFacts) -> bool,
) -> Result<(Vec<Letter>, Vec<Letter>), CommandError> {
    let named = context.config.amqp.problems().into_iter().map(|problem| format!("amqp.{problem}"));
    context.demand(named.collect())?;
    let queue = DeadLetters::open(&context.config.amqp).await?;
    let (reader, mut found, mut others) = (reader(context)?, Vec::new(), Vec::new());
    while let Some(mut delivery) = queue.take().await? {
        let facts = reader.facts(&delivery.message);
        if let Ok(opened) = reader.opened(&delivery.message) {
            delivery.message = opened;
        }
        let mut letter = Letter { facts, delivery };
        if wanted(&letter.facts) {
            found.push(letter);
        } else {
            letter.delivery.message.body.clear();
            others.push(letter);
        }
    }
    Ok((found, others))
}

/// The letters of these ids, all of one owner each.
pub(super) async fn take_named(
    context: &Context,
    ids: &[String],
    whose: &Whose,
) -> Result<(Vec<Letter>, Vec<Letter>), CommandError> {
    let wanted = |letter: &LetterFacts| ids.contains(&letter.id) && whose.covers(letter.producer.as_deref());
    let (letters, others) = take_all(context, wanted).await?;
    missing(ids, &letters)?;
    for id in ids {
        let of_id = letters.iter().map(|letter| &letter.facts).filter(|letter| letter.id == *id);
        let owners: BTreeSet<Option<&str>> = of_id.map(|letter| letter.producer.as_deref()).collect();
        if owners.len() > 1 {
            return Err(ambiguous(id, owners.into_iter()));
        }
    }
    Ok((letters, others))
}

/// Nothing is done by halves: one id that is not there, and nothing is touched.
fn missing(wanted: &[String], found: &[Letter]) -> Result<(), CommandError> {
    let absent: Vec<String> =
        wanted.iter().filter(|id| !found.iter().any(|letter| letter.facts.id == **id)).map(|id| plain(id)).collect();
    if absent.is_empty() {
        return Ok(());
    }
    Err(anyhow!("no dead letter has the id {}; `agentkit-worker dead list` shows all", absent.join(", ")).into())
}
