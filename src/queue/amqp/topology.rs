//! The queues at the broker: their names, their arguments, and what to say where the broker has others.
//!
//! All are durable quorum queues. Arguments cannot be changed once a queue exists, so only those stand here that the
//! worker's promises rest on; everything else is for the operator's policies.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use futures_util::future::join_all;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Queue};

use super::connection::{BrokerConnection, short, within};
use super::names::{QueueNames, Tier};
use crate::queue::{DELIVERY_LIMIT, Lane, QueueError};

/// Looking at a dead letter and putting it back counts as a delivery, and brokers from 4.0 drop it after 20 unless
/// told otherwise; -1 for "never" is refused by 3.x.
const DEAD_DELIVERY_LIMIT: i64 = 1_000_000;
/// A message of a process's own queue that is in nobody's hands goes to the job queue after this time.
pub(super) const UNHELD_TTL: Duration = Duration::from_secs(2);
/// The own queue of a process that is gone is removed after this time: long after all messages have left it.
pub(super) const HELD_EXPIRES: Duration = Duration::from_hours(24);
/// What the broker says to a user who may not do this.
pub(super) const ACCESS_REFUSED: &str = "ACCESS_REFUSED";
/// The argument that says what a full queue does, and its value for one that refuses.
const OVERFLOW: &str = "x-overflow";
const REJECT: &str = "reject-publish";
const REPLIES_MAX_LENGTH: i64 = 100_000;
const REPLIES_TTL: Duration = Duration::from_hours(7 * 24);

/// What is done about the queues when a connection is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TopologyMode {
    /// Declares them. A queue that exists with other arguments is refused, in words.
    #[default]
    Declare,
    /// Looks whether they exist, for users who may not configure queues. One that has other arguments is used as it is, and
    /// said; where the user may not configure it, the broker does not tell.
    Verify,
    /// Neither: a missing queue shows when it is used.
    None,
}

/// A queue as this worker needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueDefinition {
    /// With its prefix, such as `agentkit.jobs`.
    pub name: String,
    /// Its arguments, `x-queue-type` and the like.
    pub arguments: BTreeMap<&'static str, Argument>,
}

/// The value of a queue argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A long string, such as `quorum` or `reject-publish`.
    Text(String),
    /// A whole number; the broker does not mind its width.
    Number(i64),
}

impl fmt::Display for Argument {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => formatter.write_str(text),
            Self::Number(number) => write!(formatter, "{number}"),
        }
    }
}

/// A job that was put aside goes back to the job queue after this time: an older worker, which does not know of the backlog, has
/// it then, where no newer one is left. A newer one puts it aside again, so a job costs a move each time while it waits.
const ASIDE_TTL: Duration = Duration::from_mins(10);

/// All queues of `names`.
pub fn definitions(names: &QueueNames) -> Vec<QueueDefinition> {
    let jobs = |name| {
        QueueDefinition::new(name)
            .number("x-delivery-limit", DELIVERY_LIMIT.into())
            .dead_lettered_safely_to(&names.dead())
    };
    let mut all = vec![
        QueueDefinition::new(names.dead()).number("x-delivery-limit", DEAD_DELIVERY_LIMIT),
        jobs(names.jobs()),
        jobs(names.urgent()),
        QueueDefinition::replies(names),
        // Looked at again and again while a journal is away: what a person said is not to be lost over that.
        QueueDefinition::new(names.decisions()).number("x-delivery-limit", DEAD_DELIVERY_LIMIT).text(OVERFLOW, REJECT),
    ];
    all.extend(Tier::ALL.map(|tier| {
        QueueDefinition::new(names.wait(tier))
            .number("x-message-ttl", milliseconds(tier.wait()))
            .dead_lettered_safely_to(&names.jobs())
    }));
    all.extend(backlog(names));
    all
}

/// The queues of jobs that were put aside; made by workers alone. Given back by workers that died, a message is still a job's
/// only one: no delivery limit may take it past the job queue.
pub(super) fn backlog(names: &QueueNames) -> Vec<QueueDefinition> {
    let lane = |lane| {
        QueueDefinition::new(names.backlog(lane))
            .number("x-message-ttl", milliseconds(ASIDE_TTL))
            .number("x-delivery-limit", DELIVERY_LIMIT.into())
            .dead_lettered_safely_to(&names.jobs())
    };
    Lane::all().map(lane).collect()
}

/// How a queue was found.
pub(super) enum Declared {
    AsDefined,
    /// As an earlier version declared it.
    Earlier(Queue),
}

/// Makes sure of the queues as `mode` says. All refusals are reported at once.
pub(super) async fn establish(
    link: &BrokerConnection,
    names: &QueueNames,
    mode: TopologyMode,
    timeout: Duration,
) -> Result<(), QueueError> {
    if mode == TopologyMode::None {
        return Ok(());
    }
    // All at once: while a leader stands still, each answer takes the broker a quarter of a second.
    let mut definitions = definitions(names);
    definitions.retain(|definition| !names.is_backlog(&definition.name));
    let each = definitions.iter().map(|definition| definition.establish(link, names, mode, timeout));
    let mut refusals = Vec::new();
    for established in join_all(each).await {
        match established {
            Ok(()) => {}
            Err(QueueError::Refused(words)) => refusals.push(words),
            Err(error) => return Err(error),
        }
    }
    if refusals.is_empty() { Ok(()) } else { Err(QueueError::Refused(refusals.join("; "))) }
}

/// How queues that somebody else has made differ from what the worker would have made, in words each.
pub(super) async fn differences(
    link: &BrokerConnection,
    names: &QueueNames,
    timeout: Duration,
) -> Result<Vec<String>, QueueError> {
    let mut differences = Vec::new();
    for definition in definitions(names) {
        // To declare a queue that is there changes nothing, and compares the arguments.
        if definition.look(&link.channel(timeout).await?, timeout).await?.is_none() {
            continue;
        }
        match definition.declare_or_take(link, names, timeout).await {
            Ok(_) => {}
            // Nobody tells a user who may not configure queues: the management API at most.
            Err(QueueError::Refused(words)) if words.contains(ACCESS_REFUSED) => {}
            Err(QueueError::Refused(words)) => differences.push(words),
            Err(error) => return Err(error),
        }
    }
    Ok(differences)
}

impl QueueDefinition {
    pub(super) fn new(name: String) -> Self {
        Self { name, arguments: BTreeMap::new() }.text("x-queue-type", "quorum")
    }

    /// The common reply queue. One that is full refuses: a reply that it took is kept until it is read, or too old.
    pub(super) fn replies(names: &QueueNames) -> Self {
        Self::before_it_refused(names).text(OVERFLOW, REJECT)
    }

    /// The common reply queue as it was declared up to version 0.1.0: one that is full drops its oldest replies.
    fn before_it_refused(names: &QueueNames) -> Self {
        Self::new(names.replies())
            .number("x-max-length", REPLIES_MAX_LENGTH)
            .number("x-message-ttl", milliseconds(REPLIES_TTL))
    }

    /// A process's own queue. Given back by a process that died again and again, a message is still a job's only one: no
    /// delivery limit may take it.
    pub(super) fn held(names: &QueueNames, process: &str) -> Self {
        Self::new(names.held(process))
            .number("x-message-ttl", milliseconds(UNHELD_TTL))
            .number("x-expires", milliseconds(HELD_EXPIRES))
            .number("x-delivery-limit", DEAD_DELIVERY_LIMIT)
            .dead_lettered_safely_to(&names.jobs())
    }

    async fn establish(
        &self,
        link: &BrokerConnection,
        names: &QueueNames,
        mode: TopologyMode,
        timeout: Duration,
    ) -> Result<(), QueueError> {
        match mode {
            TopologyMode::Declare => self.declare_or_take(link, names, timeout).await.map(drop),
            // Made by whoever may, or never: what is urgent goes to the job queue then, and decisions come by other doors.
            TopologyMode::Verify if [names.urgent(), names.decisions()].contains(&self.name) => Ok(()),
            TopologyMode::Verify | TopologyMode::None => {
                let found = self.look(&link.channel(timeout).await?, timeout).await?;
                let missing = || QueueError::Refused(format!("queue {} does not exist", self.name));
                found.map(drop).ok_or_else(missing)
            }
        }
    }

    fn text(mut self, argument: &'static str, value: &str) -> Self {
        self.arguments.insert(argument, Argument::Text(value.to_owned()));
        self
    }

    fn number(mut self, argument: &'static str, value: i64) -> Self {
        self.arguments.insert(argument, Argument::Number(value));
        self
    }

    /// Dead letters go through the default exchange and stay in this queue until the other one confirmed them. Without
    /// `reject-publish` the broker silently falls back to dead-lettering at most once (measured on 3.10).
    fn dead_lettered_safely_to(self, queue: &str) -> Self {
        self.text("x-dead-letter-exchange", "")
            .text("x-dead-letter-routing-key", queue)
            .text("x-dead-letter-strategy", "at-least-once")
            .text(OVERFLOW, REJECT)
    }

    /// Declares the queue; the common reply queue may also be the one of an earlier version, and is used as it is then.
    pub(super) async fn declare_or_take(
        &self,
        link: &BrokerConnection,
        names: &QueueNames,
        timeout: Duration,
    ) -> Result<Declared, QueueError> {
        // A channel of its own each, as an error closes the channel.
        let refused = match self.declare(&link.channel(timeout).await?, timeout).await {
            Err(error @ QueueError::Refused(_)) if self.name == names.replies() => error,
            declared => return declared.map(|_| Declared::AsDefined),
        };
        let earlier = Self::before_it_refused(names).declare(&link.channel(timeout).await?, timeout).await;
        earlier.map(Declared::Earlier).map_err(|_| refused)
    }

    /// Declares the queue. Harmless where it exists with these arguments, [`QueueError::Refused`] where they differ.
    pub(super) async fn declare(&self, channel: &Channel, timeout: Duration) -> Result<Queue, QueueError> {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(short(&self.name)?, options, self.field_table());
        within(timeout, declared).await.map_err(|error| match error {
            QueueError::Refused(text) => QueueError::Refused(self.explain(&text)),
            error => error,
        })
    }

    /// Looks at the queue without making it: `None` where it does not exist.
    pub(super) async fn look(&self, channel: &Channel, timeout: Duration) -> Result<Option<Queue>, QueueError> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        match within(timeout, channel.queue_declare(short(&self.name)?, options, FieldTable::default())).await {
            Ok(queue) => Ok(Some(queue)),
            Err(QueueError::Unavailable(text)) if text.contains("NOT_FOUND") => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn field_table(&self) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, argument) in &self.arguments {
            let value = match argument {
                Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
                Argument::Number(number) => AMQPValue::LongLongInt(*number),
            };
            table.insert((*name).into(), value);
        }
        table
    }

    /// Turns the broker's "inequivalent arg" into words and a way out.
    fn explain(&self, text: &str) -> String {
        let Some(difference) = Difference::parse(text) else {
            return format!("queue {}: {text}", self.name);
        };
        format!(
            "queue {name} exists with another {}: {} at the broker, {} here; delete it once it is empty \
             (`rabbitmqctl delete_queue --vhost '{}' --if-empty {name}`) and start a worker that declares it anew, choose another \
             amqp.prefix, or use it as it is with amqp.topology = \"verify\"",
            difference.argument,
            difference.theirs,
            difference.ours,
            difference.vhost,
            name = self.name,
        )
    }
}

/// What the broker says where a queue's arguments differ from the declared ones.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    argument: String,
    ours: String,
    theirs: String,
    vhost: String,
}

impl Difference {
    /// Reads `inequivalent arg 'A' for queue 'Q' in vhost 'V': received X but current is Y`, where X and Y are `'value'`,
    /// `none` or `the value 'value' of type 'type'` (3.10 and 4.x texts).
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("inequivalent arg '")?;
        let (argument, rest) = rest.split_once('\'')?;
        let (place, rest) = rest.rsplit_once(": received ")?;
        let vhost = place.rsplit_once("in vhost '").map_or("/", |(_, vhost)| vhost.trim_end_matches('\''));
        let (ours, theirs) = rest.split_once(" but current is ")?;
        Some(Self { argument: argument.to_owned(), ours: value(ours), theirs: value(theirs), vhost: vhost.to_owned() })
    }
}

fn value(text: &str) -> String {
    match text.split_once('\'') {
        Some((_, rest)) => rest.split('\'').next().unwrap_or(rest).to_owned(),
        None => text.trim().to_owned(),
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_takes_the_longest_tier_that_is_not_longer() {
        for (seconds, tier) in [
            (0.0, Tier::OneSecond),
            (0.4, Tier::OneSecond),
            (4.999, Tier::OneSecond),
            (5.0, Tier::FiveSeconds),
            (119.0, Tier::ThirtySeconds),
            (599.0, Tier::TwoMinutes),
            (3599.0, Tier::TenMinutes),
            (3600.0, Tier::OneHour),
            (1e7, Tier::OneHour),
        ] {
            assert_eq!(Tier::for_wait(Duration::from_secs_f64(seconds)), tier, "{seconds} s");
        }
    }

    #[test]
    fn every_queue_is_a_quorum_queue_and_dead_letters_stop_at_the_dead_queue() {
        let names = QueueNames::new("p");
        let all = definitions(&names);
        assert_eq!(all.len(), 11 + Lane::COUNT);
        for definition in &all {
            assert_eq!(definition.arguments["x-queue-type"].to_string(), "quorum");
            let target = definition.arguments.get("x-dead-letter-routing-key").map(ToString::to_string);
            let expected = match definition.name.as_str() {
                "p.dead" | "p.replies" | "p.decisions" => None,
                "p.jobs" | "p.jobs.high" => Some("p.dead".to_owned()),
                _ => Some("p.jobs".to_owned()),
            };
            assert_eq!(target, expected, "{}", definition.name);
            let refuses = definition.arguments.get(OVERFLOW).is_some_and(|how| how.to_string() == REJECT);
            assert_eq!(
                refuses,
                definition.name != "p.dead",
                "{}: nothing is dropped by a queue that is full",
                definition.name
            );
        }
    }

    #[test]
    fn a_difference_is_read_from_every_brokers_text() {
        for (text, ours, theirs) in [
            ("received '4' but current is '3'", "4", "3"),
            ("received none but current is the value '3' of type 'long'", "none", "3"),
            ("received the value 'quorum' of type 'longstr' but current is none", "quorum", "none"),
        ] {
            let text = format!("PRECONDITION_FAILED - inequivalent arg 'x-a' for queue 'p.jobs' in vhost '/': {text}");
            let expected =
                Difference { argument: "x-a".into(), ours: ours.into(), theirs: theirs.into(), vhost: "/".into() };
            assert_eq!(Difference::parse(&text), Some(expected));
        }
    }

    #[test]
    fn a_text_that_was_cut_off_or_made_up_is_shown_as_it_is() {
        let definition = QueueDefinition::new("q".into());
        for text in
            ["", "inequivalent arg '", "inequivalent arg 'x' for queue", "inequivalent arg 'x': received 'a' but"]
        {
            assert_eq!(definition.explain(text), format!("queue q: {text}"));
        }
        assert_eq!(value("'"), "");
    }
}
