//! Two accounts at a server that others wrote, and programs between them over real sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use dynaferry::aws::AccessKey;
use dynaferry::config;
use dynaferry::context::Context;
use dynaferry::error;
use dynaferry::model::WallTime;
use dynaferry::runtime::Program;
use dynaferry::telemetry::Mode;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

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
    /// Where the program finds the token service; none: at the server.
    pub(crate) sts_url: Option<String>,
}

impl Pair {
    /// Where an access key of 12 digits is that account.
    pub(crate) fn new(server: Server) -> Self {
        let [source, target] = [SOURCE, TARGET].map(|account| Wire::new(&server.url, account, "secret"));
        Self {
            source,
            target,
            dir: TempDir::new().expect("a directory"),
            server,
            external_id: "between-us",
            sts_url: None,
        }
    }

    /// Where only a role's session belongs to another account than the server's own.
    pub(crate) async fn by_roles(server: Server) -> Self {
        let mut pair = Self::new(server);
        pair.source = pair.assume(SOURCE, "source").await;
        pair.target = pair.assume(TARGET, "target").await;
        pair
    }

    async fn assume(&self, account: &str, side: &str) -> Wire {
        let role = role(account, side);
        let fields =
            [("Action", "AssumeRole"), ("Version", "2011-06-15"), ("RoleArn", &role), ("RoleSessionName", "test")];
        let session = Wire::new(&self.server.url, OURS, "secret").form("sts", &fields).await;
        let part = |name| session.xml(name).expect(name).to_owned();
        let token = Some(part("SessionToken"));
        let session = Credentials::new(part("AccessKeyId"), part("SecretAccessKey"), token, None, "test");
        Wire::with(&self.server.url, session)
    }

    /// A source table with its stream on.
    pub(crate) async fn create(&self, keys: Keys) {
        self.source.call("CreateTable", keys.definition()).await;
    }

    /// One link `copy`, from the table to `TABLE-copy`, through a role in either account; `more` is added to the file.
    pub(crate) fn program(&self, keys: Keys, mode: Mode, key: &AccessKey, more: &str) -> Arc<Program> {
        let (url, table, external_id) = (&self.server.url, keys.table(), self.external_id);
        let sts_url = self.sts_url.as_deref().unwrap_or(url);
        let side = |side: &str, account: &str| {
            let role = role(account, side);
            format!(
                r#"
[defaults.{side}]
region = "{REGION}"
role_arn = "{role}"
external_id = "{external_id}"
endpoint_url = "{url}"
sts_endpoint_url = "{sts_url}"
"#
            )
        };
        let file = self.dir.path().join(format!("{table}.redb"));
        let file = format!("checkpoint.store = \"file:{}\"", file.display());
        let text = format!(
            r#"
version = 1
{state}
{source}{target}
[link.copy]
source.table = "{table}"
target.table = "{table}-copy"
target.create = true
apply.in_doubt_for = "2s"
{more}
"#,
            state = if more.contains("[checkpoint]") { "" } else { &file },
            source = side("source", SOURCE),
            target = side("target", TARGET),
        );
        // Shown by cargo only where a test fails.
        let logs = tracing_subscriber::fmt().with_test_writer().with_max_level(tracing::Level::INFO).with_ansi(false);
        let _another_test_was_first = logs.try_init().is_err();
        let config = config::parse("test.toml", &text, Vec::new()).expect("a valid config");
        Arc::new(Program::new(config, Context::system(), mode).with_access_key(key.clone()))
    }

    /// Both tables hold the same items, as boto3 reads them. Answers how many.
    pub(crate) fn compare(&self, keys: Keys) -> usize {
        self.try_compare(keys).unwrap_or_else(|differences| panic!("{differences}"))
    }

    /// As `compare`, or what differs.
    pub(crate) fn try_compare(&self, keys: Keys) -> Result<usize, String> {
        let [source, target] = [(SOURCE, "source"), (TARGET, "target")].map(|(account, side)| role(account, side));
        let (table, copy) = (keys.table(), format!("{}-copy", keys.table()));
        let place = [&self.server.url, REGION, OURS, self.external_id];
        let count = run_script("compare.py", &[&place[..], &[&source, table, &target, &copy]].concat())?;
        Ok(count.trim().parse().expect("a number of items"))
    }
}

/// The role that the program assumes at either side.
pub(crate) fn role(account: &str, side: &str) -> String {
    format!("arn:aws:iam::{account}:role/dynaferry-{side}")
}

/// A program that runs as a service.
pub(crate) struct Service {
    program: Arc<Program>,
    stop: CancellationToken,
    task: JoinHandle<error::Result<()>>,
}

impl Service {
    pub(crate) fn start(program: Arc<Program>) -> Self {
        let (stop, running) = (CancellationToken::new(), Arc::clone(&program));
        let stopping = stop.clone();
        let task = tokio::spawn(async move { running.run(stopping).await });
        Self { program, stop, task }
    }

    /// Waits until its link says that everything up to this time is at the target; a minute at most.
    pub(crate) async fn wait_until_applied(&mut self, then: WallTime) {
        let status = self.program.status_source();
        let is_behind = || {
            let status = status.status();
            status.links.first().is_none_or(|link| link.watermark.applied.is_none_or(|time| time <= then))
        };
        let applied = async {
            while is_behind() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = applied => {}
            ended = &mut self.task => panic!("the service ended: {ended:?}"),
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("not caught up in a minute: {:?}", status.status()),
        }
    }

    /// Stops it as SIGTERM does.
    pub(crate) async fn drain(self) {
        self.stop.cancel();
        let begun = Instant::now();
        self.task.await.expect("the service").expect("drained");
        assert!(begun.elapsed() < Duration::from_secs(20), "it took {:?} to drain", begun.elapsed());
    }
}

/// The account that runs the program, named by its access key.
pub(crate) fn ours() -> AccessKey {
    AccessKey { id: OURS.to_owned(), secret: "secret".to_owned() }
}
