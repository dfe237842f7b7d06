use std::os::unix::fs::symlink;

use super::*;

/// Long enough for a loaded machine, far shorter than [`NEVER`].
const SOON: Duration = Duration::from_secs(20);
const NEVER: Duration = Duration::from_secs(3_600);

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }

    fn replace(&self, name: &str, text: &str) {
        self.write("fresh", text);
        fs::rename(self.at("fresh"), self.at(name)).unwrap();
    }

    fn link(&self, name: &str, target: &str) {
        let _ = fs::remove_file(self.at("fresh"));
        symlink(target, self.at("fresh")).unwrap();
        fs::rename(self.at("fresh"), self.at(name)).unwrap();
    }

    /// A generation of a mounted ConfigMap, as the kubelet writes it.
    fn generation(&self, number: u32, text: &str) {
        fs::create_dir(self.at(&format!("..{number}"))).unwrap();
        self.write(&format!("..{number}/key"), text);
        self.link("..data", &format!("..{number}"));
        let _ = fs::remove_dir_all(self.at(&format!("..{}", number - 1)));
    }
}

/// Each way in which a file changes, one after the other, on one watch.
#[tokio::test]
async fn every_change_is_noticed_by_inotify() {
    let dir = Dir::new();
    fs::create_dir(dir.at("elsewhere")).unwrap();
    dir.write("file", "1");
    let mut watch = FileWatch::new([dir.at("file")], NEVER);
    type Way<'a> = (&'a str, &'a dyn Fn());
    let ways: [Way<'_>; 11] = [
        ("written in place", &|| dir.write("file", "22")),
        ("renamed over", &|| dir.replace("file", "33")),
        ("written after that", &|| dir.write("file", "444")),
        ("removed", &|| fs::remove_file(dir.at("file")).unwrap()),
        ("written again", &|| dir.write("file", "5")),
        ("a link to another folder", &|| {
            dir.write("elsewhere/real", "6");
            dir.link("file", "elsewhere/real");
        }),
        ("the file behind the link written", &|| dir.write("elsewhere/real", "77")),
        ("the file behind the link renamed over", &|| dir.replace("elsewhere/real", "88")),
        ("the folder behind the link replaced", &|| {
            fs::rename(dir.at("elsewhere"), dir.at("old")).unwrap();
            fs::create_dir(dir.at("elsewhere")).unwrap();
            dir.write("elsewhere/real", "99");
        }),
        ("an older copy of the same size renamed over", &|| {
            let before = fs::metadata(dir.at("elsewhere/real")).unwrap().modified().unwrap();
            dir.write("fresh", "00");
            File::open(dir.at("fresh")).unwrap().set_modified(before).unwrap();
            fs::rename(dir.at("fresh"), dir.at("elsewhere/real")).unwrap();
        }),
        ("the same size and time in place", &|| {
            let before = fs::metadata(dir.at("elsewhere/real")).unwrap().modified().unwrap();
            dir.write("elsewhere/real", "aa");
            File::open(dir.at("elsewhere/real")).unwrap().set_modified(before).unwrap();
        }),
    ];
    for (what, change) in ways {
        change();
        tokio::time::timeout(SOON, watch.changed()).await.expect(what);
    }
}

#[tokio::test]
async fn a_config_map_is_followed_from_generation_to_generation() {
    let dir = Dir::new();
    dir.link("key", "..data/key");
    let mut watch = FileWatch::new([dir.at("key")], NEVER);
    for number in 1..4 {
        dir.generation(number, "same");
        tokio::time::timeout(SOON, watch.changed()).await.expect("another generation");
        assert_eq!(read(&dir.at("key"), 9).unwrap(), b"same");
    }
}

#[tokio::test]
async fn what_is_missing_may_come_and_go_with_its_folders() {
    let dir = Dir::new();
    let mut watch = FileWatch::new([dir.at("a/b/file")], NEVER);
    for _ in 0..2 {
        fs::create_dir_all(dir.at("a/b")).unwrap();
        dir.write("a/b/file", "");
        tokio::time::timeout(SOON, watch.changed()).await.expect("it is there");
        fs::remove_dir_all(dir.at("a")).unwrap();
        tokio::time::timeout(SOON, watch.changed()).await.expect("it is gone");
    }
}

#[tokio::test]
async fn entries_of_a_folder_count_and_neighbours_of_a_file_do_not() {
    let dir = Dir::new();
    fs::create_dir(dir.at("folder")).unwrap();
    dir.write("file", "");
    let mut folder = FileWatch::new([dir.at("folder")], NEVER);
    let mut file = FileWatch::new([dir.at("file")], NEVER);
    dir.write("folder/any", "");
    tokio::time::timeout(SOON, folder.due()).await.expect("an entry");
    dir.write("folder/any", "in place");
    tokio::time::timeout(SOON, folder.due()).await.expect("an entry in place");
    dir.write("neighbour", "");
    assert!(tokio::time::timeout(SETTLE * 4, file.due()).await.is_err());
    // Not even watched any more.
    file.follow([dir.at("folder/any")]);
    dir.write("file", "more");
    assert!(tokio::time::timeout(SETTLE * 4, file.due()).await.is_err());
}

#[tokio::test]
async fn a_poll_notices_what_inotify_does_not() {
    let dir = Dir::new();
    dir.write("file", "1");
    let mut watch = FileWatch::new([dir.at("file")], Duration::from_millis(20));
    watch.events = None;
    dir.replace("file", "2");
    tokio::time::timeout(SOON, watch.changed()).await.expect("noticed");
    // Nothing has changed since: it still waits, and may be dropped while it does.
    assert!(tokio::time::timeout(Duration::from_millis(200), watch.changed()).await.is_err());
    dir.replace("file", "3");
    tokio::time::timeout(SOON, watch.changed()).await.expect("noticed again");
}

#[tokio::test]
async fn a_file_that_never_rests_is_read_all_the_same() {
    let dir = Dir::new();
    dir.write("file", "");
    let mut watch = FileWatch::new([dir.at("file")], NEVER);
    let writer = async {
        for number in 0.. {
            dir.write("file", &"x".repeat(number % 100));
            tokio::time::sleep(SETTLE / 5).await;
        }
    };
    tokio::select! {
        () = watch.changed() => {}
        () = writer => {}
        () = tokio::time::sleep(SOON) => panic!("not noticed while it is written"),
    }
}

#[tokio::test]
async fn watches_do_not_pile_up() {
    let dir = Dir::new();
    dir.write("file", "");
    let mut watch = FileWatch::new([dir.at("file")], NEVER);
    let few = watch.watched.len();
    for number in 0..20 {
        // The old file lives on under another name.
        fs::rename(dir.at("file"), dir.at(&format!("old{number}"))).unwrap();
        dir.write("file", "");
        tokio::time::timeout(SOON, watch.changed()).await.expect("noticed");
    }
    assert_eq!(watch.watched.len(), few);
}

#[test]
fn only_regular_files_of_bounded_size_are_read() {
    let dir = Dir::new();
    dir.write("file", "12345");
    assert_eq!(read(&dir.at("file"), 5).unwrap(), b"12345");
    assert_eq!(read(&dir.at("file"), 4).unwrap_err().to_string(), "it is longer than 4 bytes");
    assert_eq!(read(dir.0.path(), 5).unwrap_err().to_string(), "it is a directory");
    let null = read(Path::new("/dev/null"), 5).unwrap_err().to_string();
    assert_eq!(null, "it is not a regular file");
    assert_eq!(read(&dir.at("none"), 5).unwrap_err().kind(), io::ErrorKind::NotFound);
}
