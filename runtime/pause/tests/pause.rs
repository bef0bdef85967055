//! Runs the embedded image as a process of its own and as the first process of a pid namespace.
#![allow(clippy::unwrap_used, reason = "a test's functions may fail it")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn installed() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pause");
    fs::write(&path, pintle_pause::PAUSE).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (dir, path)
}

fn patience() -> Duration {
    let scale = std::env::var("PINTLE_TEST_TIMEOUT_SCALE").ok().and_then(|text| text.parse::<f64>().ok());
    Duration::from_secs(10).mul_f64(scale.unwrap_or(1.0))
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the process sleeps in `rt_sigtimedwait`, so that its signal mask is set.
fn settled(pid: u32) {
    until("pause waits for signals", || {
        let wait = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t"))?;
        (u64::from_str_radix(blocked, 16).ok()? & 0x4000 != 0 || wait.contains("sigtimedwait")).then_some(())
    });
}

fn signal(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

fn ended(child: &mut Child) -> std::process::ExitStatus {
    until("pause ends", || child.try_wait().unwrap())
}

#[test]
fn the_image_is_smaller_than_16_kib() {
    assert!(pintle_pause::PAUSE.starts_with(b"\x7fELF"));
    assert!(pintle_pause::PAUSE.len() < 16 * 1024, "{} bytes", pintle_pause::PAUSE.len());
}

#[test]
fn it_ends_with_status_0_on_term_and_int() {
    let (_dir, path) = installed();
    for name in ["-TERM", "-INT"] {
        let mut child = Command::new(&path).spawn().unwrap();
        settled(child.id());
        signal(name, child.id());
        let status = ended(&mut child);
        assert_eq!((status.code(), status.signal()), (Some(0), None));
    }
}

#[test]
fn it_takes_hardly_any_memory() {
    let (_dir, path) = installed();
    let mut child = Command::new(&path).spawn().unwrap();
    settled(child.id());
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", child.id())).unwrap();
    let rss: u64 = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
        .unwrap();
    signal("-TERM", child.id());
    ended(&mut child);
    assert!(rss <= 64, "{rss} kB");
}

#[test]
fn as_first_process_of_a_namespace_with_an_empty_root_it_reaps_orphans_and_ends_on_term() {
    let (dir, path) = installed();
    // The shell leaves an orphan behind, then becomes pause in a root that holds nothing else.
    let script = format!("(busybox sleep 0.2 & ) ; exec chroot {} /pause", dir.path().display());
    assert!(path.exists());
    let mut unshare = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "sh", "-c", &script])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", unshare.id());
    let pause: u32 = until("pause starts", || {
        let pid: u32 = fs::read_to_string(&children).ok()?.trim().parse().ok()?;
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        exe.ends_with("pause").then_some(pid)
    });
    settled(pause);
    let of_pause = format!("/proc/{pause}/task/{pause}/children");
    until("the orphan is reaped", || fs::read_to_string(&of_pause).unwrap().trim().is_empty().then_some(()));
    signal("-TERM", pause);
    assert_eq!(ended(&mut unshare).code(), Some(0));
}
