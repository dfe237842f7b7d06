//! The local socket behind `nodens status`, `nodens cache` and others: one line of JSON asks, one line of JSON answers. For
//! `nodens observe` frames follow: their length (u32, network order) and so many bytes.
//!
//! Only the owner of the socket's file may connect (mode 0600). A new server takes the place of an old one's socket by
//! renaming, so that there is never a moment without one, and an old server leaves a new one's alone.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use socket2::Type;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::descriptors::Spare;
use crate::explain::question::Question;
use crate::observe::filter::Filter;
use crate::own_socket::{self, OwnSocket};

/// The longest request, in octets: a command and a name.
const MAX_REQUEST: u64 = 4 << 10;
/// The longest answer that is read, in bytes; real ones are far below it.
const MAX_ANSWER: u64 = 64 << 20;
/// Bytes of a frame of a stream.
pub const MAX_FRAME: usize = 1 << 20;
/// Clients at a time; the next ones wait. Those of streams are not among them.
const MAX_CLIENTS: usize = 8;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a command may take: a reload waits for objects and probes upstreams.
const MAX_WORK: Duration = Duration::from_secs(60);
/// How often a server that works on a command says so, by an empty line: one that is stopped does not.
const SIGN_OF_WORK: Duration = Duration::from_secs(1);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What the cache keeps for a name and everything below it, or a summary.
    CacheShow {
        /// The name.
        #[serde(default)]
        name: Option<String>,
    },
    /// Forget what is kept for a name and everything below it, or all.
    CacheFlush {
        /// The name.
        #[serde(default)]
        name: Option<String>,
    },
    /// What the server knows and waits for.
    Status,
    /// Each query of a stub resolver for a name, and what becomes of it, as a dry run.
    Explain {
        /// What is to be explained.
        question: Question,
    },
    /// Send the queries that are answered from now on, as a stream.
    Observe {
        /// Which of them.
        #[serde(default)]
        filter: Filter,
    },
    /// What the queries of the last minute or two have in common.
    Top {
        /// Rows of each kind.
        rows: u16,
    },
    /// What search lists cost in them.
    Waste {
        /// Names.
        rows: u16,
    },
    /// Start a new instance that takes over.
    Upgrade,
    /// Read the configuration again.
    Reload {
        /// Even if the node would be silent by it.
        #[serde(default)]
        force: bool,
    },
    /// The command line that it was started with, and in which folder.
    Arguments,
}

/// Answers commands. Called on a thread that may block, never in a worker.
pub trait Commands: Send + Sync {
    /// Does what is asked. An error is a sentence for the one who asked.
    fn run(&self, request: &Request) -> Result<Value, String>;

    /// What is answered with a stream; `None`: the request is for [`Commands::run`]. Must not block.
    fn stream(&self, request: &Request) -> Option<Result<Stream, String>> {
        let _ = request;
        None
    }
}

/// An answer that continues until the client leaves.
pub struct Stream {
    /// What the client is told first.
    pub head: Value,
    /// What it gets then, each at most [`MAX_FRAME`] bytes. Dropped when the client has left.
    pub frames: mpsc::Receiver<Vec<u8>>,
}

/// Why the socket does not work.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It cannot be made.
    #[error(
        "cannot listen on {path}: {source}; make its folder writable, or choose another path with --socket"
    )]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// No server listens, or it may not be connected to.
    #[error(
        "cannot reach a server at {path}: {source}; is it running, with the same --socket, and are you its user?"
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The connection broke or took too long.
    #[error("the server at {path} did not answer: {source}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The answer is no JSON: a server of another version.
    #[error("the server's answer makes no sense; use the nodens of the running version: {0}")]
    Answer(#[from] serde_json::Error),
    /// The server refused.
    #[error("{0}")]
    Refused(String),
}

/// An answer on the wire.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Done(Value),
    Error(String),
}

/// The socket being served; dropped, it closes and its file goes.
#[derive(Debug)]
pub struct Control {
    file: OwnSocket,
    task: JoinHandle<()>,
}

impl Control {
    /// True if the socket's file was removed.
    pub fn is_missing(&self) -> bool {
        self.file.is_missing()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves `commands` at `path` on the current runtime; the folder is made if it is not there.
pub fn serve(path: &Path, commands: Arc<dyn Commands>) -> Result<Control, ControlError> {
    let listen = || {
        let (socket, file) = own_socket::listen(path, Type::STREAM, MAX_CLIENTS as i32)?;
        socket.set_nonblocking(true)?;
        Ok((UnixListener::from_std(OwnedFd::from(socket).into())?, file))
    };
    let (listener, file) =
        listen().map_err(|source| ControlError::Listen { path: path.into(), source })?;
    Ok(Control { file, task: tokio::spawn(accept(listener, commands)) })
}

/// Asks the server at `path`. Blocks until it has answered, or has given no sign of work for [`PATIENCE`], or has worked for
/// longer than [`MAX_WORK`].
pub fn ask(path: &Path, request: &Request) -> Result<Value, ControlError> {
    Ok(begin(path, request)?.0)
}

/// Asks the server at `path` for a stream. Blocks until it has said what it will send, as [`ask`] does.
pub fn open(path: &Path, request: &Request) -> Result<(Value, Frames), ControlError> {
    let (head, reader) = begin(path, request)?;
    Ok((head, Frames { reader: reader.into_inner(), path: path.into() }))
}

/// The frames of a stream, as they come.
pub struct Frames {
    reader: BufReader<StdStream>,
    path: PathBuf,
}

impl Frames {
    /// The next frame; an empty one is a sign of life. `None` at the end. Blocks.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>, ControlError> {
        let broken = |source| ControlError::Broken { path: self.path.clone(), source };
        let mut len = [0; 4];
        match self.reader.read_exact(&mut len).map_err(silent) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(broken(error)),
        }
        let len = u32::from_be_bytes(len) as usize;
        if len > MAX_FRAME {
            return Err(broken(std::io::Error::other("a frame is too long")));
        }
        let mut frame = vec![0; len];
        self.reader.read_exact(&mut frame).map_err(silent).map_err(broken)?;
        Ok(Some(frame))
    }
}

/// Asks, and returns the answer, and what it was read from.
fn begin(
    path: &Path,
    request: &Request,
) -> Result<(Value, std::io::Take<BufReader<StdStream>>), ControlError> {
    let connect = |source| ControlError::Connect { path: path.into(), source };
    let broken = |source| ControlError::Broken { path: path.into(), source };
    let socket =
        own_socket::connect(path, Type::STREAM, PATIENCE).map_err(silent).map_err(connect)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
    let mut stream = StdStream::from(OwnedFd::from(socket));
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;
    let begun = Instant::now();
    let mut reader = BufReader::new(stream).take(MAX_ANSWER);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(silent).map_err(broken)?;
        if read == 0 || line != b"\n" {
            break;
        }
        if begun.elapsed() > MAX_WORK + PATIENCE {
            return Err(broken(silent(std::io::ErrorKind::WouldBlock.into())));
        }
    }
    if line.is_empty() {
        let why = "it has closed the connection; it has ended, or is being replaced";
        return Err(broken(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, why)));
    }
    match serde_json::from_slice(&line)? {
        Answer::Done(value) => Ok((value, reader)),
        Answer::Error(error) => Err(ControlError::Refused(error)),
    }
}

/// Says what a time-out means, which the kernel calls "resource temporarily unavailable".
fn silent(error: std::io::Error) -> std::io::Error {
    match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            "no sign of life in time; its process is stopped or has no processor",
        ),
        _ => error,
    }
}

async fn accept(listener: UnixListener, commands: Arc<dyn Commands>) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    let mut spare = Spare::default();
    loop {
        spare.fill();
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely. Without one to spare: that passes, and asking at once again does not help.
            if !spare.release() {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            let Ok((stream, _)) = listener.accept().await else { continue };
            attend(stream, Arc::clone(&commands), place).await;
            continue;
        };
        tokio::spawn(attend(stream, Arc::clone(&commands), place));
    }
}

/// Answers one client, and then its stream if it asked for one.
async fn attend(stream: UnixStream, commands: Arc<dyn Commands>, place: OwnedSemaphorePermit) {
    // A client that is slow or has gone is no error of the server.
    let most = MAX_WORK + 2 * PATIENCE;
    let done = tokio::time::timeout(most, converse(stream, commands)).await;
    drop(place);
    if let Ok(Ok(Some((stream, frames)))) = done {
        // Streams are counted where they are made.
        tokio::spawn(send(stream, frames));
    }
}

/// A client that gets more than one answer.
type Streaming = (UnixStream, mpsc::Receiver<Vec<u8>>);

async fn converse(
    mut stream: UnixStream,
    commands: Arc<dyn Commands>,
) -> std::io::Result<Option<Streaming>> {
    let mut line = Vec::new();
    let (reader, mut writer) = stream.split();
    let mut reader = tokio::io::BufReader::new(reader.take(MAX_REQUEST));
    tokio::time::timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await??;
    let mut frames = None;
    let answer = match serde_json::from_slice::<Request>(&line) {
        Err(error) => Answer::Error(format!("no such command: {error}")),
        Ok(request) => match commands.stream(&request) {
            Some(Ok(stream)) => {
                frames = Some(stream.frames);
                Answer::Done(stream.head)
            }
            Some(Err(error)) => Answer::Error(error),
            None => work(commands, request, &mut writer).await?,
        },
    };
    let mut out = serde_json::to_vec(&answer)?;
    out.push(b'\n');
    writer.write_all(&out).await?;
    let Some(frames) = frames else {
        writer.shutdown().await?;
        return Ok(None);
    };
    Ok(Some((stream, frames)))
}

/// Does what is asked, and tells the client meanwhile that it is done.
async fn work(
    commands: Arc<dyn Commands>,
    request: Request,
    writer: &mut (impl AsyncWriteExt + Unpin),
) -> std::io::Result<Answer> {
    // Walking a large cache takes milliseconds, which the runtime's other tasks should not wait for.
    let mut work = tokio::task::spawn_blocking(move || commands.run(&request));
    let first = tokio::time::Instant::now() + SIGN_OF_WORK;
    let mut signs = tokio::time::interval_at(first, SIGN_OF_WORK);
    let done = loop {
        tokio::select! {
            biased;
            done = &mut work => break done,
            _ = signs.tick() => writer.write_all(b"\n").await?,
        }
    };
    Ok(match done {
        Ok(Ok(value)) => Answer::Done(value),
        Ok(Err(error)) => Answer::Error(error),
        Err(_) => Answer::Error("the command has failed; the server's log says how".to_owned()),
    })
}

/// Sends frames until there are no more, or the client has left. An empty one is a sign of life.
async fn send(mut stream: UnixStream, mut frames: mpsc::Receiver<Vec<u8>>) -> std::io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let mut word = [0];
    loop {
        let frame = tokio::select! {
            frame = tokio::time::timeout(SIGN_OF_WORK, frames.recv()) => match frame {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(_) => Vec::new(),
            },
            // A client says nothing more: it has left, or is none of ours.
            _ = reader.read(&mut word) => return Ok(()),
        };
        let sent = async {
            writer.write_all(&(frame.len() as u32).to_be_bytes()).await?;
            writer.write_all(&frame).await
        };
        // What comes meanwhile is dropped and counted by its maker.
        tokio::time::timeout(MAX_WORK, sent).await??;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    struct Echo;

    impl Commands for Echo {
        fn run(&self, request: &Request) -> Result<Value, String> {
            match request {
                Request::Status => Ok(serde_json::json!({ "ready": true })),
                Request::CacheShow { name } => Ok(serde_json::json!(name)),
                Request::CacheFlush { .. } => Err("not today".to_owned()),
                Request::Arguments | Request::Reload { .. } => {
                    Ok(serde_json::json!({ "arguments": [] }))
                }
                Request::Upgrade => Err("no supervisor".to_owned()),
                Request::Observe { .. }
                | Request::Top { .. }
                | Request::Waste { .. }
                | Request::Explain { .. } => Err("nothing to see".to_owned()),
            }
        }
    }

    async fn asked(path: &Path, request: Request) -> Result<Value, ControlError> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || ask(&path, &request)).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_asked_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/nodens.sock");
        let control = serve(&path, Arc::new(Echo)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(asked(&path, Request::Status).await.unwrap()["ready"], true);
        let show = Request::CacheShow { name: Some("a.org".to_owned()) };
        assert_eq!(asked(&path, show).await.unwrap(), "a.org");
        let refused = asked(&path, Request::CacheFlush { name: None }).await.unwrap_err();
        assert_eq!(refused.to_string(), "not today");
        drop(control);
        assert!(!path.exists());
        let gone = asked(&path, Request::Status).await.unwrap_err();
        assert!(gone.to_string().contains("is it running"), "{gone}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_new_server_takes_the_place_of_an_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodens.sock");
        let old = serve(&path, Arc::new(Echo)).unwrap();
        let new = serve(&path, Arc::new(Echo)).unwrap();
        drop(old);
        assert_eq!(asked(&path, Request::Status).await.unwrap()["ready"], true);
        drop(new);
        assert!(!path.exists());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nonsense_gets_an_error_and_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodens.sock");
        let _control = serve(&path, Arc::new(Echo)).unwrap();
        for nonsense in
            [&b"hello\n"[..], b"{\"command\":\"reboot\"}\n", b"\xff\xff\n", &[b'x'; 10_000]]
        {
            let (path, nonsense) = (path.clone(), nonsense.to_vec());
            let answer = tokio::task::spawn_blocking(move || {
                let mut stream = StdStream::connect(path).unwrap();
                // The server closes before it has read all of what is too long.
                let _ = stream.write_all(&nonsense);
                let mut answer = String::new();
                let _ = stream.read_to_string(&mut answer);
                answer
            });
            let answer = answer.await.unwrap();
            assert!(
                answer.is_empty() || answer.starts_with("{\"error\":\"no such command"),
                "{answer}"
            );
        }
        assert_eq!(asked(&path, Request::Status).await.unwrap()["ready"], true);
    }
}
