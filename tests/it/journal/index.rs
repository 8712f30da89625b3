//! The index of runs: what is listed is what journals say, whoever crashed in between.

use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::internals::clock::{Clock, ManualClock, SystemClock};
use agentkit_worker::internals::journal::index::{FoundRun, Indexed, RunCursor, RunQuery};
use agentkit_worker::internals::journal::memory::MemoryJournal;
use agentkit_worker::internals::journal::redis::RedisJournal;
use agentkit_worker::internals::journal::{Append, Claim, ClaimMode, FencingToken, Journal, Remains};
use agentkit_worker::internals::redis_client::RedisClient;
use agentkit_worker::internals::standing::{RunRow, RunState};
use agentkit_worker::job::{Identifier, JobId};
use jiff::{SignedDuration, Timestamp};

use crate::support::redis::{AnyRedis, Redis};
use crate::support::redis_cluster::RedisCluster;
use crate::support::{eventually, shortly};

const KEEP: Duration = Duration::from_hours(24);
const BEGAN: i64 = 1_800_000_000;

fn job(name: &str) -> JobId {
    JobId::new(name).unwrap()
}

fn user(name: &str) -> Identifier {
    Identifier::new(name).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(BEGAN + second).unwrap()
}

/// A run in somebody's hands.
struct Held<'a> {
    journal: &'a dyn Journal,
    id: JobId,
    identifier: Identifier,
    token: FencingToken,
    sequence: u64,
}

impl<'a> Held<'a> {
    async fn claim(journal: &'a dyn Journal, name: &str, identifier: &str) -> Self {
        let lease = Duration::from_secs(30);
        let taken = journal.claim(&job(name), "w", lease, ClaimMode::Steal).await.unwrap();
        let Claim::Granted { token, entries } = taken else { panic!("{taken:?}") };
        let sequence = entries.len() as u64;
        Self { journal, id: job(name), identifier: user(identifier), token, sequence }
    }

    /// One entry, after which the run stands so.
    async fn stands(&mut self, state: RunState, since: i64, known_as: Option<RunState>) -> &mut Self {
        self.append(state, since, known_as, KEEP, None).await
    }

    async fn append(
        &mut self,
        state: RunState,
        since: i64,
        known_as: Option<RunState>,
        retain: Duration,
        remains: Option<Remains<'_>>,
    ) -> &mut Self {
        let entries = ["{}".to_owned()];
        let index = Some(Indexed { identifier: &self.identifier, state, since: at(since), known_as, keep: KEEP });
        let (token, sequence, lease) = (self.token, self.sequence, Duration::ZERO);
        let append = Append { token, sequence, entries: &entries, lease, retain, remains, index };
        self.journal.append(&self.id, append).await.unwrap();
        self.sequence += 1;
        self
    }
}

fn row(name: &str, identifier: &str, state: RunState, since: i64) -> RunRow {
    RunRow { id: job(name), identifier: user(identifier), state, at: at(since) }
}

/// All that fits, page by page.
async fn listed(journal: &dyn Journal, query: RunQuery) -> Vec<RunRow> {
    let (mut rows, mut query) = (Vec::new(), query);
    loop {
        let page = journal.list(&query).await.unwrap();
        rows.extend(page.runs.into_iter().map(|run| match run {
            FoundRun::Certain(row) => row,
            FoundRun::Unsaid(id) => panic!("nothing is said of {id}"),
        }));
        let Some(next) = page.next else { return rows };
        query.cursor = RunCursor::parse(&next.to_string());
        assert!(query.cursor.is_some());
    }
}

fn of(identifier: &str) -> RunQuery {
    RunQuery { identifier: Some(user(identifier)), limit: 100, ..RunQuery::default() }
}

fn all() -> RunQuery {
    RunQuery { limit: 100, ..RunQuery::default() }
}

fn standing(state: RunState) -> RunQuery {
    RunQuery { state: Some(state), ..all() }
}

async fn runs_are_found_by_state_user_and_time(journal: &dyn Journal) {
    use RunState::{Completed, Failed, Queued, Running, Waiting};
    let hostile = "a:b {x}\n%é";
    Held::claim(journal, "one", "alice").await.stands(Running, 1, None).await.stands(Completed, 5, Some(Running)).await;
    Held::claim(journal, "two", "alice").await.stands(Running, 2, None).await.stands(Waiting, 6, Some(Running)).await;
    Held::claim(journal, "three", hostile).await.stands(Running, 3, None).await;
    Held::claim(journal, "four", "bob").await.stands(Running, 4, None).await.stands(Failed, 7, Some(Running)).await;
    Held::claim(journal, "five", "bob").await.stands(Queued, 8, None).await;

    let rows = [
        row("five", "bob", Queued, 8),
        row("four", "bob", Failed, 7),
        row("two", "alice", Waiting, 6),
        row("one", "alice", Completed, 5),
        row("three", hostile, Running, 3),
    ];
    assert_eq!(listed(journal, all()).await, rows, "the one that changed last first, each once");
    for row in &rows {
        assert_eq!(listed(journal, standing(row.state)).await, std::slice::from_ref(row), "{}", row.state.as_str());
        assert_eq!(journal.find(&row.id).await.unwrap(), Some(FoundRun::Certain(row.clone())));
    }
    assert_eq!(journal.find(&job("none")).await.unwrap(), None);
    assert_eq!(listed(journal, of("alice")).await, rows[2..4]);
    assert_eq!(listed(journal, of(hostile)).await, rows[4..]);
    assert_eq!(listed(journal, of("a")).await, []);
    assert_eq!(listed(journal, RunQuery { state: Some(Failed), ..of("bob") }).await, rows[1..2]);
    assert_eq!(listed(journal, RunQuery { since: Some(at(6)), ..all() }).await, rows[..3]);
    let later = at(6) + SignedDuration::from_micros(1);
    assert_eq!(listed(journal, RunQuery { since: Some(later), ..all() }).await, rows[..2]);

    // A run that is opened again leaves the others that have ended.
    Held::claim(journal, "five", "bob").await.stands(Running, 9, Some(Queued)).await;
    Held::claim(journal, "four", "bob")
        .await
        .stands(Queued, 10, Some(Failed))
        .await
        .stands(Queued, 10, Some(Queued))
        .await;
    assert_eq!(listed(journal, of("bob")).await, [row("four", "bob", Queued, 10), row("five", "bob", Running, 9)]);
    assert_eq!(listed(journal, standing(Failed)).await, []);
}

async fn pages_hold_each_run_once_though_many_changed_at_the_same_time(journal: &dyn Journal) {
    let names: Vec<String> = (0..53).map(|number| format!("page-{number:02}")).collect();
    for (number, name) in (0..).zip(&names) {
        let state = RunState::ALL[number % 5];
        let since = if number < 40 { 50 } else { 51 };
        Held::claim(journal, name, "carol").await.stands(state, since, None).await;
    }
    for limit in [1, 7, 20, 53, 1000] {
        let rows = listed(journal, RunQuery { limit, ..of("carol") }).await;
        let mut found: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        assert!(rows.windows(2).all(|pair| pair[0].at >= pair[1].at), "{rows:?}");
        found.sort_unstable();
        assert_eq!(found, names, "{limit} a page");
    }
    let whole = journal.list(&RunQuery { limit: 53, ..of("carol") }).await.unwrap();
    assert_eq!((whole.runs.len(), whole.next), (53, None), "nothing follows");
}

async fn a_run_is_listed_while_something_is_kept_of_it(journal: &dyn Journal, later: impl AsyncFn()) {
    let brief = Duration::from_millis(150);
    let kept = ["{}".to_owned()];
    let mut sealed = Held::claim(journal, "sealed", "dave").await;
    sealed.stands(RunState::Running, 61, None).await;
    let remains = Some(Remains { entries: &kept, retain: KEEP });
    sealed.append(RunState::Completed, 62, Some(RunState::Running), brief, remains).await;
    Held::claim(journal, "gone", "dave").await.append(RunState::Failed, 63, None, brief, None).await;
    later().await;
    assert_eq!(listed(journal, of("dave")).await, [row("sealed", "dave", RunState::Completed, 62)]);
    assert_eq!(journal.find(&job("gone")).await.unwrap(), None);
}

/// Until both `sealed` and `gone` have lost their journals.
async fn after_a_moment(client: &RedisClient) {
    let journal = RedisJournal::new(client.clone());
    shortly("the journals' time is over", async || {
        let gone = journal.read(&job("gone")).await.unwrap().is_empty();
        (gone && journal.read(&job("sealed")).await.unwrap().len() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn runs_are_found_in_memory() {
    let clock = Arc::new(ManualClock::new(at(0)));
    let journal = MemoryJournal::new(clock.clone(), 1000);
    runs_are_found_by_state_user_and_time(&journal).await;
    pages_hold_each_run_once_though_many_changed_at_the_same_time(&journal).await;
    let later = async || clock.advance(SignedDuration::from_secs(1));
    a_run_is_listed_while_something_is_kept_of_it(&journal, later).await;
}

#[tokio::test]
async fn runs_are_found_in_redis_and_on_a_cluster() {
    for redis in [AnyRedis::start().await, AnyRedis::cluster().await] {
        let journal = RedisJournal::new(redis.client());
        runs_are_found_by_state_user_and_time(&journal).await;
        pages_hold_each_run_once_though_many_changed_at_the_same_time(&journal).await;
        a_run_is_listed_while_something_is_kept_of_it(&journal, async || after_a_moment(&redis.client()).await).await;
    }
}

#[tokio::test]
async fn an_index_that_is_late_or_lost_is_mended_by_the_next_append_or_by_looking() {
    let redis = Redis::start().await;
    let journal = RedisJournal::new(redis.client());
    let scores = |set: &str| redis.command(&["ZRANGE", set, "0", "-1"]);
    let (all_running, all_failed) = ("agentkit:index:{all}:running", "agentkit:index:{all}:failed");
    let hers = "agentkit:index:of:{alice}:failed";
    let mut run = Held::claim(&journal, "a", "alice").await;
    run.stands(RunState::Running, 1, None).await;
    // As where a worker died between the append and the index: the journal alone knows.
    run.stands(RunState::Failed, 2, Some(RunState::Failed)).await;
    assert_eq!((scores(all_running).as_str(), scores(all_failed).as_str()), ("a", ""));
    assert_eq!(listed(&journal, standing(RunState::Running)).await, [], "the journal has the last word");
    assert_eq!(scores(all_running), "");
    assert_eq!((scores(all_failed).as_str(), scores(hers).as_str()), ("a", "a"), "who looks puts it right");
    assert_eq!(listed(&journal, of("alice")).await, [row("a", "alice", RunState::Failed, 2)]);

    redis.command(&["DEL", all_failed, hers]);
    assert_eq!(listed(&journal, all()).await, []);
    run.stands(RunState::Failed, 2, None).await;
    assert_eq!(listed(&journal, all()).await, [row("a", "alice", RunState::Failed, 2)], "the next append does, too");

    // A worker of an earlier version, which knows of no heads, goes on with it.
    redis.command(&["HSET", "agentkit:run:{a}", "2", "{}", "length", "7"]);
    let found = journal.list(&all()).await.unwrap().runs;
    assert_eq!(found, [FoundRun::Unsaid(job("a"))], "the entries know better");
    redis.command(&["ZADD", all_failed, "5", "never", "6", ""]);
    assert_eq!(journal.list(&all()).await.unwrap().runs.len(), 1, "what nobody knows is not shown");
    assert_eq!(scores(all_failed), "a", "and forgotten");
}

#[tokio::test]
async fn the_index_is_trimmed_by_number_and_age_and_expires() {
    let redis = Redis::start().await;
    let journal = RedisJournal::with_index_of(redis.client(), 5);
    let now = SystemClock.now().as_second() - BEGAN;
    for number in 0..40 {
        // Whole seconds that are even are so many times the sixteen milliseconds at which sets are trimmed.
        let since = (now - 100 + number) & !1;
        Held::claim(&journal, &format!("run-{number}"), "alice").await.stands(RunState::Running, since, None).await;
    }
    let set = "agentkit:index:of:{alice}:running";
    assert_eq!(redis.command(&["ZCARD", set]), "5");
    let expires: i64 = redis.command(&["PTTL", set]).parse().unwrap();
    assert!((1..=86_400_000).contains(&expires), "{expires}");
    let day_ago = (BEGAN + now - 86_500) * 1000;
    redis.command(&["ZADD", "agentkit:index:of:{bob}:running", &day_ago.to_string(), "old"]);
    let journal = RedisJournal::new(redis.client());
    Held::claim(&journal, "young", "bob").await.stands(RunState::Running, now & !1, None).await;
    assert_eq!(redis.command(&["ZRANGE", "agentkit:index:of:{bob}:running", "0", "-1"]), "young");
}

#[tokio::test]
async fn a_node_of_a_cluster_behind_a_plain_address_gets_its_index_apart() {
    let redis = Redis::start_with(&["--cluster-enabled", "yes"]).await;
    redis.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    let journal = RedisJournal::new(redis.client());
    eventually("the node serves all slots", async || journal.read(&job("a")).await.ok()).await;
    runs_are_found_by_state_user_and_time(&journal).await;
}

#[tokio::test]
async fn a_run_on_a_cluster_goes_on_while_the_node_of_the_index_hangs() {
    let cluster = RedisCluster::start().await;
    let journal = RedisJournal::new(cluster.client());
    let index = cluster.owner("agentkit:index:{all}:running");
    let elsewhere = |name: &String| cluster.owner(&format!("agentkit:run:{{{name}}}")) != index;
    let name = (0..100).map(|number| format!("job-{number}")).find(elsewhere).expect("a hundred reach all");
    let mut run = Held::claim(&journal, &name, "alice").await;
    run.stands(RunState::Running, 1, None).await;
    cluster.nodes[index].freeze();
    run.stands(RunState::Completed, 2, Some(RunState::Running)).await;
    cluster.nodes[index].thaw();
    let found = row(&name, "alice", RunState::Completed, 2);
    assert_eq!(journal.find(&run.id).await.unwrap(), Some(FoundRun::Certain(found.clone())));
    let of_all = eventually("the index answers again", async || journal.list(&all()).await.ok()).await;
    assert_eq!(of_all.runs, [FoundRun::Certain(found.clone())]);
    eventually("who looks puts it right", async || {
        journal.list(&standing(RunState::Running)).await.ok()?;
        let runs = journal.list(&standing(RunState::Completed)).await.ok()?.runs;
        (runs == [FoundRun::Certain(found.clone())]).then_some(())
    })
    .await;
}
