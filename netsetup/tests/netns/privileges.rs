//! The change of user, in a process of its own because it changes all of it.

use std::env;
use std::process::Command;

use netsetup::privileges::{Capability, Privileges, become_user};
use nix::unistd::Uid;

use crate::support::skipped_without_root;

#[test]
fn an_unprivileged_user_keeps_only_what_it_needs() {
    if env::var_os(CHILD).is_some() {
        return child();
    }
    if skipped_without_root() {
        return;
    }
    let output = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "privileges::an_unprivileged_user_keeps_only_what_it_needs",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn child() {
    become_user(65534, 65534, &[Capability::NetBindService]).unwrap();
    let now = Privileges::current().unwrap();
    assert_eq!(
        (now.uid, now.effective, now.permitted, now.inheritable),
        (65534, 1 << 10, 1 << 10, 0),
        "{now:?}"
    );
    assert!(now.no_new_privs);
    assert!(nix::unistd::setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_err());
    assert!(nix::unistd::getgroups().unwrap().iter().all(|gid| gid.as_raw() == 65534));
}

const CHILD: &str = "NETSETUP_TEST_CHILD";
