//! A divided link whose trees have grown: whether to put it together and to divide it anew.
//!
//! Both cost a pause of some seconds, and between them a minute in which one worker has all. So it is done seldom, and only
//! where a division by the very same rules, of what the parts are now, is possible and clearly better.

use std::time::Duration;

use tokio::time::Instant;

use super::Link;
use super::dividing::awaited;
use crate::checkpoint::LinkState;
use crate::checkpoint::division::{divide, gains, if_whole};
use crate::stream::Listing;

/// A division lasts so long at least, however its shards are spread.
const LASTS: Duration = Duration::from_secs(3600);
/// Each look says so for so long: while shards are replaced, or a part is caught up with, there are more for a moment.
const UNEVEN_FOR: Duration = Duration::from_secs(600);

/// What was seen of how a division is spread, by one that leads it.
#[derive(Debug)]
pub(super) struct Spread {
    since: Instant,
    uneven_since: Option<Instant>,
}

impl Spread {
    /// Of a link that is led from now on, so it was divided before.
    pub(super) const fn new(now: Instant) -> Self {
        Self { since: now, uneven_since: None }
    }

    /// Takes in whether it would gain now by being divided anew. Answers whether it is to be.
    pub(super) fn look(&mut self, gains: bool, now: Instant) -> bool {
        if !gains {
            self.uneven_since = None;
            return false;
        }
        let uneven_for = now.duration_since(*self.uneven_since.get_or_insert(now));
        uneven_for >= UNEVEN_FOR && now.duration_since(self.since) >= LASTS
    }
}

impl Link {
    /// Whether the workers that live would share the link clearly better if it were divided anew, and nothing stands against that.
    pub(super) fn gains_by_dividing(&self, listing: &Listing, of_link: &LinkState, parts: &[LinkState]) -> bool {
        let Some(heard) = self.shared.fleet.as_ref().map(|fleet| fleet.heard()) else { return false };
        if heard.at.is_none() || heard.others > 0 || !self.sharing.is_time() {
            return false;
        }
        let whole = if_whole(of_link, parts);
        let anew = divide(&whole, &awaited(listing, &whole.shards), self.most_parts(&heard), self.aws_now());
        anew.is_ok_and(|anew| {
            let now = parts.iter().map(|part| part.shards.as_slice());
            gains(now, anew.iter().map(Vec::as_slice), heard.sharing + 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_division_lasts_an_hour_and_is_given_up_only_for_what_each_look_says() {
        let begun = Instant::now();
        let at = |minutes: u64| begun + Duration::from_secs(minutes * 60);
        let mut spread = Spread::new(begun);
        assert!(!spread.look(true, at(1)) && !spread.look(true, at(59)), "it is young");
        assert!(spread.look(true, at(60)));
        let mut spread = Spread::new(begun);
        assert!(!spread.look(true, at(100)) && !spread.look(true, at(109)), "it may pass");
        assert!(!spread.look(false, at(109)), "it did");
        assert!(!spread.look(true, at(111)) && !spread.look(true, at(120)));
        assert!(spread.look(true, at(121)));
    }
}
