//! Pure: how the links spread over the workers. Which link this worker asks another one for, which one it hands over, and
//! how long it leaves a free one to others.
//!
//! With each sign of life a worker says how many links it has, for how many it waits, and one that it would like to have.
//! A worker that has at least two links more than one that asks hands over what is asked for, one link with each look, by
//! draining it as if it stopped; nobody is ever forced. Each such move makes the fleet more even, so moves come to an end,
//! and then there are none. A link that is free is taken first by whoever has the fewest.
//!
//! Nobody relies on any of this: a link is taken under the rules of [`crate::checkpoint::lease`] alone, whatever was asked
//! for. What others said is some seconds old; the worst that can come of that is a link that changes hands once too often.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::checkpoint::PartName;

/// A worker leaves a free link so long to one that has fewer; and a free part of a link, for parts are looked at less often.
const GIVES_WAY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(1100));
/// Of so many workers that are to go first, at most: a link is not left alone for long where they are gone by now.
const MOST_TO_GO_FIRST: usize = 2;
/// A link that went wrong here is not asked for again for so long, and others go first.
const TROUBLED_FOR: Duration = Duration::from_secs(900);
/// A link that was handed over is left to others for so long, until one of them has it; and to a worker that asks for it. A
/// part, too.
const LEFT_FOR: (Duration, Duration) = (Duration::from_millis(600), Duration::from_secs(2));

/// What another worker, which is alive, said with its last sign.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) worker: String,
    /// How many links it has.
    pub(crate) has: usize,
    /// For how many it waits.
    pub(crate) waits: usize,
    /// The link that it would like to have.
    pub(crate) asks: Option<String>,
    /// The links that it works on; not those of `has` that it is opening.
    pub(crate) links: BTreeSet<String>,
}

/// The links of this worker, and what it knows of the others.
#[derive(Debug)]
pub(crate) struct Balance {
    worker: String,
    lease: Duration,
    began: Instant,
    /// Since when it has them.
    held: BTreeMap<String, Instant>,
    waiting: BTreeSet<String>,
    /// When they last went wrong here.
    troubled: BTreeMap<String, Instant>,
    /// To whom they were handed over, and when.
    given: BTreeMap<String, (String, Instant)>,
    /// Those of them that were not seen with another worker since.
    left: BTreeSet<String>,
    peers: Vec<Peer>,
    seen_at: Instant,
    /// And since when.
    asks: Option<(String, Instant)>,
}

impl Balance {
    pub(crate) fn new(worker: &str, lease: Duration, now: Instant) -> Self {
        Self {
            worker: worker.to_owned(),
            lease,
            began: now,
            held: BTreeMap::new(),
            waiting: BTreeSet::new(),
            troubled: BTreeMap::new(),
            given: BTreeMap::new(),
            left: BTreeSet::new(),
            peers: Vec::new(),
            seen_at: now,
            asks: None,
        }
    }

    /// It waits for a link, or does no longer.
    pub(crate) fn set_waiting(&mut self, link: &str, waits: bool) {
        if waits {
            self.waiting.insert(link.to_owned());
        } else {
            self.waiting.remove(link);
        }
    }

    /// It has a link now.
    pub(crate) fn take(&mut self, link: &str, now: Instant) {
        self.given.remove(link);
        self.left.remove(link);
        self.held.insert(link.to_owned(), now);
    }

    /// It has let go of a link.
    pub(crate) fn let_go(&mut self, link: &str) {
        self.held.remove(link);
    }

    /// A link that this worker waits for is another worker's.
    pub(crate) fn is_held(&mut self, link: &str) {
        self.left.remove(link);
    }

    /// A link went wrong here.
    pub(crate) fn set_troubled(&mut self, link: &str, now: Instant) {
        self.troubled.insert(link.to_owned(), now);
    }

    /// How many links it has, those that are on their way to others not counted.
    pub(crate) fn has(&self) -> usize {
        self.held.keys().filter(|link| !self.given.contains_key(*link)).count()
    }

    /// For how many it waits.
    pub(crate) fn waits(&self) -> usize {
        self.waiting.len()
    }

    /// The link that it asks for.
    pub(crate) fn asks(&self) -> Option<&str> {
        self.asks.as_ref().map(|(link, _)| link.as_str())
    }

    /// Takes in what the others say now. Answers the link that is to be handed over, if there is one; `may_leave` tells of
    /// a link whether it can be. `draw`: from `[0, 1)`.
    pub(crate) fn look(
        &mut self,
        peers: Vec<Peer>,
        now: Instant,
        draw: f64,
        may_leave: impl Fn(&str) -> bool,
    ) -> Option<String> {
        (self.peers, self.seen_at) = (peers, now);
        let remembered = self.lease;
        self.given.retain(|_, (_, at)| now.duration_since(*at) < remembered);
        self.troubled.retain(|_, at| now.duration_since(*at) < TROUBLED_FOR);
        self.asks = self.to_ask_for(now, draw);
        let (link, to) = self.to_hand_over(now, may_leave)?;
        self.given.insert(link.clone(), (to, now));
        self.left.insert(link.clone());
        Some(link)
    }

    /// How many links a worker has, as far as is known, with those that are on their way to it.
    fn count(&self, peer: &Peer) -> usize {
        let is_on_its_way =
            |(link, (to, _)): &(&String, &(String, Instant))| *to == peer.worker && !peer.links.contains(*link);
        peer.has + self.given.iter().filter(is_on_its_way).count()
    }

    /// The link that the worker with the fewest asks for.
    fn to_hand_over(&self, now: Instant, may_leave: impl Fn(&str) -> bool) -> Option<(String, String)> {
        let is_settled = |since: &Instant| now.duration_since(*since) >= self.lease;
        let asking = self.peers.iter().filter_map(|peer| {
            let link = peer.asks.as_ref().filter(|link| self.held.get(*link).is_some_and(is_settled))?;
            let is_fewer = self.count(peer) + 2 <= self.has();
            (is_fewer && !self.given.contains_key(link) && may_leave(link)).then_some((peer, link))
        });
        let first = asking.min_by_key(|(peer, _)| (self.count(peer), &peer.worker));
        first.map(|(peer, link)| (link.clone(), peer.worker.clone()))
    }

    /// One of those that the worker with the most works on, and that this one waits for. Not in its first moments: it may
    /// have come to replace another one, and gets that one's links.
    ///
    /// It stays with its choice for a while, so that others know of it when the link is free; not for ever, for it may be one
    /// that cannot leave.
    fn to_ask_for(&self, now: Instant, draw: f64) -> Option<(String, Instant)> {
        if now.duration_since(self.began) < self.lease * 2 {
            return None;
        }
        let mut fuller: Vec<&Peer> = self.peers.iter().filter(|peer| peer.has >= self.has() + 2).collect();
        fuller.sort_by_key(|peer| (std::cmp::Reverse(peer.has), &peer.worker));
        let wanted = |link: &&String| self.waiting.contains(*link) && !self.troubled.contains_key(*link);
        if let Some((link, since)) = self.asks.as_ref().filter(|(link, _)| wanted(&link)) {
            // With nobody, it may be on its way here.
            let is_elsewhere = self.peers.iter().any(|peer| peer.has < self.has() + 2 && peer.links.contains(link));
            if !is_elsewhere && now.duration_since(*since) < self.lease {
                return Some((link.clone(), *since));
            }
        }
        let of_fullest = fuller.into_iter().map(|peer| peer.links.iter().filter(wanted).collect::<Vec<_>>());
        let links = of_fullest.into_iter().find(|links| !links.is_empty())?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let chosen = (draw * links.len() as f64) as usize;
        links.get(chosen.min(links.len() - 1)).map(|link| ((*link).clone(), now))
    }

    /// For how long a link that is free is left to others.
    pub(crate) fn leaves_to_others(&self, link: &str, now: Instant) -> Duration {
        let is_known = now.duration_since(self.seen_at) <= self.lease;
        let waiting: Vec<&Peer> = self.peers.iter().filter(|peer| is_known && peer.waits > 0).collect();
        let ours = (self.has(), order(&self.worker, link));
        let to_go_first = waiting.iter().filter(|peer| (self.count(peer), order(&peer.worker, link)) < ours).count();
        let is_last = !waiting.is_empty() && self.troubled.contains_key(link);
        let to_go_first = if is_last { MOST_TO_GO_FIRST } else { to_go_first.min(MOST_TO_GO_FIRST) };
        let is_part = PartName::parse(link).is_some();
        let (gives_way, left_for) = if is_part { (GIVES_WAY.1, LEFT_FOR.1) } else { (GIVES_WAY.0, LEFT_FOR.0) };
        let leaves = gives_way.saturating_mul(u32::try_from(to_go_first).unwrap_or(0));
        let is_for = |peer: &&Peer| peer.asks.as_deref() == Some(link) && self.count(peer) < self.has();
        let is_promised = self.left.contains(link) || waiting.into_iter().any(|peer| is_for(&peer));
        if is_promised { leaves.max(left_for) } else { leaves }
    }
}

/// Who of several workers with as many links goes first, another one for each link. FNV-1a: the same everywhere.
fn order(worker: &str, link: &str) -> u64 {
    let bytes = worker.bytes().chain([0]).chain(link.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
