//! One GET to a service on this host, by hand: `status` and `healthcheck` need no HTTP library.
//!
//! HTTP/1.0 with `Connection: close`: the answer ends where the connection ends, and is never in chunks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer longer than this is not one of ours.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("connect to {0}")]
    Connect(SocketAddr, #[source] std::io::Error),
    #[error("talk to {0}")]
    Talk(SocketAddr, #[source] std::io::Error),
    #[error("no answer from {0} within {1:?}")]
    Timeout(SocketAddr, Duration),
    #[error("{0} does not answer in HTTP")]
    NotHttp(SocketAddr),
}

/// Asks `address` for `path`. May be repeated; dropping it closes the connection.
pub(super) async fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<Answer, ClientError> {
    let address = reachable(address);
    tokio::time::timeout(limit, exchange(address, path)).await.unwrap_or(Err(ClientError::Timeout(address, limit)))
}

async fn exchange(address: SocketAddr, path: &str) -> Result<Answer, ClientError> {
    let talk = |error| ClientError::Talk(address, error);
    let mut socket = TcpStream::connect(address).await.map_err(|error| ClientError::Connect(address, error))?;
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.map_err(talk)?;
    let mut answer = Vec::new();
    socket.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await.map_err(talk)?;
    parse(&answer).ok_or(ClientError::NotHttp(address))
}

/// Where a server that listens on every address can be reached from this host.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let end = memchr::memmem::find(answer, b"\r\n\r\n")?;
    let (head, body) = answer.split_at_checked(end)?;
    let mut lines = std::str::from_utf8(head).ok()?.lines();
    let mut words = lines.next()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    let status = words.next()?.parse().ok()?;
    let body = body.get(4..)?;
    let mut lengths = lines.filter_map(|line| line.split_once(':'));
    let length = lengths.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let is_whole = length.is_none_or(|(_, length)| length.trim().parse() == Ok(body.len()));
    is_whole.then(|| Answer { status, body: body.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// A server that reads a request and answers this.
    async fn ask(answer: &'static [u8]) -> (Result<Answer, ClientError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut address = listener.local_addr().unwrap();
        address.set_ip(Ipv4Addr::UNSPECIFIED.into());
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = socket.read(&mut request).await.unwrap();
            socket.write_all(answer).await.unwrap();
            String::from_utf8(request[..length].to_vec()).unwrap()
        };
        tokio::join!(get(address, "/livez", Duration::from_secs(5)), serve)
    }

    #[tokio::test]
    async fn status_and_body_are_read() {
        let (answer, request) = ask(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}").await;
        assert_eq!(answer.unwrap(), Answer { status: 503, body: b"{}".to_vec() });
        assert!(request.starts_with("GET /livez HTTP/1.0\r\nHost: 127.0.0.1:"), "{request}");
        assert!(request.ends_with("\r\n\r\n"), "{request}");
    }

    #[tokio::test]
    async fn what_is_cut_off_or_not_http_is_no_answer() {
        for odd in
            [&b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}"[..], b"HTTP/1.1 200 OK\r\n", b"SSH-2.0\r\n\r\n", b""]
        {
            let (answer, _) = ask(odd).await;
            assert!(matches!(answer, Err(ClientError::NotHttp(_))), "{odd:?}");
        }
    }

    #[tokio::test]
    async fn nobody_there_and_a_silent_server_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let silent = get(address, "/", Duration::from_millis(50)).await;
        assert!(matches!(silent, Err(ClientError::Timeout(..))), "{silent:?}");
        drop(listener);
        let nobody = get(address, "/", Duration::from_secs(5)).await;
        assert!(matches!(nobody, Err(ClientError::Connect(..))), "{nobody:?}");
    }
}
