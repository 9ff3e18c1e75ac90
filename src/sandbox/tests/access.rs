//! Accounts, roles, sessions, access across accounts.

use aws_sdk_sts as sts;

use super::super::Trust;
use super::*;

fn security(sandbox: &Sandbox, credentials: Credentials) -> sts::Client {
    sts::Client::from_conf(
        sts::Config::builder()
            .behavior_version(sts::config::BehaviorVersion::latest())
            .region(sts::config::Region::new(REGION))
            .credentials_provider(credentials)
            .retry_config(sts::config::retry::RetryConfig::disabled())
            .http_client(sandbox.http_client())
            .build(),
    )
}

fn session_of(answer: &sts::operation::assume_role::AssumeRoleOutput) -> Credentials {
    let given = answer.credentials().unwrap();
    let token = Some(given.session_token.clone());
    Credentials::new(&given.access_key_id, &given.secret_access_key, token, None, "test")
}

#[tokio::test]
async fn accounts_do_not_see_each_others_tables() {
    let (sandbox, _) = sandbox();
    create(&database(&sandbox), "orders").await;
    let other = database_as(&sandbox, key_of(TARGET));
    assert_eq!(code(other.describe_table().table_name("orders").send().await), "ResourceNotFoundException");
    assert_eq!(other.list_tables().send().await.unwrap().table_names(), [] as [String; 0]);
    create(&other, "orders").await;
    put(&other, "orders", "a", "1").await;
    assert!(sandbox.snapshot(SOURCE, REGION, "orders").unwrap().is_empty());
}

#[tokio::test]
async fn a_table_of_another_account_needs_permission_and_an_arn() {
    let (sandbox, _) = sandbox();
    create(&database(&sandbox), "orders").await;
    let other = database_as(&sandbox, key_of(TARGET));
    let arn = format!("arn:aws:dynamodb:{REGION}:{SOURCE}:table/orders");
    let put = other.put_item().table_name(&arn).set_item(Some(item("a", &[])));
    assert_eq!(code(put.clone().send().await), "AccessDeniedException");
    sandbox.allow_cross_account(SOURCE, REGION, "orders", TARGET);
    put.clone().send().await.unwrap();
    assert_eq!(sandbox.snapshot(SOURCE, REGION, "orders").unwrap().len(), 1);
    sandbox.deny_cross_account(SOURCE, REGION, "orders", TARGET);
    assert_eq!(code(put.send().await), "AccessDeniedException");
}

#[tokio::test]
async fn a_role_lets_in_whom_it_trusts_with_the_external_id_until_the_session_expires() {
    let (sandbox, clock) = sandbox();
    let arn = sandbox.add_role(TARGET, "writer", Trust::new(SOURCE, Some("secret handshake")));
    let assume = |account: &str, external_id: Option<&str>, secs: i32| {
        security(&sandbox, key_of(account))
            .assume_role()
            .role_arn(&arn)
            .role_session_name("copy")
            .set_external_id(external_id.map(str::to_owned))
            .duration_seconds(secs)
            .send()
    };
    assert_eq!(code(assume(SOURCE, None, 900).await), "AccessDenied");
    assert_eq!(code(assume(SOURCE, Some("wrong"), 900).await), "AccessDenied");
    assert_eq!(code(assume("999999999999", Some("secret handshake"), 900).await), "AccessDenied");
    assert_eq!(code(assume(SOURCE, Some("secret handshake"), 899).await), "ValidationError");
    let answer = assume(SOURCE, Some("secret handshake"), 900).await.unwrap();
    let session = session_of(&answer);
    assert_eq!(answer.credentials().unwrap().expiration.secs(), 1_700_000_900);

    let who = security(&sandbox, session.clone()).get_caller_identity().send().await.unwrap();
    assert_eq!(who.account(), Some(TARGET));
    assert_eq!(who.arn().unwrap(), format!("arn:aws:sts::{TARGET}:assumed-role/writer/copy"));
    let client = database_as(&sandbox, session.clone());
    create(&client, "orders").await;
    sandbox.snapshot(TARGET, REGION, "orders").unwrap();

    let forged = Credentials::new(session.access_key_id(), "x", Some("forged".to_owned()), None, "test");
    assert_eq!(code(database_as(&sandbox, forged).list_tables().send().await), "UnrecognizedClientException");
    clock.advance(Duration::from_secs(899));
    client.list_tables().send().await.unwrap();
    clock.advance(Duration::from_secs(1));
    assert_eq!(code(client.list_tables().send().await), "ExpiredTokenException");
    assert_eq!(code(security(&sandbox, session).get_caller_identity().send().await), "ExpiredToken");
}

#[tokio::test]
async fn sessions_can_be_made_to_expire() {
    let (sandbox, _) = sandbox();
    let arn = sandbox.add_role(TARGET, "writer", Trust::new(SOURCE, None));
    let assume = security(&sandbox, key_of(SOURCE)).assume_role().role_arn(&arn).role_session_name("copy");
    let answer = assume.send().await.unwrap();
    let client = database_as(&sandbox, session_of(&answer));
    client.list_tables().send().await.unwrap();
    // A role that assumes a role gets an hour at most.
    let chained = security(&sandbox, session_of(&answer)).assume_role().role_arn(&arn).role_session_name("copy");
    assert!(chained.duration_seconds(3601).send().await.is_err());
    sandbox.expire_sessions();
    assert_eq!(code(client.list_tables().send().await), "ExpiredTokenException");
}

#[tokio::test]
async fn unknown_keys_are_refused_where_keys_must_be_known() {
    let (options, _) = options();
    let sandbox = Sandbox::new(Options { require_known_keys: true, ..options });
    sandbox.add_access_key("AKIAEXAMPLE", SOURCE);
    database_as(&sandbox, key_of("AKIAEXAMPLE")).list_tables().send().await.unwrap();
    let unknown = database_as(&sandbox, key_of(SOURCE)).list_tables().send().await;
    assert_eq!(code(unknown), "UnrecognizedClientException");
}
