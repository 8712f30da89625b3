//! Which run is meant at the command line: a job's id, and whose job it is where producers are named.

use clap::Args;

use super::output::plain;
use super::{CommandError, Context};
use crate::job::{JobId, ProducerName};
use crate::journal::Journal;

/// Which run.
#[derive(Debug, Args)]
pub struct WhichRun {
    /// The job's id
    pub id: String,
    /// Whose run
    #[command(flatten)]
    pub whose: Whose,
}

/// Whose run.
#[derive(Debug, Args)]
pub struct Whose {
    /// The producer of config/producers.toml whose job it is; '' for none of them [default: whosoever, where only one has a
    /// job of this id]
    #[arg(long, value_name = "NAME")]
    pub producer: Option<String>,
}

impl WhichRun {
    /// The run's id. Where nobody says whose it is, the journals are asked.
    pub(super) async fn find(&self, context: &Context, journal: &dyn Journal) -> Result<JobId, CommandError> {
        let wrong = || CommandError::Usage(format!("{}: an id has 1 to 200 bytes", plain(&self.id)));
        let nobodys = JobId::new(self.id.as_str()).ok_or_else(wrong)?;
        let producers = &context.config.producers.all;
        if self.whose.producer.is_some() || !producers.is_on() {
            return self.whose.own(nobodys);
        }
        let of_producers =
            producers.names().filter_map(ProducerName::new).map(|producer| nobodys.of_producer(&producer));
        let mut found = Vec::new();
        for id in std::iter::once(nobodys.clone()).chain(of_producers) {
            if !journal.read(&id).await?.is_empty() {
                found.push(id);
            }
        }
        match &found[..] {
            // Nothing is known of it, whoever says so.
            [] => Ok(nobodys),
            [id] => Ok(id.clone()),
            several => Err(ambiguous(&self.id, several.iter().map(|id| id.producer()))),
        }
    }
}

impl Whose {
    /// `id` as that of the one who is named, if anybody is.
    pub(super) fn own(&self, id: JobId) -> Result<JobId, CommandError> {
        let Some(producer) = self.producer.as_deref().filter(|producer| !producer.is_empty()) else { return Ok(id) };
        let name = ProducerName::new(producer);
        let name =
            name.ok_or_else(|| CommandError::Usage(format!("--producer: {} is no producer", plain(producer))))?;
        Ok(id.of_producer(&name))
    }

    /// Whether what `owner` has is meant.
    pub(super) fn covers(&self, owner: Option<&str>) -> bool {
        self.producer.as_deref().is_none_or(|producer| producer == owner.unwrap_or_default())
    }
}

/// Several have one of the same id.
pub(super) fn ambiguous<'a>(id: &str, owners: impl Iterator<Item = Option<&'a str>>) -> CommandError {
    let owners: Vec<&str> = owners.map(|owner| owner.unwrap_or("''")).collect();
    CommandError::Usage(format!(
        "{}: there are several of this id; say whose is meant with --producer, one of {}",
        plain(id),
        owners.join(", ")
    ))
}
