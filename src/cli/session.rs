//! What a command gets: the global options, the environment, the terminal, and when to stop.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::args::{Global, LOG_VARIABLE, LogStyle, Output};
use super::logging::{self, LogSettings};
use super::output;
use super::terminal::{self, Screen};
use crate::config::{self, Config, LogFormat, TelemetryConfig};
use crate::context::Context;
use crate::error::{Error, Exit, Result};

/// What a stop may take beyond `service.drain`.
pub(super) const STOP_MARGIN: Duration = Duration::from_secs(10);

/// How a command ended, when nothing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// With this exit code.
    Exit(Exit),
    /// By a signal, before it was done: 128 plus its number.
    Signal(u8),
}

impl Ended {
    pub(super) const DONE: Self = Self::Exit(Exit::Done);

    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Exit(exit) => exit as u8,
            Self::Signal(code) => code,
        }
    }
}

/// Why a command was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A signal; its exit code.
    Signal(u8),
    /// `--timeout` is over.
    Timeout,
}

/// Tells a command to stop, and remembers the first reason. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop {
    token: CancellationToken,
    cause: Arc<OnceLock<Cause>>,
}

impl Stop {
    pub(super) fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    pub(super) fn because(&self, cause: Cause) {
        // Only the first reason counts.
        let _known = self.cause.set(cause).is_err();
        self.token.cancel();
    }

    pub(super) fn cause(&self) -> Option<Cause> {
        self.cause.get().copied()
    }
}

/// What a command gets.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) options: Global,
    pub(super) environment: Vec<(String, String)>,
    pub(super) screen: Screen,
    pub(super) stop: Stop,
    logs_json: OnceLock<bool>,
}

impl Session {
    pub(super) fn new(options: Global) -> Self {
        // What is not Unicode names no setting of ours.
        let environment =
            std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
        let environment: Vec<_> = environment.collect();
        let screen = Screen::new(options.color, variable(&environment, "NO_COLOR").is_some());
        Self { options, environment, screen, stop: Stop::default(), logs_json: OnceLock::new() }
    }

    /// Reads the config file and starts logging.
    pub(super) fn load_config(&self) -> Result<Config> {
        let config = config::load(self.options.config.as_deref(), self.environment.iter().cloned())?;
        self.start_logging(&config.telemetry)?;
        config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(config)
    }

    /// Starts logging as the options say, else as the settings say.
    pub(super) fn start_logging(&self, settings: &TelemetryConfig) -> Result<()> {
        let format = match (self.options.log_format, settings.log_format) {
            (Some(format), _) => format,
            (None, LogFormat::Auto) => LogStyle::Auto,
            (None, LogFormat::Text) => LogStyle::Text,
            (None, LogFormat::Json) => LogStyle::Json,
        };
        let is_json = match format {
            LogStyle::Auto => !self.screen.is_terminal(),
            LogStyle::Text => false,
            LogStyle::Json => true,
        };
        let asked = self.options.log_level.as_deref().filter(|level| !level.is_empty());
        let filter = logging::Filter {
            level: settings.log_level,
            asked: asked.or_else(|| variable(&self.environment, LOG_VARIABLE)),
            more: i16::from(self.options.verbose) - i16::from(self.options.quiet),
        };
        logging::start(LogSettings { directives: filter.directives()?, is_json, screen: self.screen.clone() });
        // Only the first call counts, like the logging itself.
        let _known = self.logs_json.set(is_json).is_err();
        Ok(())
    }

    /// Whether log lines are JSON; false before logging starts.
    pub(super) fn logs_json(&self) -> bool {
        self.logs_json.get().copied().unwrap_or(false)
    }

    pub(super) fn is_json(&self) -> bool {
        self.options.output == Output::Json
    }

    /// Writes a result: the text, or the document.
    pub(super) fn print(&self, text: &str, document: &impl Serialize) -> Result<()> {
        if self.is_json() { output::json(document) } else { output::text(text) }
    }

    /// Tells what ended the command: among log lines in JSON, as one of them.
    pub(super) fn print_error(&self, error: &Error) {
        let text = if self.logs_json() {
            output::error_line(error, Context::system().now())
        } else {
            output::describe_error(error, self.screen.has_color())
        };
        terminal::complain(&text);
    }

    /// Runs something that may be told to stop, and tells it when the time is over. A command that does not stop within
    /// `grace` is left where it is, which is as correct as killing it.
    pub(super) async fn within<T>(
        &self,
        limit: Option<Duration>,
        grace: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let Some(limit) = limit else { return work.await };
        let late = || {
            let error = Error::new(Exit::Timeout, format!("not done within {}", super::format::duration(limit)));
            error.hint("progress is saved: run the same command again to go on")
        };
        tokio::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(limit) => self.stop.because(Cause::Timeout),
        }
        match tokio::time::timeout(grace, work).await {
            Ok(Err(error)) if error.exit == Exit::Timeout && self.stop.cause() == Some(Cause::Timeout) => Err(late()),
            Ok(done) => done,
            Err(_) => Err(late()),
        }
    }
}

/// A variable that is set and not empty.
fn variable<'a>(environment: &'a [(String, String)], name: &str) -> Option<&'a str> {
    environment.iter().find(|(known, text)| known == name && !text.is_empty()).map(|(_, text)| text.as_str())
}
