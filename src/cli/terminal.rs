//! What is on the other end of stderr, and how lines and bars share it.

use std::io::{self, IsTerminal as _, Write};

use indicatif::{MultiProgress, ProgressDrawTarget};
use tracing_subscriber::fmt::MakeWriter;

use super::args::When;

/// Stderr: log lines and progress. Cheap to clone; clones are the same screen.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    bars: MultiProgress,
    is_terminal: bool,
    has_color: bool,
}

impl Screen {
    pub(super) fn new(color: When, no_color: bool) -> Self {
        let is_terminal = io::stderr().is_terminal();
        let has_color = match color {
            When::Auto => is_terminal && !no_color,
            When::Always => true,
            When::Never => false,
        };
        // Nothing is drawn until bars are asked for.
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        Self { bars, is_terminal, has_color }
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    pub(super) fn has_color(&self) -> bool {
        self.has_color
    }

    /// The bars, drawn from now on.
    pub(super) fn show_bars(&self) -> &MultiProgress {
        self.bars.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        &self.bars
    }

    /// Takes the bars away.
    pub(super) fn hide_bars(&self) {
        // They are only decoration.
        let _failed = self.bars.clear().is_err();
        self.bars.set_draw_target(ProgressDrawTarget::hidden());
    }

    /// Writes a line above the bars.
    pub(super) fn line(&self, text: &str) {
        self.bars.suspend(|| complain(text));
    }
}

/// Writes a line to stderr; a closed stderr is nobody's failure.
pub(super) fn complain(text: &str) {
    let _closed = writeln!(io::stderr().lock(), "{text}").is_err();
}

/// Log lines, above the bars.
pub(super) struct LogWriter(MultiProgress);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().lock().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for Screen {
    type Writer = LogWriter;

    fn make_writer(&self) -> LogWriter {
        LogWriter(self.bars.clone())
    }
}
