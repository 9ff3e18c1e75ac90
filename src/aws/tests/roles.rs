//! Sessions of a role.

use super::*;

/// A role's session, as the token service grants it.
pub(super) fn session(id: &str, expires: &str) -> Reply {
    Reply::ok(format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><AssumedRoleUser>\
         <AssumedRoleId>A:dynaferry</AssumedRoleId><Arn>arn:aws:sts::444455556666:assumed-role/copy/dynaferry</Arn>\
         </AssumedRoleUser><Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
         <SessionToken>t</SessionToken><Expiration>{expires}</Expiration></Credentials></AssumeRoleResult>\
         </AssumeRoleResponse>"
    ))
}

pub(super) fn in_role() -> SideConfig {
    SideConfig {
        role_arn: Some("arn:aws:iam::444455556666:role/copy".into()),
        external_id: Some(crate::config::ExternalId::Value("ext-1".into())),
        sts_endpoint_url: Some("http://127.0.0.1:9000".into()),
        ..side()
    }
}

#[tokio::test(start_paused = true)]
async fn expired_credentials_are_replaced_for_the_next_attempt() {
    let server = Server::new([
        session("AKIAFIRST", "2027-01-15T09:00:00Z"),
        Reply::error(400, "ExpiredTokenException", "The security token included in the request is expired"),
        session("AKIASECOND", "2027-01-15T09:00:00Z"),
        Reply::ok("{}"),
    ]);
    let (_, context) = Manual::context();
    let account = Account::connect(&in_role(), Side::Target, &clients(&server, &context)).await.unwrap();
    let table = account.table(&orders(), &schema());
    let writes = [delete(r#"{"pk":{"S":"b"}}"#)];
    let failure = table.write(&writes).await.unwrap_err();
    assert_eq!((failure.fault, failure.may_have_happened), (Fault::Denied, false));
    table.write(&writes).await.unwrap();
    let seen = server.seen();
    assert!(seen[1].header("authorization").contains("AKIAFIRST"));
    assert!(seen[3].header("authorization").contains("AKIASECOND"));
    let asked = std::str::from_utf8(&seen[0].body).unwrap();
    assert!(asked.contains("ExternalId=ext-1") && asked.contains("RoleSessionName=dynaferry"), "{asked}");
    assert!(seen[0].header("authorization").contains("111122223333/"), "the role is assumed with the base key");
    assert!(seen[0].uri.starts_with("http://127.0.0.1:9000"));
    assert_eq!(account.credentials_expire_at(), Some(WallTime::from_secs(1_800_003_600)));
}

#[tokio::test(start_paused = true)]
async fn a_raw_call_of_a_role_goes_where_the_sdk_sends_it_and_carries_its_token() {
    let server = Server::new([session("AKIAFIRST", "2027-01-15T09:00:00Z"), Reply::ok("{}"), Reply::ok("{}")]);
    let (_, context) = Manual::context();
    let account = Account::connect(&in_role(), Side::Target, &clients(&server, &context)).await.unwrap();
    account.table(&orders(), &schema()).write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
    drop(account.describe(&orders()).await);
    let [_, raw, typed] = server.seen().try_into().unwrap();
    assert_eq!((raw.operation(), typed.operation()), ("BatchWriteItem", "DescribeTable"));
    assert_eq!(raw.uri, typed.uri);
    assert!(raw.uri.contains(".ddb.eu-west-1."), "the endpoint of the role's account: {}", raw.uri);
    for header in ["x-amz-security-token", "x-amz-date", "content-type"] {
        assert_eq!(raw.header(header), typed.header(header), "{header}");
        assert!(!raw.header(header).is_empty(), "{header}");
        assert!(raw.header("authorization").contains(header), "{header} is signed");
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_that_fit_into_no_header_are_an_error_that_does_not_show_them() {
    for id in ["AKIA\n1", "AKIA\u{7f}1"] {
        let server = Server::new([1, 2].map(|_| session(id, "2027-01-15T09:00:00Z")));
        let (_, context) = Manual::context();
        let account = Account::connect(&in_role(), Side::Target, &clients(&server, &context)).await.unwrap();
        let table = account.table(&orders(), &schema());
        for failure in [
            table.write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap_err(),
            account.describe(&orders()).await.unwrap_err(),
        ] {
            assert_eq!((failure.fault, failure.may_have_happened), (Fault::Denied, false), "{failure}");
            let text = failure.to_string();
            assert!(text.contains("access key id") && !text.contains("AKIA"), "{text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_role_that_is_refused_is_denied_and_a_token_service_that_is_away_passes() {
    let refusal = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>User: arn:aws:iam::111122223333:user/a is not authorized to perform: sts:AssumeRole</Message></Error><RequestId>r</RequestId></ErrorResponse>";
    for (reply, fault) in [
        (Reply::Body(403, refusal.into()), Fault::Denied),
        (Reply::Broken, Fault::Transient),
        (Reply::Silence, Fault::Transient),
        (Reply::Body(503, "".into()), Fault::Transient),
    ] {
        let server = Server::new([reply.clone()]);
        let (_, context) = Manual::context();
        let account = Account::connect(&in_role(), Side::Target, &clients(&server, &context)).await.unwrap();
        let writes = [delete(r#"{"pk":{"S":"b"}}"#)];
        let failure = account.table(&orders(), &schema()).write(&writes).await.unwrap_err();
        assert_eq!((failure.fault, failure.may_have_happened), (fault, false), "{reply:?}: {failure}");
        assert!(!failure.to_string().contains("ext-1"), "{failure}");
        if fault == Fault::Denied {
            let want = "BatchWriteItem: AccessDenied: assume the role: User: arn:aws:iam::111122223333:user/a is not \
                        authorized to perform: sts:AssumeRole";
            assert_eq!(failure.to_string(), want);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_of_a_role_are_told_like_any_call() {
    let server = Server::new([
        session("AKIAFIRST", "2027-01-15T09:00:00Z"),
        Reply::error(400, "ExpiredTokenException", "x"),
        Reply::Body(403, "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>".into()),
    ]);
    let (_, context) = Manual::context();
    let told = Arc::new(Mutex::new(Vec::new()));
    let observer: Observer = Arc::new({
        let told = Arc::clone(&told);
        move |record| told.lock().unwrap().push(record)
    });
    let clients = Clients { observer: Some(observer), ..clients(&server, &context) };
    let account = Account::connect(&in_role(), Side::Target, &clients).await.unwrap();
    for _ in 0..2 {
        drop(account.table(&orders(), &schema()).write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await);
    }
    let told = told.lock().unwrap().clone();
    let calls: Vec<_> = told.iter().map(|record| (record.operation, record.outcome, record.side)).collect();
    let expected = [
        ("AssumeRole", Outcome::Ok, Side::Target),
        ("BatchWriteItem", Outcome::Denied, Side::Target),
        ("AssumeRole", Outcome::Denied, Side::Target),
        ("BatchWriteItem", Outcome::Denied, Side::Target),
    ];
    assert_eq!(calls, expected);
    assert!(told[0].clocks.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_external_id_file_is_read_for_each_session() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "first-id\n").unwrap();
    let server = Server::new([
        session("A1", "2027-01-15T09:00:00Z"),
        Reply::error(400, "ExpiredTokenException", "x"),
        session("A2", "2027-01-15T09:00:00Z"),
        Reply::ok("{}"),
    ]);
    let (_, context) = Manual::context();
    let external_id = Some(crate::config::ExternalId::File(file.path().into()));
    let config = SideConfig { external_id, ..in_role() };
    let account = Account::connect(&config, Side::Target, &clients(&server, &context)).await.unwrap();
    let table = account.table(&orders(), &schema());
    drop(table.write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await);
    std::fs::write(file.path(), "second-id\n").unwrap();
    table.write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
    let asked = |at: usize| String::from_utf8(server.seen()[at].body.to_vec()).unwrap();
    assert!(asked(0).contains("ExternalId=first-id") && asked(2).contains("ExternalId=second-id"));
}
