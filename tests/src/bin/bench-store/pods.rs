//! What it costs to know the Pods of the node (`pods node`): memory, and CPU time while they come and go.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::bench::account::resident;
use tests::poll::pause;

use super::{Bench, mib};

/// As many as a kubelet takes.
const PODS: usize = 250;
/// Pods that start in a second; as many end.
const STARTS: u32 = 100;
const NODE: &str = "bench-node";

impl Bench {
    /// The Pods of a full node, and a hundred of them replaced each second.
    pub(super) fn pods(&mut self) -> anyhow::Result<()> {
        let (mut memory, mut idle, mut busy) = (Vec::new(), Duration::ZERO, Duration::ZERO);
        for pods in [0, PODS] {
            for number in 0..pods {
                self.api.put(pod(number));
            }
            let (nodens, _) =
                self.start(&format!("endpoints headless\n        pods node {NODE}"))?;
            self.settle()?;
            memory.push(resident(nodens.id()));
            if pods == 0 {
                continue;
            }
            let length = Duration::from_secs_f64(self.seconds);
            let before = nodens.used();
            pause(length);
            idle = nodens.used() - before;
            let (before, begun) = (nodens.used(), Instant::now());
            for number in 0..(length.as_secs_f64() * f64::from(STARTS)) as usize {
                // A Pod is there, then it has an address, then the oldest ends.
                let next = PODS + number;
                self.api.put(without_address(pod(next)));
                self.api.put(pod(next));
                self.api.delete("pods", "bench", &name(number));
                let due = begun + Duration::from_secs(1) / STARTS * (number as u32 + 1);
                pause(due.saturating_duration_since(Instant::now()));
            }
            busy = nodens.used() - before;
        }
        let part = |used: Duration| used.as_secs_f64() / self.seconds * 100.0;
        let (more, cpu) = (mib(memory[1]) - mib(memory[0]), part(busy) - part(idle));
        self.row("memory for 250 Pods of the node", "1 MiB", format!("{more:.2} MiB"));
        self.row("CPU for 100 of them starting a second", "1 %", format!("{cpu:.2} %"));
        self.report(json!({ "what": "pods", "more_mib": more, "cpu_percent": cpu }))
    }
}

fn name(number: usize) -> String {
    format!("worker-7d4b9c6f5-{number:05}")
}

/// As an API server has it, as far as it is long.
fn pod(number: usize) -> Value {
    let ip = format!("10.{}.{}.{}", 60 + number / 65_536, number / 256 % 256, number % 256);
    let env: Vec<Value> =
        (0..20).map(|n| json!({"name": format!("SETTING_{n}"), "value": "some value"})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name(number), "namespace": "bench", "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "worker", "pod-template-hash": "7d4b9c6f5"},
        },
        "spec": {
            "nodeName": NODE, "dnsPolicy": "ClusterFirst",
            "containers": [{"name": "worker", "image": "registry.example/worker:1", "env": env}],
        },
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

fn without_address(mut pod: Value) -> Value {
    pod["status"] = json!({"phase": "Pending"});
    pod
}
