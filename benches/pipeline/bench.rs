//! What the parent has: the stub, and arms in processes of their own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::Result;
use crate::arms::Used;

/// A child that is ended with its owner.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// This very program again, on one core where there are several and `taskset` is there.
fn command(core: usize, arguments: &[&str]) -> Result<Command> {
    let program = std::env::current_exe()?;
    let cores = std::thread::available_parallelism()?.get();
    let has_taskset = Command::new("taskset").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let mut command = if cores > 1 && has_taskset {
        let mut command = Command::new("taskset");
        command.arg("-c").arg(core.to_string()).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(arguments).stdin(Stdio::null());
    Ok(command)
}

/// The stub, and the buckets that it serves.
pub(crate) struct Bench {
    pub(crate) address: String,
    _stub: Owned,
    buckets: TempDir,
}

impl Bench {
    pub(crate) fn start() -> Result<Self> {
        let buckets = tempfile::tempdir()?;
        let folder = buckets.path().to_str().ok_or("a folder that is no text")?;
        let mut stub = Owned(command(1, &["stub", folder])?.stdout(Stdio::piped()).spawn()?);
        let mut address = String::new();
        BufReader::new(stub.0.stdout.take().ok_or("no output")?).read_line(&mut address)?;
        Ok(Self { address: address.trim().to_owned(), _stub: stub, buckets })
    }

    pub(crate) fn buckets(&self) -> &Path {
        self.buckets.path()
    }

    fn tell(&self, operation: &str, body: &str) -> Result<Value> {
        let mut socket = TcpStream::connect(&self.address)?;
        write!(
            socket,
            "POST / HTTP/1.1\r\nx-amz-target: Bench.{operation}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        socket.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        Ok(serde_json::from_str(body)?)
    }

    /// Runs an arm, given as the arguments of a child, after the stub was told what to serve: what it used, and what the
    /// stub received.
    pub(crate) fn run(&self, serve: &str, arm: &[&str]) -> Result<(Used, Value)> {
        self.tell("Reset", serve)?;
        let output = command(0, arm)?.stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("arm {} failed", arm.join(" ")).into());
        }
        Ok((serde_json::from_slice(&output.stdout)?, self.tell("Received", "")?))
    }
}

/// A number of what the stub received.
pub(crate) fn count(received: &Value, what: &str) -> u64 {
    received.get(what).and_then(Value::as_u64).unwrap_or(0)
}

/// Whether so many items with this digest were received.
pub(crate) fn check_delivered(received: &Value, (items, digest): (u64, u64), what: &str) -> Result<()> {
    let number = |what| received.get(what).and_then(Value::as_u64);
    if (number("items"), number("digest")) != (Some(items), Some(digest)) {
        return Err(format!("{what}: other items than expected were delivered: {received}").into());
    }
    let (writes, requests) = (count(received, "writes"), count(received, "requests"));
    eprintln!("verified  {what:<17} {items} items, writes {writes}, requests {requests}");
    Ok(())
}
