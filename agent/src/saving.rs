//! What makes the look-up of a name cheaper: for `nodens explain` and `nodens top --waste`.

/// Where a look-up ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<'a> {
    /// At the name as it was written.
    AsItIs,
    /// At this name, without a final dot: the one that was written, with a domain.
    With(&'a str),
    /// Nowhere: no such name exists.
    Nowhere,
    /// It was not seen.
    Unknown,
}

/// What would save the wasted queries of a look-up of `written`, by a Pod with `ndots`, or by a client that is none
/// (`None`); each by itself is enough. `has_autopath`: `autopath` is configured already.
pub fn ways(written: &str, end: End<'_>, ndots: Option<u8>, has_autopath: bool) -> Vec<String> {
    let dots = written.matches('.').count();
    let mut ways = Vec::new();
    match end {
        End::With(name) => {
            ways.push(format!("write the whole name with a trailing dot: `{name}.`"))
        }
        End::Nowhere => ways.push(format!(
            "correct the name, which does not exist, or write `{written}.` with a trailing dot"
        )),
        End::AsItIs | End::Unknown => ways.push(format!("write `{written}.` with a trailing dot")),
    }
    let Some(ndots) = ndots else { return ways };
    // More would not do, and fewer change the look-up of other names.
    if end == End::AsItIs && (1..usize::from(ndots)).contains(&dots) {
        let also = match dots {
            1 => ", by which names such as `web.shop` are asked of upstreams first",
            _ => "",
        };
        ways.push(format!("`ndots:{dots}` in the Pod's dnsConfig{also}"));
    }
    // It looks for names of one label in the list's domains only, and leaves names that do not exist to the client.
    let is_searched = matches!(end, End::With(_)) || end == End::AsItIs && dots > 0;
    if is_searched && !has_autopath {
        ways.push("`autopath @kubernetes` in the Corefile".to_owned());
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_fits_the_name() {
        let told = |written, end, ndots, has| ways(written, end, Some(ndots), has).join(" | ");
        let outside = told("www.example.com", End::AsItIs, 5, false);
        assert_eq!(
            outside,
            "write `www.example.com.` with a trailing dot | `ndots:2` in the Pod's dnsConfig | \
             `autopath @kubernetes` in the Corefile"
        );
        assert!(
            told("example.com", End::AsItIs, 5, true)
                .contains("`ndots:1` in the Pod's dnsConfig, by")
        );
        assert!(!told("www.example.com", End::AsItIs, 2, true).contains("ndots"));
        let of_cluster = told("web.shop", End::With("web.shop.svc.cluster.local"), 5, false);
        assert!(of_cluster.starts_with(
            "write the whole name with a trailing dot: `web.shop.svc.cluster.local.`"
        ));
        assert!(of_cluster.contains("autopath") && !of_cluster.contains("ndots"));
        assert!(!told("intranet", End::AsItIs, 5, false).contains("autopath"));
        assert_eq!(ways("absent.example", End::Nowhere, Some(5), false).len(), 1);
        assert_eq!(ways("www.example.com", End::AsItIs, None, false).len(), 1);
    }
}
