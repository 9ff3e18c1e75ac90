//! Two accounts at a server that others wrote, and programs between them over real sockets.

use std::sync::Arc;

use dynaferry::aws::AccessKey;
use dynaferry::config;
use dynaferry::context::Context;
use dynaferry::runtime::Program;
use dynaferry::telemetry::Mode;
use tempfile::TempDir;

use crate::servers::{Server, run_script};
use crate::wire::{REGION, Wire};
use crate::workload::Keys;
use crate::world::{OURS, SOURCE, TARGET};

/// The server, an identity in either account, and a place for state.
pub(crate) struct Pair {
    pub(crate) source: Wire,
    pub(crate) target: Wire,
    pub(crate) dir: TempDir,
    pub(crate) server: Server,
    /// What the program says when it assumes either role.
    pub(crate) external_id: &'static str,
}

impl Pair {
    pub(crate) fn new(server: Server) -> Self {
        let [source, target] = [SOURCE, TARGET].map(|account| Wire::new(&server.url, account, "secret"));
        Self { source, target, dir: TempDir::new().expect("a directory"), server, external_id: "between-us" }
    }

    /// A source table with its stream on.
    pub(crate) async fn create(&self, keys: Keys) {
        self.source.call("CreateTable", keys.definition()).await;
    }

    /// One link `copy`, from the table to `TABLE-copy`, through a role in either account; `more` is added to the file.
    pub(crate) fn program(&self, keys: Keys, mode: Mode, key: &AccessKey, more: &str) -> Arc<Program> {
        let (url, table, external_id) = (&self.server.url, keys.table(), self.external_id);
        let side = |side: &str, account: &str| {
            format!(
                r#"
[defaults.{side}]
region = "{REGION}"
role_arn = "arn:aws:iam::{account}:role/dynaferry-{side}"
external_id = "{external_id}"
endpoint_url = "{url}"
sts_endpoint_url = "{url}"
"#
            )
        };
        let text = format!(
            r#"
version = 1
checkpoint.store = "file:{state}"
{source}{target}
[link.copy]
source.table = "{table}"
target.table = "{table}-copy"
target.create = true
apply.in_doubt_for = "2s"
{more}
"#,
            state = self.dir.path().join(format!("{table}.redb")).display(),
            source = side("source", SOURCE),
            target = side("target", TARGET),
        );
        let config = config::parse("test.toml", &text, Vec::new()).expect("a valid config");
        Arc::new(Program::new(config, Context::system(), mode).with_access_key(key.clone()))
    }

    /// Both tables hold the same items, as boto3 reads them. Answers how many.
    pub(crate) fn compare(&self, keys: Keys) -> usize {
        let (table, copy) = (keys.table(), format!("{}-copy", keys.table()));
        let count = run_script("compare.py", &[&self.server.url, REGION, SOURCE, table, TARGET, &copy]);
        count.trim().parse().expect("a number of items")
    }
}

/// The account that runs the program, named by its access key.
pub(crate) fn ours() -> AccessKey {
    AccessKey { id: OURS.to_owned(), secret: "secret".to_owned() }
}
