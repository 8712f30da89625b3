//! Who is next: pure, without clock or queue.
//!
//! Of the priorities that have somebody waiting, eight of `high`, four of `normal` and one of `low` start in turn. Within one
//! the key is next whose runs have had the least time in places for its weight, since others began to wait; each run that is
//! under way counts as one of usual length, so that of keys that were served alike the one with the fewest is next; then who
//! came first. A key that was away has no claim on the time before. A lane of jobs that were put aside stands for whoever of
//! those in it would be next.

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::flow::Flow;
use super::lanes::{KnownLane, KnownLanes};
use crate::job::Priority;
use crate::queue::Lane;
use crate::worker::fairness::FairnessConfig;

/// Starts in turn of each priority, in the order of [`Priority::ALL`].
const TURNS: [u32; 3] = [8, 4, 1];
/// What a millisecond in a place counts for a key with one share, so that it can be divided by the largest weight.
const MILLISECOND: u64 = 1 << 16;
/// How long a run lasts, before any has ended.
const USUAL: u64 = 1000;
/// Keys whose service is remembered: beyond, all begin anew.
const MOST_SERVED: usize = 100_000;

/// Those that wait for a place in this process, and those that have one.
#[derive(Debug)]
pub(crate) struct Order<W> {
    rules: FairnessConfig,
    /// So many wait here.
    room: usize,
    waiting: HashMap<Flow, VecDeque<(u64, W)>>,
    count: usize,
    arrivals: u64,
    active: HashMap<Arc<str>, usize>,
    running: usize,
    lanes: KnownLanes,
    turns: [u32; 3],
    /// What each key has had, where that is more than `had_by_all`.
    had: HashMap<Arc<str>, u64>,
    had_by_all: u64,
    /// How long a run lasts, in milliseconds.
    usual: u64,
}

/// What is to be done for a place that is free.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FreePlace<W> {
    /// It is this one's; it has the place now.
    Start(Flow, W),
    /// The next one in this lane is to be taken; the place is kept for it until [`Order::took`].
    Take(Lane),
}

/// Somebody who may be next.
struct Candidate<'a> {
    /// What it has had, with what is under way.
    had: u64,
    arrival: u64,
    pick: Pick<'a>,
}

enum Pick<'a> {
    Waiting(&'a Flow),
    InLane(Lane),
}

impl Candidate<'_> {
    fn before(&self, other: &Self) -> Ordering {
        self.had.cmp(&other.had).then(self.arrival.cmp(&other.arrival))
    }
}

impl<W> Order<W> {
    /// Nobody waits; up to `room` will.
    pub(crate) fn new(rules: FairnessConfig, room: usize) -> Self {
        Self {
            rules,
            room,
            waiting: HashMap::new(),
            count: 0,
            arrivals: 0,
            active: HashMap::new(),
            running: 0,
            lanes: KnownLanes::default(),
            turns: TURNS,
            had: HashMap::new(),
            had_by_all: 0,
            usual: USUAL,
        }
    }

    /// So many wait here.
    pub(crate) fn waiting(&self) -> usize {
        self.count
    }

    /// So many of each priority, in the order of [`Priority::ALL`].
    pub(crate) fn waiting_by_priority(&self) -> [usize; 3] {
        Priority::ALL.map(|priority| {
            let flows = self.waiting.iter().filter(|(flow, _)| flow.priority == priority);
            flows.map(|(_, waiting)| waiting.len()).sum()
        })
    }

    /// So many places are taken, or kept for those that are being taken out of lanes.
    pub(crate) fn taken(&self) -> usize {
        self.running + self.lanes.taking()
    }

    /// One more waits, behind those of its flow.
    pub(crate) fn join(&mut self, flow: Flow, waiter: W) {
        self.arrivals += 1;
        self.count += 1;
        self.waiting.entry(flow).or_default().push_back((self.arrivals, waiter));
    }

    /// Who is one too many, if anybody is, and the lane that it is to be put into: where more than half of the room is taken, the
    /// newest of the largest flow; where all of it is and each is alone of its flow, the newest of the least priority.
    pub(crate) fn surplus(&mut self) -> Option<(Lane, W)> {
        if self.count <= self.room / 2 {
            return None;
        }
        let (largest, all) = self.waiting.iter().max_by_key(|(_, all)| all.len())?;
        let is_crowd = all.len() > 1;
        let flow = if is_crowd {
            largest.clone()
        } else {
            let newest = |all: &VecDeque<(u64, W)>| all.back().map(|(arrival, _)| *arrival);
            let last = self.waiting.iter().max_by_key(|(flow, all)| (flow.priority, newest(all)));
            last.filter(|_| self.count > self.room)?.0.clone()
        };
        let all = self.waiting.get_mut(&flow)?;
        let (arrival, waiter) = all.pop_back()?;
        if all.is_empty() {
            self.waiting.remove(&flow);
        }
        self.count -= 1;
        let lane = if is_crowd { self.lanes.put(&flow) } else { self.lanes.put_of_many(flow.priority, arrival) };
        Some((lane, waiter))
    }

    /// Those that shall wait here no longer. `leaves` is told of each whether others of its flow wait as well.
    pub(crate) fn sweep(&mut self, mut leaves: impl FnMut(&mut W, bool) -> bool) -> Vec<(Flow, W)> {
        let mut left = Vec::new();
        let lanes = &self.lanes;
        self.waiting.retain(|flow, all| {
            let crowd = all.len() > 1 || lanes.has(flow);
            for (arrival, mut waiter) in std::mem::take(all) {
                if leaves(&mut waiter, crowd) {
                    left.push((flow.clone(), waiter));
                } else {
                    all.push_back((arrival, waiter));
                }
            }
            !all.is_empty()
        });
        self.count -= left.len();
        left
    }

    /// All that wait.
    pub(crate) fn clear(&mut self) -> Vec<W> {
        self.sweep(|_, _| true).into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// The lane that a job of `flow` is to be put into.
    pub(crate) fn put_aside(&mut self, flow: &Flow) -> Lane {
        self.lanes.put(flow)
    }

    /// A job has come into that lane.
    pub(crate) fn has_come(&mut self, lane: Lane) {
        self.lanes.has_come(lane);
    }

    /// What came out of a lane: a job of this flow, or nothing.
    pub(crate) fn took(&mut self, lane: Lane, flow: Option<&Flow>) {
        self.lanes.took(lane, flow.map(|flow| &flow.key));
    }

    /// A look has shown that these lanes hold jobs, and the others none.
    pub(crate) fn looked(&mut self, filled: &[Lane]) {
        self.lanes.looked(filled);
    }

    /// A run of this key has ended, after so many milliseconds.
    pub(crate) fn ended(&mut self, key: &Arc<str>, milliseconds: u64) {
        self.running = self.running.saturating_sub(1);
        if let Some(active) = self.active.get_mut(key) {
            *active -= 1;
            if *active == 0 {
                self.active.remove(key);
            }
        }
        self.usual = (self.usual.saturating_mul(7).saturating_add(milliseconds) / 8).max(1);
        if self.count == 0 && !self.lanes.any() {
            // Nobody was kept waiting for it.
            self.had.clear();
            self.had_by_all = 0;
            return;
        }
        let had = self.had_by(key).saturating_add(self.share(key, milliseconds.max(1)));
        let all = self.had_by_all;
        if self.had.len() >= MOST_SERVED {
            self.had.retain(|_, had| *had > all);
        }
        if self.had.len() < MOST_SERVED {
            self.had.insert(key.clone(), had);
        }
    }

    /// Who has the next place; `None` where nobody may have it. The caller has one that is free.
    pub(crate) fn next(&mut self) -> Option<FreePlace<W>> {
        let [high, normal, low] = Priority::ALL.map(|priority| self.first_of(priority).map(|first| first.pick));
        let firsts = [high, normal, low];
        let has_turn = |turns: &[u32; 3]| (0..firsts.len()).find(|&class| turns[class] > 0 && firsts[class].is_some());
        let mut turns = self.turns;
        let class = has_turn(&turns).or_else(|| {
            turns = TURNS;
            has_turn(&turns)
        })?;
        let pick = match firsts.into_iter().nth(class)?? {
            Pick::Waiting(flow) => Ok(flow.clone()),
            Pick::InLane(lane) => Err(lane),
        };
        let flow = match pick {
            Ok(flow) => flow,
            Err(lane) => {
                self.lanes.take(lane);
                return Some(FreePlace::Take(lane));
            }
        };
        turns[class] -= 1;
        self.turns = turns;
        let all = self.waiting.get_mut(&flow)?;
        let (_, waiter) = all.pop_front()?;
        if all.is_empty() {
            self.waiting.remove(&flow);
        }
        self.count -= 1;
        self.begin(&flow.key);
        Some(FreePlace::Start(flow, waiter))
    }

    fn begin(&mut self, key: &Arc<str>) {
        self.running += 1;
        *self.active.entry(key.clone()).or_default() += 1;
        self.had_by_all = self.had_by(key);
    }

    fn had_by(&self, key: &Arc<str>) -> u64 {
        self.had.get(key).map_or(self.had_by_all, |had| (*had).max(self.had_by_all))
    }

    /// What so many milliseconds in a place count for this key.
    fn share(&self, key: &Arc<str>, milliseconds: u64) -> u64 {
        milliseconds.saturating_mul(MILLISECOND) / u64::from(self.rules.weight(Flow::name(key)))
    }

    /// Whether one more run of this key may begin.
    fn may_begin(&self, key: &Arc<str>, active: usize) -> bool {
        self.rules.per_key == 0 || key.is_empty() || active < self.rules.per_key
    }

    fn first_of(&self, priority: Priority) -> Option<Candidate<'_>> {
        let flows = self.waiting.iter().filter(|(flow, _)| flow.priority == priority);
        let here = flows.filter_map(|(flow, all)| {
            let (arrival, _) = all.front()?;
            self.candidate(&flow.key, 0, *arrival, Pick::Waiting(flow))
        });
        // What is looked for in a lane may stand far behind: what comes out on the way must find room here.
        let has_room = self.count == 0 || self.count < self.room;
        let lanes = self.lanes.each().filter(|(lane, known)| known.filled && lane.priority() == priority && has_room);
        let aside = lanes.filter_map(|(lane, known)| self.first_in(lane, known));
        here.chain(aside).min_by(Candidate::before)
    }

    fn first_in<'a>(&'a self, lane: Lane, known: &'a KnownLane) -> Option<Candidate<'a>> {
        let of_many = lane == Lane::of_many(lane.priority());
        let mut keys = known.keys().filter(|_| !of_many).peekable();
        if keys.peek().is_none() {
            // Nobody in particular: as one who has had nothing.
            let coming = (known.taking as u64).saturating_mul(self.usual).saturating_mul(MILLISECOND);
            let arrival = if of_many { known.oldest() } else { u64::MAX };
            let had = self.had_by_all.saturating_add(coming);
            return Some(Candidate { had, arrival, pick: Pick::InLane(lane) });
        }
        // Behind those of the same key that are here: they came first.
        let candidates = keys.filter_map(|key| self.candidate(key, known.taking, u64::MAX, Pick::InLane(lane)));
        candidates.min_by(Candidate::before)
    }

    fn candidate<'a>(&self, key: &Arc<str>, coming: usize, arrival: u64, pick: Pick<'a>) -> Option<Candidate<'a>> {
        let active = self.active.get(key).copied().unwrap_or(0) + coming;
        let under_way = self.share(key, self.usual.saturating_mul(active as u64));
        let had = self.had_by(key).saturating_add(under_way);
        self.may_begin(key, active).then_some(Candidate { had, arrival, pick })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::worker::fairness::SharedBy;

    fn rules(per_key: usize, weights: &[(&str, u32)]) -> FairnessConfig {
        let weights = weights.iter().map(|(key, weight)| ((*key).to_owned(), *weight)).collect();
        FairnessConfig { key: SharedBy::Identifier, per_key, weights }
    }

    fn flow(key: &str, priority: Priority) -> Flow {
        Flow { key: format!("identifier:{key}").into(), priority }
    }

    /// A worker and its broker, where a job lasts as many turns as it says.
    struct Simulation {
        order: Order<Job>,
        places: usize,
        jobs: VecDeque<Job>,
        lanes: BTreeMap<usize, VecDeque<Job>>,
        under_way: Vec<Job>,
        started: Vec<Job>,
        put_aside: usize,
    }

    #[derive(Debug, Clone, PartialEq)]
    struct Job {
        flow: Flow,
        lasts: u64,
        turns: u64,
    }

    impl Job {
        fn new(key: &str, priority: Priority, turns: u64) -> Self {
            Self { flow: flow(key, priority), lasts: turns, turns }
        }
    }

    impl Simulation {
        fn new(rules: FairnessConfig, places: usize, room: usize) -> Self {
            Self {
                order: Order::new(rules, room),
                places,
                jobs: VecDeque::new(),
                lanes: BTreeMap::new(),
                under_way: Vec::new(),
                started: Vec::new(),
                put_aside: 0,
            }
        }

        fn publish(&mut self, key: &str, priority: Priority, jobs: usize) {
            let job = Job::new(key, priority, 1);
            self.jobs.extend(std::iter::repeat_n(job, jobs));
        }

        /// Takes all that there is room for, as a dispatcher does, until nothing is left to do.
        fn settle(&mut self) {
            loop {
                while self.order.taken() < self.places {
                    match self.order.next() {
                        Some(FreePlace::Start(flow, job)) => {
                            assert_eq!(flow, job.flow);
                            self.started.push(job.clone());
                            self.under_way.push(job);
                        }
                        Some(FreePlace::Take(lane)) => {
                            let job = self.lanes.get_mut(&lane.index()).and_then(VecDeque::pop_front);
                            self.order.took(lane, job.as_ref().map(|job| &job.flow));
                            if let Some(job) = job {
                                self.order.join(job.flow.clone(), job);
                            }
                        }
                        None => break,
                    }
                }
                let Some(job) = self.jobs.pop_front() else { return };
                self.order.join(job.flow.clone(), job.clone());
                while let Some((lane, job)) = self.order.surplus() {
                    self.lanes.entry(lane.index()).or_default().push_back(job);
                    self.order.has_come(lane);
                    self.put_aside += 1;
                }
            }
        }

        /// One turn: those whose time is over end.
        fn turn(&mut self) {
            let mut under_way = std::mem::take(&mut self.under_way);
            for job in &mut under_way {
                job.turns -= 1;
            }
            for job in under_way {
                match job.turns {
                    0 => self.order.ended(&job.flow.key, 100 * job.lasts),
                    _ => self.under_way.push(job),
                }
            }
            self.settle();
        }

        fn left(&self) -> usize {
            self.jobs.len() + self.order.waiting() + self.lanes.values().map(VecDeque::len).sum::<usize>()
        }

        /// Until all have ended: a place is empty only once nobody waits.
        fn run(&mut self) {
            self.settle();
            while self.left() > 0 || !self.under_way.is_empty() {
                assert!(
                    self.left() == 0 || self.under_way.len() == self.places,
                    "a place is empty and {} wait",
                    self.left()
                );
                self.turn();
            }
            assert_eq!(self.order.taken(), 0);
        }

        fn places_of(&self, key: &str) -> Vec<usize> {
            let key = flow(key, Priority::Normal).key;
            self.started.iter().enumerate().filter(|(_, job)| job.flow.key == key).map(|(place, _)| place).collect()
        }
    }

    #[test]
    fn a_thousand_jobs_of_one_user_delay_others_by_little_and_leave_no_place_empty() {
        for (places, room) in [(1, 8), (3, 8), (50, 25), (100, 50)] {
            let mut all = Simulation::new(rules(0, &[]), places, room);
            all.publish("flood", Priority::Normal, 1000);
            for other in 0..99 {
                all.publish(&format!("other {other}"), Priority::Normal, 1);
            }
            all.run();
            assert_eq!(all.started.len(), 1099);
            // What has a place has it before the first of the others is seen.
            let last = (0..99).map(|other| all.places_of(&format!("other {other}"))[0]).max().unwrap();
            assert!(last < places + 99 + places.max(room), "with {places} places the last of the others was {last}th");
            assert!(all.put_aside < 1099, "each job is put aside once at most");
        }
    }

    #[test]
    fn who_comes_while_a_flood_is_under_way_is_next() {
        let mut all = Simulation::new(rules(0, &[]), 10, 8);
        all.publish("flood", Priority::Normal, 500);
        all.settle();
        for other in 0..30 {
            all.turn();
            let before = all.started.len();
            all.publish(&format!("other {other}"), Priority::Normal, 1);
            all.settle();
            all.turn();
            let place = all.places_of(&format!("other {other}"))[0];
            assert!(place <= before + 10, "{place}, when {before} had started");
        }
        all.run();
    }

    #[test]
    fn what_is_urgent_is_seen_behind_any_number_of_users_and_those_start_in_their_order() {
        let mut all = Simulation::new(rules(0, &[]), 2, 8);
        for user in 0..300 {
            all.publish(&format!("user {user:03}"), if user < 30 { Priority::Low } else { Priority::Normal }, 1);
        }
        all.publish("hasty", Priority::High, 1);
        all.settle();
        all.turn();
        assert!(all.places_of("hasty").iter().all(|place| *place < 4), "{:?}", all.places_of("hasty"));
        all.run();
        let normal = all.started.iter().filter(|job| job.flow.priority == Priority::Normal);
        let keys: Vec<Arc<str>> = normal.map(|job| job.flow.key.clone()).collect();
        // The hasty one took the room of the newest that was there.
        let late = keys.windows(2).filter(|pair| pair[0] > pair[1]).count();
        assert_eq!((keys.len(), late), (270, 1));
    }

    #[test]
    fn without_contention_nothing_is_put_aside_or_remembered() {
        let mut all = Simulation::new(rules(0, &[]), 10, 8);
        for round in 0..100 {
            all.publish(&format!("user {}", round % 7), Priority::Normal, 10);
            all.settle();
            all.turn();
        }
        all.run();
        assert_eq!((all.put_aside, all.order.had.len(), all.order.active.len()), (0, 0, 0));
    }

    #[test]
    fn places_are_shared_by_weight_however_many_there_are() {
        for places in [1, 2, 4, 40] {
            let mut all = Simulation::new(rules(0, &[("acme", 3)]), places, 16);
            all.publish("acme", Priority::Normal, 400);
            all.publish("other", Priority::Normal, 400);
            all.run();
            // From where both were seen on, as long as both have jobs.
            let acme = all.places_of("acme").into_iter().filter(|place| (100..400).contains(place)).count();
            assert!((210..=240).contains(&acme), "acme had {acme} of 300 with {places} places");
        }
    }

    #[test]
    fn long_jobs_take_no_more_places_than_short_ones() {
        let mut all = Simulation::new(rules(0, &[]), 10, 8);
        let long = Job::new("long", Priority::Normal, 20);
        all.jobs.extend(std::iter::repeat_n(long, 200));
        all.publish("short", Priority::Normal, 2000);
        all.settle();
        let mut places_of_short = 0;
        for _ in 0..200 {
            all.turn();
            places_of_short += all.under_way.iter().filter(|job| job.lasts == 1).count();
        }
        assert!((800..=1200).contains(&places_of_short), "{places_of_short} of 2000");
    }

    #[test]
    fn a_cap_is_kept_and_others_have_the_places() {
        let mut all = Simulation::new(rules(2, &[]), 10, 8);
        all.publish("flood", Priority::Normal, 50);
        all.settle();
        assert_eq!(all.under_way.len(), 2);
        for other in 0..20 {
            all.publish(&format!("other {other}"), Priority::Normal, 1);
        }
        all.settle();
        assert_eq!(all.under_way.len(), 10);
        while all.left() > 0 || !all.under_way.is_empty() {
            let flood = all.under_way.iter().filter(|job| job.flow == flow("flood", Priority::Normal)).count();
            assert!(flood <= 2, "{flood}");
            all.order.looked(
                &Lane::all()
                    .filter(|lane| all.lanes.get(&lane.index()).is_some_and(|lane| !lane.is_empty()))
                    .collect::<Vec<_>>(),
            );
            all.turn();
        }
        assert_eq!(all.started.len(), 70);
    }

    #[test]
    fn priorities_start_in_turn_and_none_waits_for_ever() {
        let mut all = Simulation::new(rules(0, &[]), 1, 40);
        all.publish("busy", Priority::Normal, 1);
        all.settle();
        for priority in [Priority::Low, Priority::Normal, Priority::High] {
            all.publish("user", priority, 20);
        }
        all.run();
        let first: Vec<Priority> = all.started[1..14].iter().map(|job| job.flow.priority).collect();
        // The busy one had the first turn of `normal`.
        let expected =
            [vec![Priority::High; 8], vec![Priority::Normal; 3], vec![Priority::Low; 1], vec![Priority::High; 1]];
        assert_eq!(first, expected.concat());
        let high = all.started[1..26].iter().filter(|job| job.flow.priority == Priority::High).count();
        assert_eq!(high, 16);
        assert_eq!(all.started.len(), 61);
    }

    #[test]
    fn what_others_put_aside_is_found_by_a_look_and_taken_until_nothing_is_left() {
        let mut order: Order<u32> = Order::new(rules(0, &[]), 8);
        assert_eq!(order.next(), None);
        let lane = Lane::of(Priority::Normal).nth(2).unwrap();
        order.looked(&[lane]);
        assert_eq!(order.next(), Some(FreePlace::Take(lane)));
        assert_eq!(order.taken(), 1);
        let whose = flow("ada", Priority::Normal);
        order.took(lane, Some(&whose));
        order.join(whose.clone(), 7);
        assert_eq!(order.next(), Some(FreePlace::Start(whose, 7)));
        assert_eq!(order.next(), Some(FreePlace::Take(lane)));
        order.took(lane, None);
        assert_eq!((order.next(), order.taken()), (None, 1));
    }

    #[test]
    fn few_keys_share_a_lane() {
        let mut order: Order<u32> = Order::new(rules(0, &[]), 8);
        let lanes: Vec<Lane> = (0..Lane::of_few(Priority::Normal).len())
            .map(|key| order.put_aside(&flow(&key.to_string(), Priority::Normal)))
            .collect();
        let distinct: std::collections::BTreeSet<Lane> = lanes.iter().copied().collect();
        assert_eq!(distinct.len(), lanes.len());
        assert_eq!(order.put_aside(&flow("2", Priority::Normal)), lanes[2]);
        assert!(lanes.contains(&order.put_aside(&flow("5", Priority::Normal))));
    }
}
