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
        seed: 5,
        family: None,
        found: "a vanished shard without children held the lag, the load and the pace of listings for ever",
    },
    Regression {
        seed: 29,
        family: None,
        found: "empty pages of closed shards were taken for idleness: minutes a shard",
    },
];
