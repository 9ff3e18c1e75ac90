//! Every seed that ever failed, and what it found. They run first, for ever.

/// A seed that found something.
pub(crate) struct Regression {
    pub(crate) seed: u64,
    pub(crate) family: Option<&'static str>,
    /// What it found.
    pub(crate) found: &'static str,
}

/// All of them.
pub(crate) const REGRESSIONS: &[Regression] = &[
    Regression {
        seed: 100_162,
        family: None,
        found: "C5 took a key that was deleted once more for one that a heal had left out",
    },
    Regression {
        seed: 100_182,
        family: None,
        found: "C4 wanted a shard that had vanished, with writes of it under way, to be finished before its children",
    },
    Regression {
        seed: 100_598,
        family: None,
        found: "a shard that listings lacked after its end had been read was to open again: exit 1",
    },
    Regression {
        seed: 100_313,
        family: None,
        found: "the fault trimmed records of a shard that nobody had a position in, which nobody can notice",
    },
    Regression {
        seed: 100_561,
        family: None,
        found: "two writers of one run numbered their images alike, and C1 took one for the other",
    },
    Regression {
        seed: 100_495,
        family: None,
        found: "the lag's checker took for hidden what three empty polls had not proved yet",
    },
    Regression { seed: 364, family: None, found: "the checker counted images that records of keys alone do not carry" },
    Regression {
        seed: 386,
        family: None,
        found: "the checker took what was lost with a second stream for the first one's",
    },
    Regression {
        seed: 120_111,
        family: None,
        found: "a process whose clock was ahead synced a key in doubt before the write of another could have expired",
    },
    Regression {
        seed: 120_134,
        family: None,
        found: "the gap of a replaced stream began when its pages were last empty, long after it had been turned off",
    },
    Regression {
        seed: 120_736,
        family: None,
        found: "C5 wanted of a gap what was lost while it was healed, which the next one covers",
    },
    Regression {
        seed: 548,
        family: None,
        found: "a shard that listings lacked, read to its end and not settled, let its children begin: exit 1",
    },
    Regression {
        seed: 601,
        family: None,
        found: "a process died with writes of a shard under way that it had given up: no later one could read its listing",
    },
    Regression {
        seed: 607,
        family: None,
        found: "C2 did not see that what is left of a late shard lies under two gaps of it",
    },
    Regression {
        seed: 5204,
        family: None,
        found: "C3 wanted a new link to know what an earlier one, whose state was thrown away, had on the wire",
    },
    Regression {
        seed: 5352,
        family: None,
        found: "the end came before the last records were read, because the target looked right already",
    },
    Regression {
        seed: 5042,
        family: None,
        found: "the lag cannot know of a child that is listed minutes after its parent vanished",
    },
];
