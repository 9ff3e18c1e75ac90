//! `dynaferry version`.

use clap::Args;
use serde::Serialize;

use super::session::{Ended, Session};
use crate::error::Result;

/// Version, revision and target of this binary.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct VersionArgs {}

#[derive(Debug, Serialize)]
struct Version {
    schema: &'static str,
    version: &'static str,
    revision: &'static str,
    target: String,
}

pub(super) fn execute(session: &Session, _args: &VersionArgs) -> Result<Ended> {
    let version = Version {
        schema: "dynaferry.version/v1",
        version: env!("CARGO_PKG_VERSION"),
        // Set where the binary is built, as the image does.
        revision: option_env!("DYNAFERRY_REVISION").filter(|revision| !revision.is_empty()).unwrap_or("unknown"),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
    };
    session.print(
        &format!("dynaferry {} (revision {}, {})", version.version, version.revision, version.target),
        &version,
    )?;
    Ok(Ended::DONE)
}
