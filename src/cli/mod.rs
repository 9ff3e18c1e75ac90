//! The command line: one thin file per command, arguments in, text or JSON out.
//!
//! ```text
//! arguments ─→ config ─→ logging ─→ command ─→ exit code
//! ```
//!
//! Results go to stdout, logs and progress to stderr. An error is printed once, here: what failed, its causes, what to try.
//! Replication is [`crate::runtime`]'s; nothing here knows a stage.

mod args;
mod client;
mod dead_letter;
#[cfg(feature = "sandbox")]
mod demo;
#[cfg(feature = "sandbox")]
mod example;
mod format;
mod healthcheck;
mod link;
mod logging;
mod migrate;
mod output;
mod progress;
mod run;
#[cfg(feature = "sandbox")]
mod sandbox;
mod server;
mod session;
mod signals;
mod status;
mod terminal;
#[cfg(test)]
mod tests;
mod validate;
mod verify;
mod version;

use std::process::ExitCode;

use clap::Parser as _;

use self::args::{Cli, Command};
use self::session::{Ended, Session};
use crate::error::{Error, Exit, Result};

/// The program: reads the arguments, does what they say, and tells how it went.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Where even stderr is closed, the exit code is all that can be told.
            let _closed = error.print().is_err();
            return ExitCode::from(if error.use_stderr() { Exit::Usage as u8 } else { Exit::Done as u8 });
        }
    };
    let session = Session::new(cli.global);
    install_panic_hook();
    let ended = execute(&session, &cli.command);
    ExitCode::from(match ended {
        Ok(ended) => ended.code(),
        Err(error) => {
            session.print_error(&error);
            error.exit as u8
        }
    })
}

fn execute(session: &Session, command: &Command) -> Result<Ended> {
    // Two at least: a worker that is busy with one page must not hold up health checks.
    let workers = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .map_err(|error| Error::new(Exit::Unexpected, "start the runtime").because(error))?;
    let drains = command.drains();
    let ended = runtime.block_on(async {
        tokio::select! {
            biased;
            ended = Box::pin(dispatch(session, command)) => ended,
            code = signals::watch(&session.stop, drains) => Ok(Ended::Signal(code)),
        }
    });
    // A second signal means now: what still runs is dropped, which is as correct as being killed.
    runtime.shutdown_background();
    ended
}

async fn dispatch(session: &Session, command: &Command) -> Result<Ended> {
    match command {
        #[cfg(feature = "sandbox")]
        Command::Demo(args) => demo::execute(session, args).await,
        #[cfg(feature = "sandbox")]
        Command::Sandbox(args) => sandbox::execute(session, args).await,
        Command::Validate(args) => validate::execute(session, args),
        Command::Migrate(args) => migrate::execute(session, args).await,
        Command::Run(args) => run::execute(session, args).await,
        Command::Verify(args) => verify::execute(session, args).await,
        Command::Status(args) => status::execute(session, args).await,
        Command::DeadLetter(command) => dead_letter::execute(session, command).await,
        Command::Healthcheck(args) => Ok(healthcheck::execute(session, args).await),
        Command::Version(args) => version::execute(session, args),
    }
}

/// A panic is a fault of the program: it is told, and ends the process wherever it happens. State is safe at any line.
fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text =
            payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = text.unwrap_or("no text");
        tracing::error!(place, "panic: {text}");
        if !tracing::event_enabled!(tracing::Level::ERROR) {
            terminal::complain(&format!("error: panic at {place}: {text}"));
        }
        std::process::exit(Exit::Unexpected as i32);
    }));
}
