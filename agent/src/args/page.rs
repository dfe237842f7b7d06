//! Where the page is served.

use crate::config::{ListenAddress, value};

/// Where the page for people is, `/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PageAddress {
    /// Wherever `/metrics` is.
    #[default]
    WithMetrics,
    /// At an address of its own, with `/metrics` and `/ready` beside it.
    At(ListenAddress),
    /// Nowhere.
    Off,
}

pub(super) fn page_address(text: &str) -> Result<PageAddress, String> {
    match text {
        "" => Ok(PageAddress::WithMetrics),
        "off" => Ok(PageAddress::Off),
        _ => value::listen_address(text)
            .map(PageAddress::At)
            .map_err(|error| format!("{error}; or off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_an_address_or_none() {
        assert_eq!(page_address("").unwrap(), PageAddress::WithMetrics);
        assert_eq!(page_address("off").unwrap(), PageAddress::Off);
        let at = page_address("127.0.0.1:9155").unwrap();
        assert!(matches!(at, PageAddress::At(address) if address.port == 9155));
        assert!(page_address("9155").unwrap_err().ends_with("; or off"));
    }
}
