//! What has to be watched so that no change of a path is missed.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Links that are followed for one path, as the kernel does it.
const MAX_LINKS: usize = 40;
/// Watches for one [`super::FileWatch`]; the kernel's limit for a user is 8,192 where memory is small. What is beyond it is
/// polled.
const MAX_PLACES: usize = 1_024;

/// The files and folders behind some paths.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// Followed folders: a path led to them, and every entry in them matters.
    pub(super) folders: BTreeSet<PathBuf>,
    /// Files, and the folders in which a component of a path may be replaced.
    pub(super) others: BTreeSet<PathBuf>,
    /// The names of these components.
    pub(super) names: HashSet<OsString>,
}

impl Places {
    pub(super) fn of<'p>(paths: impl Iterator<Item = &'p Path>) -> Self {
        let mut places = Self::default();
        for path in paths {
            if places.folders.len() + places.others.len() >= MAX_PLACES {
                break;
            }
            places.walk(path);
        }
        places
    }

    /// Goes through `path` as the kernel does. A link is replaced in the folder that holds it; a file in its own folder, or
    /// in place; what is missing will come into the deepest folder that exists.
    fn walk(&mut self, path: &Path) {
        let mut at = PathBuf::new();
        let mut rest: VecDeque<OsString> = VecDeque::new();
        prepend(&mut rest, path);
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            let next = at.join(&name);
            let folder = if at.as_os_str().is_empty() { PathBuf::from(".") } else { at.clone() };
            let found = fs::symlink_metadata(&next);
            let is_link = found.as_ref().is_ok_and(|meta| meta.is_symlink());
            if rest.is_empty() || is_link || found.is_err() {
                self.others.insert(folder);
                self.names.insert(name);
            }
            match found {
                Err(_) => return,
                Ok(_) if is_link => {
                    links += 1;
                    let Ok(target) = fs::read_link(&next) else { return };
                    if links > MAX_LINKS {
                        return;
                    }
                    if target.is_absolute() {
                        at = PathBuf::new();
                    }
                    prepend(&mut rest, &target);
                }
                Ok(_) => at = next,
            }
        }
        let whole = if at.is_dir() { &mut self.folders } else { &mut self.others };
        whole.insert(at);
    }
}

/// Puts the components of `path` before `rest`.
fn prepend(rest: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        if component != Component::CurDir {
            rest.push_front(component.as_os_str().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn of(path: &Path) -> Places {
        Places::of(std::iter::once(path))
    }

    #[test]
    fn a_config_map_is_watched_where_its_link_is_swapped() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        fs::create_dir(at.join("..1")).unwrap();
        fs::write(at.join("..1/Corefile"), ".").unwrap();
        symlink("..1", at.join("..data")).unwrap();
        symlink("..data/Corefile", at.join("Corefile")).unwrap();
        let places = of(&at.join("Corefile"));
        assert_eq!(
            places.others,
            [at.clone(), at.join("..1"), at.join("..1/Corefile")].into_iter().collect()
        );
        assert_eq!(places.names, ["Corefile", "..data"].map(OsString::from).into_iter().collect());
        assert_eq!(places.folders.len(), 0);
    }

    #[test]
    fn what_is_missing_is_watched_in_the_deepest_folder_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        let places = of(&at.join("a/b/c"));
        assert_eq!(places.others, [at.clone()].into_iter().collect());
        assert_eq!(places.names, [OsString::from("a")].into_iter().collect());
        // Links in a circle end.
        symlink("two", at.join("one")).unwrap();
        symlink("one", at.join("two")).unwrap();
        assert_eq!(of(&at.join("one")).others, [at].into_iter().collect());
    }

    #[test]
    fn a_folder_counts_whole_and_the_number_of_places_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        assert_eq!(of(&at).folders, [at.clone()].into_iter().collect());
        let many: Vec<_> = (0..3 * MAX_PLACES).map(|n| at.join(n.to_string())).collect();
        many.iter().for_each(|path| fs::write(path, "").unwrap());
        let places = Places::of(many.iter().map(PathBuf::as_path));
        assert!(places.others.len() <= MAX_PLACES + MAX_LINKS, "{}", places.others.len());
    }
}
