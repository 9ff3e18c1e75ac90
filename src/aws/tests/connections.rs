//! Real connections, over TCP.

use super::*;

#[tokio::test]
async fn a_refused_connection_has_written_nothing() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (_, context) = Manual::context();
    let config = SideConfig { endpoint_url: Some(format!("http://127.0.0.1:{port}")), ..side() };
    let clients = Clients { http: None, ..clients(&Server::default(), &context) };
    let account = Account::connect(&config, Side::Target, &clients).await.unwrap();
    let failure = account.table(&orders(), &schema()).write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap_err();
    assert_eq!((failure.fault, failure.may_have_happened), (Fault::Transient, false), "{failure}");
}

/// A server of one connection that reads a request of one packet and answers with these bytes.
fn tcp_server(answer: Vec<u8>) -> String {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let read = connection.read(&mut [0; 16_384]).unwrap();
        assert!(read > 0);
        connection.write_all(&answer).unwrap();
    });
    url
}

async fn over_tcp(answer: Vec<u8>) -> Table {
    let (_, context) = Manual::context();
    let config = SideConfig { endpoint_url: Some(tcp_server(answer)), ..side() };
    let clients = Clients { http: None, ..clients(&Server::default(), &context) };
    Account::connect(&config, Side::Target, &clients).await.unwrap().table(&orders(), &schema())
}

#[tokio::test]
async fn a_megabyte_arrives_whole_over_a_real_connection() {
    let item = format!(r#"{{"pk":{{"S":"a"}},"v":{{"S":"{}"}}}}"#, "v".repeat(1_000_000));
    let body = format!(r#"{{"Item":{item}}}"#);
    let table = over_tcp(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into()).await;
    assert_eq!(table.get(&put(&item).key).await.unwrap().unwrap().json(), item.as_bytes());
}

#[tokio::test]
async fn a_real_connection_that_breaks_off_leaves_the_write_in_doubt() {
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{}", "HTTP/1.1 2"] {
        let table = over_tcp(answer.into()).await;
        let failure = table.write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap_err();
        assert_eq!((failure.fault, failure.may_have_happened), (Fault::Transient, true), "{failure}");
    }
}

#[tokio::test]
async fn a_server_that_takes_a_write_and_says_nothing_is_late_whichever_clock_strikes_first() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (_, context) = Manual::context();
    let config = SideConfig { endpoint_url: Some(url), ..side() };
    let attempt_timeout = Duration::from_millis(50);
    let clients = Clients { http: None, attempt_timeout, ..clients(&Server::default(), &context) };
    let account = Account::connect(&config, Side::Target, &clients).await.unwrap();
    let table = account.table(&orders(), &schema());
    for _ in 0..10 {
        // The system takes the connection and the bytes, and nobody reads them.
        let failure = table.write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap_err();
        assert!(failure.timed_out && failure.may_have_happened, "{failure}");
    }
    drop(listener);
}
