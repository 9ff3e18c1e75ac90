//! Every seed that ever failed, and what it found. They run first, for ever.

/// A seed that found something.
pub(crate) struct Regression {
    pub(crate) seed: u64,
    pub(crate) family: Option<&'static str>,
    /// What it found.
    pub(crate) found: &'static str,
}

/// All that were found before the stages in `run/landing.rs`, `run/outage.rs` and `run/stale.rs`: they run without those, as
/// they did then.
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
    Regression {
        seed: 1_000_405,
        family: None,
        found: "a child whose parent came into being between two pages of a listing was read at once, under a gap for nothing",
    },
    Regression { seed: 1_000_035, family: None, found: "the same, and the parent's records were put over the child's" },
    Regression {
        seed: 1_003_077,
        family: None,
        found: "C4 wanted a parent to be known that two listings in a row were too old to show",
    },
    Regression {
        seed: 1_002_037,
        family: None,
        found: "a shard that came back was taken for finished by the news of its end before that: exit 1",
    },
    Regression {
        seed: 1_003_221,
        family: None,
        found: "shards of a stream that was replaced held the lag at their rows until the new stream was listed",
    },
    Regression { seed: 1_001_464, family: None, found: "C5 wanted a key in a gap that was a dead letter by then" },
    Regression {
        seed: 1_003_051,
        family: None,
        found: "the lag's truth counted a stream from before the link's first start",
    },
    Regression {
        seed: 1_004_139,
        family: None,
        found: "C3 took a shard that was given up for one that was read to its end",
    },
    Regression {
        seed: 1_004_556,
        family: None,
        found: "C8 wanted what lay in a stream from before the link's first start",
    },
    Regression {
        seed: 1_004_602,
        family: None,
        found: "C8 wanted dead letters to be retried into a table whose source was made anew",
    },
    Regression {
        seed: 1_007_204,
        family: None,
        found: "C8: a write of before came to the target that the operator had emptied",
    },
    Regression { seed: 1_007_354, family: None, found: "C7 counted answers that were lost as told" },
    Regression {
        seed: 1_008_383,
        family: None,
        found: "C4 read the rows of a replaced stream twice, as the commit was made twice",
    },
    Regression {
        seed: 1_010_078,
        family: None,
        found: "the lag's bound took three generations of shards within seconds for one",
    },
    Regression {
        seed: 300_393,
        family: Some("outages"),
        found: "C8 wanted a second child that is listed minutes later to be found before the next full listing",
    },
    Regression {
        seed: 301_095,
        family: Some("outages"),
        found: "the lag's truth counted a stream from before the link's first start",
    },
    Regression {
        seed: 2_002_530,
        family: None,
        found: "the lag's bound left no time to see a parent's end and to list its children",
    },
    Regression {
        seed: 132,
        family: Some("fleet"),
        found: "a worker whose lease was over while it made the target table waited for ever",
    },
    Regression {
        seed: 2_014_852,
        family: None,
        found: "C4 read the rows of a replaced stream twice, as the commit was made twice",
    },
    Regression {
        seed: 2_014_891,
        family: None,
        found: "C8 wanted a child that is listed five minutes after its parent was trimmed to be found at once",
    },
    Regression {
        seed: 5_120,
        family: Some("fleet"),
        found: "a shard that came back after a restart counted as closed: no empty page of it ended the lag",
    },
];

/// Those that came later.
pub(crate) const LATER_REGRESSIONS: &[Regression] = &[
    Regression {
        seed: 3_000_717,
        family: None,
        found: "C5 wanted a loss to be noticed while the stream was off, and nothing tells of it",
    },
    Regression {
        seed: 3_000_879,
        family: None,
        found: "C3 wanted a key to be owed by the state whose newer records had just vanished, unseen by anybody yet",
    },
    Regression {
        seed: 4_100_000,
        family: Some("outages"),
        found: "both tables were looked at at the same moment, in an order of its own in each run (C10)",
    },
    Regression {
        seed: 4_100_044,
        family: Some("outages"),
        found: "the records of a shard that came back after its end were numbered from 0 again: exit 1",
    },
    Regression {
        seed: 7_008_017,
        family: None,
        found: "C5 put what was lost behind the stream that was read under the gap before that stream",
    },
    Regression {
        seed: 7_017_983,
        family: None,
        found: "a host's clock that drifted by 440 parts in a million: the watermark claimed 13 ms more than was applied",
    },
    Regression {
        seed: 7_019_755,
        family: None,
        found: "C1 wanted what a late write of a state that was thrown away had put into the new target to be put right",
    },
    Regression {
        seed: 8_001_631,
        family: None,
        found: "C5 wanted a gap from a process that could not start: its clock was refused",
    },
    Regression {
        seed: 8_003_746,
        family: None,
        found: "the lag was to know of a child that is listed minutes after its parent was trimmed away",
    },
    Regression {
        seed: 9_101_369,
        family: None,
        found: "C5 wanted a gap to answer for a loss that another open gap tells of, of a key that was compared before the stream took it back",
    },
    Regression {
        seed: 7_023_714,
        family: None,
        found: "C1 wanted what a late write of a state that was thrown away had put into the new target to be put right",
    },
    Regression {
        seed: 5_002,
        family: Some("exports"),
        found: "C7 took an export that had failed while nobody was there for one that had just failed",
    },
    Regression {
        seed: 520_044,
        family: Some("parts"),
        found: "a link that kept rows of segments of its load, which was over, was drained every ten minutes and never divided",
    },
];
