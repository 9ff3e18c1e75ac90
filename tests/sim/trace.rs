//! What happened, in virtual time: as text for a reader, and as a number that two equal runs share.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use dynaferry::checkpoint::StateWrite;
use dynaferry::model::WallTime;
use dynaferry::sandbox::Exchange;

/// How much of a body a line shows.
const SHOWN: usize = 300;

/// Where lines go.
type Sink = Arc<Mutex<Box<dyn std::io::Write + Send>>>;

/// The trace of one run.
#[derive(Default)]
pub(crate) struct Trace {
    out: Option<Sink>,
    hash: Option<DefaultHasher>,
}

impl Trace {
    /// Lines go to this place.
    pub(crate) fn to(out: Sink) -> Self {
        Self { out: Some(out), hash: None }
    }

    /// Nothing is shown; what happened is condensed to a number.
    pub(crate) fn hashed() -> Self {
        Self { out: None, hash: Some(DefaultHasher::new()) }
    }

    pub(crate) fn hash(&self) -> Option<u64> {
        self.hash.as_ref().map(DefaultHasher::finish)
    }

    /// A line, if anybody reads.
    pub(crate) fn say(&mut self, at: WallTime, what: impl FnOnce() -> String) {
        if let Some(out) = &self.out {
            line(out, at, &what());
        }
    }

    pub(crate) fn exchange(&mut self, exchange: &Exchange<'_>) {
        let reply = exchange.reply.map(|reply| (reply.status().as_u16(), reply.body()));
        if let Some(hash) = &mut self.hash {
            hash.write(exchange.operation.as_bytes());
            hash.write_i64(exchange.at.millis());
            hash.write(exchange.request);
            if let Some((status, body)) = reply {
                hash.write_u16(status);
                hash.write(body);
            }
        }
        self.say(exchange.at, || {
            let mut text = format!("{} {} {}", exchange.account, exchange.operation, shown(exchange.request));
            match reply {
                Some((status, body)) => drop(write!(text, "\n{:>22} {status} {}", "→", shown(body))),
                None => text.push_str(" → not done"),
            }
            text
        });
    }

    pub(crate) fn commit(&mut self, at: WallTime, writes: &[StateWrite]) {
        if let Some(hash) = &mut self.hash {
            hash.write_i64(at.millis());
            hash.write(format!("{writes:?}").as_bytes());
        }
        self.say(at, || {
            let rows: Vec<String> = writes.iter().map(|write| shown(format!("{write:?}").as_bytes())).collect();
            format!("commit {}", rows.join(" | "))
        });
    }
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], bytes.len()),
        None => text.into_owned(),
    }
}

/// A time as hours, minutes, seconds and milliseconds since the beginning.
pub(crate) fn clock(at: WallTime) -> String {
    let millis = at.since(crate::clocks::EPOCH).as_millis();
    let (hours, minutes, seconds) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60);
    format!("{hours:>3}:{minutes:02}:{seconds:02}.{:03}", millis % 1000)
}

fn line(out: &Sink, at: WallTime, what: &str) {
    let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
    // A reader that is gone needs no trace.
    drop(writeln!(out, "{} {what}", clock(at)));
}

/// The program's own log as lines of the trace.
#[derive(Clone)]
pub(crate) struct LogSink(pub(crate) Sink);

impl std::io::Write for LogSink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for LogSink {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Times of log lines: tokio's paused clock.
pub(crate) struct VirtualTime(pub(crate) tokio::time::Instant);

impl tracing_subscriber::fmt::time::FormatTime for VirtualTime {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        write!(w, "{}", clock(crate::clocks::EPOCH.plus(self.0.elapsed())))
    }
}

/// A sink that goes to a file or to the terminal.
pub(crate) fn sink(out: impl std::io::Write + Send + 'static) -> Sink {
    Arc::new(Mutex::new(Box::new(out)))
}
