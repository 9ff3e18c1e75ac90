//! Buckets, and exports into them.

use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Value, json};

use super::super::Outcome;
use super::*;

const PLACE: &str = "exports";

fn request(sandbox: &Sandbox, account: &str, method: Method, uri: &str, headers: &[(&str, &str)]) -> Response<Bytes> {
    let scope = format!("AWS4-HMAC-SHA256 Credential={account}/20231114/{REGION}/s3/aws4_request, Signature=0");
    let mut request = Request::builder().method(method).uri(uri).header("authorization", scope);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    match sandbox.handle(&request.body(Bytes::from_static(b"0123456789")).unwrap()) {
        Outcome::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn header<'a>(reply: &'a Response<Bytes>, name: &str) -> &'a str {
    reply.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[test]
fn objects_are_put_and_read_whole_and_in_parts_by_either_style_of_address() {
    let (sandbox, _) = sandbox();
    sandbox.create_bucket(SOURCE, REGION, PLACE);
    let path = "http://127.0.0.1:1/exports/a%20b/c";
    assert_eq!(request(&sandbox, SOURCE, Method::PUT, path, &[]).status(), 200);
    let virtual_host = format!("https://exports.s3.{REGION}.amazonaws.com/a%20b/c");
    let get = |headers: &[(&str, &str)]| request(&sandbox, SOURCE, Method::GET, &virtual_host, headers);
    let whole = get(&[]);
    assert_eq!((whole.status().as_u16(), whole.body().as_ref()), (200, b"0123456789".as_slice()));
    let part = get(&[("range", "bytes=2-4"), ("if-match", header(&whole, "etag"))]);
    assert_eq!((part.status().as_u16(), part.body().as_ref()), (206, b"234".as_slice()));
    assert_eq!(header(&part, "content-range"), "bytes 2-4/10");
    assert_eq!(header(&get(&[("range", "bytes=8-99")]), "content-range"), "bytes 8-9/10");
    assert_eq!(get(&[("range", "bytes=10-11")]).status(), 416);
    assert_eq!(get(&[("if-match", "\"other\"")]).status(), 412);
    let head = request(&sandbox, SOURCE, Method::HEAD, path, &[]);
    assert_eq!((header(&head, "content-length"), head.body().len()), ("10", 0));
    assert_eq!(request(&sandbox, SOURCE, Method::DELETE, path, &[]).status(), 200);
    let gone = get(&[]);
    assert!(gone.status() == 404 && gone.body().windows(9).any(|text| text == b"NoSuchKey"));
}

#[test]
fn a_bucket_is_its_owners_and_its_guests_and_has_a_region() {
    let (sandbox, _) = sandbox();
    sandbox.create_bucket(TARGET, REGION, PLACE);
    sandbox.set_object(PLACE, "k", Some(Bytes::from_static(b"x")));
    let get = |account, headers: &[(&str, &str)]| {
        request(&sandbox, account, Method::GET, "http://127.0.0.1:1/exports/k", headers)
    };
    assert_eq!((get(TARGET, &[]).status().as_u16(), get(SOURCE, &[]).status().as_u16()), (200, 403));
    sandbox.let_into_bucket(PLACE, SOURCE, true);
    assert_eq!(get(SOURCE, &[("x-amz-expected-bucket-owner", TARGET)]).status(), 200);
    assert_eq!(get(SOURCE, &[("x-amz-expected-bucket-owner", SOURCE)]).status(), 403);
    sandbox.let_into_bucket(PLACE, SOURCE, false);
    assert_eq!(get(SOURCE, &[]).status(), 403);
    sandbox.create_bucket(TARGET, "us-west-2", PLACE);
    let elsewhere = get(TARGET, &[]);
    assert_eq!((elsewhere.status().as_u16(), header(&elsewhere, "x-amz-bucket-region")), (301, "us-west-2"));
}

#[tokio::test]
async fn an_export_is_laid_out_as_documented() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    for n in 0..20 {
        put(&client, "orders", &format!("k{n}"), "v").await;
    }
    sandbox.create_bucket(SOURCE, REGION, PLACE);
    let arn = format!("arn:aws:dynamodb:{REGION}:{SOURCE}:table/orders");
    let asked = json!({"TableArn": arn, "S3Bucket": PLACE, "S3Prefix": "p"}).to_string();
    let refused = sandbox.call(SOURCE, REGION, "ExportTableToPointInTime", &asked).unwrap_err();
    assert_eq!(refused.code, "PointInTimeRecoveryUnavailableException");
    let on = json!({"TableName": "orders", "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": true}});
    sandbox.call(SOURCE, REGION, "UpdateContinuousBackups", &on.to_string()).unwrap();
    let export = sandbox.call(SOURCE, REGION, "ExportTableToPointInTime", &asked).unwrap();
    let export: Value = serde_json::from_slice(&export).unwrap();
    let described = sandbox.call(
        SOURCE,
        REGION,
        "DescribeExport",
        &json!({"ExportArn": export["ExportDescription"]["ExportArn"]}).to_string(),
    );
    assert_eq!(serde_json::from_slice::<Value>(&described.unwrap()).unwrap(), export);
    assert_eq!(export["ExportDescription"]["ItemCount"], 20);

    let objects = sandbox.objects(PLACE);
    let summary_key = export["ExportDescription"]["ExportManifest"].as_str().unwrap();
    let summary: Value = serde_json::from_slice(&objects[summary_key]).unwrap();
    assert_eq!((&summary["tableArn"], &summary["itemCount"]), (&json!(arn), &json!(20)));
    let list_key = format!("p/{}", summary["manifestFilesS3Key"].as_str().unwrap());
    let list = String::from_utf8(objects[&list_key].to_vec()).unwrap();
    let files: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(files.iter().map(|file| file["itemCount"].as_u64().unwrap()).sum::<u64>(), 20);
    assert!(
        files.len() == 4
            && files.iter().all(|file| objects.contains_key(&format!("p/{}", file["dataFileS3Key"].as_str().unwrap())))
    );
    // Data files, the two manifests with their checksums, and the probe.
    assert_eq!(objects.len(), 4 + 4 + 1);
}
