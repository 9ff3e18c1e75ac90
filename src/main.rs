//! The binary: everything is in [`dynaferry::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    dynaferry::cli::main()
}
