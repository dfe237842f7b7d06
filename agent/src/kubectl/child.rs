//! kubectl as a child process.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::KubectlError;
use crate::args::Kubectl;

/// Octets that are read of one pod; a command says far less.
const MAX_SAID: u64 = 64 << 20;
/// The longest line of a stream; what is longer is cut into several.
const MAX_LINE: u64 = 64 << 10;
/// How often a running child is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// How long the rest of what was said may take after the end.
const REST: Duration = Duration::from_secs(2);

/// How a command ended.
#[derive(Debug, Clone, Default)]
pub(super) struct Ended {
    pub(super) code: u8,
    pub(super) out: Vec<u8>,
    pub(super) err: Vec<u8>,
}

/// A line of a stream.
pub(super) enum Said<'a> {
    Out(&'a str),
    Err(&'a str),
}

/// kubectl with the options that choose cluster and namespace.
fn command(args: &Kubectl) -> Command {
    let mut command = Command::new("kubectl");
    if let Some(context) = &args.context {
        command.arg("--context").arg(context);
    }
    if let Some(file) = &args.kubeconfig {
        command.arg("--kubeconfig").arg(file);
    }
    command.arg("--namespace").arg(&args.namespace).stdin(Stdio::null());
    command
}

/// The command in a pod.
fn exec(args: &Kubectl, pod: &str) -> Command {
    let mut command = command(args);
    command.args(["exec", pod, "-c", "nodens", "--", "/nodens"]).args(&args.command);
    command
}

/// Runs kubectl with these words.
pub(super) fn kubectl(args: &Kubectl, words: &[&str]) -> io::Result<Ended> {
    let mut command = command(args);
    command.args(words);
    wait(command, args.timeout.0)
}

/// Runs the command in a pod; a failure to do so is told as an end of it.
pub(super) fn run(args: &Kubectl, pod: &str) -> Ended {
    wait(exec(args, pod), args.timeout.0).unwrap_or_else(|error| Ended {
        code: 1,
        err: format!("cannot run kubectl: {error}").into_bytes(),
        ..Ended::default()
    })
}

/// Becomes kubectl, with this terminal; only an error returns.
pub(super) fn take_over(args: &Kubectl, pod: &str) -> Result<ExitCode, KubectlError> {
    Err(KubectlError::NoKubectl(exec(args, pod).exec()))
}

fn wait(mut command: Command, patience: Duration) -> io::Result<Ended> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (out, err) = (reader(out), reader(err));
    let code = until(&mut child, Instant::now() + patience);
    // A child of kubectl, such as a plugin that fetches credentials, may hold the pipes open for longer.
    let rest = |from: Receiver<Vec<u8>>| from.recv_timeout(REST).unwrap_or_default();
    let (out, mut err) = (rest(out), rest(err));
    let code = code.unwrap_or_else(|| {
        let line = format!("no end within {patience:?} (--timeout)\n");
        err.extend_from_slice(line.as_bytes());
        1
    });
    Ok(Ended { code, out, err })
}

/// Reads a pipe to its end, on a thread that nobody has to wait for.
fn reader(from: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || drop(send.send(read(from))));
    receive
}

/// The exit code of a child that ends in time; others are killed.
#[expect(
    clippy::disallowed_methods,
    reason = "the end of a child cannot be waited for with a deadline"
)]
fn until(child: &mut Child, end: Instant) -> Option<u8> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(code(status.code())),
            Ok(None) if Instant::now() < end => std::thread::sleep(LOOK),
            _ => break,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// A signal has no code; that is a failure, too.
fn code(code: Option<i32>) -> u8 {
    code.and_then(|code| code.try_into().ok()).unwrap_or(1)
}

fn read(from: Option<impl Read>) -> Vec<u8> {
    let mut said = Vec::new();
    if let Some(from) = from {
        // What was said until an error is worth showing.
        let _ = from.take(MAX_SAID).read_to_end(&mut said);
    }
    said
}

/// Runs the command in a pod and passes on its lines until it ends, or `take` fails, as when the reader has gone.
pub(super) fn stream(
    args: &Kubectl,
    pod: &str,
    take: impl Fn(Said<'_>) -> io::Result<()> + Sync,
) -> u8 {
    let mut command = exec(args, pod);
    let mut child = match command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            let _ = take(Said::Err(&format!("cannot run kubectl: {error}")));
            return 1;
        }
    };
    let (out, err) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let errors = scope.spawn(|| lines(err, |line| take(Said::Err(line))));
        if lines(out, |line| take(Said::Out(line))).is_err() {
            let _ = child.kill();
        }
        let _ = errors.join();
    });
    code(child.wait().ok().and_then(|status| status.code()))
}

fn lines(from: Option<impl Read>, take: impl Fn(&str) -> io::Result<()>) -> io::Result<()> {
    let Some(from) = from else { return Ok(()) };
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        take(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']))?;
    }
}
