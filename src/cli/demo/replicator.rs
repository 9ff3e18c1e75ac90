//! The replicator as a process of its own: this binary, with a config file in a directory for the time being.
//!
//! It inherits nothing of the user's AWS settings, and talks to the embedded AWS alone.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::cli::example::{EXTERNAL_ID, Example, REGION, SOURCE_ACCOUNT, TABLE};
use crate::error::{Error, Exit, Result};

/// Against AWS a signed request may land for 15 minutes; the embedded one delivers nothing late.
pub(super) const IN_DOUBT_FOR: &str = "10s";

const CONFIG: &str = "dynaferry.toml";
const LOG: &str = "replicator.log";

/// What the replicator is to do.
pub(super) struct Setup<'a> {
    pub(super) endpoint: SocketAddr,
    pub(super) listen: SocketAddr,
    pub(super) max_wcu: u64,
    pub(super) example: &'a Example,
}

/// The process, and where it lives. Dropping it kills the process.
#[derive(Debug)]
pub(super) struct Replicator {
    program: PathBuf,
    directory: PathBuf,
    pub(super) listen: SocketAddr,
    child: Option<Child>,
}

impl Replicator {
    /// Writes its config file; nothing runs yet.
    pub(super) fn prepare(setup: &Setup<'_>) -> Result<Self> {
        let program = std::env::current_exe()
            .map_err(|error| Error::new(Exit::Unexpected, "find this program's own file").because(error))?;
        let directory = std::env::temp_dir().join(format!("dynaferry-demo-{}", std::process::id()));
        let fail = |error| Error::new(Exit::Precondition, format!("write to {}", directory.display())).because(error);
        make_private(&directory).map_err(fail)?;
        fs::write(directory.join(CONFIG), config(setup)).map_err(fail)?;
        Ok(Self { program, directory, listen: setup.listen, child: None })
    }

    /// Starts it; answers its process id.
    pub(super) fn start(&mut self) -> Result<u32> {
        let fail = |error| Error::new(Exit::Unexpected, "start the replicator").because(error);
        let log = File::options().create(true).append(true).open(self.log()).map_err(fail)?;
        let mut command = self.command();
        command.args(["run", "--log-format", "text", "--progress", "plain"]);
        command.stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(fail)?;
        let id = child.id().unwrap_or(0);
        self.child = Some(child);
        Ok(id)
    }

    /// SIGKILL: it has no chance to say or save anything.
    pub(super) async fn kill(&mut self) -> Result<()> {
        let fail = |error| Error::new(Exit::Unexpected, "kill the replicator").because(error);
        match self.child.take() {
            Some(mut child) => child.kill().await.map_err(fail),
            None => Ok(()),
        }
    }

    /// SIGTERM: it drains, saves and ends.
    pub(super) async fn stop(&mut self) -> Result<ExitStatus> {
        let fail = |error| Error::new(Exit::Unexpected, "stop the replicator").because(error);
        let Some(mut child) = self.child.take() else {
            return Err(Error::new(Exit::Unexpected, "the replicator does not run"));
        };
        if let Some(id) = child.id() {
            // A shell's own `kill`: signals by number need `unsafe`, and images may lack the command.
            let mut kill = Command::new("sh");
            kill.args(["-c", &format!("kill -TERM {id}")]).stderr(Stdio::null());
            kill.status().await.map_err(fail)?;
        }
        child.wait().await.map_err(fail)
    }

    /// How it ended, if it ended by itself.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// Runs `verify` beside it; answers the document.
    pub(super) async fn verify(&self) -> Result<Value> {
        let what = "compare the tables with `verify`";
        let fail = |error: std::io::Error| Error::new(Exit::Unexpected, what).because(error);
        let mut command = self.command();
        command.args(["verify", "-o", "json", "--quiet"]);
        let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await.map_err(fail)?;
        serde_json::from_slice(&output.stdout).map_err(|_| {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Error::new(Exit::Unexpected, what).because(said)
        })
    }

    /// Its log.
    pub(super) fn log(&self) -> PathBuf {
        self.directory.join(LOG)
    }

    /// The last lines of its log.
    pub(super) fn last_words(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n")
    }

    /// Removes its directory.
    pub(super) fn clean_up(&self) {
        // What stays behind in the directory for temporary files harms nobody.
        let _stays = fs::remove_dir_all(&self.directory).is_err();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_foreign) {
                command.env_remove(name);
            }
        }
        command
            .env("AWS_ACCESS_KEY_ID", SOURCE_ACCOUNT)
            .env("AWS_SECRET_ACCESS_KEY", "any")
            .env("AWS_CONFIG_FILE", self.directory.join("none"))
            .env("AWS_SHARED_CREDENTIALS_FILE", self.directory.join("none"))
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .current_dir(&self.directory)
            .args(["--config", CONFIG, "--color", "never"])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        // Ctrl-C is for the demo, which then stops the replicator in good order.
        #[cfg(unix)]
        command.process_group(0);
        command
    }
}

/// Variables that would tell the replicator something else.
fn is_foreign(name: &str) -> bool {
    name.starts_with("AWS_") || name.starts_with("DYNAFERRY_") || name.to_ascii_lowercase().ends_with("_proxy")
}

/// A directory that only its owner may look into.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        // Left behind by an earlier process of the same number.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            fs::remove_dir_all(path)?;
            builder.create(path)
        }
        done => done,
    }
}

fn config(setup: &Setup<'_>) -> String {
    let Setup { endpoint, listen, max_wcu, example } = setup;
    format!(
        "version = 1

[defaults.source]
region = \"{REGION}\"
endpoint_url = \"http://{endpoint}\"
sts_endpoint_url = \"http://{endpoint}\"
role_arn = \"{source_role}\"
external_id = \"{EXTERNAL_ID}\"

[defaults.target]
region = \"{REGION}\"
endpoint_url = \"http://{endpoint}\"
sts_endpoint_url = \"http://{endpoint}\"
role_arn = \"{target_role}\"
external_id = \"{EXTERNAL_ID}\"

[link.{TABLE}]
source.table = \"{TABLE}\"
target.table = \"{TABLE}\"
target.create = true
load.segments = 64
load.read_capacity = \"100%\"
apply.write_capacity = \"100%\"
apply.max_wcu = {max_wcu}
apply.attempt_timeout = \"2s\"
# Only because the embedded AWS delivers nothing late; against AWS, leave the default of 16m.
apply.in_doubt_for = \"{IN_DOUBT_FOR}\"
stream.discovery_interval = \"5s\"
verify.rate = \"100%\"

[checkpoint]
store = \"file:./state.redb\"

[service]
listen = \"{listen}\"
",
        source_role = example.source_role,
        target_role = example.target_role,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Options;

    #[test]
    fn the_config_is_valid_and_private_settings_stay_out() {
        let example = Example::new(Options::default()).unwrap();
        let local = SocketAddr::from(([127, 0, 0, 1], 1234));
        let text = config(&Setup { endpoint: local, listen: local, max_wcu: 900, example: &example });
        let config = crate::config::parse("demo", &text, []).unwrap();
        assert_eq!(config.links[0].apply.in_doubt_for, std::time::Duration::from_secs(10));
        assert_eq!(config.service.listen, local);
        assert!(["AWS_PROFILE", "DYNAFERRY_LOG", "https_proxy", "ALL_PROXY"].into_iter().all(is_foreign));
        assert!(!is_foreign("PATH"));
    }
}
