//! What is known, on disk: so that a node that starts while the API server is away answers at once.
//!
//! ```text
//! "NODENS\0S"  format: u16  identity: bytes  written: u64 (milliseconds since 1970)  resource version of each kind: u64...
//! object...  0  CRC-32 of all before
//! ```
//!
//! Numbers are big-endian, or variable (7 bits an octet, least first) where no width is given. A file is written beside the
//! old one and takes its place when it is on the disk. One that is damaged, cut off, of another version or of another
//! cluster is refused as a whole: nothing is lost but the time until the first list.

mod codec;
mod decoder;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use self::codec::Encoder;
use self::decoder::Decoder;
use super::interner::Interner;
use super::object::{Kind, Object};

const MAGIC: &[u8; 8] = b"NODENS\0S";
/// Raised with every change of the format, or of what an object keeps: there is no reading of old ones.
const VERSION: u16 = 4;
/// A snapshot of 150,000 endpoints takes some 2 MB.
const MAX_FILE: u64 = 512 << 20;

/// Why a snapshot is not used, or was not written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file system's fault.
    #[error("cannot {verb} the snapshot {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Not a snapshot at all.
    #[error("it is no snapshot of Nodens")]
    Foreign,
    /// Of another version of Nodens.
    #[error("it has format {0}, and this version reads format {VERSION}")]
    Version(u16),
    /// It ends too early.
    #[error("it is cut off")]
    Truncated,
    /// The sum is wrong.
    #[error("it is damaged: its checksum does not match")]
    Damaged,
    /// The sum is right, and yet something in it cannot be.
    #[error("it is malformed: its {0} cannot be read")]
    Malformed(&'static str),
    /// Too long to be one.
    #[error("it is longer than {} MiB", MAX_FILE >> 20)]
    Long,
    /// Of another cluster, or of other settings.
    #[error("it was written for another cluster or other settings ({0})")]
    Identity(String),
}

/// How many kinds have their versions in the head: those that every release knows.
const HEAD_KINDS: usize = 6;

/// The resource version of each kind from which a watch continues, in the order of [`Kind::ALL`]; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versions([u64; Kind::ALL.len()]);

impl Versions {
    /// That of `kind`, if there is one.
    pub fn of(&self, kind: Kind) -> Option<u64> {
        self.0.get(kind as usize).copied().filter(|&version| version > 0)
    }

    fn set(&mut self, kind: Kind, version: u64) {
        if let Some(place) = self.0.get_mut(kind as usize) {
            *place = version;
        }
    }
}

impl FromIterator<(Kind, u64)> for Versions {
    fn from_iter<I: IntoIterator<Item = (Kind, u64)>>(versions: I) -> Self {
        let mut all = Self::default();
        for (kind, version) in versions {
            all.set(kind, version);
        }
        all
    }
}

/// What a snapshot begins with.
pub(super) struct Head<'a> {
    pub(super) identity: &'a str,
    /// Milliseconds since 1970.
    pub(super) written: u64,
    pub(super) versions: Versions,
}

/// A snapshot whose sum is right.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// Which cluster, and how much of it.
    pub identity: &'a str,
    /// When it was written, in milliseconds since 1970.
    pub written: u64,
    /// The versions that its objects show, or older ones.
    pub versions: Versions,
    objects: &'a [u8],
}

impl<'a> Snapshot<'a> {
    /// Checks the sum of a snapshot and reads its head. Total: any octets give a snapshot or an error.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, SnapshotError> {
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            return Err(if bytes.len() < MAGIC.len() {
                SnapshotError::Truncated
            } else {
                SnapshotError::Foreign
            });
        };
        let (checked, sum) = bytes.split_last_chunk::<4>().ok_or(SnapshotError::Truncated)?;
        let body = rest.get(..rest.len().saturating_sub(sum.len())).unwrap_or_default();
        let interner = Interner::default();
        let mut decoder = Decoder::new(body, &interner);
        let version = u16::from_be_bytes(decoder.array()?);
        if version != VERSION {
            return Err(SnapshotError::Version(version));
        }
        // Before anything in it is believed.
        if crc32fast::hash(checked) != u32::from_be_bytes(*sum) {
            return Err(SnapshotError::Damaged);
        }
        let identity = std::str::from_utf8(decoder.bytes()?)
            .map_err(|_| SnapshotError::Malformed("identity"))?;
        let written = u64::from_be_bytes(decoder.array()?);
        let mut versions = Versions::default();
        for version in versions.0.iter_mut().take(HEAD_KINDS) {
            *version = u64::from_be_bytes(decoder.array()?);
        }
        while let Some((kind, version)) = decoder.version()? {
            versions.set(kind, version);
        }
        Ok(Self { identity, written, versions, objects: decoder.rest() })
    }

    /// Its objects, with strings shared through `interner`. An error is the last of them; with the right sum, only an error
    /// of whoever wrote it can bring one.
    pub fn objects<'i>(
        &self,
        interner: &'i Interner,
    ) -> impl Iterator<Item = Result<Object, SnapshotError>> + use<'a, 'i> {
        let mut decoder = Some(Decoder::new(self.objects, interner));
        std::iter::from_fn(move || {
            let next = decoder.as_mut()?.next();
            if !matches!(next, Some(Ok(_))) {
                decoder = None;
            }
            next
        })
    }

    /// Refuses a snapshot of another cluster.
    pub fn check_identity(&self, identity: &str) -> Result<(), SnapshotError> {
        if self.identity == identity {
            Ok(())
        } else {
            Err(SnapshotError::Identity(self.identity.chars().take(300).collect()))
        }
    }
}

/// Encodes the objects that `walk` gives, to `to`. Returns the octets written.
pub(super) fn encode<W: Write>(
    to: W,
    head: &Head<'_>,
    walk: impl FnOnce(&mut dyn FnMut(Object)),
) -> io::Result<(W, u64)> {
    let mut encoder = Encoder::new(to);
    encoder.raw(MAGIC);
    encoder.raw(&VERSION.to_be_bytes());
    encoder.bytes(head.identity.as_bytes());
    encoder.raw(&head.written.to_be_bytes());
    let in_head = head.versions.0.iter().take(HEAD_KINDS);
    in_head.for_each(|version| encoder.raw(&version.to_be_bytes()));
    for kind in [Kind::NodePod, Kind::Node] {
        if let Some(version) = head.versions.of(kind) {
            encoder.version(kind, version);
        }
    }
    walk(&mut |object| encoder.object(&object));
    encoder.finish()
}

/// The octets of a snapshot file; `None` where there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, SnapshotError> {
    let bad = |source| SnapshotError::Io { verb: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(bad)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(bad)?;
    if bytes.len() as u64 > MAX_FILE { Err(SnapshotError::Long) } else { Ok(Some(bytes)) }
}

/// How many other snapshots lie beside `path`: of other clusters, or of other settings.
pub(super) fn others(path: &Path) -> usize {
    let files = path.parent().and_then(|dir| fs::read_dir(dir).ok()).into_iter().flatten();
    let is_other = |file: &Path| file != path && file.extension() == path.extension();
    files.flatten().filter(|entry| is_other(&entry.path())).count()
}

/// Writes a snapshot file whole or not at all. Returns its size in octets.
pub(super) fn write(
    path: &Path,
    head: &Head<'_>,
    walk: impl FnOnce(&mut dyn FnMut(Object)),
) -> Result<u64, SnapshotError> {
    // Two instances may share a folder while one takes over from the other.
    let aside = path.with_extension(format!("new.{}", std::process::id()));
    let bad = |verb| {
        let path = path.to_owned();
        move |source| SnapshotError::Io { verb, path, source }
    };
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(bad("make the folder of"))?;
    // Names and addresses of a whole cluster are nobody else's business.
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)
        .map_err(bad("open"))?;
    let result = encode(file, head, walk)
        .and_then(|(file, len)| file.sync_all().map(|()| len))
        .and_then(|len| fs::rename(&aside, path).map(|()| len))
        // The new name has to be on the disk as well.
        .and_then(|len| File::open(dir)?.sync_all().map(|()| len));
    if result.is_err() {
        // Half a file is of no use to anybody; should this fail too, the next write begins with truncating it.
        let _ = fs::remove_file(&aside);
    }
    result.map_err(bad("write"))
}

#[cfg(test)]
mod tests;
