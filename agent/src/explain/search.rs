//! The names that a stub resolver tries, as glibc does (resolv.conf(5)).

use crate::cluster::object::PodDns;
use crate::search_list::{
    DEFAULT_NDOTS, MAX_DOMAINS, SearchList, each_domain_of_pod, ndots_of_pod,
};
use crate::wire::name::NameError;
use crate::wire::{Name, NameRef};

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
    /// Of a Pod in `namespace`, as the kubelet makes it of what the Pod says and of the node's list.
    pub fn of_pod(namespace: &str, dns: &PodDns, zone: &Name, of_node: &SearchList) -> Self {
        let mut domains = Vec::new();
        let add = |domain: NameRef<'_>| {
            let domain = domain.to_string().trim_end_matches('.').to_owned();
            if !domains.contains(&domain) {
                domains.push(domain);
            }
        };
        // Domains that are no names are none to search.
        let _ = each_domain_of_pod(namespace, dns, zone.as_ref(), of_node, add);
        domains.truncate(MAX_DOMAINS);
        Self { domains, ndots: ndots_of_pod(dns, of_node) }
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
        let name = |text: &str| Name::from_text(text).unwrap();
        let of_node = SearchList { domains: [name("example.org")].into(), ndots: Some(2) };
        let zone = name("cluster.local");
        let pod = Search::of_pod("shop", &PodDns::default(), &zone, &of_node);
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
