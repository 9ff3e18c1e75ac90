//! How far a command is, on stderr: bars on a terminal, a line now and then elsewhere.
//!
//! The status is asked once a second, while the work goes on in the same task. What is written when is decided in
//! [`lines`], what a bar says in [`bars`]; both are pure.

mod bars;
mod lines;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, MissedTickBehavior};

use self::lines::Reporter;
use super::args::{LogStyle, ProgressKind};
use super::session::Session;
use super::terminal::Screen;
use crate::http::StatusSource;
use crate::telemetry::status::Status;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// So many bars fit on a screen.
const MAX_BARS: usize = 12;

/// Reports how far some work is.
pub(super) struct Progress {
    source: Arc<dyn StatusSource>,
    kind: Kind,
    screen: Screen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bars,
    Plain,
    Json,
    Nothing,
}

impl Progress {
    /// Of a service: lines go where its log goes, and look like it.
    pub(super) fn of_service(session: &Session, source: Arc<dyn StatusSource>) -> Self {
        Self::new(session, source, session.logs_json())
    }

    /// Of a command that ends: lines are for people unless JSON was asked for.
    pub(super) fn of_command(session: &Session, source: Arc<dyn StatusSource>) -> Self {
        Self::new(session, source, session.options.log_format == Some(LogStyle::Json))
    }

    fn new(session: &Session, source: Arc<dyn StatusSource>, is_json: bool) -> Self {
        let screen = session.screen.clone();
        let kind = match session.options.progress {
            ProgressKind::Auto if session.options.quiet > 0 => Kind::Nothing,
            ProgressKind::Auto if screen.is_terminal() => Kind::Bars,
            ProgressKind::Auto if is_json => Kind::Json,
            ProgressKind::Auto | ProgressKind::Plain => Kind::Plain,
            ProgressKind::Bar => Kind::Bars,
            ProgressKind::Json => Kind::Json,
            ProgressKind::None => Kind::Nothing,
        };
        Self { source, kind, screen }
    }

    /// Does some work and reports until it is done.
    pub(super) async fn during<T>(self, work: impl Future<Output = T>) -> T {
        if self.kind == Kind::Nothing {
            return work.await;
        }
        let started = Instant::now();
        let mut reporter = Reporter::default();
        let mut shown = Bars::default();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(work);
        let done = loop {
            tokio::select! {
                biased;
                done = &mut work => break done,
                _ = ticks.tick() => {}
            }
            let status = self.source.status();
            match self.kind {
                Kind::Bars => shown.update(&self.screen, &status, &mut reporter, started.elapsed()),
                Kind::Plain => {
                    reporter.due(started.elapsed(), &status).iter().for_each(|line| self.screen.line(&line.text()))
                }
                Kind::Json => {
                    reporter.due(started.elapsed(), &status).iter().for_each(|line| self.screen.line(&line.json()))
                }
                Kind::Nothing => {}
            }
        };
        if self.kind == Kind::Bars {
            self.screen.hide_bars();
        }
        done
    }
}

/// The bars on the screen, by link.
#[derive(Default)]
struct Bars(BTreeMap<String, ProgressBar>);

impl Bars {
    fn update(&mut self, screen: &Screen, status: &Status, reporter: &mut Reporter, elapsed: Duration) {
        let width = status.links.iter().map(|link| link.link.chars().count()).max().unwrap_or(0);
        for link in status.links.iter().take(MAX_BARS) {
            let rate = reporter.rate(link, elapsed);
            let bar = self.0.entry(link.link.clone()).or_insert_with(|| {
                let bar = screen.show_bars().add(ProgressBar::new_spinner());
                let style =
                    ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
                bar.set_style(style);
                bar
            });
            bar.set_message(bars::line(link, rate, width));
        }
    }
}
