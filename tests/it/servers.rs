//! Servers that others wrote: installed once, started on loopback, gone with the test process.
//!
//! Installed from `tests/servers/requirements.txt` into `servers-venv` of the target folder. A server that cannot be had
//! fails the test: a skipped test would look like a passed one.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

/// From the start of a server until it takes connections: Python on a busy machine.
const START: Duration = Duration::from_secs(90);

/// A running server; killed when it is dropped, and when this process ends in any way.
pub(crate) struct Server {
    pub(crate) url: String,
    child: Child,
    log: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// ministack: isolated accounts (a 12-digit access key is that account), streams, STS.
pub(crate) fn ministack() -> Server {
    start("ministack", |port| (vec![], ministack_settings(port)))
}

/// ministack that checks signatures, trust policies and permissions.
pub(crate) fn ministack_with_auth() -> Server {
    start("ministack", |port| {
        let mut settings = ministack_settings(port);
        settings.push(("AUTH", "true".into()));
        (vec![], settings)
    })
}

/// moto: the second opinion.
pub(crate) fn moto() -> Server {
    start("moto_server", |port| (vec!["-H".into(), "127.0.0.1".into(), "-p".into(), port.to_string()], vec![]))
}

fn ministack_settings(port: u16) -> Vec<(&'static str, String)> {
    vec![
        ("BIND_HOST", "127.0.0.1".into()),
        ("GATEWAY_PORT", port.to_string()),
        ("IOT_MTLS_ENABLED", "0".into()),
        ("SFTP_ENABLED", "0".into()),
    ]
}

type Launch = (Vec<String>, Vec<(&'static str, String)>);

fn start(program: &str, launch: impl Fn(u16) -> Launch) -> Server {
    let python = python();
    // The port is free only until somebody else takes it.
    for _ in 0..3 {
        let port = free_port();
        let log = target().join(format!("servers-{program}-{port}.log"));
        let output = File::create(&log).expect("a log file");
        let (arguments, settings) = launch(port);
        let child = Command::new(python)
            .arg(folder().join("start.py"))
            .arg(program)
            .args(arguments)
            .env_remove("AWS_PROFILE")
            .envs(settings)
            .current_dir(target())
            .stdin(Stdio::piped())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .expect("start Python");
        let mut server = Server { url: format!("http://127.0.0.1:{port}"), child, log };
        if server.answers(port) {
            return server;
        }
    }
    panic!("{program} does not start: read {}/servers-{program}-*.log", target().display());
}

impl Server {
    fn answers(&mut self, port: u16) -> bool {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let begun = Instant::now();
        while begun.elapsed() < START {
            if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
                return true;
            }
            if self.child.try_wait().expect("the child's state").is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the server took no connection within {START:?}: read {}", self.log.display());
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

/// Runs one of the Python programs of `tests/servers/` and hands back what it printed; it must exit with 0.
pub(crate) fn run_script(script: &str, arguments: &[&str]) -> String {
    let output = Command::new(python()).arg(folder().join(script)).args(arguments).output().expect("start Python");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script} {arguments:?}:\n{out}\n{err}");
    out.into_owned()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers")
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder").to_owned()
}

/// The interpreter that has the servers; installs them where they are missing.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| provision().unwrap_or_else(|what| panic!("{what}")))
}

fn provision() -> Result<PathBuf, String> {
    let (target, requirements) = (target(), folder().join("requirements.txt"));
    let (environment, marker) = (target.join("servers-venv"), target.join("servers-venv.done"));
    let python = environment.join("bin/python");
    let lock = File::create(target.join("servers-venv.lock")).map_err(|error| format!("make a lock file: {error}"))?;
    // Several test processes may come at once; the lock goes with the file handle, also when a process is killed.
    lock.lock().map_err(|error| format!("lock servers-venv.lock: {error}"))?;
    let version = run(Command::new("python3").arg("--version"))?;
    let wanted = fs::read(&requirements).map_err(|error| format!("read {}: {error}", requirements.display()))?;
    let digest = format!("{:x?} {version}", Sha256::digest(wanted).as_slice());
    if python.exists() && fs::read_to_string(&marker).is_ok_and(|found| found == digest) {
        return Ok(python);
    }
    eprintln!("installing local AWS servers into {} (once, a few minutes)", environment.display());
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(&requirements);
    run(&mut pip)?;
    let mut done = File::create(&marker).map_err(|error| format!("write {}: {error}", marker.display()))?;
    done.write_all(digest.as_bytes()).map_err(|error| format!("write {}: {error}", marker.display()))?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<String, String> {
    const HELP: &str = "These tests need Python 3.11 or newer with venv (Debian: apt install python3-venv) and a package \
                        index for pip (PIP_INDEX_URL, or pip's own configuration). They are not skipped without.";
    let output = command.output().map_err(|error| format!("start {command:?}: {error}\n{HELP}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?} failed ({}):\n{text}\n{HELP}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
