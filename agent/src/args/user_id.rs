//! A user, as `--user` names one.

use std::fmt;
use std::str::FromStr;

/// A user and a group by number. There may be no list of users in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserId {
    /// The user.
    pub uid: u32,
    /// The group; as the user where it is not given.
    pub gid: u32,
}

impl FromStr for UserId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        let number = |part: &str| {
            // The highest number means "no change" to the kernel.
            part.parse().ok().filter(|id| *id != u32::MAX).ok_or_else(|| {
                format!("{part:?} is no number of a user or group, expected UID or UID:GID")
            })
        };
        Ok(Self { uid: number(uid)?, gid: number(gid)? })
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}
