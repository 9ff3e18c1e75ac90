//! Every seed that ever failed, and what it found. They run first, for ever.

/// A seed that found something.
pub(crate) struct Regression {
    pub(crate) seed: u64,
    pub(crate) family: Option<&'static str>,
    /// What it found.
    pub(crate) found: &'static str,
}

/// All of them.
pub(crate) const REGRESSIONS: &[Regression] = &[];
