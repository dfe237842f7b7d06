//! The Unix sockets of this process, in a folder that instances share.
//!
//! A new server takes the place of an old one's socket by renaming, so that there is never a moment without one, and an old
//! server leaves a new one's alone.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a listening socket; dropped, it goes, unless another server has put its own there.
#[derive(Debug)]
pub struct OwnSocket {
    path: PathBuf,
    inode: Option<u64>,
}

impl OwnSocket {
    /// True if the file was removed, so that no client can connect any more. One that another server has put in its place
    /// is not missing.
    pub fn is_missing(&self) -> bool {
        self.inode.is_some() && inode(&self.path).is_none()
    }
}

/// Listens at `path`, to which only the owner may connect (mode 0600). Its folder is made if it is not there.
pub fn listen(path: &Path, kind: Type, backlog: i32) -> io::Result<(Socket, OwnSocket)> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    let aside = PathBuf::from(aside);
    // What is left of a process that had our number.
    let _ = std::fs::remove_file(&aside);
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    socket.bind(&SockAddr::unix(&aside)?)?;
    // No client can connect before `listen`, so there is no moment in which others could.
    std::fs::set_permissions(&aside, Permissions::from_mode(0o600))?;
    socket.listen(backlog)?;
    std::fs::rename(&aside, path)?;
    Ok((socket, OwnSocket { path: path.into(), inode: inode(path) }))
}

/// Connects to the socket at `path`, whose process may be stopped: waits no longer than `patience` for a place in its queue.
pub fn connect(path: &Path, kind: Type, patience: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    socket.set_write_timeout(Some(patience))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().map(|meta| meta.ino())
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        if self.inode.is_none() || inode(&self.path) != self.inode {
            return;
        }
        // Another server may put its own file there between the look and the removal: so it is moved aside first, and looked at
        // once more where no other process changes it.
        let mut aside = self.path.as_os_str().to_owned();
        aside.push(format!(".{}.gone", std::process::id()));
        let aside = PathBuf::from(aside);
        if std::fs::rename(&self.path, &aside).is_err() {
            return;
        }
        if inode(&aside) != self.inode {
            // Back to its place, unless that has a newer one already.
            let _ = std::fs::hard_link(&aside, &self.path);
        }
        let _ = std::fs::remove_file(&aside);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the end of one server falls together with the start of the next, there is a socket afterwards.
    #[test]
    fn the_next_ones_file_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodens.sock");
        let mut now = listen(&path, Type::STREAM, 1).unwrap();
        for _ in 0..2_000 {
            let ending = std::thread::spawn(move || drop(now));
            now = listen(&path, Type::STREAM, 1).unwrap();
            ending.join().unwrap();
            assert!(!now.1.is_missing());
            connect(&path, Type::STREAM, Duration::from_secs(1)).unwrap();
        }
        drop(now);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
