use super::*;

const LEASE: Duration = Duration::from_secs(20);
const BEAT: Duration = Duration::from_secs(4);

fn peer(worker: &str, has: usize, waits: usize, asks: Option<&str>) -> Peer {
    Peer { worker: worker.into(), has, waits, asks: asks.map(Into::into), links: BTreeSet::new() }
}

fn working(worker: &str, links: &[&str]) -> Peer {
    let links: BTreeSet<String> = links.iter().map(|link| (*link).into()).collect();
    Peer { worker: worker.into(), has: links.len(), waits: 0, asks: None, links }
}

/// A worker that has these links, for longer than any rule asks for.
fn settled(base: Instant, links: &[&str]) -> Balance {
    let mut balance = Balance::new("me", LEASE, base);
    links.iter().for_each(|link| balance.take(link, base));
    balance
}

#[tokio::test(start_paused = true)]
async fn a_worker_hands_over_what_one_with_two_links_fewer_asks_for_and_one_with_each_look() {
    let base = Instant::now();
    let (now, all) = (base + LEASE * 3, |_: &str| true);
    let mut balance = settled(base, &["a", "b", "c", "d"]);
    let asking = || vec![peer("x", 1, 9, Some("b")), peer("y", 0, 9, Some("c"))];
    assert_eq!(balance.look(asking(), now, 0.0, all), Some("c".into()), "y has the fewest");
    assert_eq!(balance.has(), 3, "what is on its way does not count");
    assert_eq!(balance.look(asking(), now, 0.0, all), Some("b".into()));
    balance.let_go("c");
    balance.let_go("b");
    assert_eq!(balance.look(vec![peer("x", 1, 9, Some("a"))], now, 0.0, all), None, "x has b, too, or will have it");
    assert_eq!(balance.look(vec![peer("y", 1, 9, Some("a"))], now, 0.0, all), None, "one fewer is even");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_may_not_leave_or_has_just_come_stays() {
    let base = Instant::now();
    let mut balance = settled(base, &["a", "b", "c"]);
    let asking = |link| vec![peer("x", 0, 9, Some(link))];
    let now = base + LEASE * 3;
    assert_eq!(balance.look(asking("a"), now, 0.0, |link| link != "a"), None);
    assert_eq!(balance.look(asking("z"), now, 0.0, |_| true), None, "another worker's");
    balance.take("d", now);
    assert_eq!(balance.look(asking("d"), now + BEAT, 0.0, |_| true), None);
    assert_eq!(balance.look(asking("d"), now + LEASE, 0.0, |_| true), Some("d".into()));
}

#[tokio::test(start_paused = true)]
async fn a_worker_asks_the_one_with_the_most_for_a_link_that_it_waits_for() {
    let base = Instant::now();
    let mut balance = Balance::new("me", LEASE, base);
    ["a", "b", "c", "d"].iter().for_each(|link| balance.set_waiting(link, true));
    let peers = || vec![working("x", &["a", "b"]), working("y", &["c", "d", "e"]), working("z", &["f"])];
    let now = base + LEASE * 2;
    assert_eq!(balance.look(peers(), now - BEAT, 0.9, |_| true), None);
    assert_eq!(balance.asks(), None, "it has just come");
    balance.look(peers(), now, 0.9, |_| true);
    assert_eq!(balance.asks(), Some("d"));
    balance.look(peers(), now + BEAT, 0.0, |_| true);
    assert_eq!(balance.asks(), Some("d"), "it stays with that for a while");
    balance.look(peers(), now + LEASE, 0.0, |_| true);
    assert_eq!(balance.asks(), Some("c"), "d may be one that cannot leave");
    balance.set_waiting("c", false);
    balance.look(peers(), now, 0.9, |_| true);
    assert_eq!(balance.asks(), Some("d"));
    balance.set_waiting("c", true);
    balance.set_waiting("d", false);
    balance.look(peers(), now, 0.9, |_| true);
    assert_eq!(balance.asks(), Some("c"));
    balance.set_troubled("c", now);
    balance.look(peers(), now, 0.9, |_| true);
    assert_eq!(balance.asks(), Some("b"), "what went wrong here is not asked for");
    balance.take("g", now);
    balance.look(peers(), now, 0.9, |_| true);
    assert_eq!(balance.asks(), None, "nobody has two more");
    balance.look(peers(), now + TROUBLED_FOR, 0.9, |_| true);
    assert_eq!(balance.asks(), Some("c"));
}

#[tokio::test(start_paused = true)]
async fn a_free_link_is_left_to_those_with_fewer_for_a_moment() {
    let base = Instant::now();
    let now = base + LEASE * 3;
    let mut balance = settled(base, &["a", "b"]);
    assert_eq!(balance.leaves_to_others("z", now), Duration::ZERO);
    let others = vec![peer("w", 0, 3, None), peer("x", 1, 3, None), peer("y", 3, 3, None), peer("idle", 0, 0, None)];
    balance.look(others, now, 0.0, |_| true);
    assert_eq!(balance.leaves_to_others("z", now), GIVES_WAY.0 * 2);
    assert_eq!(balance.leaves_to_others("z/7.0", now), GIVES_WAY.1 * 2, "parts are looked at less often");
    assert_eq!(balance.leaves_to_others("z", now + LEASE * 2), Duration::ZERO, "nobody knows who lives by now");
    let many = (0..9).map(|n| peer(&format!("w{n}"), 0, 3, None)).collect();
    balance.look(many, now, 0.0, |_| true);
    assert_eq!(balance.leaves_to_others("z", now), GIVES_WAY.0 * 2, "however many there are");
    let mut failing = Balance::new("me", LEASE, base);
    failing.set_troubled("z", now);
    assert_eq!(failing.leaves_to_others("z", now), Duration::ZERO, "nobody else is there");
    failing.look(vec![peer("y", 3, 3, None)], now, 0.0, |_| true);
    assert_eq!(
        (failing.leaves_to_others("y", now), failing.leaves_to_others("z", now)),
        (Duration::ZERO, GIVES_WAY.0 * 2)
    );
}

#[tokio::test(start_paused = true)]
async fn a_link_that_was_handed_over_is_left_to_others_until_one_has_it() {
    let base = Instant::now();
    let now = base + LEASE * 3;
    let mut balance = settled(base, &["a", "b"]);
    balance.look(vec![peer("x", 0, 9, Some("a"))], now, 0.0, |_| true);
    balance.let_go("a");
    assert_eq!(balance.leaves_to_others("a", now), LEFT_FOR.0);
    balance.is_held("a");
    assert!(balance.leaves_to_others("a", now) < LEFT_FOR.0, "its new worker may stop at any time");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_a_worker_with_fewer_asks_for_is_left_to_that_one() {
    let base = Instant::now();
    let mut balance = settled(base, &["a", "b"]);
    balance.look(vec![peer("x", 1, 9, Some("y")), peer("z", 2, 9, Some("w"))], base, 0.0, |_| true);
    assert_eq!(balance.leaves_to_others("y", base), LEFT_FOR.0);
    assert!(balance.leaves_to_others("w", base) < LEFT_FOR.0, "z has as many");
}

#[tokio::test(start_paused = true)]
async fn workers_with_as_many_links_go_first_for_some_and_last_for_others() {
    let base = Instant::now();
    let (mut one, mut two) = (Balance::new("one", LEASE, base), Balance::new("two", LEASE, base));
    one.look(vec![peer("two", 0, 9, None)], base, 0.0, |_| true);
    two.look(vec![peer("one", 0, 9, None)], base, 0.0, |_| true);
    let links: Vec<String> = (0..20).map(|n| format!("link-{n}")).collect();
    let first = links.iter().filter(|link| one.leaves_to_others(link, base).is_zero()).count();
    assert!((5..=15).contains(&first), "{first}");
    assert!(
        links
            .iter()
            .all(|link| one.leaves_to_others(link, base).is_zero() != two.leaves_to_others(link, base).is_zero())
    );
}

/// A fleet as it may be: signs that are seconds old, drains that take a while, looks at any time.
struct Fleet {
    base: Instant,
    now: Duration,
    random: fastrand::Rng,
    workers: BTreeMap<String, Member>,
    links: BTreeMap<String, Place>,
    moves: usize,
}

struct Member {
    balance: Balance,
    /// The links of its configuration.
    wants: BTreeSet<String>,
    next_sign: Duration,
    next_look: Duration,
    sign: Option<(Duration, Peer)>,
    free_since: BTreeMap<String, Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Free,
    With(String),
    /// Its worker drains until then.
    Leaves(String, Duration),
    /// Its worker died, which is seen then.
    Dead(Duration),
}

impl Fleet {
    fn new(seed: u64, links: usize) -> Self {
        let links = (0..links).map(|n| (format!("link-{n}"), Place::Free)).collect();
        let (base, random) = (Instant::now(), fastrand::Rng::with_seed(seed));
        Self { base, now: Duration::ZERO, random, workers: BTreeMap::new(), links, moves: 0 }
    }

    fn start(&mut self, wants_all: bool) {
        let name = format!("{:08x}", self.random.u32(..));
        let wants = self.links.keys().filter(|_| wants_all || self.random.f64() < 0.8).cloned().collect();
        let balance = Balance::new(&name, LEASE, self.base + self.now);
        let next_sign = self.now + Duration::from_millis(self.random.u64(0..4_000));
        let member = Member { balance, wants, next_sign, next_look: self.now, sign: None, free_since: BTreeMap::new() };
        self.workers.insert(name, member);
    }

    fn end_one(&mut self, is_killed: bool) {
        let Some(name) = self.random.choice(self.workers.keys()).cloned() else { return };
        self.workers.remove(&name);
        let free = if is_killed { Place::Dead(self.now + LEASE) } else { Place::Free };
        for place in self.links.values_mut() {
            match place {
                Place::With(holder) | Place::Leaves(holder, _) if *holder == name => *place = free.clone(),
                _ => {}
            }
        }
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(50);
        let (now, at) = (self.now, self.base + self.now);
        for (link, place) in &mut self.links {
            match place {
                Place::Leaves(holder, until) if *until <= now => {
                    if let Some(member) = self.workers.get_mut(holder) {
                        member.balance.let_go(link);
                    }
                    *place = Place::Free;
                }
                Place::Dead(until) if *until <= now => *place = Place::Free,
                _ => {}
            }
        }
        for name in self.workers.keys().cloned().collect::<Vec<_>>() {
            self.signs(&name, at);
            self.looks(&name, at);
        }
    }

    fn signs(&mut self, name: &str, at: Instant) {
        let now = self.now;
        let Some(member) = self.workers.get_mut(name).filter(|member| member.next_sign <= now) else { return };
        member.next_sign = now + BEAT;
        for (link, place) in &self.links {
            let waits =
                member.wants.contains(link) && !matches!(place, Place::With(w) | Place::Leaves(w, _) if w == name);
            member.balance.set_waiting(link, waits);
        }
        let with = |place: &Place| *place == Place::With(name.to_owned());
        let links = self.links.iter().filter(|(_, place)| with(place)).map(|(link, _)| link.clone()).collect();
        let (has, waits, asks) = (member.balance.has(), member.balance.waits(), member.balance.asks());
        let sign = Peer { worker: name.into(), has, waits, asks: asks.map(Into::into), links };
        member.sign = Some((now, sign));
        let others = self.workers.iter().filter(|(other, _)| *other != name);
        let peers = others.filter_map(|(_, other)| other.sign.clone()).map(|(_, sign)| sign).collect();
        let (draw, millis) = (self.random.f64(), self.random.u64(50..2_000));
        let Some(member) = self.workers.get_mut(name) else { return };
        if let Some(link) = member.balance.look(peers, at, draw, |_| true) {
            assert_eq!(self.links.get(&link), Some(&Place::With(name.into())), "only what it has");
            self.moves += 1;
            self.links.insert(link, Place::Leaves(name.into(), now + Duration::from_millis(millis)));
        }
    }

    fn looks(&mut self, name: &str, at: Instant) {
        let now = self.now;
        let Some(member) = self.workers.get_mut(name).filter(|member| member.next_look <= now) else { return };
        member.next_look = now + Duration::from_millis(self.random.u64(250..350));
        for (link, place) in self.links.iter_mut().filter(|(link, _)| member.wants.contains(*link)) {
            if *place != Place::Free {
                member.free_since.remove(link);
                continue;
            }
            let since = *member.free_since.entry(link.clone()).or_insert(now);
            if now - since >= member.balance.leaves_to_others(link, at) {
                member.balance.take(link, at);
                member.balance.set_waiting(link, false);
                *place = Place::With(name.into());
            }
        }
    }

    fn live(&mut self, long: Duration) {
        let end = self.now + long;
        while self.now < end {
            self.step();
        }
    }

    /// By how many links the fullest and the emptiest worker differ.
    fn spread(&self) -> usize {
        let counts = || self.workers.values().map(|member| member.balance.has());
        counts().max().unwrap_or(0) - counts().min().unwrap_or(0)
    }
}

/// More: `BALANCE_SEEDS=0..2000 cargo test --lib a_fleet_comes`.
#[tokio::test(start_paused = true)]
async fn a_fleet_comes_to_be_even_and_then_nothing_moves() {
    let asked = std::env::var("BALANCE_SEEDS").unwrap_or("0..60".into());
    let (first, last) = asked.split_once("..").unwrap();
    for seed in first.parse::<u64>().unwrap()..last.parse().unwrap() {
        let mut fleet = Fleet::new(seed, 1 + usize::try_from(seed % 25).unwrap());
        for _ in 0..fleet.random.usize(1..8) {
            match fleet.random.u8(0..10) {
                0..6 => fleet.start(true),
                6..8 => fleet.end_one(true),
                _ => fleet.end_one(false),
            }
            let long = fleet.random.u64(0..100);
            fleet.live(Duration::from_secs(long));
        }
        fleet.start(true);
        let (many, before) = (fleet.links.len(), fleet.moves);
        fleet.live(LEASE * 4 + BEAT * 3 * u32::try_from(many).unwrap());
        assert!(fleet.links.values().all(|place| matches!(place, Place::With(_))), "seed {seed}: {:?}", fleet.links);
        assert!(fleet.spread() <= 1, "seed {seed}: {}", fleet.spread());
        let moves = fleet.moves - before;
        assert!(moves <= many + 2 * fleet.workers.len(), "seed {seed}: {moves} moves of {many} links");
        fleet.live(Duration::from_secs(300));
        assert_eq!(fleet.moves - before, moves, "seed {seed}: even, and links still move");
    }
}

#[tokio::test(start_paused = true)]
async fn moves_come_to_an_end_also_where_not_every_worker_wants_every_link() {
    for seed in 1000..1030 {
        let mut fleet = Fleet::new(seed, 12);
        (0..4).for_each(|_| fleet.start(false));
        fleet.live(Duration::from_secs(400));
        let moves = fleet.moves;
        fleet.live(Duration::from_secs(400));
        assert_eq!(fleet.moves, moves, "seed {seed}");
    }
}
