//! Editors, copies, links and broken writers against a watched directory, on the real file system.

use super::*;
use std::io::Write as _;

struct Fixture {
    dir: tempfile::TempDir,
    snapshots: watch::Receiver<Arc<Snapshot>>,
}

impl Fixture {
    fn new(period: Duration) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self::of(dir, period)
    }

    fn of(dir: tempfile::TempDir, period: Duration) -> Self {
        Self::with(dir, period, Box::new(|bytes| !bytes.starts_with(b"half")))
    }

    fn with(dir: tempfile::TempDir, period: Duration, complete: Complete) -> Self {
        let snapshots = spawn(dir.path(), period, complete).expect("watches");
        Self { dir, snapshots }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
    }

    fn texts(&self) -> BTreeMap<String, String> {
        let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
        let snapshot = self.snapshots.borrow();
        let files = snapshot.files.iter();
        files.map(|(path, bytes)| (name(path), String::from_utf8_lossy(bytes).into_owned())).collect()
    }

    async fn expect(&mut self, wanted: &[(&str, &str)]) {
        let wanted: BTreeMap<String, String> =
            wanted.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        let mut snapshots = self.snapshots.clone();
        let seen = tokio::time::timeout(Duration::from_secs(10), async {
            while self.texts() != wanted {
                snapshots.changed().await.expect("the thread lives");
            }
        });
        if seen.await.is_err() {
            assert_eq!(self.texts(), wanted);
        }
    }

    /// Nothing may change within a time in which every event would long have been seen.
    async fn expect_still(&mut self, wanted: &[(&str, &str)]) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.expect(wanted).await;
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn files_are_seen_when_written_renamed_into_place_edited_and_removed() {
    let mut f = Fixture::new(HOUR);
    f.write("a.yaml", "one");
    f.expect(&[("a.yaml", "one")]).await;
    f.write(".b.json.tmp", "two");
    std::fs::rename(f.path(".b.json.tmp"), f.path("b.json")).expect("renamed");
    f.expect(&[("a.yaml", "one"), ("b.json", "two")]).await;
    f.write("a.yaml", "three");
    f.expect(&[("a.yaml", "three"), ("b.json", "two")]).await;
    std::fs::remove_file(f.path("a.yaml")).expect("removed");
    std::fs::rename(f.path("b.json"), f.path("b.json.off")).expect("renamed away");
    f.expect(&[]).await;
}

#[tokio::test]
async fn dotfiles_backups_temporary_files_and_directories_are_no_manifests() {
    let mut f = Fixture::new(HOUR);
    std::fs::create_dir(f.path("sub.yaml")).expect("mkdir");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        f.path("fifo.yaml"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .expect("mkfifo");
    for name in [".a.yaml", ".a.yaml.swp", "a.yaml~", "#a.yaml#", "sedAbC123", "4913", "a.yaml.bak"] {
        f.write(name, "x");
    }
    f.write("real.yml", "y");
    f.expect(&[("real.yml", "y")]).await;
    f.expect_still(&[("real.yml", "y")]).await;
}

#[tokio::test]
async fn a_file_that_is_being_written_keeps_its_last_complete_content() {
    let mut f = Fixture::new(HOUR);
    f.write("a.yaml", "whole");
    f.expect(&[("a.yaml", "whole")]).await;
    let mut file = std::fs::File::create(f.path("a.yaml")).expect("truncated");
    file.write_all(b"ha").expect("half");
    f.expect_still(&[("a.yaml", "whole")]).await;
    file.write_all(b"lf and half").expect("rest");
    drop(file);
    f.expect(&[("a.yaml", "half and half")]).await;
}

#[tokio::test]
async fn an_editor_that_moves_the_file_away_and_writes_it_anew_is_an_edit() {
    let mut f = Fixture::new(HOUR);
    f.write("a.yaml", "old");
    f.expect(&[("a.yaml", "old")]).await;
    std::fs::rename(f.path("a.yaml"), f.path("a.yaml~")).expect("backup");
    let mut seen_without = f.snapshots.clone();
    tokio::time::sleep(Duration::from_millis(100)).await;
    f.write("a.yaml", "new");
    f.expect(&[("a.yaml", "new")]).await;
    assert_eq!(seen_without.borrow_and_update().files.len(), 1);
    tokio::time::sleep(SETTLE).await;
    f.expect_still(&[("a.yaml", "new")]).await;
}

#[tokio::test]
async fn a_link_to_a_manifest_is_followed_and_its_target_re_read_periodically() {
    let target = tempfile::NamedTempFile::new().expect("target");
    std::fs::write(target.path(), "one").expect("written");
    let mut f = Fixture::new(Duration::from_millis(200));
    std::os::unix::fs::symlink(target.path(), f.path("l.yaml")).expect("link");
    f.expect(&[("l.yaml", "one")]).await;
    std::fs::write(target.path(), "two").expect("written");
    f.expect(&[("l.yaml", "two")]).await;
}

#[tokio::test]
async fn a_directory_that_goes_away_leaves_the_pods_and_is_watched_again_when_it_is_back() {
    let mut f = Fixture::new(Duration::from_millis(200));
    f.write("a.yaml", "one");
    f.expect(&[("a.yaml", "one")]).await;
    let aside = f.dir.path().with_extension("aside");
    std::fs::rename(f.dir.path(), &aside).expect("moved away");
    f.expect_still(&[("a.yaml", "one")]).await;
    std::fs::rename(&aside, f.dir.path()).expect("moved back");
    f.write("b.yaml", "two");
    f.expect(&[("a.yaml", "one"), ("b.yaml", "two")]).await;
}

#[tokio::test]
async fn a_directory_that_is_made_again_is_found_long_before_the_next_full_read_and_missed_meanwhile() {
    let mut f = Fixture::new(HOUR);
    f.write("a.yaml", "one");
    f.expect(&[("a.yaml", "one")]).await;
    std::fs::remove_dir_all(f.dir.path()).expect("removed");
    f.expect(&[]).await;
    let dir = f.dir.path().to_owned();
    let missed = |s: &Arc<Snapshot>| s.unreadable.contains_key(&dir);
    let told = tokio::time::timeout(Duration::from_secs(10), f.snapshots.wait_for(missed)).await;
    assert!(told.is_ok_and(|seen| seen.is_ok()), "the directory is told to be missing");
    std::fs::create_dir(f.dir.path()).expect("made again");
    f.write("b.yaml", "two");
    f.expect(&[("b.yaml", "two")]).await;
    assert!(f.snapshots.borrow().unreadable.is_empty());
}

#[tokio::test]
async fn a_directory_whose_parents_are_gone_too_is_found_when_they_come_one_by_one_and_what_was_moved_is_not_it()
 {
    let top = tempfile::tempdir().expect("a directory");
    let dir = top.path().join("a/b/manifests");
    let snapshots = spawn(&dir, HOUR, Box::new(|_| true)).expect("watches");
    let mut f = Fixture { dir: top, snapshots };
    std::fs::write(dir.join("a.yaml"), "one").expect("written");
    f.expect(&[("a.yaml", "one")]).await;
    std::fs::rename(f.path("a"), f.path("aside")).expect("moved away");
    let missed = |s: &Arc<Snapshot>| s.unreadable.contains_key(&dir);
    // Moving a parent away is no event of the directory; the next look at it is.
    std::fs::rename(f.path("aside/b/manifests"), f.path("aside/b/m")).expect("moved");
    let told = tokio::time::timeout(Duration::from_secs(10), f.snapshots.wait_for(missed)).await;
    assert!(told.is_ok_and(|seen| seen.is_ok()), "the directory is told to be missing");
    // What happens where it was moved to concerns nobody.
    std::fs::remove_file(f.path("aside/b/m/a.yaml")).expect("removed");
    f.expect_still(&[("a.yaml", "one")]).await;
    tokio::time::sleep(SETTLE).await;
    f.expect_still(&[("a.yaml", "one")]).await;
    for step in ["a", "a/b", "a/b/manifests"] {
        std::fs::create_dir(f.path(step)).expect("made again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::write(dir.join("b.yaml"), "two").expect("written");
    f.expect(&[("b.yaml", "two")]).await;
}

#[tokio::test]
async fn a_file_that_is_half_written_when_it_is_found_is_waited_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.yaml");
    std::fs::write(dir.path().join("b.yaml"), "whole").expect("written");
    let mut writer = std::fs::File::create(&path).expect("made");
    writer.write_all(b"half").expect("written");
    // Nobody sees the first write, as when the agent starts.
    let mut f = Fixture::of(dir, HOUR);
    assert_eq!(f.texts().keys().collect::<Vec<_>>(), ["b.yaml"]);
    // Told, because what is not told of is taken for deleted.
    assert_eq!(f.snapshots.borrow().unreadable[&path], "it is being written");
    writer.write_all(b" and half").expect("written");
    drop(writer);
    f.expect(&[("a.yaml", "half and half"), ("b.yaml", "whole")]).await;
}

#[tokio::test]
async fn a_file_that_stays_half_is_told_after_a_moment() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("a.yaml"), "half").expect("written");
    let mut f = Fixture::of(dir, HOUR);
    f.expect(&[("a.yaml", "half")]).await;
}

#[tokio::test]
async fn a_writer_that_does_not_rename_is_never_caught_half_way() {
    let dir = tempfile::tempdir().expect("a directory");
    let complete = Box::new(|bytes: &[u8]| [100, 200_000].contains(&bytes.len()));
    let mut f = Fixture::with(dir, Duration::from_millis(5), complete);
    let (short, long) = ("x".repeat(100), "y".repeat(200_000));
    f.write("a.yaml", &short);
    f.expect(&[("a.yaml", &short)]).await;
    let path = f.path("a.yaml");
    let (old, new) = (short.clone(), long.clone());
    let writer = std::thread::spawn(move || {
        for round in 0..300 {
            let text = if round % 2 == 0 { &new } else { &old };
            let mut file = std::fs::File::create(&path).expect("truncated");
            text.as_bytes().chunks(1000).for_each(|piece| file.write_all(piece).expect("written"));
        }
    });
    while !writer.is_finished() {
        let seen = f.texts();
        let text = &seen["a.yaml"];
        assert!(*text == short || *text == long, "{} bytes of {}", text.len(), long.len());
        tokio::time::timeout(Duration::from_millis(50), f.snapshots.changed()).await.ok();
    }
    writer.join().expect("written");
    f.expect(&[("a.yaml", &short)]).await;
}

#[test]
fn what_was_written_and_closed_while_it_was_read_is_read_again_before_it_counts() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.yaml");
    std::fs::write(&path, "old").expect("written");
    let mut watcher = Watcher::new(dir.path(), HOUR, Box::new(|_| true)).expect("watches");
    watcher.take_events();
    let torn = read_bounded(&path);
    std::fs::write(&path, "new").expect("written");
    watcher.take_up(OsStr::new("a.yaml"), torn);
    assert!(watcher.snapshot.files.is_empty(), "{:?}", watcher.snapshot);
    watcher.read_one(OsStr::new("a.yaml"));
    assert_eq!(*watcher.snapshot.files[&path], *b"new");
    assert!(watcher.snapshot.unreadable.is_empty());
}

#[tokio::test]
async fn what_is_no_manifest_though_it_is_called_one_blocks_nobody() {
    let mut f = Fixture::new(HOUR);
    f.write("a.yaml", "one");
    let sparse = std::fs::File::create(f.path(".sparse")).expect("made");
    sparse.set_len(1 << 40).expect("a terabyte of nothing");
    std::fs::rename(f.path(".sparse"), f.path("sparse.yaml")).expect("renamed");
    for (name, target) in [("null.yaml", "/dev/null"), ("zero.yaml", "/dev/zero"), ("loop.yaml", "loop.yaml")]
    {
        std::os::unix::fs::symlink(target, f.path(name)).expect("linked");
    }
    let socket = std::os::unix::net::UnixListener::bind(f.path("socket.yaml")).expect("bound");
    f.write("z.yaml", "two");
    f.expect(&[("a.yaml", "one"), ("z.yaml", "two")]).await;
    let unreadable = f.snapshots.borrow().unreadable.clone();
    assert!(unreadable[&f.path("sparse.yaml")].contains("more than 1048576 bytes"), "{unreadable:?}");
    assert!(unreadable.contains_key(&f.path("loop.yaml")), "{unreadable:?}");
    drop(socket);
}

#[tokio::test]
async fn a_link_to_nothing_is_told_until_it_leads_somewhere() {
    let mut f = Fixture::new(HOUR);
    std::os::unix::fs::symlink(f.path("target"), f.path("l.yaml")).expect("link");
    let link = f.path("l.yaml");
    let dangling = |s: &Arc<Snapshot>| s.unreadable.contains_key(&link);
    let told = tokio::time::timeout(Duration::from_secs(10), f.snapshots.wait_for(dangling)).await;
    assert!(told.is_ok_and(|seen| seen.is_ok()), "the link is told to lead nowhere");
    std::fs::remove_file(f.path("l.yaml")).expect("removed");
    f.write("l.yaml", "one");
    f.expect(&[("l.yaml", "one")]).await;
    assert!(f.snapshots.borrow().unreadable.is_empty());
}

#[tokio::test]
async fn a_file_that_is_too_large_is_told_and_what_was_known_of_it_stays() {
    let mut f = Fixture::new(HOUR);
    f.write("a.yaml", "small");
    f.expect(&[("a.yaml", "small")]).await;
    f.write("a.yaml", &"x".repeat(usize::try_from(MAX_MANIFEST).expect("fits") + 1));
    f.expect_still(&[("a.yaml", "small")]).await;
    let unreadable = f.snapshots.borrow().unreadable.clone();
    assert!(unreadable[&f.path("a.yaml")].contains("more than"), "{unreadable:?}");
}
