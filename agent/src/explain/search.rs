//! The names that a stub resolver tries, as glibc does (resolv.conf(5)).

use crate::wire::Name;
use crate::wire::name::NameError;

/// What the kubelet writes into a Pod's resolv.conf.
pub const CLUSTER_NDOTS: u8 = 5;
/// What holds without `options ndots`.
pub const DEFAULT_NDOTS: u8 = 1;
/// Domains that are searched; glibc has no bound since 2.26, the kubelet has 32.
const MAX_DOMAINS: usize = 32;

/// What a resolv.conf says of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// The domains, in order.
    pub domains: Vec<String>,
    /// A name with fewer dots is searched for before it is tried as it is.
    pub ndots: u8,
}

/// One name to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Try {
    /// The name.
    pub name: Name,
    /// The domain that was appended; `None` for the name as it was written.
    pub domain: Option<String>,
}

impl Search {
    /// Of a Pod in `namespace` with `dnsPolicy: ClusterFirst`: the kubelet puts the cluster's domains before the node's.
    pub fn of_pod(namespace: &str, zone: &str, of_node: Vec<String>) -> Self {
        let zone = zone.trim_end_matches('.');
        let mut domains =
            vec![format!("{namespace}.svc.{zone}"), format!("svc.{zone}"), zone.to_owned()];
        for domain in of_node {
            if !domains.contains(&domain) {
                domains.push(domain);
            }
        }
        domains.truncate(MAX_DOMAINS);
        Self { domains, ndots: CLUSTER_NDOTS }
    }

    /// Without domains: each name as it is.
    pub fn none() -> Self {
        Self { domains: Vec::new(), ndots: DEFAULT_NDOTS }
    }

    /// The names that are tried one after the other until one has records.
    ///
    /// # Errors
    /// `text` is no name.
    pub fn tries(&self, text: &str) -> Result<Vec<Try>, NameError> {
        let as_it_is = Try { name: Name::from_text(text)?, domain: None };
        if text.ends_with('.') {
            return Ok(vec![as_it_is]);
        }
        let dots = text.matches('.').count();
        // A name that is too long with a domain is skipped.
        let with = |domain: &String| {
            let name = Name::from_text(&format!("{text}.{domain}")).ok()?;
            Some(Try { name, domain: Some(domain.clone()) })
        };
        let mut tries: Vec<Try> = self.domains.iter().take(MAX_DOMAINS).filter_map(with).collect();
        if dots >= usize::from(self.ndots) {
            tries.insert(0, as_it_is)
        } else {
            tries.push(as_it_is)
        }
        Ok(tries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(search: &Search, text: &str) -> Vec<String> {
        search.tries(text).unwrap().iter().map(|tried| tried.name.to_string()).collect()
    }

    #[test]
    fn few_dots_are_searched_first_and_many_last() {
        let pod = Search::of_pod("shop", "cluster.local.", vec!["example.org".to_owned()]);
        let all = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org"];
        assert_eq!((pod.domains.clone(), pod.ndots), (all.map(str::to_owned).to_vec(), 5));
        let web = tried(&pod, "web");
        assert_eq!(web.len(), 5);
        assert_eq!((&*web[0], &*web[4]), ("web.shop.svc.cluster.local.", "web."));
        assert_eq!(tried(&pod, "a.b.c.d.e.f")[0], "a.b.c.d.e.f.");
        assert_eq!(tried(&pod, "api.example.org."), ["api.example.org."]);
        assert_eq!(tried(&Search::none(), "web"), ["web."]);
        assert!(pod.tries("a..b").is_err());
        // With the first domain it is too long.
        let long = vec!["x".repeat(60); 4].join(".");
        assert_eq!(tried(&pod, &long).last().unwrap(), &format!("{long}."));
    }
}
