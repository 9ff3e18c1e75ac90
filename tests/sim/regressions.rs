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
];
