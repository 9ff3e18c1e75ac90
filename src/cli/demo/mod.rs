//! `dynaferry demo`.

use clap::Args;

use super::session::{Ended, Session};
use crate::error::{Error, Exit, Result};

/// The whole job.
#[derive(Debug, Clone, Args)]
pub(super) struct DemoArgs {}

#[expect(clippy::unused_async, reason = "soon")]
pub(super) async fn execute(_session: &Session, _args: &DemoArgs) -> Result<Ended> {
    Err(Error::new(Exit::Unexpected, "not yet"))
}
