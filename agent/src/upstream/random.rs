//! Numbers that nobody can guess: query ids, probe names, letter case; and the dice of the policies.
//!
//! They come from the kernel's generator, many at a time, so that a query does not pay for a system call.

use std::cell::RefCell;

/// Octets fetched at once: 512 query ids for one system call of about a microsecond.
const BATCH: usize = 1_024;

struct Pool {
    octets: [u8; BATCH],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { octets: [0; BATCH], used: BATCH }) };
}

/// Octets that cannot be predicted.
#[expect(clippy::panic, reason = "without random numbers every answer could be forged")]
pub fn octets<const N: usize>() -> [u8; N] {
    const { assert!(N <= BATCH) };
    POOL.with_borrow_mut(|pool| {
        if pool.used + N > BATCH {
            // No Linux since 3.17 fails.
            if getrandom::fill(&mut pool.octets).is_err() {
                panic!("the kernel has no random numbers: /dev/urandom is missing and getrandom is forbidden");
            }
            pool.used = 0;
        }
        let mut out = [0; N];
        if let Some(octets) = pool.octets.get_mut(pool.used..pool.used + N) {
            out.copy_from_slice(octets);
            // What was handed out is not kept.
            octets.fill(0);
        }
        pool.used += N;
        out
    })
}

/// A query id.
pub fn id() -> u16 {
    u16::from_ne_bytes(octets())
}

/// A number below `bound`; 0 where that is 0. The bias of the modulus is below 2^-20 for the small bounds it is used with.
pub fn below(bound: usize) -> usize {
    if bound <= 1 { 0 } else { u32::from_ne_bytes(octets()) as usize % bound }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_spread() {
        let mut seen = std::collections::HashSet::new();
        seen.extend((0..4_096).map(|_| id()));
        // 4,096 draws out of 65,536 have about 3,970 different values.
        assert!(seen.len() > 3_800, "{}", seen.len());
        assert!((0..1_000).all(|_| below(3) < 3));
        assert_eq!((below(0), below(1)), (0, 0));
    }
}
