//! Bytes of one connection that have to be kept, charged to its client's budget.

use crate::admission::Permit;

/// The smallest allocation.
const MIN_CAPACITY: usize = 512;
/// What is kept although less is in use.
const MAX_SLACK: usize = 4_096;

/// A buffer that holds no memory while it is empty.
pub struct Buffer {
    bytes: Vec<u8>,
    /// Of the same amount as the capacity of `bytes`.
    permit: Permit,
}

impl Buffer {
    /// An empty buffer; `permit` of amount zero.
    pub fn new(permit: Permit) -> Self {
        Self { bytes: Vec::new(), permit }
    }

    /// Adds `more`. False: the budget is used up, and nothing is added.
    #[must_use]
    pub fn push(&mut self, more: &[u8]) -> bool {
        let len = self.bytes.len() + more.len();
        let capacity = self.bytes.capacity();
        if len > capacity {
            // Doubled, so that a message in many small pieces is not copied for each.
            let wanted = len.max(capacity * 2).max(MIN_CAPACITY);
            if !self.permit.grow(wanted - capacity) {
                return false;
            }
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        self.bytes.extend_from_slice(more);
        true
    }

    /// Removes the first `len` bytes, and gives back memory that is not needed.
    pub fn consume(&mut self, len: usize) {
        self.bytes.drain(..len.min(self.bytes.len()));
        let before = self.bytes.capacity();
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        } else if before > MAX_SLACK.max(self.bytes.len() * 4) {
            self.bytes.shrink_to(self.bytes.len().max(MIN_CAPACITY));
        }
        self.permit.shrink(before.saturating_sub(self.bytes.capacity()));
    }

    /// Lends its bytes. They stay charged; [`Buffer::put_back`] returns them.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Puts back what [`Buffer::take`] has lent, without the first `used` bytes.
    pub fn put_back(&mut self, bytes: Vec<u8>, used: usize) {
        self.bytes = bytes;
        self.consume(used);
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// True if it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Shares;

    #[test]
    fn what_it_holds_is_charged_and_given_back() {
        let budget = Shares::new(20_000);
        let mut buffer = Buffer::new(budget.try_acquire(1, 0).unwrap());
        assert!(buffer.push(b"abc"));
        assert_eq!(budget.used(), MIN_CAPACITY);
        for _ in 0..20 {
            assert!(buffer.push(&[0; 400]));
        }
        assert!(budget.used() >= 8_003 && budget.used() < 20_000, "{}", budget.used());
        assert!(!buffer.push(&[0; 12_000]), "beyond the budget");
        assert_eq!(buffer.as_slice().len(), 8_003);
        buffer.consume(8_000);
        assert_eq!((buffer.as_slice().len(), budget.used()), (3, MIN_CAPACITY));
        buffer.consume(3);
        assert_eq!((buffer.is_empty(), budget.used()), (true, 0));
    }
}
