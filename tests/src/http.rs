//! `GET` over plain HTTP/1.1, as probes and scrapers do it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What came back.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The head, status line included.
    pub head: String,
    /// The body, chunks joined.
    pub body: String,
}

/// Fetches a path.
///
/// # Errors
/// No connection, or no HTTP.
pub fn get(server: SocketAddr, path: &str, deadline: Duration) -> io::Result<Reply> {
    let deadline = crate::poll::patience(deadline);
    let mut stream = TcpStream::connect_timeout(&server, deadline)?;
    stream.set_read_timeout(Some(deadline))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) =
        text.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no HTTP head"))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("no HTTP status"))?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { join_chunks(body) } else { body.to_owned() };
    Ok(Reply { status, head: head.to_owned(), body })
}

fn join_chunks(mut rest: &str) -> String {
    let mut out = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let (Some(chunk), Some(next)) = (after.get(..size), after.get(size + 2..)) else {
            break;
        };
        if size == 0 {
            break;
        }
        out.push_str(chunk);
        rest = next;
    }
    out
}
