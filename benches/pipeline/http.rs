//! Just enough HTTP/1.1 for the stub and the floor: one message after the other on a kept connection.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Result;

/// One end of a kept connection.
pub(crate) struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
    message: usize,
}

/// Where a message's parts are in the connection's buffer.
pub(crate) struct Message<'a> {
    pub(crate) head: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl Connection {
    pub(crate) fn new(socket: TcpStream) -> Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self { socket, buffer: Vec::with_capacity(64 << 10), message: 0 })
    }

    pub(crate) async fn connect(address: &str) -> Result<Self> {
        Self::new(TcpStream::connect(address).await?)
    }

    pub(crate) async fn send(&mut self, parts: &[&[u8]]) -> Result<()> {
        let mut slices: Vec<_> = parts.iter().map(|part| std::io::IoSlice::new(part)).collect();
        let mut slices = slices.as_mut_slice();
        while !slices.is_empty() {
            let written = self.socket.write_vectored(slices).await?;
            if written == 0 {
                return Err("the connection is closed".into());
            }
            std::io::IoSlice::advance_slices(&mut slices, written);
        }
        Ok(())
    }

    /// The next message; `None`: the other end closed the connection.
    pub(crate) async fn receive(&mut self) -> Result<Option<Message<'_>>> {
        self.buffer.drain(..self.message);
        self.message = 0;
        let body_at = loop {
            match memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None if self.socket.read_buf(&mut self.buffer).await? == 0 => return Ok(None),
                None => {}
            }
        };
        let head = self.buffer.get(..body_at).unwrap_or_default();
        let length: usize = header(head, "content-length").map_or(Ok(0), str::parse)?;
        self.message = body_at + length;
        self.buffer.reserve(self.message.saturating_sub(self.buffer.len()));
        while self.buffer.len() < self.message {
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Err("the connection was closed within a message".into());
            }
        }
        let (head, body) = self.buffer.split_at(body_at);
        Ok(Some(Message { head, body: body.get(..length).unwrap_or_default() }))
    }
}

/// The value of a header.
pub(crate) fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let head = std::str::from_utf8(head).ok()?;
    head.split("\r\n").skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// The path that is asked for.
pub(crate) fn path(head: &[u8]) -> &str {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    std::str::from_utf8(line).ok().and_then(|line| line.split(' ').nth(1)).unwrap_or("/")
}
