//! What every index of parked runs promises, asked of both; of the one in Redis on a cluster too.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::internals::clock::ManualClock;
use agentkit_worker::internals::parking::memory::MemoryParking;
use agentkit_worker::internals::parking::redis::RedisParking;
use agentkit_worker::internals::parking::{Parked, Parking, WaitsFor};
use agentkit_worker::job::{ConnectionName, Identifier, JobId};
use jiff::{SignedDuration, Timestamp};

use crate::support::redis::AnyRedis;
use crate::support::shortly;

const LONG: Duration = Duration::from_mins(1);
const BRIEF: Duration = Duration::from_millis(150);

/// An index under test, and how its time passes.
struct ParkingUnderTest {
    parking: Arc<dyn Parking>,
    clock: Option<Arc<ManualClock>>,
    _redis: Option<AnyRedis>,
}

impl ParkingUnderTest {
    fn memory() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
        Self { parking: Arc::new(MemoryParking::new(clock.clone())), clock: Some(clock), _redis: None }
    }

    async fn redis() -> Self {
        Self::on(AnyRedis::start().await)
    }

    async fn cluster() -> Self {
        Self::on(AnyRedis::cluster().await)
    }

    fn on(redis: AnyRedis) -> Self {
        Self { parking: Arc::new(RedisParking::new(redis.client())), clock: None, _redis: Some(redis) }
    }

    async fn waiting(&self, identifier: &str) -> BTreeSet<String> {
        self.all(identifier).await.into_iter().map(|parked| parked.job.to_string()).collect()
    }

    /// The runs on all pages, of which there is one where there are few runs.
    async fn all(&self, identifier: &str) -> Vec<Parked> {
        let page = self.parking.page(&user(identifier), None).await.unwrap();
        assert_eq!(page.next, None);
        page.runs
    }

    async fn count(&self) -> u64 {
        self.parking.count(WaitsFor::Authorization).await.unwrap()
    }
}

fn user(name: &str) -> Identifier {
    Identifier::new(name).unwrap()
}

/// A name of its own for the job of a user, without the characters that a job id may not have.
fn job_of(name: &str) -> String {
    agentkit_worker::internals::key::digest(name, 8)
}

fn run(job: &str) -> Parked {
    let connections = ["gmail", "a: b"].map(|name| ConnectionName::new(name).unwrap()).to_vec();
    let (job, waits_for) = (JobId::new(job).unwrap(), WaitsFor::Authorization);
    Parked { job, waits_for, connections, message: "{\"é\": \"\\n\"}".into() }
}

async fn a_run_is_found_until_it_is_taken_out(subject: &ParkingUnderTest) {
    let (ann, parking) = (user("ann"), &subject.parking);
    assert_eq!((subject.all("ann").await, subject.count().await), (vec![], 0));
    parking.park(&ann, &run("j"), LONG).await.unwrap();
    parking.park(&ann, &Parked { message: "newer".into(), ..run("j") }, LONG).await.unwrap();
    assert_eq!(subject.all("ann").await, [Parked { message: "newer".into(), ..run("j") }]);
    parking.park(&ann, &run("k"), LONG).await.unwrap();
    assert_eq!(subject.waiting("ann").await, ["j", "k"].map(str::to_owned).into());
    assert_eq!(subject.count().await, 2, "a run that is parked twice counts once");
    for _ in 0..2 {
        parking.unpark(&ann, &run("j").job, WaitsFor::Authorization).await.unwrap();
    }
    assert_eq!((subject.waiting("ann").await, subject.count().await), (["k".to_owned()].into(), 1));
}

async fn runs_are_counted_by_what_they_wait_for_and_found_by_their_jobs(subject: &ParkingUnderTest) {
    let (ann, bob, parking) = (user("ann"), user("bob"), &subject.parking);
    let asked = Parked { waits_for: WaitsFor::Approval, connections: Vec::new(), ..run("k") };
    parking.park(&ann, &run("j"), LONG).await.unwrap();
    parking.park(&ann, &asked, LONG).await.unwrap();
    let counts = async || (subject.count().await, parking.count(WaitsFor::Approval).await.unwrap());
    assert_eq!((counts().await, subject.all("ann").await.len()), ((1, 1), 2));
    assert_eq!(parking.find(&ann, &run("j").job).await.unwrap(), Some(run("j")));
    assert_eq!(parking.find(&ann, &asked.job).await.unwrap(), Some(asked.clone()));
    assert_eq!(parking.find(&bob, &asked.job).await.unwrap(), None, "it is another user's");
    let hostile = "b:ob %3A\n{x}";
    let soon = Parked { job: JobId::new("k:%2F/é").unwrap(), ..asked.clone() };
    parking.park(&user(hostile), &soon, LONG / 2).await.unwrap();
    let first = async |most| parking.first(WaitsFor::Approval, most).await.unwrap();
    let (late, early) = ((ann.clone(), asked.job.clone()), (user(hostile), soon.job.clone()));
    assert_eq!(first(5).await, [early.clone(), late], "of all users, the first that ends comes first");
    assert_eq!((first(1).await, first(0).await), (vec![early], vec![]));
    parking.unpark(&user(hostile), &soon.job, WaitsFor::Approval).await.unwrap();
    parking.unpark(&ann, &asked.job, WaitsFor::Approval).await.unwrap();
    assert_eq!((counts().await, parking.find(&ann, &asked.job).await.unwrap()), ((1, 0), None));
    parking.unpark(&ann, &run("j").job, WaitsFor::Authorization).await.unwrap();
    assert_eq!(counts().await, (0, 0));
}

async fn a_run_is_forgotten_when_its_wait_is_over(subject: &ParkingUnderTest) {
    subject.parking.park(&user("ann"), &run("j"), BRIEF).await.unwrap();
    subject.parking.park(&user("bob"), &run("k"), Duration::MAX).await.unwrap();
    shortly("the wait is over", async || {
        if let Some(clock) = &subject.clock {
            clock.advance(SignedDuration::from_millis(10));
        }
        (subject.count().await == 1 && subject.waiting("ann").await.is_empty()).then_some(())
    })
    .await;
    assert_eq!(subject.waiting("bob").await.len(), 1);
    subject.parking.park(&user("ann"), &run("l"), LONG).await.unwrap();
    subject.parking.park(&user("ann"), &run("m"), Duration::ZERO).await.unwrap();
    assert!(subject.waiting("ann").await.contains("l"), "a short wait does not end a longer one");
}

async fn many_runs_come_by_the_page_although_others_come_and_go(subject: &ParkingUnderTest) {
    let (ann, parking) = (user("ann"), &subject.parking);
    let park = async |stem: &str, count: usize| {
        for number in 0..count {
            parking.park(&ann, &run(&format!("{stem}{number}")), LONG).await.unwrap();
        }
    };
    park("stays", 250).await;
    park("goes", 250).await;
    parking.park(&user("bob"), &run("bobs"), LONG).await.unwrap();
    let (mut found, mut pages, mut from) = (BTreeSet::new(), 0, None);
    loop {
        let page = parking.page(&ann, from.as_ref()).await.unwrap();
        assert!(page.runs.len() < 200, "{}", page.runs.len());
        // A page is woken, and goes on, before the next one is read.
        for gone in page.runs.iter().filter(|parked| parked.job.as_str().starts_with("goes")) {
            parking.unpark(&ann, &gone.job, WaitsFor::Authorization).await.unwrap();
        }
        found.extend(page.runs.into_iter().map(|parked| parked.job.to_string()));
        pages += 1;
        park(&format!("comes{pages}-"), 3).await;
        let Some(next) = page.next else { break };
        from = Some(next);
    }
    assert!((4..100).contains(&pages), "{pages} pages");
    let of = |stem: &str| found.iter().filter(|job| job.starts_with(stem)).count();
    assert_eq!((of("stays"), of("goes"), of("bobs")), (250, 250, 0));
}

async fn hostile_names_never_meet(subject: &ParkingUnderTest) {
    let long = "é".repeat(100);
    let names = ["a:b", "a%3Ab", "a", "b", "../x", "{a}", "*", "a\r\nb", "a\0b", " ", "parked", &long];
    for name in names {
        subject.parking.park(&user(name), &run(&job_of(name)), LONG).await.unwrap();
    }
    assert_eq!(subject.count().await, names.len() as u64);
    for name in names {
        assert_eq!(subject.waiting(name).await, [job_of(name)].into());
    }
}

#[tokio::test]
async fn all_of_it_holds_on_a_cluster() {
    a_run_is_found_until_it_is_taken_out(&ParkingUnderTest::cluster().await).await;
    runs_are_counted_by_what_they_wait_for_and_found_by_their_jobs(&ParkingUnderTest::cluster().await).await;
    a_run_is_forgotten_when_its_wait_is_over(&ParkingUnderTest::cluster().await).await;
    many_runs_come_by_the_page_although_others_come_and_go(&ParkingUnderTest::cluster().await).await;
    hostile_names_never_meet(&ParkingUnderTest::cluster().await).await;
}

mod memory {
    use super::ParkingUnderTest;

    #[tokio::test]
    async fn a_run_is_found_until_it_is_taken_out() {
        super::a_run_is_found_until_it_is_taken_out(&ParkingUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn runs_are_counted_by_what_they_wait_for_and_found_by_their_jobs() {
        super::runs_are_counted_by_what_they_wait_for_and_found_by_their_jobs(&ParkingUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn a_run_is_forgotten_when_its_wait_is_over() {
        super::a_run_is_forgotten_when_its_wait_is_over(&ParkingUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn many_runs_come_by_the_page_although_others_come_and_go() {
        super::many_runs_come_by_the_page_although_others_come_and_go(&ParkingUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn hostile_names_never_meet() {
        super::hostile_names_never_meet(&ParkingUnderTest::memory()).await;
    }
}

mod redis {
    use super::ParkingUnderTest;

    #[tokio::test]
    async fn a_run_is_found_until_it_is_taken_out() {
        super::a_run_is_found_until_it_is_taken_out(&ParkingUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn runs_are_counted_by_what_they_wait_for_and_found_by_their_jobs() {
        super::runs_are_counted_by_what_they_wait_for_and_found_by_their_jobs(&ParkingUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn a_run_is_forgotten_when_its_wait_is_over() {
        super::a_run_is_forgotten_when_its_wait_is_over(&ParkingUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn many_runs_come_by_the_page_although_others_come_and_go() {
        super::many_runs_come_by_the_page_although_others_come_and_go(&ParkingUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn hostile_names_never_meet() {
        super::hostile_names_never_meet(&ParkingUnderTest::redis().await).await;
    }
}
