//! The benchmark's driver: starts the floors, Nodens and its peers, has them asked in turns, and prints the table.
//! `docs/benchmark.md` has the method.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tests::bench::account::{Account, resident, soft_interrupts};
use tests::bench::contestant::{
    Contestant, LOAD_CPU, SERVER_CPU, UPSTREAM, first_answer, programs,
};
use tests::bench::spawn::Running;
use tests::poll::pause;

const USAGE: &str =
    "usage: bench [-r REPETITIONS] [-t SECONDS] [-w WORKLOAD,...] [-o FILE] [-c FOLDER] [NAME...]
  -r N    rounds; in each everybody is asked in turn (default 3)
  -t S    seconds of each turn (default 2)
  -w ...  of w1 w2 w3 w4 w5 l5k l20k k1 k1-a k1-aaaa k1-srv k1-headless k1-nx a1 mem (default: w1 to k1)
  -o F    appends the measurements as JSON lines to F (default target/bench/results.jsonl)
  -c DIR  the contestants (default tests/bench/contestants)
  NAME    who takes part, floors aside (default: all that are installed)";

const WORKLOADS: &str = "w1,w2,w3,w4,w5,l5k,l20k,k1";

struct Arguments {
    rounds: usize,
    seconds: f64,
    workloads: Vec<String>,
    out: PathBuf,
    folder: PathBuf,
    names: Vec<String>,
}

/// What `bench-load` prints.
#[derive(Deserialize)]
struct Asked {
    answered: u64,
    lost: u64,
    seconds: f64,
    servfail: u64,
    refused: u64,
    p50_us: f64,
    p99_us: f64,
}

/// One turn of one contestant.
#[derive(Serialize)]
struct Turn {
    workload: String,
    contestant: String,
    round: usize,
    /// CPU microseconds for each answered query.
    cpu_us: f64,
    /// The part of them in user space, if the kernel reports it.
    user_us: f64,
    /// `cpu_us` in relation to the floor's of the same round.
    ratio: Option<f64>,
    answered: u64,
    lost: u64,
    failed: u64,
    rate: f64,
    p50_us: f64,
    p99_us: f64,
}

/// What one contestant needs of memory, and of time to start.
#[derive(Serialize)]
struct Need {
    workload: &'static str,
    contestant: String,
    round: usize,
    start_ms: f64,
    idle_mib: f64,
    entries_10k_mib: f64,
    entries_100k_mib: f64,
}

struct Bench {
    arguments: Arguments,
    contestants: Vec<Contestant>,
    out: fs::File,
    _upstream: Running,
}

fn main() -> anyhow::Result<()> {
    let Some(arguments) = parse(std::env::args().skip(1))? else {
        println!("{USAGE}");
        return Ok(());
    };
    let mut bench = Bench::new(arguments)?;
    let timed: Vec<String> =
        bench.arguments.workloads.iter().filter(|w| *w != "mem").cloned().collect();
    if !timed.is_empty() {
        let turns = bench.time(&timed)?;
        print_turns(&timed, &bench.contestants, &turns);
    }
    if timed.len() < bench.arguments.workloads.len() {
        let needs = bench.memory()?;
        print_needs(&needs);
    }
    Ok(())
}

impl Bench {
    fn new(arguments: Arguments) -> anyhow::Result<Self> {
        let all = Contestant::read_all(&arguments.folder)?;
        for name in &arguments.names {
            if !all.iter().any(|contestant| contestant.name == *name) {
                bail!("there is no {name}.toml in {}", arguments.folder.display());
            }
        }
        let wanted = |c: &Contestant| {
            arguments.names.is_empty() || c.is_floor() || arguments.names.contains(&c.name)
        };
        let (contestants, missing): (Vec<_>, Vec<_>) =
            all.into_iter().filter(wanted).partition(Contestant::is_installed);
        missing.iter().for_each(|c| eprintln!("{} is not installed; left out", c.name));
        if let Some(folder) = arguments.out.parent() {
            fs::create_dir_all(folder)?;
        }
        let out = fs::OpenOptions::new().create(true).append(true).open(&arguments.out)?;
        let mut command = Command::new(programs()?.join("bench-upstream"));
        command.arg(UPSTREAM.to_string()).stdin(Stdio::null());
        let upstream = Running::start(command, LOAD_CPU, &Arc::new(Account::open("upstream")))?;
        first_answer(UPSTREAM, upstream.started() + Duration::from_secs(5))
            .context("the upstream does not answer")?;
        Ok(Self { arguments, contestants, out, _upstream: upstream })
    }

    /// All of `workloads`, everybody in turns.
    fn time(&mut self, workloads: &[String]) -> anyhow::Result<Vec<Turn>> {
        let mut running = Vec::new();
        for contestant in self.contestants.clone() {
            if !workloads.iter().any(|workload| contestant.takes(workload)) {
                continue;
            }
            let account = Arc::new(Account::open(&contestant.name));
            match contestant.start(&account) {
                Ok((process, _)) => running.push((contestant, process, account)),
                Err(error) => eprintln!("{error:#}; left out"),
            }
        }
        let mut turns = Vec::new();
        for workload in workloads {
            let mut fresh = 0;
            for round in 0..self.arguments.rounds {
                let first = turns.len();
                for at in 0..running.len() {
                    // Everybody comes first once.
                    let (contestant, process, account) = &running[(at + round) % running.len()];
                    if !contestant.takes(workload) {
                        continue;
                    }
                    if round == 0 {
                        load(contestant, &["--workload", workload, "--warm"])?;
                    }
                    fresh += 1;
                    let turn = self.turn(workload, contestant, process, account, round, fresh)?;
                    turns.push(turn);
                }
                let floor = turns[first..].iter().find(|turn: &&Turn| {
                    running.iter().any(|(c, ..)| {
                        c.name == turn.contestant
                            && c.is_floor()
                            && c.takes(workload)
                            && c.floor_of.iter().any(|w| workload.starts_with(w.as_str()))
                    })
                });
                let floor = floor.map(|turn| turn.cpu_us);
                for turn in &mut turns[first..] {
                    turn.ratio = floor.map(|floor| turn.cpu_us / floor);
                    writeln!(self.out, "{}", serde_json::to_string(turn)?)?;
                    eprintln!(
                        "{round} {workload:10} {:14} {:7.2} us ({:5.2} in user space) {:5.2}x {:8.0}/s, {} lost, {} failed, p50 {:.0} us, p99 {:.0} us",
                        turn.contestant,
                        turn.cpu_us,
                        turn.user_us,
                        turn.ratio.unwrap_or(0.0),
                        turn.rate,
                        turn.lost,
                        turn.failed,
                        turn.p50_us,
                        turn.p99_us,
                    );
                }
            }
        }
        Ok(turns)
    }

    fn turn(
        &self,
        workload: &str,
        contestant: &Contestant,
        process: &Running,
        account: &Account,
        round: usize,
        fresh: u64,
    ) -> anyhow::Result<Turn> {
        let seconds = self.arguments.seconds.to_string();
        // New names must be new to everybody, also in the next run of the program.
        let seed = (u64::from(std::process::id()) << 32 | fresh << 8 | round as u64).to_string();
        let mut words = vec!["--workload", workload, "--seconds", &seconds, "--seed", &seed];
        match workload {
            "w5" => words.push("--tcp"),
            "l5k" => words.extend(["--rate", "5000"]),
            "l20k" => words.extend(["--rate", "20000"]),
            _ => {}
        }
        let before = (process.used(), soft_interrupts(SERVER_CPU), account.used_by_user());
        let asked = load(contestant, &words)?;
        let after = (process.used(), soft_interrupts(SERVER_CPU), account.used_by_user());
        let answered = asked.answered.max(1) as f64;
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / answered;
        Ok(Turn {
            workload: workload.to_owned(),
            contestant: contestant.name.clone(),
            round,
            cpu_us: micros((after.0 - before.0) + (after.1 - before.1)),
            user_us: micros(after.2 - before.2),
            ratio: None,
            answered: asked.answered,
            lost: asked.lost,
            failed: asked.servfail + asked.refused,
            rate: asked.answered as f64 / asked.seconds,
            p50_us: asked.p50_us,
            p99_us: asked.p99_us,
        })
    }

    fn memory(&mut self) -> anyhow::Result<Vec<Need>> {
        let mut needs = Vec::new();
        let takes = |c: &&Contestant| !c.is_floor() && c.takes("mem");
        let contestants: Vec<Contestant> = self.contestants.iter().filter(takes).cloned().collect();
        for round in 0..self.arguments.rounds {
            for contestant in &contestants {
                let account = Arc::new(Account::open(&contestant.name));
                let mut starts = Vec::new();
                for _ in 0..4 {
                    starts.push(contestant.start(&account)?.1.as_secs_f64() * 1e3);
                }
                let (process, start) = contestant.start(&account)?;
                starts.push(start.as_secs_f64() * 1e3);
                pause(Duration::from_secs(1));
                let idle = resident(process.id());
                drop(process);
                let mut filled = Vec::new();
                for entries in ["fill-10000", "fill-100000"] {
                    let (process, _) = contestant.start(&account)?;
                    let asked = load(contestant, &["--workload", entries, "--warm"])?;
                    if asked.lost > 0 {
                        eprintln!("{}: {} of {entries} unanswered", contestant.name, asked.lost);
                    }
                    pause(Duration::from_secs(1));
                    filled.push(mib(resident(process.id())));
                }
                let need = Need {
                    workload: "mem",
                    contestant: contestant.name.clone(),
                    round,
                    start_ms: median(&mut starts),
                    idle_mib: mib(idle),
                    entries_10k_mib: filled[0],
                    entries_100k_mib: filled[1],
                };
                writeln!(self.out, "{}", serde_json::to_string(&need)?)?;
                eprintln!("{}", serde_json::to_string(&need)?);
                needs.push(need);
            }
        }
        Ok(needs)
    }
}

/// Runs the load against a contestant and returns the result.
fn load(contestant: &Contestant, words: &[&str]) -> anyhow::Result<Asked> {
    let mut command = Command::new(programs()?.join("bench-load"));
    command.args(["--server", &contestant.server().to_string()]).args(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut process = Running::start(command, LOAD_CPU, &Arc::new(Account::open("load")))?;
    let mut out = String::new();
    if let Some(stdout) = process.child().stdout.as_mut() {
        std::io::Read::read_to_string(stdout, &mut out)?;
    }
    process.child().wait()?;
    serde_json::from_str(&out)
        .with_context(|| format!("{}: bench-load printed {out:?}", contestant.name))
}

fn print_turns(workloads: &[String], contestants: &[Contestant], turns: &[Turn]) {
    println!(
        "\nCPU microseconds for each answered query, median of all rounds (times the floor of the same round)\n"
    );
    println!("| | {} |", workloads.join(" | "));
    println!("|---|{}", "---|".repeat(workloads.len()));
    for contestant in contestants {
        let cell = |workload: &String| {
            let mine: Vec<&Turn> = turns
                .iter()
                .filter(|t| t.contestant == contestant.name && t.workload == *workload)
                .collect();
            if mine.is_empty() {
                return "-".to_owned();
            }
            let of = |f: &dyn Fn(&Turn) -> f64| {
                median(&mut mine.iter().map(|t| f(t)).collect::<Vec<_>>())
            };
            let cpu = format!("{:.2} ({:.2}x)", of(&|t| t.cpu_us), of(&|t| t.ratio.unwrap_or(0.0)));
            match workload.starts_with('l') {
                true => format!(
                    "{cpu}, p50 {:.0} us, p99 {:.0} us",
                    of(&|t| t.p50_us),
                    of(&|t| t.p99_us)
                ),
                false => cpu,
            }
        };
        let cells: Vec<String> = workloads.iter().map(cell).collect();
        if cells.iter().any(|cell| cell != "-") {
            println!("| {} | {} |", contestant.name, cells.join(" | "));
        }
    }
    println!();
}

fn print_needs(needs: &[Need]) {
    println!(
        "| | start to first answer | idle RSS | 10k entries | 100k entries |\n|---|---|---|---|---|"
    );
    let mut by_name: BTreeMap<&str, Vec<&Need>> = BTreeMap::new();
    needs.iter().for_each(|need| by_name.entry(&need.contestant).or_default().push(need));
    for (name, needs) in by_name {
        let of =
            |f: &dyn Fn(&Need) -> f64| median(&mut needs.iter().map(|n| f(n)).collect::<Vec<_>>());
        println!(
            "| {name} | {:.0} ms | {:.1} MiB | {:.1} | {:.1} |",
            of(&|n| n.start_ms),
            of(&|n| n.idle_mib),
            of(&|n| n.entries_10k_mib),
            of(&|n| n.entries_100k_mib)
        );
    }
    println!();
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n == 0 { 0.0 } else { (values[(n - 1) / 2] + values[n / 2]) / 2.0 }
}

fn mib(octets: u64) -> f64 {
    octets as f64 / f64::from(1 << 20)
}

fn parse(mut words: impl Iterator<Item = String>) -> anyhow::Result<Option<Arguments>> {
    let mut out = Arguments {
        rounds: 3,
        seconds: 2.0,
        workloads: Vec::new(),
        out: "target/bench/results.jsonl".into(),
        folder: "tests/bench/contestants".into(),
        names: Vec::new(),
    };
    let mut workloads = WORKLOADS.to_owned();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value\n{USAGE}"));
        match word.as_str() {
            "-r" => out.rounds = value()?.parse().context("-r")?,
            "-t" => out.seconds = value()?.parse().context("-t")?,
            "-w" => workloads = value()?,
            "-o" => out.out = value()?.into(),
            "-c" => out.folder = value()?.into(),
            "-h" | "--help" => return Ok(None),
            option if option.starts_with('-') => bail!("unknown option {option}\n{USAGE}"),
            name => out.names.push(name.to_owned()),
        }
    }
    out.workloads = workloads.split(',').map(str::to_owned).collect();
    Ok(Some(out))
}
