//! Bytes that no well-behaved peer sends: a small generator of random numbers, and what it does to DNS messages.

/// A xorshift generator (Marsaglia): the same seed gives the same bytes on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator; any seed will do.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.word() >> 32).unwrap_or(0) % end.max(1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// So many random octets.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.octet()).collect()
    }

    fn octet(&mut self) -> u8 {
        self.word().to_be_bytes()[0]
    }
}

/// Damages a message in one to four ways: flipped bits, cut or doubled parts, counts and lengths that lie, pointers that
/// loop, options in heaps, other opcodes and classes.
pub fn mutate(random: &mut Random, message: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let (at, len) = (random.below(message.len()), message.len());
        match random.below(16) {
            0 | 1 => flip(random, message, at),
            2 => message.truncate(at),
            3 => set(message, at, &[random.octet()]),
            4 => set(message, at, &[0xc0, random.octet()]),
            // A name that is its own end.
            5 => set(message, at, &[0xc0 | (at >> 8 & 0x3f) as u8, at as u8]),
            6 => set(message, 4 + 2 * random.below(4), &[0xff, 0xff]),
            7 => set(message, 4 + 2 * random.below(4), &[0, random.octet() & 3]),
            8 => set(message, 2, &[random.octet()]),
            9 => {
                let class = random.pick(&[[0, 255], [0, 3], [0xff, 0xff]]);
                set(message, len.saturating_sub(2), class);
            }
            10 => add_options(random, message),
            11 => {
                let part = message[at..].to_vec();
                message.extend(part);
            }
            12 => {
                let length = random.below(64);
                let more = random.bytes(length);
                message.extend(more);
            }
            13 => set(message, at, &[63]),
            14 => set(message, at, &[0]),
            _ => {
                message.remove(at.min(len.saturating_sub(1)));
            }
        }
        if message.is_empty() {
            return;
        }
    }
}

/// Appends several OPT records with options whose lengths may lie, and counts them.
fn add_options(random: &mut Random, message: &mut Vec<u8>) {
    let count = 1 + random.below(5);
    for _ in 0..count {
        let length = random.below(40);
        let options = random.bytes(length);
        let version = if random.one_in(3) { random.octet() } else { 0 };
        message.extend([0, 0, 41]);
        message.extend(random.bytes(2));
        message.extend([random.octet(), version, random.octet(), 0, 0]);
        let lie = usize::from(random.one_in(4)) * random.below(9);
        message.push((options.len() + lie) as u8);
        message.extend(options);
    }
    let honest = if random.one_in(3) { random.octet() } else { count as u8 };
    set(message, 10, &[0, honest]);
}

fn flip(random: &mut Random, message: &mut [u8], at: usize) {
    if let Some(octet) = message.get_mut(at) {
        *octet ^= 1 << random.below(8);
    }
}

/// Overwrites what is there; never beyond the end.
fn set(message: &mut [u8], at: usize, octets: &[u8]) {
    for (to, from) in message.iter_mut().skip(at).zip(octets) {
        *to = *from;
    }
}

/// An answer to a query, with records of many kinds, sound as it stands.
#[must_use]
pub fn answer_to(random: &mut Random, query: &[u8]) -> Vec<u8> {
    let mut at = 12;
    while let Some(len) = query.get(at).filter(|len| **len != 0 && **len < 64) {
        at += usize::from(*len) + 1;
    }
    let mut message = query.get(..at + 5).unwrap_or(query).to_vec();
    message.resize(message.len().max(17), 0);
    set(&mut message, 2, &[0x84, *random.pick(&[0x80, 0x80, 0x80, 0x83, 0x82, 0x85])]);
    set(&mut message, 4, &[0, 1, 0, 0, 0, 0, 0, 0]);
    let count = random.below(6);
    for _ in 0..count {
        message.extend(*random.pick(&[[0xc0, 12], [0xc0, 12], [0xc0, 13]]));
        let (kind, data): (u8, Vec<u8>) = match random.below(6) {
            0 | 1 => (1, random.bytes(4)),
            2 => (28, random.bytes(16)),
            3 => (5, vec![4, b'n', b'e', b'x', b't', 0xc0, 12]),
            4 => (6, [vec![0xc0, 12, 0xc0, 12], random.bytes(20)].concat()),
            _ => {
                let length = random.below(80);
                (random.octet(), random.bytes(length))
            }
        };
        message.extend([0, kind, 0, 1]);
        message.extend([0, 0, 0, random.octet() & 7]);
        message.extend([0, data.len() as u8]);
        message.extend(data);
    }
    set(&mut message, *random.pick(&[6, 6, 6, 8, 10]), &[0, count as u8]);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_can_be_damaged() {
        let mut random = Random::new(7);
        for n in 0..20_000 {
            let mut message = random.bytes(1 + n % 90);
            mutate(&mut random, &mut message);
            let answer = answer_to(&mut random, &message);
            assert!(answer.len() >= 17);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        assert_eq!(Random::new(3).bytes(40), Random::new(3).bytes(40));
        assert_ne!(Random::new(3).bytes(40), Random::new(4).bytes(40));
    }
}
