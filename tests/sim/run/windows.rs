//! A load that outlasts the stream: the export takes a day and more, and the source goes on.

use dynaferry::context::WallClock as _;

use super::acts::Actor;
use super::{MINUTE, Run};
use crate::plan::Windows;
use crate::world::{REGION, SOURCE, TABLE};

/// In so many parts the time passes until the export is nearly made.
const PARTS: u32 = 12;

impl Run {
    /// From the begin of the export until shortly before its end: what follows happens while it and its windows are loaded.
    pub(super) async fn outlast_stream(&mut self, windows: Windows) {
        self.world.let_windows(windows.windows_take, windows.fail);
        let (begun, part) = (self.world.clock.now(), (windows.export_takes - MINUTE) / PARTS);
        for n in 0..PARTS {
            self.writer.write_now(4);
            if windows.recovery_is_switched && n == PARTS / 2 {
                self.world.switch_recovery();
            }
            self.supervise(&mut Actor::idle(), None, tokio::time::sleep(part)).await;
            // Trims and roll-overs happen when somebody looks.
            drop(self.world.sandbox.shards(SOURCE, REGION, TABLE));
        }
        let waited = self.world.clock.now().since(begun);
        self.say(|| format!("... the export is nearly made after {waited:?}"));
    }
}
