//! `kubectl nodens`: commands of this program in the pods of the nodes, by `kubectl exec`.
//!
//! kubectl is run, and no client of our own, so that the user's kubeconfig works as it does there: contexts, plugins that fetch
//! credentials, proxies.

mod child;
mod pods;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use serde_json::{Value, json};

use self::child::{Ended, Said};
use self::pods::Pod;
use crate::args::Kubectl;

/// What may be run in a pod. `upgrade` is not among it: in a container another image does that.
const COMMANDS: [&str; 11] = [
    "status", "doctor", "explain", "observe", "top", "cache", "lookup", "probe", "reload", "check",
    "net",
];

/// Streams at the same time, unless `--parallel` allows more.
const STREAMS: usize = 32;

/// Why nothing could be asked.
#[derive(Debug, thiserror::Error)]
pub enum KubectlError {
    /// No such command, or none that makes sense there.
    #[error("there is no command {name:?} for pods, expected one of {}", COMMANDS.join(", "))]
    Command {
        /// What was typed.
        name: String,
    },
    /// It is not installed.
    #[error("cannot run kubectl: {0}; install it, or put it on the PATH")]
    NoKubectl(#[source] std::io::Error),
    /// It could not list the pods.
    #[error("kubectl cannot list the pods: {0}")]
    List(String),
    /// There is nothing to ask.
    #[error(
        "there is no pod of Nodens in namespace {namespace} with {selector}{on}; -n and -l choose others"
    )]
    NoPod {
        /// Where.
        namespace: String,
        /// Which.
        selector: String,
        /// On which nodes.
        on: String,
    },
    /// It draws a screen.
    #[error("this draws one screen, and there are {0} nodes: choose one with --node")]
    OneOnly(usize),
    /// Each stream is a process of kubectl.
    #[error(
        "this runs kubectl once for each node at the same time, and there are {0} nodes: choose some with --node, or allow \
         so many with --parallel"
    )]
    TooMany(usize),
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
}

/// The name by which kubectl finds its plugin.
pub const NAME: &str = "kubectl-nodens";

/// True if the program was started under the plugin's name.
pub fn is_plugin() -> bool {
    let first = std::env::args_os().next().unwrap_or_default();
    std::path::Path::new(&first).file_stem().is_some_and(|name| name == NAME)
}

/// True if the words are for this program here, not for the pods: a doctor that looks at the cluster from outside.
pub fn is_local(command: &[String]) -> bool {
    let cluster = |word: &String| word == "--cluster";
    command.first().is_some_and(|word| word == "doctor") && command.iter().any(cluster)
}

/// The words for this program here. The cluster is the one that the plugin's own options name.
pub fn local_words(args: &Kubectl) -> Vec<String> {
    let mut words = args.command.clone();
    if let Some(context) = &args.context {
        words.extend(["--context".to_owned(), context.clone()]);
    }
    if let Some(file) = &args.kubeconfig {
        words.extend(["--kubeconfig".to_owned(), file.to_string_lossy().into_owned()]);
    }
    words
}

/// Runs the command in the pods that are asked for and prints what they say. The exit code is the highest one of theirs.
///
/// # Errors
/// The words are wrong, or no pod could be asked.
pub fn run(args: &Kubectl, out: &mut (impl Write + Send)) -> Result<ExitCode, KubectlError> {
    let words = &args.command;
    let name = words.first().map_or("", String::as_str);
    if !COMMANDS.contains(&name) {
        return Err(KubectlError::Command { name: name.to_owned() });
    }
    let pods = pods::list(args)?;
    let draws = name == "top" || words.iter().any(|word| word.starts_with("--watch"));
    match pods.as_slice() {
        [pod] if is_json(words) && !draws && name != "observe" => {
            gather(args, std::slice::from_ref(pod), out)
        }
        [pod] => {
            if pods::is_many(args) {
                writeln!(std::io::stderr(), "{}", pod.title())?;
            }
            child::take_over(args, &pod.name)
        }
        all if draws => Err(KubectlError::OneOnly(all.len())),
        all if name == "observe" && all.len() > args.parallel.get().max(STREAMS) => {
            Err(KubectlError::TooMany(all.len()))
        }
        all if name == "observe" => stream(args, all, out),
        all => gather(args, all, out),
    }
}

/// Whether the command prints one JSON value.
fn is_json(words: &[String]) -> bool {
    let pairs = words.iter().zip(words.iter().skip(1));
    let apart = pairs.into_iter().any(|(a, b)| (a == "-o" || a == "--output") && b == "json");
    let together = ["-ojson", "-o=json", "--output=json"];
    apart || words.iter().any(|word| together.contains(&word.as_str()))
}

/// Runs it in all pods, several at a time; what they say is printed in the order of the nodes.
fn gather(args: &Kubectl, pods: &[Pod], out: &mut impl Write) -> Result<ExitCode, KubectlError> {
    let json = is_json(&args.command);
    let (send, receive) = std::sync::mpsc::channel();
    let next = AtomicUsize::new(0);
    let mut highest = 0;
    let mut all = serde_json::Map::new();
    std::thread::scope(|scope| {
        for _ in 0..args.parallel.get().min(pods.len()) {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    let Some(pod) = pods.get(number) else { return };
                    if send.send((number, child::run(args, &pod.name))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let mut waiting = BTreeMap::new();
        let mut printed = 0;
        for (number, ended) in receive {
            waiting.insert(number, ended);
            while let Some(ended) = waiting.remove(&printed) {
                let Some(pod) = pods.get(printed) else { break };
                highest = highest.max(ended.code);
                if json {
                    all.insert(pod.node.clone(), value(&ended));
                } else {
                    text(pod, &ended, printed > 0, out)?;
                }
                printed += 1;
            }
        }
        Ok::<_, KubectlError>(())
    })?;
    if json {
        writeln!(out, "{:#}", Value::Object(all))?;
    }
    out.flush()?;
    Ok(ExitCode::from(highest))
}

/// One pod's part of the output, with its errors in the place where they belong.
fn text(pod: &Pod, ended: &Ended, is_next: bool, out: &mut impl Write) -> std::io::Result<()> {
    if is_next {
        writeln!(out)?;
    }
    writeln!(out, "{}", pod.title())?;
    out.write_all(&ended.out)?;
    if !ended.out.is_empty() && !ended.out.ends_with(b"\n") {
        writeln!(out)?;
    }
    let errors = String::from_utf8_lossy(&ended.err);
    errors.lines().filter(|line| !is_exit_code(line)).try_for_each(|line| writeln!(out, "! {line}"))
}

/// kubectl's own line about the exit code, which is ours as well.
fn is_exit_code(line: &str) -> bool {
    line.starts_with("command terminated with exit code")
}

/// What one pod said as JSON, or why it said nothing.
fn value(ended: &Ended) -> Value {
    serde_json::from_slice(&ended.out).unwrap_or_else(|_| {
        let errors = String::from_utf8_lossy(&ended.err);
        let lines: Vec<&str> = errors.lines().filter(|line| !is_exit_code(line)).collect();
        json!({ "error": lines.join("\n"), "exit_code": ended.code })
    })
}

/// A line of JSON with the node among its fields, so that each line stays one object.
fn on_node(node: &str, mut fields: serde_json::Map<String, Value>) -> Value {
    fields.insert("node".to_owned(), node.into());
    fields.into()
}

/// Runs it in all pods at once and prints line by line, with the node before each, until all have ended.
fn stream(
    args: &Kubectl,
    pods: &[Pod],
    out: &mut (impl Write + Send),
) -> Result<ExitCode, KubectlError> {
    let width = pods.iter().map(|pod| pod.node.len()).max().unwrap_or_default();
    let json = is_json(&args.command);
    let out = Mutex::new(out);
    let one = |pod: &str, said: Said<'_>| -> std::io::Result<()> {
        let (mark, line) = match said {
            Said::Out(line) => (' ', line),
            Said::Err(line) if is_exit_code(line) => return Ok(()),
            Said::Err(line) => ('!', line),
        };
        let mut out = out.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match json.then(|| serde_json::from_str(line)) {
            Some(Ok(Value::Object(fields))) => writeln!(out, "{}", on_node(pod, fields))?,
            _ => writeln!(out, "{pod:width$} {mark} {line}")?,
        }
        out.flush()
    };
    let highest = std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = pods
            .iter()
            .map(|pod| {
                scope.spawn(move || child::stream(args, &pod.name, |said| one(&pod.node, said)))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(1)).max().unwrap_or_default()
    });
    Ok(ExitCode::from(highest))
}
