//! The tree of an image: paths, their octets and modes. Everything belongs to root.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;

/// Files by path, without the leading slash; the folders above them are implied.
#[derive(Debug, Clone, Default)]
pub struct Files {
    files: BTreeMap<String, File>,
}

/// One file.
#[derive(Debug, Clone)]
pub struct File {
    /// What is in it.
    pub content: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
}

impl Files {
    /// A file that everybody may read.
    pub fn text(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.files.insert(path.to_owned(), File { content: content.into(), mode: 0o644 });
    }

    /// A program.
    pub fn program(&mut self, path: &str, content: Vec<u8>) {
        self.files.insert(path.to_owned(), File { content, mode: 0o755 });
    }

    /// Adds what is in a folder, or one file, below `prefix`; links are followed.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn add(&mut self, prefix: &str, from: &Path) -> anyhow::Result<()> {
        let cannot = || format!("cannot read {}", from.display());
        let about = fs::metadata(from).with_context(cannot)?;
        if !about.is_dir() {
            let content = fs::read(from).with_context(cannot)?;
            let mode = if about.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
            self.files.insert(prefix.to_owned(), File { content, mode });
            return Ok(());
        }
        for entry in fs::read_dir(from).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            let name = entry.file_name();
            let name = name.to_str().with_context(|| format!("{name:?} is not UTF-8"))?;
            self.add(&format!("{prefix}/{name}"), &entry.path())?;
        }
        Ok(())
    }

    /// Every file, in the order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &File)> {
        self.files.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// Every folder above a file, parents first.
    #[must_use]
    pub fn folders(&self) -> Vec<String> {
        let above = |path: &str| -> Vec<String> {
            path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect()
        };
        let mut folders: Vec<String> = self.files.keys().flat_map(|path| above(path)).collect();
        folders.sort();
        folders.dedup();
        folders
    }

    /// Writes the tree below a folder, for a build that copies it into an image itself.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write_below(&self, folder: &Path) -> anyhow::Result<()> {
        for (path, file) in self.iter() {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap_or(folder))
                .and_then(|()| fs::write(&path, &file.content))
                .and_then(|()| fs::set_permissions(&path, PermissionsExt::from_mode(file.mode)))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}
