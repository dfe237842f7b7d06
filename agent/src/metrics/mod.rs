//! Every metric, by name, in one place. Names and labels that CoreDNS and NodeLocal DNSCache have are theirs, so that
//! dashboards and alerts go on working; ours begin with `nodens_`.

pub mod cells;
