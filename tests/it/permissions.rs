//! The identities and policies that the documentation prints, at a server that enforces them: ministack with `AUTH=true`.
//!
//! It checks signatures of users and sessions, trust policies with their external ids, and each call against the inline
//! policies. A root key (the 12 digits of an account) may do everything with any secret, so it only sets the scene.

use std::time::Duration;

use dynaferry::aws::AccessKey;
use dynaferry::context::Context;
use dynaferry::error::{Exit, chain};
use dynaferry::telemetry::Mode;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::buckets::{BUCKET, PREFIX, from_export, put_export};
use crate::pair::{Pair, Service};
use crate::servers;
use crate::short_sessions::ShortSessions;
use crate::wire::{REGION, Wire};
use crate::workload::{Keys, Writer, fill};
use crate::world::{OURS, SOURCE, TARGET};

const KEYS: Keys = Keys::Text;
const EXTERNAL_ID: &str = "between-us";

fn policy(name: &str, account: &str, table: &str) -> String {
    let file = format!("{}/config/policies/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&file).expect(&file);
    // ministack does not match ARNs of streams in policies: there they are replaced by `*`. AWS matches them (Service
    // authorization reference, DynamoDB: resource type `stream`).
    let text = text.replace("arn:aws:dynamodb:REGION:SOURCE_ACCOUNT:table/TABLE/stream/*", "*");
    text.replace("REGION", REGION)
        .replace("SOURCE_ACCOUNT", account)
        .replace("TARGET_ACCOUNT", account)
        .replace("TABLE", table)
}

/// A role that trusts our account if it shows the external id, with one inline policy.
async fn make_role(url: &str, account: &str, side: &str, policy: &str) {
    let file = format!("{}/config/policies/trust.json", env!("CARGO_MANIFEST_DIR"));
    let trust = std::fs::read_to_string(&file).expect(&file);
    // Here it is a user who assumes the role: the whole account is trusted, and the user's own policy narrows it.
    let trust = trust.replace("arn:aws:iam::RUNNER_ACCOUNT:role/dynaferry", &format!("arn:aws:iam::{OURS}:root"));
    let trust = trust.replace("EXTERNAL_ID", EXTERNAL_ID);
    let role = format!("dynaferry-{side}");
    let owner = Wire::new(url, account, "secret");
    let version = ("Version", "2010-05-08");
    let create =
        [("Action", "CreateRole"), version, ("RoleName", role.as_str()), ("AssumeRolePolicyDocument", trust.as_str())];
    owner.form("iam", &create).await;
    let attach =
        [("Action", "PutRolePolicy"), version, ("RoleName", &role), ("PolicyName", side), ("PolicyDocument", policy)];
    owner.form("iam", &attach).await;
}

/// A user of our account that may do one thing: assume both roles.
async fn make_user(url: &str) -> AccessKey {
    let owner = Wire::new(url, OURS, "secret");
    let (version, user) = (("Version", "2010-05-08"), ("UserName", "ferryman"));
    owner.form("iam", &[("Action", "CreateUser"), version, user]).await;
    let file = format!("{}/config/policies/runner.json", env!("CARGO_MANIFEST_DIR"));
    let assume = std::fs::read_to_string(&file).expect(&file);
    let assume = assume.replace("SOURCE_ACCOUNT", SOURCE).replace("TARGET_ACCOUNT", TARGET);
    let attach =
        [("Action", "PutUserPolicy"), version, user, ("PolicyName", "assume"), ("PolicyDocument", assume.as_str())];
    owner.form("iam", &attach).await;
    let key = owner.form("iam", &[("Action", "CreateAccessKey"), version, user]).await;
    let part = |name| key.xml(name).expect(name).to_owned();
    AccessKey { id: part("AccessKeyId"), secret: part("SecretAccessKey") }
}

/// Both accounts as the documentation says, with 100 items at the source.
async fn scene(target_policy: &str) -> (Pair, AccessKey) {
    let pair = Pair::new(servers::ministack_with_auth());
    let url = &pair.server.url;
    make_role(url, SOURCE, "source", &policy("source", SOURCE, KEYS.table())).await;
    make_role(url, TARGET, "target", target_policy).await;
    let key = make_user(url).await;
    pair.create(KEYS).await;
    fill(&pair.source, KEYS, 100).await;
    (pair, key)
}

fn documented() -> String {
    policy("target", TARGET, &format!("{}-copy", KEYS.table()))
}

async fn tables_at_target(pair: &Pair) -> Value {
    pair.target.call("ListTables", "{}").await["TableNames"].clone()
}

/// Fails as a precondition with nothing written, and says what to look at.
async fn assert_refused(pair: &Pair, key: &AccessKey, more: &str, said: &[&str]) {
    let program = pair.program(KEYS, Mode::Oneshot, key, more);
    let error = program.migrate(CancellationToken::new()).await.expect_err("no permission, no migration");
    assert_eq!(error.exit, Exit::Precondition, "{error:?}");
    let told = format!("{}\n{}", chain(&error), error.hint.clone().unwrap_or_default());
    for text in said {
        assert!(told.contains(text), "no word of `{text}` in: {told}");
    }
    assert!(!told.contains(&key.secret), "the secret was shown");
    assert_eq!(tables_at_target(pair).await, json!([]), "something was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_policies_are_enough() {
    let (pair, key) = scene(&documented()).await;
    let writer = Writer::start(pair.source.clone(), KEYS, 150, 2);
    let report = pair.program(KEYS, Mode::Oneshot, &key, "").migrate(CancellationToken::new()).await;
    writer.stop().await;
    assert!(report.expect("a migration").iter().all(|link| link.verification.is_identical()));
    let report = pair.program(KEYS, Mode::Oneshot, &key, "").migrate(CancellationToken::new()).await;
    assert!(report.expect("the rest").iter().all(|link| link.verification.is_identical()));
    pair.compare(KEYS);
}

/// One policy of several.
fn together(policies: &[String]) -> String {
    let statements = policies.iter().flat_map(|policy| {
        let policy: Value = serde_json::from_str(policy).expect("a policy");
        policy["Statement"].as_array().expect("statements").clone()
    });
    json!({"Version": "2012-10-17", "Statement": statements.collect::<Vec<_>>()}).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_policy_for_state_in_a_table_is_enough() {
    runs_with_its_state_in_a_table(&[documented(), policy("state", TARGET, "none")], "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_policy_for_a_fence_is_enough_and_without_it_no_item_is_written() {
    const FENCED: &str = "apply.fence = \"transaction\"\n";
    let state = policy("state", TARGET, "none");
    let (pair, key) = scene(&together(&[documented(), state.clone()])).await;
    let program = pair.program(KEYS, Mode::Oneshot, &key, &format!("{FENCED}{ON_TABLE}"));
    let error = program.migrate(CancellationToken::new()).await.expect_err("a fence without its policy");
    assert_eq!(error.exit, Exit::Precondition);
    assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("config/policies/fence.json")), "{}", chain(&error));
    let copy = format!("{}-copy", KEYS.table());
    let found = pair.target.call("Scan", &json!({"TableName": copy}).to_string()).await;
    assert_eq!(found["Count"], 0);
    drop(pair);
    let fence = policy("fence", TARGET, &copy);
    runs_with_its_state_in_a_table(&[documented(), state, fence], FENCED).await;
}

const ON_TABLE: &str = "[checkpoint]\nstore = \"dynamodb:dynaferry-state\"";

async fn runs_with_its_state_in_a_table(policies: &[String], more: &str) {
    let (pair, key) = scene(&together(policies)).await;
    let mut service = Service::start(pair.program(KEYS, Mode::Service, &key, &format!("{more}{ON_TABLE}")));
    let writer = Writer::start(pair.source.clone(), KEYS, 150, 2);
    service.wait_until_applied(Context::system().now()).await;
    writer.stop().await;
    service.wait_until_applied(Context::system().now()).await;
    service.drain().await;
    pair.compare(KEYS);
    let tables = tables_at_target(&pair).await;
    assert!(tables.as_array().is_some_and(|tables| tables.contains(&json!("dynaferry-state"))), "{tables}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_know_the_external_id_or_the_secret_is_refused_before_any_write() {
    let (mut pair, key) = scene(&documented()).await;
    pair.external_id = "guessed";
    assert_refused(&pair, &key, "", &["credentials for the source", "external id", "not authorized"]).await;
    pair.external_id = EXTERNAL_ID;
    let forged = AccessKey { secret: "not-the-secret".to_owned(), ..key };
    assert_refused(&pair, &forged, "", &["credentials for the source", "signature"]).await;
}

/// Its signatures are checked there, too, also that of a key with a space.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_policy_for_an_export_is_enough_and_what_is_missing_is_named() {
    let (pair, key) = scene(&documented()).await;
    let place = put_export(&pair, KEYS).await;
    let from = from_export(&pair, &place);
    assert_refused(&pair, &key, &from, &["read the export", "s3:GetObject"]).await;
    let file = format!("{}/config/policies/export.json", env!("CARGO_MANIFEST_DIR"));
    let allowed = std::fs::read_to_string(&file).expect(&file).replace("BUCKET", BUCKET).replace("PREFIX", PREFIX);
    let attach = [
        ("Action", "PutRolePolicy"),
        ("Version", "2010-05-08"),
        ("RoleName", "dynaferry-source"),
        ("PolicyName", "export"),
        ("PolicyDocument", &allowed),
    ];
    Wire::new(&pair.server.url, SOURCE, "secret").form("iam", &attach).await;
    let report = pair.program(KEYS, Mode::Oneshot, &key, &from).migrate(CancellationToken::new()).await;
    let report = report.expect("a migration");
    assert!(report[0].items_loaded == 100 && report[0].verification.is_identical(), "{report:?}");
    pair.compare(KEYS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_is_named_before_any_write() {
    let (pair, key) = scene(&documented().replace("dynamodb:CreateTable", "dynamodb:DeleteTable")).await;
    assert_refused(&pair, &key, "", &["create target table", "dynamodb:CreateTable"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_before_its_time_is_replaced_while_changes_flow() {
    let (mut pair, key) = scene(&documented()).await;
    let sessions = ShortSessions::start(&pair.server.url, &key, 12).await;
    pair.sts_url = Some(sessions.url.clone());
    let writer = Writer::start(pair.source.clone(), KEYS, 150, 5);
    let mut service = Service::start(pair.program(KEYS, Mode::Service, &key, ""));
    tokio::time::sleep(Duration::from_secs(16)).await;
    writer.stop().await;
    service.wait_until_applied(Context::system().now()).await;
    pair.compare(KEYS);
    service.drain().await;
    assert!(sessions.issued() >= 4, "{} sessions for two sides: none was replaced", sessions.issued());
}
