//! The lineage, and whether it changed: there are events by the thousand, and all of it would be walked for each.

use std::ops::{Deref, DerefMut};

use crate::stream::Lineage;

/// A lineage that knows whether it was touched.
#[derive(Debug)]
pub(super) struct Forest {
    lineage: Lineage,
    has_changed: bool,
}

impl Forest {
    /// One that nobody looked at yet.
    pub(super) const fn new(lineage: Lineage) -> Self {
        Self { lineage, has_changed: true }
    }

    /// Whether it may have changed since this was last taken.
    pub(super) const fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// The same, and it counts as looked at from now on.
    pub(super) const fn take_change(&mut self) -> bool {
        std::mem::replace(&mut self.has_changed, false)
    }

    /// What depends on it changed.
    pub(super) const fn touch(&mut self) {
        self.has_changed = true;
    }
}

impl Deref for Forest {
    type Target = Lineage;

    fn deref(&self) -> &Lineage {
        &self.lineage
    }
}

impl DerefMut for Forest {
    fn deref_mut(&mut self) -> &mut Lineage {
        self.touch();
        &mut self.lineage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ShardId, WallTime};

    #[test]
    fn a_look_is_no_change_and_a_change_is_seen_once() {
        let mut forest = Forest::new(Lineage::default());
        assert!(forest.take_change());
        assert!(forest.status(&ShardId::new("a")).is_none() && !forest.has_changed());
        forest.finish(&ShardId::new("a"), WallTime::from_millis(0));
        assert!(forest.take_change() && !forest.take_change());
    }
}
