//! What the watermark may claim: examples, and a model of a stream that knows the truth.

use proptest::prelude::*;

use super::*;

fn at(seconds: i64) -> WallTime {
    WallTime::from_secs(seconds)
}

fn shard(name: &str) -> ShardId {
    ShardId::new(name)
}

const EMPTY: PageContent = PageContent::Empty { shard_is_closed: false };

fn records(oldest: i64, newest: i64) -> PageContent {
    PageContent::Records { oldest: at(oldest), newest: at(newest) }
}

fn one_shard() -> LinkLag {
    let mut link = LinkLag::new(at(0));
    link.add(shard("a"), None, ShardLag::resumed(None));
    link
}

fn poll(link: &mut LinkLag, id: &str, time: i64, content: PageContent) {
    link.shard(&shard(id)).unwrap().page_read(at(time), content);
}

fn applied(link: &mut LinkLag, id: &str, oldest_unapplied: Option<i64>) {
    link.shard(&shard(id)).unwrap().applied(oldest_unapplied.map(at));
}

#[test]
fn nothing_is_claimed_before_anything_is_proved() {
    let mut link = one_shard();
    assert_eq!(link.watermarks(), Watermarks::default());
    assert_eq!(link.watermarks().lag(at(500)), None);
    assert_eq!(LinkLag::new(at(0)).watermarks(), Watermarks::default());
}

#[test]
fn an_applied_record_proves_what_came_before_its_second_and_not_the_second() {
    let mut link = one_shard();
    poll(&mut link, "a", 101, records(90, 100));
    assert_eq!(link.watermarks().applied, Some(at(90)), "created before the oldest unapplied record");
    assert_eq!(link.watermarks().read, Some(at(100)));
    applied(&mut link, "a", Some(95));
    assert_eq!(link.watermarks().applied, Some(at(95)));
    applied(&mut link, "a", None);
    assert_eq!(link.watermarks().applied, Some(at(100)));
}

#[test]
fn an_idle_source_has_the_lag_of_one_poll() {
    let mut link = one_shard();
    for time in 0..=3600 {
        poll(&mut link, "a", time, EMPTY);
        if time >= 2 {
            assert_eq!(link.watermarks().lag(at(time + 1)), Some(Duration::from_secs(1)));
        }
    }
}

#[test]
fn two_empty_pages_prove_nothing_and_a_record_starts_the_count_again() {
    let mut link = one_shard();
    for time in [1, 2] {
        poll(&mut link, "a", time, EMPTY);
    }
    assert_eq!(link.watermarks().read, None);
    poll(&mut link, "a", 60, records(50, 50));
    applied(&mut link, "a", None);
    for time in [61, 62] {
        poll(&mut link, "a", time, EMPTY);
    }
    assert_eq!(link.watermarks().applied, Some(at(50)));
    poll(&mut link, "a", 63, EMPTY);
    assert_eq!(link.watermarks().applied, Some(at(63)));
}

#[test]
fn empty_pages_do_not_hide_what_is_not_applied() {
    let mut link = one_shard();
    poll(&mut link, "a", 60, records(50, 50));
    for time in 61..600 {
        poll(&mut link, "a", time, EMPTY);
    }
    assert_eq!(link.watermarks().applied, Some(at(50)));
    assert_eq!(link.watermarks().read, Some(at(599)));
}

#[test]
fn empty_pages_of_a_closed_shard_prove_nothing() {
    let mut link = one_shard();
    poll(&mut link, "a", 60, records(50, 50));
    applied(&mut link, "a", None);
    for time in 61..600 {
        poll(&mut link, "a", time, PageContent::Empty { shard_is_closed: true });
    }
    assert_eq!(link.watermarks().applied, Some(at(50)));
}

#[test]
fn one_stuck_shard_holds_the_link() {
    let mut link = one_shard();
    link.add(shard("b"), None, ShardLag::resumed(Some(at(40))));
    for time in 100..900 {
        poll(&mut link, "a", time, EMPTY);
    }
    assert_eq!(link.watermarks().lag(at(900)), Some(Duration::from_secs(860)));
    assert_eq!(link.shard_skew(), Some(Duration::from_secs(859)));
}

#[test]
fn a_child_has_its_parents_watermark_until_it_has_its_own() {
    let mut link = one_shard();
    poll(&mut link, "a", 60, records(50, 50));
    link.add(shard("b"), Some(shard("a")), ShardLag::resumed(None));
    link.add(shard("c"), Some(shard("b")), ShardLag::resumed(None));
    assert_eq!(link.watermarks().applied, Some(at(50)));
    applied(&mut link, "a", None);
    link.finished(&shard("a"));
    link.release(|_| false);
    assert_eq!(link.watermarks().applied, Some(at(50)));
    for time in 70..80 {
        poll(&mut link, "b", time, EMPTY);
    }
    assert_eq!(link.watermarks().applied, Some(at(79)), "the grandchild stands where its parent stands");
}

#[test]
fn a_finished_shard_holds_the_link_until_its_children_are_known() {
    let mut link = one_shard();
    link.add(shard("b"), None, ShardLag::resumed(None));
    poll(&mut link, "a", 60, records(50, 50));
    applied(&mut link, "a", None);
    link.finished(&shard("a"));
    for time in 60..100 {
        poll(&mut link, "b", time, EMPTY);
        link.release(|_| true);
    }
    assert_eq!(link.watermarks().applied, Some(at(50)));
    link.add(shard("a1"), Some(shard("a")), ShardLag::resumed(None));
    link.release(|_| false);
    assert_eq!(link.watermarks().applied, Some(at(50)), "the child's data may be from second 50 on");
    for time in 100..103 {
        poll(&mut link, "a1", time, EMPTY);
    }
    assert_eq!(link.watermarks().applied, Some(at(99)), "now the other shard is the oldest");
}

#[test]
fn a_shard_that_comes_back_counts_again() {
    let mut link = one_shard();
    link.add(shard("b"), None, ShardLag::resumed(None));
    for id in ["a", "b"] {
        poll(&mut link, id, 100, records(100, 100));
        applied(&mut link, id, None);
    }
    link.finished(&shard("a"));
    link.release(|_| false);
    link.reopened(&shard("a"));
    poll(&mut link, "a", 200, records(150, 150));
    (300..310).for_each(|time| poll(&mut link, "b", time, EMPTY));
    assert_eq!(link.watermarks().applied, Some(at(150)), "what it has is not applied");
    applied(&mut link, "a", None);
    link.finished(&shard("a"));
    link.release(|_| false);
    assert_eq!(link.watermarks().applied, Some(at(309)));
}

#[test]
fn a_child_keeps_what_it_inherited_when_its_parent_is_forgotten() {
    let mut link = one_shard();
    poll(&mut link, "a", 60, records(50, 55));
    applied(&mut link, "a", None);
    link.add(shard("b"), Some(shard("a")), ShardLag::resumed(None));
    link.finished(&shard("a"));
    link.release(|_| false);
    link.forget(&shard("a"));
    assert_eq!(link.watermarks(), Watermarks { read: Some(at(55)), applied: Some(at(55)), checkpointed: Some(at(55)) });
    assert_eq!(link.retention_deadline(), at(55).plus(RETENTION));
}

#[test]
fn a_checkpoint_proves_what_was_applied_when_it_was_begun() {
    let mut link = one_shard();
    poll(&mut link, "a", 60, records(50, 58));
    applied(&mut link, "a", Some(54));
    let mark = link.shard(&shard("a")).unwrap().checkpoint_begun();
    applied(&mut link, "a", None);
    link.shard(&shard("a")).unwrap().checkpointed(mark);
    assert_eq!(link.watermarks(), Watermarks { read: Some(at(58)), applied: Some(at(58)), checkpointed: Some(at(54)) });
    let mark = link.shard(&shard("a")).unwrap().checkpoint_begun();
    poll(&mut link, "a", 61, records(59, 59));
    link.shard(&shard("a")).unwrap().checkpointed(mark);
    assert_eq!(link.watermarks().checkpointed, Some(at(58)));
    applied(&mut link, "a", None);
    assert_eq!(link.watermarks().checkpointed, Some(at(58)), "the record of second 59 is not durable");
}

#[test]
fn an_idle_shard_is_durable_without_further_checkpoints() {
    let mut link = one_shard();
    poll(&mut link, "a", 60, records(50, 58));
    applied(&mut link, "a", None);
    let mark = link.shard(&shard("a")).unwrap().checkpoint_begun();
    link.shard(&shard("a")).unwrap().checkpointed(mark);
    for time in 61..=3600 {
        poll(&mut link, "a", time, EMPTY);
    }
    assert_eq!(link.watermarks().checkpointed, Some(at(3600)));
    assert_eq!(link.retention_deadline(), at(3600).plus(RETENTION));
}

#[test]
fn during_the_load_no_applied_watermark_is_shown_and_the_headroom_counts_from_the_pin() {
    let mut link = LinkLag::new(at(1000));
    link.add(shard("a"), None, ShardLag::resumed(None));
    link.set_loading(true);
    assert_eq!(link.retention_deadline(), at(1000).plus(RETENTION));
    poll(&mut link, "a", 1010, records(10, 20));
    applied(&mut link, "a", None);
    assert_eq!(link.watermarks(), Watermarks { read: Some(at(20)), applied: None, checkpointed: None });
    assert_eq!(link.retention_deadline(), at(1000).plus(RETENTION), "what is older than the pin is in the load");
    link.set_loading(false);
    assert_eq!(link.watermarks().applied, Some(at(20)));
}

#[test]
fn headroom_shrinks_while_nothing_is_read() {
    let mut link = one_shard();
    poll(&mut link, "a", 60, records(50, 58));
    assert_eq!(link.retention_deadline(), at(0).plus(RETENTION), "nothing of it is durable");
    applied(&mut link, "a", None);
    let mark = link.shard(&shard("a")).unwrap().checkpoint_begun();
    link.shard(&shard("a")).unwrap().checkpointed(mark);
    assert_eq!(link.retention_deadline(), at(58).plus(RETENTION));
}

#[test]
fn a_new_shard_of_which_nothing_is_known_stops_the_watermark_and_does_not_hide_it() {
    let mut link = one_shard();
    for time in 1..=10 {
        poll(&mut link, "a", time, EMPTY);
    }
    assert_eq!(link.watermarks().applied, Some(at(10)));
    link.add(shard("b"), None, ShardLag::resumed(None));
    for time in 11..=20 {
        poll(&mut link, "a", time, EMPTY);
    }
    assert_eq!(link.watermarks().applied, Some(at(10)));
    poll(&mut link, "b", 21, records(5, 5));
    assert_eq!(link.watermarks().applied, Some(at(10)), "it never goes back");
}

#[test]
fn a_circle_of_parents_ends() {
    let mut link = LinkLag::new(at(0));
    link.add(shard("a"), Some(shard("b")), ShardLag::resumed(None));
    link.add(shard("b"), Some(shard("a")), ShardLag::resumed(None));
    assert_eq!(link.watermarks(), Watermarks::default());
}

// ---- the model ----

/// A shard of the model's stream. Times are in milliseconds; the stream shows whole seconds.
#[derive(Debug, Default)]
struct TrueShard {
    parent: Option<usize>,
    created: Vec<i64>,
    /// Per record: settled, and covered by a durable checkpoint.
    is_applied: Vec<bool>,
    num_read: usize,
    num_durable: usize,
    is_closed: bool,
    is_listed: bool,
    is_known_closed: bool,
    is_finished: bool,
    empties: u8,
}

#[derive(Debug)]
struct World {
    now: i64,
    shards: Vec<TrueShard>,
    link: LinkLag,
    before: Watermarks,
}

fn name(index: usize) -> ShardId {
    shard(&format!("s{index:03}"))
}

impl World {
    fn new() -> Self {
        let mut world =
            Self { now: 1000, shards: Vec::new(), link: LinkLag::new(at(1)), before: Watermarks::default() };
        world.shards.extend([TrueShard::default(), TrueShard::default()]);
        world.list();
        world
    }

    fn list(&mut self) {
        for (index, shard) in self.shards.iter_mut().enumerate() {
            shard.is_listed = true;
            shard.is_known_closed = shard.is_closed;
            self.link.add(name(index), shard.parent.map(name), ShardLag::resumed(None));
        }
        self.release();
    }

    /// Every shard that was closed has children; a finished one waits until all of them were listed.
    fn release(&mut self) {
        let unlisted = self.shards.iter().filter(|shard| !shard.is_listed).filter_map(|shard| shard.parent.map(name));
        let awaiting: Vec<_> = unlisted.collect();
        self.link.release(|id| awaiting.contains(id));
    }

    fn write(&mut self, pick: usize) {
        let open: Vec<usize> = (0..self.shards.len()).filter(|&index| !self.shards[index].is_closed).collect();
        let shard = &mut self.shards[open[pick % open.len()]];
        shard.created.push(self.now);
        shard.is_applied.push(false);
    }

    fn close(&mut self, pick: usize, children: usize) {
        let open: Vec<usize> = (0..self.shards.len()).filter(|&index| !self.shards[index].is_closed).collect();
        let parent = open[pick % open.len()];
        self.shards[parent].is_closed = true;
        self.shards.extend((0..children).map(|_| TrueShard { parent: Some(parent), ..TrueShard::default() }));
    }

    fn may_read(&self, index: usize) -> bool {
        let shard = &self.shards[index];
        shard.is_listed && !shard.is_finished && shard.parent.is_none_or(|parent| self.shards[parent].is_finished)
    }

    /// Reads a page. `lazy`: the service answers without records although there are some.
    fn poll(&mut self, pick: usize, limit: usize, lazy: bool) {
        let readable: Vec<usize> = (0..self.shards.len()).filter(|&index| self.may_read(index)).collect();
        let Some(&index) = readable.get(pick % readable.len().max(1)) else { return };
        let shard = &mut self.shards[index];
        // Of an open shard at most two in a row; of one that is known to be closed any number.
        let lazy = lazy && shard.num_read < shard.created.len() && (shard.is_known_closed || shard.empties < 2);
        let end = if lazy { shard.num_read } else { shard.created.len().min(shard.num_read + limit) };
        let page = &shard.created[shard.num_read..end];
        let is_last = shard.is_closed && end == shard.created.len();
        let content = match (page.first(), page.last()) {
            (Some(first), Some(last)) => records(first.div_euclid(1000), last.div_euclid(1000)),
            _ => PageContent::Empty { shard_is_closed: shard.is_known_closed || is_last },
        };
        shard.empties = if page.is_empty() { shard.empties.saturating_add(1) } else { 0 };
        shard.num_read = end;
        self.link.shard(&name(index)).unwrap().page_read(WallTime::from_millis(self.now), content);
    }

    fn settle(&mut self, pick: usize, share: usize) {
        let index = pick % self.shards.len();
        let shard = &mut self.shards[index];
        for (record, is_applied) in shard.is_applied.iter_mut().enumerate().take(shard.num_read) {
            *is_applied |= (record * 7 + pick) % 4 < share;
        }
        let oldest = (0..shard.num_read).find(|&record| !shard.is_applied[record]);
        let oldest = oldest.map(|record| at(shard.created[record].div_euclid(1000)));
        if let Some(lag) = self.link.shard(&name(index)) {
            lag.applied(oldest);
        }
    }

    fn checkpoint(&mut self, pick: usize, late: bool) {
        let index = pick % self.shards.len();
        let Some(lag) = self.link.shard(&name(index)) else { return };
        let mark = lag.checkpoint_begun();
        let shard = &self.shards[index];
        let position = (0..shard.num_read).find(|&record| !shard.is_applied[record]).unwrap_or(shard.num_read);
        if late {
            self.now += 700;
            self.write(pick);
            self.poll(pick, 3, false);
        }
        let shard = &mut self.shards[index];
        shard.num_durable = shard.num_durable.max(position);
        self.link.shard(&name(index)).unwrap().checkpointed(mark);
    }

    fn finish(&mut self, pick: usize) {
        let index = pick % self.shards.len();
        let may_read = self.may_read(index);
        let shard = &mut self.shards[index];
        let end = shard.created.len();
        if may_read && shard.is_closed && shard.num_read == end && shard.is_applied.iter().all(|&is| is) {
            (shard.is_finished, shard.num_durable) = (true, end);
            self.link.finished(&name(index));
            self.release();
        }
    }

    /// The earliest change that has not passed the stage: the watermark may not be later.
    fn truth(&self, stage: Stage) -> i64 {
        let missing = self.shards.iter().filter_map(|shard| match stage {
            Stage::Read => shard.created.get(shard.num_read),
            Stage::Applied => {
                shard.created.iter().zip(&shard.is_applied).find(|(_, applied)| !**applied).map(|(at, _)| at)
            }
            Stage::Checkpointed => shard.created.get(shard.num_durable),
        });
        missing.copied().min().unwrap_or(self.now)
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let now = self.link.watermarks();
        for stage in [Stage::Read, Stage::Applied, Stage::Checkpointed] {
            prop_assert!(now.of(stage) >= self.before.of(stage), "{stage} went back: {:?} to {now:?}", self.before);
            if let Some(claim) = now.of(stage) {
                prop_assert!(
                    claim.millis() <= self.truth(stage),
                    "{stage} claims {claim}, true is {}",
                    self.truth(stage)
                );
            }
        }
        let durable = self.truth(Stage::Checkpointed);
        let floored = durable.div_euclid(1000) * 1000;
        let deadline = self.link.retention_deadline();
        prop_assert!(deadline <= WallTime::from_millis(durable.max(floored).max(1000)).plus(RETENTION), "{deadline}");
        self.before = now;
        Ok(())
    }
}

proptest! {
    #[test]
    fn never_goes_back_and_never_claims_more_than_is_true(
        steps in prop::collection::vec((0_u8..12, any::<u16>(), 0_usize..5, any::<bool>()), 1..200),
    ) {
        let mut world = World::new();
        for (action, pick, small, flag) in steps {
            let pick = usize::from(pick);
            world.now += i64::from(action) * 37 + i64::try_from(small).unwrap() * 311;
            match action {
                0..=2 => world.write(pick),
                3 => world.close(pick, 1 + usize::from(flag)),
                4 => world.list(),
                5..=7 => world.poll(pick, small + 1, flag),
                8..=9 => world.settle(pick, small),
                10 => world.checkpoint(pick, flag),
                _ => world.finish(pick),
            }
            world.check()?;
        }
    }

    #[test]
    fn catches_up_with_a_quiet_source(steps in prop::collection::vec((0_u8..12, any::<u16>(), 0_usize..5, any::<bool>()), 1..80)) {
        let mut world = World::new();
        for (action, pick, small, flag) in steps {
            let pick = usize::from(pick);
            match action {
                0..=4 => world.write(pick),
                5 => world.close(pick, 1 + usize::from(flag)),
                6 => world.list(),
                7..=9 => world.poll(pick, small + 1, flag),
                _ => world.settle(pick, small),
            }
            world.now += 500;
        }
        let rounds = world.shards.len() * 4 + 8;
        for _ in 0..rounds {
            world.now += 500;
            world.list();
            let shards = world.shards.len();
            for index in 0..shards {
                let readable = (0..shards).filter(|&other| world.may_read(other)).count();
                (0..readable).for_each(|pick| world.poll(pick, 1000, false));
                world.settle(index, 4);
                world.checkpoint(index, false);
                world.finish(index);
            }
        }
        let claimed = world.link.watermarks();
        for stage in [Stage::Read, Stage::Applied, Stage::Checkpointed] {
            prop_assert!(claimed.of(stage) >= Some(WallTime::from_millis(world.now - 1000)), "{stage}: {claimed:?} at {}", world.now);
        }
    }
}
