//! The log of the process: lines of text or JSON on standard output, written by a thread of their own.
//!
//! Whoever logs never waits: lines stand in a queue, and what does not fit is dropped and counted
//! (`nodens_log_dropped_total`). A node whose log driver hangs goes on answering queries.

use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use netsetup::privileges::drop_capabilities;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::args::LogFormat;
use crate::metrics::{Counter, Metrics, Scrape, Source, names};

/// Lines that may wait for the writer: at a few hundred octets a line a bounded megabyte or two.
const LINES: usize = 8_192;

/// The queue of this process's [`Logs`].
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `TIME LEVEL TARGET: MESSAGE FIELD=VALUE...`.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The level is none.
    #[error(
        "{0:?} is not a log level ({1}), wanted error, warn, info, debug or trace, or TARGET=LEVEL,..."
    )]
    Level(String, #[source] tracing_subscriber::filter::ParseError),
    /// The thread could not be started.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(#[source] io::Error),
    /// There is a log already.
    #[error("the log was set up before")]
    Twice,
}

impl From<LogFormat> for Format {
    fn from(typed: LogFormat) -> Self {
        match typed {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

/// An error with its causes, each once: libraries differ in whether they print them.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// The log of this process. Keep it to the end and call [`Logs::finish`].
pub struct Logs {
    queue: Queue,
}

impl Logs {
    /// Has lines written by a thread from now on. To be called once, after [`start`].
    pub fn start(metrics: &Metrics) -> Result<Self, LoggingError> {
        let (queue, lines) = Queue::new(LINES);
        metrics.register(Arc::clone(&queue.dropped) as Arc<dyn Source>);
        thread::Builder::new()
            .name("log".into())
            .spawn(move || write_lines(&lines, io::stdout()))
            .map_err(LoggingError::Thread)?;
        QUEUE.set(queue.clone()).map_err(|_| LoggingError::Twice)?;
        Ok(Self { queue })
    }

    /// Drops every capability of the thread that writes: it has those of the start, and only writes. Call it once the user
    /// has changed: glibc changes that of every thread and ends the process if one may not.
    pub fn drop_privileges(&self) {
        let _ = self.queue.lines.try_send(Entry::DropPrivileges);
    }

    /// Waits until all that was logged so far is written, but no longer than `patience`.
    pub fn finish(&self, patience: Duration) {
        let (done, waiting) = sync_channel(1);
        let deadline = std::time::Instant::now() + patience;
        let mut last = Entry::Flush(done);
        // The queue may be full of lines that are just being written.
        while let Err(TrySendError::Full(back)) = self.queue.lines.try_send(last) {
            if std::time::Instant::now() >= deadline {
                return;
            }
            last = back;
            thread::park_timeout(Duration::from_millis(1));
        }
        // Nothing is to be done about a writer that does not get on.
        let _ = waiting.recv_timeout(deadline.saturating_duration_since(std::time::Instant::now()));
    }
}

/// Sets the log up for the whole process; `level` is a level, or a list as in `info,nodens::cluster=debug`. Until there are
/// [`Logs`], each line is written at once, or dropped if the reader of standard output is behind: the process never waits for it.
pub fn start(format: Format, level: &str) -> Result<(), LoggingError> {
    let filter = filter(level)?;
    tracing::subscriber::set_global_default(subscriber(format, filter, || Output))
        .map_err(|_| LoggingError::Twice)
}

/// Where lines go.
struct Output;

impl Write for Output {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            Some(queue) => queue.push(line),
            None => Unbuffered.write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard output, as far as it has room.
struct Unbuffered;

impl Write for Unbuffered {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let out = io::stdout();
        let mut polled = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut polled, PollTimeout::ZERO) {
            Ok(1) => rustix::io::write(&out, line).map_err(Into::into),
            _ => Ok(line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs panics, counts them, and shows their stack where the switch that is returned is on (`errors { stacktrace }`).
pub fn watch_panics(metrics: &Arc<Metrics>) -> Arc<AtomicBool> {
    let stacktrace = Arc::new(AtomicBool::new(false));
    let (metrics, with_stack) = (Arc::clone(metrics), Arc::clone(&stacktrace));
    std::panic::set_hook(Box::new(move |info| {
        metrics.common().panics.add(1);
        if with_stack.load(Relaxed) {
            let stack = std::backtrace::Backtrace::force_capture();
            tracing::error!(target: "nodens::panic", "{info}\n{stack}");
        } else {
            tracing::error!(target: "nodens::panic", "{info}");
        }
    }));
    stacktrace
}

fn filter(level: &str) -> Result<EnvFilter, LoggingError> {
    // The libraries below are talkative where ours says little.
    let text = if level.contains(['=', ',']) {
        level.to_owned()
    } else {
        format!(
            "{level},hyper=warn,kube=warn,tower=warn,rustls=warn,h2=warn,hickory_net=warn,hickory_proto=warn"
        )
    };
    EnvFilter::builder().parse(text).map_err(|error| LoggingError::Level(level.to_owned(), error))
}

fn subscriber(
    format: Format,
    filter: EnvFilter,
    writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
) -> Box<dyn Subscriber + Send + Sync> {
    let base =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(writer);
    match format {
        Format::Text => Box::new(base.finish()),
        Format::Json => Box::new(
            base.json().flatten_event(true).with_current_span(false).with_span_list(false).finish(),
        ),
    }
}

enum Entry {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
    DropPrivileges,
}

/// Where lines wait for the writer.
#[derive(Clone)]
struct Queue {
    lines: SyncSender<Entry>,
    dropped: Arc<Dropped>,
}

#[derive(Default)]
struct Dropped(Counter);

impl Queue {
    fn new(size: usize) -> (Self, Receiver<Entry>) {
        let (lines, waiting) = sync_channel(size);
        (Self { lines, dropped: Arc::default() }, waiting)
    }

    /// Takes a whole line, as the formatter hands it over.
    fn push(&self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(Entry::Line(line.to_vec())).is_err() {
            self.dropped.0.add(1);
        }
        Ok(line.len())
    }
}

impl Source for Dropped {
    fn collect(&self, out: &mut Scrape) {
        out.count(&names::LOG_DROPPED, &[], self.0.value());
    }
}

fn write_lines(lines: &Receiver<Entry>, out: impl Write) {
    let mut out = io::BufWriter::with_capacity(64 * 1024, out);
    while let Ok(entry) = lines.recv() {
        write_entry(entry, &mut out);
        // Whatever has come meanwhile goes with it; then the line is shown at once.
        lines.try_iter().for_each(|entry| write_entry(entry, &mut out));
        let _ = out.flush();
    }
}

fn write_entry(entry: Entry, out: &mut impl Write) {
    // Where nobody reads the log there is nobody to tell.
    match entry {
        Entry::Line(line) => {
            let _ = out.write_all(&line);
        }
        Entry::Flush(done) => {
            let _ = out.flush();
            let _ = done.try_send(());
        }
        // If the kernel refuses, the thread keeps what every thread has.
        Entry::DropPrivileges => {
            let _ = drop_capabilities(&[], &[]);
        }
    }
}

#[cfg(test)]
pub(crate) mod test {
    //! A log that tests can read.

    use super::*;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

    /// Lines of this thread, for as long as it lives.
    pub(crate) struct Captured {
        lines: Lines,
        _guard: tracing::subscriber::DefaultGuard,
    }

    impl Captured {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.lines.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Lines {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    pub(crate) fn capture(format: Format) -> Captured {
        let lines = Lines::default();
        let subscriber = subscriber(format, filter("info").unwrap(), lines.clone());
        Captured { lines, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// What `act` logs.
    pub(crate) fn captured(format: Format, act: impl FnOnce()) -> String {
        let captured = capture(format);
        act();
        captured.text()
    }

    #[test]
    fn lines_have_time_level_target_message_and_fields() {
        let log = || tracing::info!(target: "nodens::x", store = 3, "is here");
        let text = captured(Format::Text, log);
        assert!(text.ends_with("Z  INFO nodens::x: is here store=3\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&captured(Format::Json, log)).unwrap();
        assert_eq!(
            (&json["level"], &json["message"], &json["store"]),
            (&"INFO".into(), &"is here".into(), &3.into())
        );
    }

    #[test]
    fn a_slow_reader_costs_lines_and_no_time() {
        let (queue, lines) = Queue::new(2);
        for _ in 0..5 {
            queue.push(b"line\n").unwrap();
        }
        assert_eq!(queue.dropped.0.value(), 3);
        drop(queue);
        let mut out = Vec::new();
        write_lines(&lines, &mut out);
        assert_eq!(out, b"line\nline\n");
    }

    #[test]
    fn finishing_waits_for_what_was_logged() {
        let (queue, lines) = Queue::new(8);
        let written = Lines::default();
        let out = written.clone();
        let writer = thread::spawn(move || write_lines(&lines, out));
        queue.push(b"last\n").unwrap();
        let logs = Logs { queue };
        logs.finish(Duration::from_secs(10));
        assert_eq!(*written.0.lock().unwrap(), b"last\n");
        drop(logs);
        writer.join().unwrap();
    }

    #[test]
    fn levels() {
        assert!(filter("debug").is_ok());
        assert!(filter("info,nodens::cluster=debug").is_ok());
        let error = filter("info,=x=").unwrap_err().to_string();
        assert!(error.contains("is not a log level"), "{error}");
    }
}
