//! The API server, asked with the server's credentials.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::certificate;
use super::super::facts::Facts;
use super::super::finding::{Finding, few};
use crate::cluster::object::Kind;
use crate::cluster::{Api, ClientError, RequestError, Source, Spec};

/// For each request. Several follow each other within the deadline of a check.
pub const PATIENCE: Duration = Duration::from_millis(850);
/// A client certificate that ends so soon is told of.
const SOON: Duration = Duration::from_secs(7 * 86_400);
/// Clocks that differ so much are told of, and such that differ so much that certificates and tokens fail.
const SKEW: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// Whether it answers at all, and takes the credentials.
pub async fn answers(facts: Arc<Facts>) -> Finding {
    each(&facts, |spec| async move {
        match version(&spec.source).await {
            Ok((host, version, _)) => Finding::ok(format!("{host} is {version}")),
            Err(error) => told(&error),
        }
    })
    .await
}

/// Whether it lets us list and watch what is needed.
pub async fn rights(facts: Arc<Facts>) -> Finding {
    each(&facts, |spec| async move {
        let api = match Api::new(spec.source.clone(), PATIENCE).await {
            Ok(api) => api,
            Err(error) => return told(&error.into()),
        };
        let asked = spec.wanted.kinds().map(|kind| {
            let (api, spec) = (api.clone(), spec.clone());
            async move { missing(&api, &spec, kind).await }
        });
        let missing = futures_util::future::join_all(asked).await;
        let mut found = Vec::new();
        for (kind, missing) in spec.wanted.kinds().zip(missing) {
            match missing {
                Ok(verbs) if verbs.is_empty() => {}
                Ok(verbs) if kind == Kind::NodePod => found.push(Finding::warning(
                    format!("403 for {}: no client is known as a Pod", verbs.join(" and ")),
                    "add components/pods-node (chart: kubernetes.podsOfNode), or remove what asks for Pods",
                )),
                Ok(verbs) if kind == Kind::Node => found.push(Finding::warning(
                    format!("403 for {}: this node's zone is not known", verbs.join(" and ")),
                    "add components/topology (chart: kubernetes.topology), or remove `topology`",
                )),
                Ok(verbs) => found.push(Finding::problem(
                    format!("403 for {}", verbs.join(" and ")),
                    "give the account the ClusterRole of manifests/base, and bind it (ClusterRoleBinding)",
                )),
                Err(error) => found.push(match told(&error) {
                    // That it does not answer is the other check's to say.
                    finding if matches!(error, RequestError::Status { .. }) => finding,
                    _ => Finding::skipped("the API server does not answer"),
                }),
            }
        }
        if found.is_empty() {
            let kinds = few(spec.wanted.kinds().map(|kind| kind.name().to_owned()));
            return Finding::ok(format!("list and watch are allowed for {kinds}"));
        }
        Finding::worst(found, "")
    })
    .await
}

/// The verbs that are refused for a kind, each with its resource.
async fn missing(api: &Api, spec: &Spec, kind: Kind) -> Result<Vec<String>, RequestError> {
    let path = spec.path(kind);
    let join = if path.contains('?') { '&' } else { '?' };
    let mut refused = Vec::new();
    for (verb, query) in
        [("list", "limit=1"), ("watch", "watch=true&timeoutSeconds=1&resourceVersion=0")]
    {
        match api.head(&format!("{path}{join}{query}")).await {
            Ok(_) => {}
            Err(RequestError::Status { code: 403, .. }) => {
                refused.push(format!("{verb} of {}", spec.resource(kind)));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(refused)
}

/// Whether the client certificate ends soon.
pub async fn certificate(facts: Arc<Facts>) -> Finding {
    each(&facts, |spec| async move {
        let api = match Api::new(spec.source.clone(), PATIENCE).await {
            Ok(api) => api,
            Err(error) => return told(&error.into()),
        };
        let Some(ends) = api.certificate().and_then(certificate::ends) else {
            return Finding::skipped("it authenticates without a certificate");
        };
        let cure = "renew it: replace the file that the kubeconfig names, which is followed";
        match ends.duration_since(SystemTime::now()) {
            Err(past) => Finding::problem(
                format!("the client certificate has expired {} ago", days(past.duration())),
                cure,
            ),
            Ok(left) if left < SOON => {
                Finding::warning(format!("the client certificate expires in {}", days(left)), cure)
            }
            Ok(left) => Finding::ok(format!("the client certificate is valid for {}", days(left))),
        }
    })
    .await
}

fn days(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// Whether its clock and ours agree.
pub async fn clock(facts: Arc<Facts>) -> Finding {
    each(&facts, |spec| async move {
        match version(&spec.source).await {
            Ok((host, _, Some(date))) => skew(&host, date),
            Ok(_) => Finding::skipped("the API server does not tell the time"),
            Err(_) => Finding::skipped("no API server answers that could be compared with"),
        }
    })
    .await
}

/// Compares a server's clock, of whole seconds, with this machine's.
pub fn skew(host: &str, date: SystemTime) -> Finding {
    let now = SystemTime::now();
    let (ahead, difference) = match now.duration_since(date) {
        Ok(difference) => (true, difference),
        Err(error) => (false, error.duration()),
    };
    // The date was cut to the second, and is as old as the answer.
    let difference =
        if ahead { difference.saturating_sub(Duration::from_secs(1)) } else { difference };
    let way = if ahead { "ahead of" } else { "behind" };
    let evidence = format!("this clock is {} s {way} that of {host}", difference.as_secs());
    let cure = "let both machines follow the same time servers (chronyc tracking, timedatectl): certificates and tokens are \
                refused by a wrong clock";
    match difference {
        difference if difference > SKEW.1 => Finding::problem(evidence, cure),
        difference if difference > SKEW.0 => Finding::warning(evidence, cure),
        _ => Finding::ok(format!("as {host}'s, to the second")),
    }
}

/// Host, version and time of the server.
pub async fn version(
    source: &Source,
) -> Result<(String, String, Option<SystemTime>), RequestError> {
    let api = Api::new(source.clone(), PATIENCE).await?;
    let answer = api.get("/version").await?;
    let version = answer.body.get("gitVersion").and_then(|version| version.as_str());
    authenticated(&api).await?;
    Ok((api.host().to_owned(), version.unwrap_or("of no version").to_owned(), answer.date))
}

/// Whether the credentials are taken. Anybody may read the version; that this may not be listed is another check's to say.
pub async fn authenticated(api: &Api) -> Result<(), RequestError> {
    match api.head("/api/v1/services?limit=1").await {
        Ok(_) | Err(RequestError::Status { code: 403, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What an error means, and what helps.
pub fn told(error: &RequestError) -> Finding {
    let text = error.to_string();
    let has = |part: &str| text.contains(part);
    let cure = match error {
        RequestError::Client(ClientError::InCluster(_)) => {
            return Finding::skipped(
                "the pod's service account is in the pod only: run this there (kubectl exec POD -- /nodens doctor)",
            );
        }
        RequestError::Client(ClientError::Folder) => {
            return Finding::skipped("a folder of objects");
        }
        RequestError::Client(_) => "mend the file that is named; it is read again by itself",
        RequestError::Silent(_) => {
            "it accepts and does not answer, or packets are dropped: compare `curl -k https://SERVER/livez` from here"
        }
        RequestError::Status { code: 401, .. } => {
            "token or client certificate is not valid (any more): renew it; files are read again without a restart"
        }
        RequestError::Status { code: 403, .. } => {
            "the account lacks a right: see the check api-rights"
        }
        RequestError::Status { .. } => {
            "it is starting or overloaded, if this passes; else see its log"
        }
        _ if has("certificate expired") || has("Expired") => {
            "the API server's certificate has expired, or this clock is wrong: renew it (kubeadm certs renew apiserver), or see \
             the check clock"
        }
        _ if has("NotValidYet") || has("not valid yet") => {
            "this clock is behind, or the certificate is from the future: see the check clock"
        }
        _ if has("UnknownIssuer") || has("BadSignature") => {
            "another authority has signed its certificate: take certificate-authority-data of the present cluster \
             (kubectl config view --raw)"
        }
        _ if has("NotValidForName") => {
            "its certificate is not for this address: use one of the names or addresses in it, or set tls-server-name"
        }
        _ if has("Connection refused") => {
            "nothing listens there: see whether the API server runs, and whether the address is right \
             (KUBERNETES_SERVICE_HOST is the ClusterIP, which kube-proxy has to lead there)"
        }
        _ if has("timed out") || has("deadline") || has("elapsed") => {
            "packets are dropped on the way: route, firewall, or a ClusterIP without kube-proxy"
        }
        _ => "see the error; `nodens check` and docs/troubleshooting.md name the usual causes",
    };
    Finding::problem(text, cure)
}

/// Runs a check for each cluster of the Corefile.
async fn each<F: Future<Output = Finding>>(facts: &Facts, check: impl Fn(Spec) -> F) -> Finding {
    let clusters = facts.setup.clusters.iter().take(MAX_CLUSTERS);
    let checks = clusters.filter(|spec| !matches!(spec.source, Source::Folder(_)));
    let found = futures_util::future::join_all(checks.cloned().map(check)).await;
    Finding::worst(found, "no API server is configured")
}

/// The most clusters that are asked.
const MAX_CLUSTERS: usize = 8;
