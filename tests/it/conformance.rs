//! The sandbox answers as servers that others wrote do: the same requests to all, the answers side by side.
//!
//! Compared are status, error name and the fields of the body that a client acts on. Where they differ, the difference is
//! listed with its reason; the test fails when a new one shows up and when a listed one is gone. What is right, where
//! they differ, is AWS's documentation: its word on each point is in the reason.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use dynaferry::sandbox::{Options, Sandbox};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::pair::Pair;
use crate::servers;
use crate::wire::{Answer, Wire};
use crate::world::SOURCE;

mod differences;
mod script;

/// One request of the script, and where in the answer to look.
pub(crate) struct Step {
    /// A name for people, and for the list of differences.
    pub(crate) name: &'static str,
    pub(crate) operation: &'static str,
    /// Strings of the form `$name` are replaced by what earlier steps kept.
    pub(crate) body: Value,
    /// JSON pointers into the answer that are compared.
    pub(crate) look_at: &'static [&'static str],
    /// JSON pointers into the answer whose values are kept under a name.
    pub(crate) keep: &'static [(&'static str, &'static str)],
}

/// Differences that are known: at these steps, this server answers otherwise than the sandbox.
pub(crate) struct Known {
    pub(crate) server: &'static str,
    pub(crate) reason: &'static str,
    /// Each step with the beginning of what the server answers.
    pub(crate) steps: &'static [(&'static str, &'static str)],
}

/// What the list says about a step: the beginning of that server's answer, and why the sandbox does not follow it.
fn known(server: &str, step: &str) -> Option<(&'static str, &'static str)> {
    let of_server = differences::ALL.iter().filter(|known| known.server == server);
    of_server
        .flat_map(|known| known.steps.iter().map(|(name, answer)| (name, (*answer, known.reason))))
        .find_map(|(name, what)| (*name == step).then_some(what))
}

/// What is compared of an answer, as text.
fn essence(step: &Step, answer: &Answer) -> String {
    if answer.status != 200 {
        return format!("{} {}", answer.status, answer.error());
    }
    let body = answer.json();
    let fields =
        step.look_at.iter().map(|path| format!("{path}={}", normal(body.pointer(path).unwrap_or(&Value::Null))));
    ["200".to_owned()].into_iter().chain(fields).collect::<Vec<_>>().join(" ")
}

/// Sets sorted; lists of items and of records left in their order.
fn normal(value: &Value) -> Value {
    match value {
        Value::Array(elements) => Value::Array(elements.iter().map(normal).collect()),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| {
                let mut value = normal(value);
                if let (true, Value::Array(elements)) = (["SS", "NS", "BS"].contains(&name.as_str()), &mut value) {
                    elements.sort_by_key(ToString::to_string);
                }
                (name.clone(), value)
            })
            .collect(),
        other => other.clone(),
    }
}

/// Puts what was kept in the place of `$name`.
fn filled(value: &Value, kept: &BTreeMap<&str, Value>) -> Value {
    match value {
        Value::String(text) => match text.strip_prefix('$').and_then(|name| kept.get(name)) {
            Some(value) => value.clone(),
            None => value.clone(),
        },
        Value::Array(elements) => elements.iter().map(|element| filled(element, kept)).collect(),
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), filled(value, kept))).collect(),
        other => other.clone(),
    }
}

async fn run(wire: &Wire, steps: &[Step]) -> Vec<String> {
    let mut kept: BTreeMap<&str, Value> = BTreeMap::new();
    let mut answers = Vec::new();
    for step in steps {
        let answer = wire.send(step.operation, &filled(&step.body, &kept).to_string()).await;
        let body = answer.json();
        for (path, name) in step.keep {
            kept.insert(name, body.pointer(path).cloned().unwrap_or(Value::Null));
        }
        answers.push(essence(step, &answer));
    }
    answers
}

/// A text of so many bytes.
pub(crate) fn long(bytes: usize) -> String {
    "x".repeat(bytes)
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_answers_as_other_servers_do_apart_from_known_differences() {
    let steps = script::steps();
    let names: BTreeSet<&str> = steps.iter().map(|step| step.name).collect();
    assert_eq!(names.len(), steps.len(), "two steps have the same name");

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let stop = CancellationToken::new();
    let sandbox = Sandbox::new(Options { initial_shards: 1..=1, ..Options::default() });
    let serving = tokio::spawn(sandbox.serve(listener, stop.clone().cancelled_owned()));
    let ours = run(&Wire::new(&url, SOURCE, "secret"), &steps).await;
    stop.cancel();
    serving.await.expect("the sandbox");

    let mut complaints = Vec::new();
    let others = [("ministack", Pair::new(servers::ministack())), ("moto", Pair::by_roles(servers::moto()).await)];
    for (name, pair) in others {
        let theirs = run(&pair.source, &steps).await;
        for ((step, ours), theirs) in steps.iter().zip(&ours).zip(&theirs) {
            let problem = match known(name, step.name) {
                None if ours == theirs => continue,
                Some((answer, _)) if ours != theirs && theirs.starts_with(answer) => continue,
                Some((_, reason)) if ours == theirs => format!("is listed, and is gone: {reason}"),
                Some((_, reason)) => format!("differs otherwise than listed: {reason}"),
                None => "differs".to_owned(),
            };
            complaints.push(format!("`{}` {problem}\n    sandbox: {ours}\n    {name}: {theirs}", step.name));
        }
    }
    let listed = differences::ALL.iter().flat_map(|known| known.steps);
    complaints
        .extend(listed.filter(|(step, _)| !names.contains(step)).map(|(step, _)| format!("there is no step `{step}`")));
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
