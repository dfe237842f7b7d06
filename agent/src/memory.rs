//! The allocator, as far as it is told what to do: unused memory goes back to the kernel.

use tikv_jemalloc_ctl::{Access, AsName, Result, background_thread};

/// Has a thread of the allocator give unused memory back to the kernel some 10 s later. Without it only a thread that
/// allocates does so, and a worker that answers hits does not: what a flood took would stay. Called once privileges are dropped,
/// since the thread inherits them.
pub fn give_back_later() {
    if let Err(error) = background_thread::write(true) {
        tracing::debug!(%error, "unused memory is given back late");
    }
}

/// Gives back at once what the calling thread's arena does not use: after a piece of work that took much and left little,
/// such as reading a folder of objects. Not for the workers: it takes as long as there are pages.
pub fn give_back_now() {
    if let Err(error) = purge() {
        tracing::debug!(%error, "unused memory is given back late");
    }
}

/// A time of decay of 0 frees all unused pages when it is set.
fn purge() -> Result<()> {
    let arena: u32 = b"thread.arena\0".name().read()?;
    let decay = format!("arena.{arena}.dirty_decay_ms\0");
    let before: isize = decay.as_str().name().update(0)?;
    decay.as_str().name().write(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_decay_is_as_before() {
        purge().unwrap();
        purge().unwrap();
        let arena: u32 = b"thread.arena\0".name().read().unwrap();
        let decay: isize =
            format!("arena.{arena}.dirty_decay_ms\0").as_str().name().read().unwrap();
        assert_eq!(decay, 10_000);
    }
}
