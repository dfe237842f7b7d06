//! The API server, asked with the operator's credentials.

use std::sync::Arc;

use futures_util::future::join_all;

use super::super::finding::{Finding, few};
use super::super::node::api::{authenticated, skew, told};
use super::{Cluster, List};
use crate::cluster::RequestError;

/// Whether it answers, and takes the credentials.
pub async fn answers(cluster: Arc<Cluster>) -> Finding {
    let version = match cluster.api.get("/version").await {
        Ok(answer) => answer.body,
        Err(error) => return told(&error),
    };
    let version = super::text(&version, "/gitVersion").to_owned();
    match authenticated(&cluster.api).await {
        Ok(()) => Finding::ok(format!("{} is {version}", cluster.api.host())),
        Err(error) => told(&error),
    }
}

/// Whether everything that checks look at may be listed.
pub async fn rights(cluster: Arc<Cluster>) -> Finding {
    let fetched = join_all(List::ALL.iter().map(|list| cluster.fetched(*list))).await;
    let mut refused = Vec::new();
    for (list, fetched) in List::ALL.iter().zip(fetched) {
        match fetched {
            Err(RequestError::Status { code: 403, .. }) => {
                refused.push(format!("list {}", list.resource()))
            }
            Err(RequestError::Status { .. }) | Ok(_) => {}
            Err(_) => return Finding::skipped("the API server does not answer"),
        }
    }
    if refused.is_empty() {
        return Finding::ok("everything may be listed");
    }
    Finding::warning(
        format!("403 for: {}", few(refused)),
        "use an account that may (the ClusterRole `view` and nodes); checks that need it are skipped",
    )
}

/// Whether this machine's clock agrees with it.
pub async fn clock(cluster: Arc<Cluster>) -> Finding {
    match cluster.api.get("/version").await.map(|answer| answer.date) {
        Ok(Some(date)) => skew(cluster.api.host(), date),
        Ok(None) => Finding::skipped("the API server does not tell the time"),
        Err(_) => Finding::skipped("the API server does not answer"),
    }
}
