//! What an answer settled, for the bookkeeper and for those who watch.

use super::EngineObserver;
use crate::checkpoint::book::Token;
use crate::checkpoint::keeper::Settlement;
use crate::lanes::Tokens;
use crate::model::{CanonicalKey, WallTime};
use crate::telemetry::AppliedOp;

/// What an answer settled, told to the observer in runs: records of one second come together.
pub(super) struct Settled {
    settlement: Settlement,
    run: Option<(AppliedOp, WallTime, u64)>,
    superseded: u64,
}

impl Settled {
    pub(super) fn new(writes: usize) -> Self {
        let settlement = Settlement { tokens: Vec::with_capacity(writes), doubtful: Vec::new() };
        Self { settlement, run: None, superseded: 0 }
    }

    pub(super) fn add(
        &mut self,
        key: &CanonicalKey,
        op: AppliedOp,
        tokens: Tokens<Token>,
        observer: &dyn EngineObserver,
    ) {
        self.settlement.doubtful.extend(tokens.are_doubtful().then(|| key.clone()));
        for (n, token) in tokens.into_iter().enumerate() {
            if let Token::Record { created, .. } = token {
                // The first is the operation's own, the others were absorbed by it.
                if n == 0 {
                    self.applied(op, created, observer);
                } else {
                    self.superseded += 1;
                }
            }
            self.settlement.tokens.push(token);
        }
    }

    fn applied(&mut self, op: AppliedOp, created: WallTime, observer: &dyn EngineObserver) {
        match &mut self.run {
            Some((of, at, records)) if (*of, *at) == (op, created) => *records += 1,
            run => {
                if let Some((op, created, records)) = run.replace((op, created, 1)) {
                    observer.applied(op, created, records);
                }
            }
        }
    }

    pub(super) fn tell(self, observer: &dyn EngineObserver) -> Settlement {
        if let Some((op, created, records)) = self.run {
            observer.applied(op, created, records);
        }
        if self.superseded > 0 {
            observer.superseded(self.superseded);
        }
        self.settlement
    }
}
