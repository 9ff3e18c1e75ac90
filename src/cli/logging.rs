//! Log lines on stderr.
//!
//! The AWS crates are heard from `warn` on unless directives ask for more, and never at `trace`: there they log bodies, and
//! bodies are the user's items.

use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

use super::terminal::Screen;
use crate::config::LogLevel;
use crate::error::{Error, Exit, Result};

/// Crates whose lines are about the transport.
const TRANSPORT: &[&str] = &["aws_", "h2", "hyper", "rustls", "tower", "axum"];

/// What is logged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filter<'a> {
    /// As the settings say.
    pub(super) level: LogLevel,
    /// As the option or the variable says: a level, or directives.
    pub(super) asked: Option<&'a str>,
    /// Steps up (`-v`) or down (`-q`).
    pub(super) more: i16,
}

impl Filter<'_> {
    /// As `tracing` reads it.
    pub(super) fn directives(self) -> Result<String> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let asked = self.asked.unwrap_or(self.level.as_str()).trim();
        let Some(index) = LEVELS.iter().position(|level| level.eq_ignore_ascii_case(asked)) else {
            let error = |error| {
                Error::new(Exit::Usage, format!("read the log level `{asked}`"))
                    .because(error)
                    .hint("one of error, warn, info, debug, trace; or directives as in `info,dynaferry::stream=debug`")
            };
            EnvFilter::builder().parse(asked).map_err(error)?;
            let transport: Vec<String> = TRANSPORT_CRATES.iter().map(|name| format!("{name}=warn")).collect();
            // What comes later wins, so that the user's own directives about these crates hold.
            return Ok(format!("{},{asked}", transport.join(",")));
        };
        let wanted = i16::try_from(index).unwrap_or(0).saturating_add(self.more).clamp(1, 5);
        let level = LEVELS.get(usize::try_from(wanted).unwrap_or(3)).copied().unwrap_or("info");
        let transport = if wanted <= 2 { level } else { "warn" };
        let transport: Vec<String> = TRANSPORT_CRATES.iter().map(|name| format!("{name}={transport}")).collect();
        Ok(format!("{level},{}", transport.join(",")))
    }
}

/// By prefix of the target, as `tracing`'s directives match.
const TRANSPORT_CRATES: &[&str] = &[
    "aws_config",
    "aws_credential_types",
    "aws_runtime",
    "aws_sdk_dynamodb",
    "aws_sdk_dynamodbstreams",
    "aws_sdk_sts",
    "aws_sigv4",
    "aws_smithy",
    "axum",
    "h2",
    "hyper",
    "hyper_util",
    "rustls",
    "tower",
];

/// How lines are written.
#[derive(Debug)]
pub(super) struct LogSettings {
    pub(super) directives: String,
    pub(super) is_json: bool,
    pub(super) screen: Screen,
}

/// Starts logging, once for the process; later calls change nothing.
pub(super) fn start(settings: LogSettings) {
    let LogSettings { directives, is_json, screen } = settings;
    let lines = fmt::layer().with_ansi(screen.has_color()).with_writer(screen);
    let lines = if is_json {
        lines.json().flatten_event(true).with_span_list(false).with_ansi(false).boxed()
    } else {
        lines.boxed()
    };
    let filter = EnvFilter::builder().parse_lossy(directives);
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter_fn(holds_no_body))).with(filter);
    // Already started: the first settings hold.
    let _started = subscriber.try_init().is_err();
}

fn holds_no_body(line: &Metadata<'_>) -> bool {
    *line.level() <= LevelFilter::DEBUG || !TRANSPORT.iter().any(|name| line.target().starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directives(level: LogLevel, asked: Option<&str>, more: i16) -> String {
        Filter { level, asked, more }.directives().unwrap()
    }

    #[test]
    fn the_sdk_is_heard_from_warn_on() {
        let text = directives(LogLevel::Debug, None, 0);
        assert!(text.starts_with("debug,") && text.contains(",aws_smithy=warn,"), "{text}");
        assert!(directives(LogLevel::Error, None, 0).contains("aws_sdk_dynamodb=error"));
    }

    #[test]
    fn the_option_wins_over_the_settings_and_v_adds_to_it() {
        assert!(directives(LogLevel::Error, Some("info"), 1).starts_with("debug,"));
        assert!(directives(LogLevel::Info, None, -1).starts_with("warn,"));
        assert!(directives(LogLevel::Info, None, -9).starts_with("error,"));
        assert!(directives(LogLevel::Info, None, 9).starts_with("trace,"));
    }

    #[test]
    fn directives_are_taken_as_they_are_and_win() {
        let text = directives(LogLevel::Info, Some("info,aws_smithy_runtime=debug"), 0);
        assert!(text.ends_with(",info,aws_smithy_runtime=debug"), "{text}");
        let error = Filter { level: LogLevel::Info, asked: Some("a=b=c"), more: 0 }.directives().unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
    }
}
