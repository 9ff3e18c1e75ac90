//! The command line: every option and command, and nothing else.
//!
//! Options that several commands share are here; those of one command stand in its file. Help texts are an interface, too.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{dead_letter, healthcheck, migrate, run, status, validate, verify, version};
#[cfg(feature = "sandbox")]
use super::{demo, sandbox};

/// The variable behind `--log-level`.
pub(super) const LOG_VARIABLE: &str = "DYNAFERRY_LOG";

const AFTER_HELP: &str = "\
Examples:
  dynaferry demo                         the whole job on this machine, without an AWS account
  dynaferry validate                     check ./dynaferry.toml
  dynaferry migrate --source arn:aws:dynamodb:eu-west-1:111111111111:table/orders \\
                    --target arn:aws:dynamodb:eu-west-1:222222222222:table/orders --create
  dynaferry run                          replicate what ./dynaferry.toml says until stopped

Exit codes:
  0  done, also after a drained SIGTERM     5  source history lost: heal or reseed
  1  unexpected                             6  another instance holds the lease or the state file
  2  bad command line                       7  time-out; progress is saved, run it again
  3  differences found                      8  config invalid
  4  precondition not met                   9  a guard tripped
  130, 143  stopped at once by a second Ctrl-C or SIGTERM";

/// Copies DynamoDB tables into another AWS account and keeps the copies up to date.
#[derive(Debug, Parser)]
#[command(
    name = "dynaferry",
    version,
    about,
    after_help = AFTER_HELP,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 120
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// The config file [env: DYNAFERRY_CONFIG] [default: ./dynaferry.toml, then /etc/dynaferry/dynaferry.toml]
    #[arg(short, long, value_name = "FILE", global = true)]
    pub(super) config: Option<PathBuf>,

    /// How results are written to stdout
    #[arg(short, long, value_enum, default_value_t, global = true)]
    pub(super) output: Output,

    /// How log lines look [default: as in the config file; else auto: text on a terminal, json otherwise]
    #[arg(long, value_enum, value_name = "FORMAT", global = true)]
    pub(super) log_format: Option<LogStyle>,

    /// error, warn, info, debug or trace; or directives as in `info,dynaferry::stream=debug` [env: DYNAFERRY_LOG]
    #[arg(long, value_name = "LEVEL", global = true)]
    pub(super) log_level: Option<String>,

    /// How progress is shown on stderr [auto: bars on a terminal, a line every 30 s otherwise]
    #[arg(long, value_enum, value_name = "KIND", default_value_t, hide_default_value = true, global = true)]
    pub(super) progress: ProgressKind,

    /// Colours [auto: on a terminal, unless NO_COLOR is set]
    #[arg(long, value_enum, value_name = "WHEN", default_value_t, hide_default_value = true, global = true)]
    pub(super) color: When,

    /// Log less and show no progress; twice: errors only
    #[arg(short, long, action = clap::ArgAction::Count, global = true, conflicts_with = "verbose")]
    pub(super) quiet: u8,

    /// Log more; twice: everything
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(super) verbose: u8,
}

/// How results are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    #[default]
    Human,
    /// One JSON document with a versioned schema
    Json,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogStyle {
    /// Text on a terminal, JSON otherwise
    Auto,
    /// Text
    Text,
    /// One JSON object per line
    Json,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum ProgressKind {
    /// Bars on a terminal, lines otherwise
    #[default]
    Auto,
    /// Bars, redrawn in place
    Bar,
    /// One line of key=value pairs now and then
    Plain,
    /// One JSON object per line now and then
    Json,
    /// Nothing
    None,
}

/// Whether to colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The whole job against an embedded AWS: load, live changes, faults, a crash, verification; needs no account
    #[cfg(feature = "sandbox")]
    Demo(demo::DemoArgs),
    /// Serve the embedded AWS over TCP, with two accounts, roles and an example table
    #[cfg(feature = "sandbox")]
    Sandbox(sandbox::SandboxArgs),
    /// Check the config file without contacting anything
    Validate(validate::ValidateArgs),
    /// Load, catch up, verify, exit
    Migrate(Box<migrate::MigrateArgs>),
    /// The service: load if needed, then replicate until stopped
    Run(run::RunArgs),
    /// Compare source and target; repair what differs with --repair
    Verify(Box<verify::VerifyArgs>),
    /// What happens and what needs you, also while no process runs
    Status(status::StatusArgs),
    /// Items that the target refused
    #[command(subcommand)]
    DeadLetter(dead_letter::DeadLetterCommand),
    /// Exit 0 when the running service is alive, 1 when not; for containers
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Version, revision and target of this binary
    Version(version::VersionArgs),
}

impl Command {
    /// Whether the first signal asks for an orderly end; the others have nothing to finish.
    pub(super) fn drains(&self) -> bool {
        match self {
            #[cfg(feature = "sandbox")]
            Self::Demo(_) | Self::Sandbox(_) => true,
            Self::Migrate(_) | Self::Run(_) | Self::Verify(_) => true,
            Self::Validate(_) | Self::Status(_) | Self::DeadLetter(_) | Self::Healthcheck(_) | Self::Version(_) => {
                false
            }
        }
    }
}
