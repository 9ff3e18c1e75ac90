//! Where a side is, and as whom it is called there.

use super::roles::{in_role, session};
use super::*;

#[tokio::test(start_paused = true)]
async fn endpoints_of_the_side_are_used() {
    let server = Server::new([Reply::ok(r#"{"Records":[]}"#), Reply::ok("{}")]);
    let (_, context) = Manual::context();
    let config = SideConfig { endpoint_url: Some("http://127.0.0.1:8000".into()), ..side() };
    let account = Account::connect(&config, Side::Target, &clients(&server, &context)).await.unwrap();
    account.streams().records(&ShardIterator::new("i"), 1).await.unwrap();
    account.table(&orders(), &schema()).write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
    assert!(server.seen().iter().all(|seen| seen.uri.starts_with("http://127.0.0.1:8000")), "{:?}", server.seen());
}

#[tokio::test(start_paused = true)]
async fn a_side_without_a_region_is_refused_with_a_hint() {
    let (_, context) = Manual::context();
    let error = Account::connect(&SideConfig::default(), Side::Source, &clients(&Server::default(), &context)).await;
    let error = error.unwrap_err();
    assert_eq!(error.exit, crate::error::Exit::Config);
    assert!(error.hint.unwrap().contains("AWS_REGION"));
}

#[tokio::test(start_paused = true)]
async fn identity_names_account_and_region() {
    let body = "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/a</Arn><UserId>U</UserId><Account>111122223333</Account></GetCallerIdentityResult></GetCallerIdentityResponse>";
    let server = Server::new([Reply::ok(body), Reply::Body(404, "no such service".into())]);
    let account = account(&server).await;
    let identity = account.identity().await.unwrap();
    assert_eq!((identity.account.as_str(), identity.region.as_str()), ("111122223333", "eu-west-1"));
    assert!(account.identity().await.is_err(), "a server without a token service");
}

/// Runs one ignored test in a process of its own: the ambient settings belong to the process.
fn in_process(test: &str, settings: &[(&str, &str)]) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", &format!("aws::tests::accounts::{test}")]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    let output = command.envs(settings.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

const AMBIENT: [(&str, &str); 6] = [
    ("AWS_MAX_ATTEMPTS", "5"),
    ("AWS_ACCESS_KEY_ID", "AKIAENV"),
    ("AWS_SECRET_ACCESS_KEY", "s"),
    ("AWS_REGION", "eu-north-1"),
    ("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:7001"),
    ("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:7002"),
];

#[test]
fn a_side_without_settings_is_reached_as_the_environment_says() {
    in_process("child_ambient", &AMBIENT);
}

#[test]
fn a_profile_that_a_side_names_wins_over_the_environment() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let profile = |key| format!("aws_access_key_id = {key}\naws_secret_access_key = s\n");
    let text = format!("[profile one]\n{}[profile two]\n{}", profile("AKIAONE"), profile("AKIATWO"));
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().to_str().unwrap();
    let files = [("AWS_CONFIG_FILE", path), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")];
    in_process("child_profiles", &[&AMBIENT[..], &files].concat());
}

#[test]
fn the_endpoint_of_the_token_service_that_a_side_names_wins_over_the_environment() {
    in_process("child_token_service", &AMBIENT);
}

async fn ambient(config: &SideConfig, replies: impl IntoIterator<Item = Reply>) -> (Server, Account) {
    let server = Server::new(replies);
    let (_, context) = Manual::context();
    let clients = Clients { isolated: None, ..clients(&server, &context) };
    let account = Account::connect(config, Side::Source, &clients).await.unwrap();
    (server, account)
}

#[tokio::test(start_paused = true)]
#[ignore = "run by another test, with settings"]
async fn child_ambient() {
    let replies = [Reply::ok("{}"), Reply::error(500, "InternalServerError", "x")];
    let (server, account) = ambient(&SideConfig::default(), replies).await;
    assert_eq!(account.region(), "eu-north-1");
    account.table(&orders(), &schema()).write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
    let seen = server.seen().remove(0);
    assert!(seen.uri.starts_with("http://127.0.0.1:7001"), "{}", seen.uri);
    assert!(seen.header("authorization").contains("AKIAENV/"));
    assert!(account.describe(&orders()).await.is_err());
    assert_eq!(server.seen().len(), 2, "one attempt, whatever AWS_MAX_ATTEMPTS says");
}

#[tokio::test(start_paused = true)]
#[ignore = "run by another test, with settings"]
async fn child_profiles() {
    for (profile, key) in [("one", "AKIAONE/"), ("two", "AKIATWO/")] {
        let config = SideConfig { profile: Some(profile.into()), ..side() };
        let (server, account) = ambient(&config, [Reply::ok("{}")]).await;
        account.table(&orders(), &schema()).write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
        assert!(server.seen()[0].header("authorization").contains(key), "{:?}", server.seen());
    }
    let config = SideConfig { profile: Some("one".into()), ..in_role() };
    let (server, account) = ambient(&config, [session("A1", "2027-01-15T09:00:00Z"), Reply::ok("{}")]).await;
    account.table(&orders(), &schema()).write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
    assert!(server.seen()[0].header("authorization").contains("AKIAONE/"), "the base of the role");
}

#[tokio::test(start_paused = true)]
#[ignore = "run by another test, with settings"]
async fn child_token_service() {
    let (server, account) = ambient(&in_role(), [session("A1", "2027-01-15T09:00:00Z"), Reply::ok("{}")]).await;
    account.table(&orders(), &schema()).write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
    assert!(server.seen()[0].uri.starts_with("http://127.0.0.1:9000"), "{:?}", server.seen());
    assert!(server.seen()[1].uri.starts_with("http://127.0.0.1:7001"), "{:?}", server.seen());
}
