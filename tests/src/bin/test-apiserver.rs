//! The test API server by itself, for people and benchmarks: loads objects, or makes up a big cluster, prints the path
//! of a kubeconfig, and serves until it is killed.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use tests::api::generate::Shape;
use tests::api::{ApiServer, Options, StreamingLists};
use tests::poll::pause;

const USAGE: &str = "usage: test-apiserver [OPTION]... [FILE.yaml|FILE.json]...
  --kubeconfig FILE      write the kubeconfig here instead of to a temporary folder
  --services N           make up a cluster of N Services
  --headless N           of which N are headless (default: a fifth)
  --endpoints N          with N endpoints in all (default: 15 a Service)
  --namespaces N         in N namespaces (default: 100)
  --events N             then change N EndpointSlices a second
  --no-streaming-lists   answer 422 to sendInitialEvents, as older servers do";

struct Arguments {
    kubeconfig: Option<PathBuf>,
    shape: Option<Shape>,
    events: u32,
    streaming: StreamingLists,
    files: Vec<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let Some(arguments) = parse(std::env::args().skip(1))? else {
        println!("{USAGE}");
        return Ok(());
    };
    let mut options = Options::default();
    options.behaviour.streaming_lists = arguments.streaming;
    let server = ApiServer::try_with(options)?;
    for file in &arguments.files {
        server.load_file(file)?;
    }
    if let Some(shape) = &arguments.shape {
        shape.fill(server.store());
    }
    let folder = tempfile::tempdir()?;
    let kubeconfig = arguments.kubeconfig.unwrap_or_else(|| folder.path().join("kubeconfig"));
    server.write_kubeconfig(&kubeconfig);
    println!("{}", kubeconfig.display());
    match arguments.shape.filter(|_| arguments.events > 0) {
        Some(shape) => change_forever(&server, &shape, arguments.events),
        None => loop {
            std::thread::park();
        },
    }
}

fn change_forever(server: &ApiServer, shape: &Shape, events: u32) -> ! {
    let step = Duration::from_secs(1) / events;
    let mut due = std::time::Instant::now();
    for generation in (1_u32..).cycle() {
        shape.touch(server.store(), generation as usize % shape.services.max(1), generation);
        due += step;
        pause(due.saturating_duration_since(std::time::Instant::now()));
    }
    unreachable!("the generations repeat");
}

fn parse(mut words: impl Iterator<Item = String>) -> anyhow::Result<Option<Arguments>> {
    let mut out = Arguments {
        kubeconfig: None,
        shape: None,
        events: 0,
        streaming: StreamingLists::Supported,
        files: Vec::new(),
    };
    let (mut headless, mut endpoints, mut namespaces) = (None, None, 100);
    while let Some(word) = words.next() {
        let mut number = || -> anyhow::Result<usize> {
            let text = words.next().with_context(|| format!("{word} wants a number"))?;
            text.parse().with_context(|| format!("{word} {text}"))
        };
        match word.as_str() {
            "--services" => out.shape = Some(Shape { services: number()?, ..Shape::default() }),
            "--headless" => headless = Some(number()?),
            "--endpoints" => endpoints = Some(number()?),
            "--namespaces" => namespaces = number()?,
            "--events" => out.events = u32::try_from(number()?)?,
            "--no-streaming-lists" => out.streaming = StreamingLists::Refused,
            "--kubeconfig" => {
                out.kubeconfig = Some(words.next().context("--kubeconfig wants a file")?.into())
            }
            "-h" | "--help" => return Ok(None),
            option if option.starts_with('-') => bail!("unknown option {option}\n{USAGE}"),
            file => out.files.push(file.into()),
        }
    }
    if let Some(shape) = &mut out.shape {
        shape.headless = headless.unwrap_or(shape.services / 5);
        shape.endpoints = endpoints.unwrap_or(shape.services * 15);
        shape.namespaces = namespaces;
    }
    Ok(Some(out))
}
