//! What a binary is: its architecture, and whether it needs an interpreter that the image does not have.

use anyhow::{Context, bail, ensure};

/// An architecture that images are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
}

impl Architecture {
    /// Reads OCI's name.
    ///
    /// # Errors
    /// Any other word.
    pub fn from_name(name: &str) -> anyhow::Result<Self> {
        match name {
            "amd64" => Ok(Self::Amd64),
            "arm64" => Ok(Self::Arm64),
            _ => bail!("unknown architecture {name:?}, wanted amd64 or arm64"),
        }
    }

    /// OCI's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Rust's target.
    #[must_use]
    pub fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }
}

/// The architecture of a binary that runs on its own.
///
/// # Errors
/// No little-endian 64-bit ELF, another machine, or a dynamic one: the image has no interpreter and no libraries.
pub fn static_binary(file: &[u8]) -> anyhow::Result<Architecture> {
    ensure!(file.starts_with(b"\x7fELF\x02\x01"), "no 64-bit little-endian ELF file");
    let architecture = match half(file, 18)? {
        62 => Architecture::Amd64,
        183 => Architecture::Arm64,
        other => bail!("ELF machine {other} is neither x86-64 nor AArch64"),
    };
    let offset = usize::try_from(u64::from_le_bytes(octets(file, 32)?))?;
    let (size, count) = (usize::from(half(file, 54)?), usize::from(half(file, 56)?));
    for number in 0..count {
        let header = number.checked_mul(size).and_then(|at| at.checked_add(offset));
        let kind = u32::from_le_bytes(octets(file, header.context("broken program headers")?)?);
        ensure!(
            kind != PT_INTERP,
            "needs a dynamic linker: link it with target-feature=+crt-static"
        );
    }
    Ok(architecture)
}

fn half(file: &[u8], at: usize) -> anyhow::Result<u16> {
    Ok(u16::from_le_bytes(octets(file, at)?))
}

fn octets<const N: usize>(file: &[u8], at: usize) -> anyhow::Result<[u8; N]> {
    let found = file.get(at..).and_then(|rest| rest.first_chunk::<N>());
    found.copied().context("the ELF file is cut off")
}

const PT_INTERP: u32 = 3;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file that has the headers of a binary and nothing else.
    pub(crate) fn made_up(machine: u8, segments: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 64 + 56 * segments.len()];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (file[18], file[32], file[54], file[56]) = (machine, 64, 56, segments.len() as u8);
        for (number, segment) in segments.iter().enumerate() {
            file[64 + 56 * number] = *segment;
        }
        file
    }

    #[test]
    fn machines_and_interpreters_are_seen() {
        assert_eq!(static_binary(&made_up(62, &[1, 2])).unwrap(), Architecture::Amd64);
        assert_eq!(static_binary(&made_up(183, &[1])).unwrap(), Architecture::Arm64);
        let error = |file: &[u8]| static_binary(file).unwrap_err().to_string();
        assert!(error(&made_up(62, &[1, 3])).contains("dynamic linker"));
        assert!(error(&made_up(40, &[])).contains("machine 40"));
        assert!(error(&made_up(62, &[1, 1])[..70]).contains("cut off"));
        assert!(error(b"#!/bin/sh").contains("no 64-bit"));
    }
}
