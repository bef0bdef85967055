//! Attempts against the kernel and the file systems: what a process can try by itself.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::kernel::{call, minus, number, report, text};

const CWD: isize = 100;
const O_NONBLOCK: i32 = 0o4000;
const O_PATH: i32 = 0o10_000_000;
const SIGCHLD: usize = 17;
const MS_REMOUNT: usize = 32;
const MS_BIND: usize = 4096;

/// System calls that change or show the whole machine.
pub fn kernel_calls() {
    let empty = [0u8; 256];
    let buffer = empty.as_ptr() as usize;
    report("reboot", &call(number::REBOOT, &[0xfee1_dead, 672_274_793, 0, 0]));
    report("kexec_load", &call(number::KEXEC_LOAD, &[0, 0, 0, 0]));
    report("init_module", &call(number::INIT_MODULE, &[buffer, 256, text("")]));
    let own = File::open("/proc/self/exe").map_or(-1, |file| file.as_raw_fd());
    report("finit_module", &call(number::FINIT_MODULE, &[own as usize, text(""), 0]));
    report("delete_module", &call(number::DELETE_MODULE, &[text("no_such_module"), 0]));
    report("swapon", &call(number::SWAPON, &[text("/no/such/file"), 0]));
    report("acct", &call(number::ACCT, &[text("/no/such/file")]));
    report("sethostname", &call(number::SETHOSTNAME, &[text("pwned"), 5]));
    report("setdomainname", &call(number::SETDOMAINNAME, &[text("pwned"), 5]));
    let mut now = [0i64; 2];
    report("clock_gettime", &call(number::CLOCK_GETTIME, &[0, now.as_mut_ptr() as usize]));
    report("clock_settime", &call(number::CLOCK_SETTIME, &[0, now.as_ptr() as usize]));
    // A length that is refused after the permission is checked.
    report("syslog_console", &call(number::SYSLOG, &[8, 0, 99]));
    report("vhangup", &call(number::VHANGUP, &[]));
    // BPF_PROG_GET_NEXT_ID.
    report("bpf", &call(number::BPF, &[11, buffer, 16]));
    let mut event = [0u32; 32];
    (event[1], event[0]) = (128, 1);
    report(
        "perf_event_open",
        &call(number::PERF_EVENT_OPEN, &[event.as_ptr() as usize, minus(1), 0, minus(1), 0]),
    );
    report("open_by_handle_at", &open_by_handle());
    report("nice", &call(number::SETPRIORITY, &[0, 0, minus(5)]));
    let priority = [1i32];
    report("realtime", &call(number::SCHED_SETSCHEDULER, &[0, 1, priority.as_ptr() as usize]));
    report("io_realtime", &call(number::IOPRIO_SET, &[1, 0, 1 << 13]));
    // What follows is not a capability's business; the tests do not judge it.
    report("info_userfaultfd", &call(number::USERFAULTFD, &[0]));
    report("info_io_uring", &call(number::IO_URING_SETUP, &[1, [0u8; 120].as_ptr() as usize]));
    report("info_syslog_read", &call(number::SYSLOG, &[3, buffer, 256]));
}

/// The attack that opens any file of a file system by its handle, from any descriptor on it.
fn open_by_handle() -> io::Result<i64> {
    let file = File::open("/etc/hosts")?;
    let mut handle = [0u32; 34];
    handle[0] = 128;
    let mut mount = [0i32; 1];
    let arguments =
        [minus(CWD), text("/etc/hosts"), handle.as_mut_ptr() as usize, mount.as_mut_ptr() as usize, 0];
    call(number::NAME_TO_HANDLE_AT, &arguments)?;
    call(number::OPEN_BY_HANDLE_AT, &[file.as_raw_fd() as usize, handle.as_ptr() as usize, 0])
}

fn mount(source: &str, target: &str, kind: &str, flags: usize, data: &str) -> io::Result<i64> {
    call(number::MOUNT, &[text(source), text(target), text(kind), flags, text(data)])
}

fn umount(target: &str) -> io::Result<i64> {
    call(number::UMOUNT, &[text(target), 2])
}

/// Mounts, old way and new, with the container's own privileges.
pub fn mounts() {
    fs::create_dir_all("/tmp/at").ok();
    for kind in
        ["tmpfs", "proc", "sysfs", "cgroup", "cgroup2", "devtmpfs", "debugfs", "securityfs", "overlay"]
    {
        report(&format!("mount_{kind}"), &mount(kind, "/tmp/at", kind, 0, ""));
    }
    report("bind", &mount("/", "/tmp/at", "", MS_BIND, ""));
    for (name, path) in [("rootfs", "/"), ("volume", "/readonly"), ("sys", "/sys"), ("proc_sys", "/proc/sys")]
    {
        report(&format!("remount_{name}"), &mount("", path, "", MS_REMOUNT | MS_BIND, ""));
    }
    report("make_shared", &mount("", "/", "", 1 << 20, ""));
    for (name, path) in [
        ("kcore", "/proc/kcore"),
        ("proc_sys", "/proc/sys"),
        ("firmware", "/sys/firmware"),
        ("hosts", "/etc/hosts"),
    ] {
        report(&format!("umount_{name}"), &umount(path));
    }
    report("pivot_root", &call(number::PIVOT_ROOT, &[text("."), text(".")]));
    report("fsopen", &call(number::FSOPEN, &[text("proc"), 1]));
    // OPEN_TREE_CLONE with AT_RECURSIVE.
    report("open_tree", &call(number::OPEN_TREE, &[minus(CWD), text("/proc/sys"), 1 | 0x8000]));
    let plain = call(number::OPEN_TREE, &[minus(CWD), text("/readonly"), 0]);
    report("open_tree_plain", &plain);
    let tree = plain.unwrap_or(-1) as usize;
    report("move_mount", &call(number::MOVE_MOUNT, &[tree, text(""), minus(CWD), text("/tmp/at"), 4]));
    let writable: [u64; 4] = [0, 1, 0, 0];
    let setattr = [minus(CWD), text("/readonly"), 0, writable.as_ptr() as usize, 32];
    report("mount_setattr", &call(number::MOUNT_SETATTR, &setattr));
    report("write_readonly", &File::create("/readonly/made"));
    report("chroot_with_kept_directory", &chroot_escape());
}

/// The classic: a directory kept open outside of a new root, then upwards. It has to end at the container's own root.
fn chroot_escape() -> io::Result<()> {
    let own = fs::metadata("/")?;
    let kept = File::open("/")?;
    fs::create_dir_all("/tmp/jail")?;
    std::os::unix::fs::chroot("/tmp/jail")?;
    std::env::set_current_dir(format!("/proc/self/fd/{}", kept.as_raw_fd())).ok();
    call(if cfg!(target_arch = "x86_64") { 81 } else { 50 }, &[kept.as_raw_fd() as usize])?;
    for _ in 0..64 {
        std::env::set_current_dir("..")?;
    }
    std::os::unix::fs::chroot(".")?;
    let reached = fs::metadata("/")?;
    if (reached.dev(), reached.ino()) == (own.dev(), own.ino()) {
        return Err(io::Error::from_raw_os_error(18));
    }
    Ok(())
}

/// The flag of a new user namespace.
const USER: usize = 0x1000_0000;

/// New namespaces, and the way round by a user namespace, in which this process is almighty; if it cannot have one, the
/// same is tried without.
pub fn namespaces() {
    let kinds = [
        ("mount", 0x2_0000),
        ("uts", 0x400_0000),
        ("ipc", 0x800_0000),
        ("pid", 0x2000_0000),
        ("net", 0x4000_0000),
        ("cgroup", 0x200_0000),
    ];
    for (name, flag) in kinds {
        report(&format!("unshare_{name}"), &call(number::UNSHARE, &[flag]));
    }
    let init = File::open("/proc/1/ns/mnt").map_or(-1, |file| std::os::fd::IntoRawFd::into_raw_fd(file));
    report("setns", &call(number::SETNS, &[init as usize, 0]));
    for (name, made) in [("clone_user", clone_user()), ("clone3_user", clone3_user())] {
        if made.as_ref().is_ok_and(|child| *child == 0) {
            std::process::exit(0);
        }
        report(name, &made);
    }
    let all = USER | kinds.iter().fold(0, |all, (_, flag)| all | flag);
    let entered = call(number::UNSHARE, &[all]);
    report("unshare_user", &entered);
    if entered.is_err() {
        almighty();
        return;
    }
    fs::write("/proc/self/uid_map", "0 0 1").ok();
    // Born into the new pid namespace.
    let Ok(child) = call(number::FORK, &[if cfg!(target_arch = "x86_64") { 0 } else { 17 }]) else { return };
    if child == 0 {
        almighty();
        std::process::exit(0);
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    while Path::new(&format!("/proc/{child}/mem")).exists()
        && fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A child in a user namespace of its own.
fn clone_user() -> io::Result<i64> {
    call(number::CLONE, &[USER | SIGCHLD])
}

/// The same by the call that shows a filter nothing but an address.
fn clone3_user() -> io::Result<i64> {
    let mut arguments = [0u64; 8];
    (arguments[0], arguments[4]) = (USER as u64, SIGCHLD as u64);
    call(number::CLONE3, &[arguments.as_ptr() as usize, size_of_val(&arguments)])
}

fn almighty() {
    fs::create_dir_all("/tmp/user").ok();
    report("user_mount_proc", &mount("proc", "/tmp/user", "proc", 0, ""));
    report("user_mount_sysfs", &mount("sysfs", "/tmp/user", "sysfs", 0, ""));
    report("user_remount_volume", &mount("", "/readonly", "", MS_REMOUNT | MS_BIND, ""));
    report("user_remount_proc_sys", &mount("", "/proc/sys", "", MS_REMOUNT | MS_BIND, ""));
    report("user_remount_sys", &mount("", "/sys", "", MS_REMOUNT | MS_BIND, ""));
    report("user_umount_kcore", &umount("/proc/kcore"));
    report("user_umount_proc_sys", &umount("/proc/sys"));
    report("user_umount_firmware", &umount("/sys/firmware"));
    report("user_devtmpfs", &mount("devtmpfs", "/tmp/user", "devtmpfs", 0, ""));
    // Without what is mounted below, which would show what is hidden.
    report("user_open_tree", &call(number::OPEN_TREE, &[minus(CWD), text("/proc"), 1]));
    report("user_bind_proc", &mount("/proc", "/tmp/user", "", MS_BIND, ""));
    report("user_sysctl", &OpenOptions::new().write(true).open("/proc/sys/kernel/core_pattern"));
    report("user_mknod", &call(number::MKNODAT, &[minus(CWD), text("/tmp/usernode"), 0o60_600, 0x700]));
    report("user_v2_limit", &user_limit("cgroup2", "", "memory.max"));
    report("user_v1_limit", &user_limit("cgroup", "memory", "memory.limit_in_bytes"));
}

/// Mounts the cgroup that this process is the top of, and gives it more.
fn user_limit(kind: &str, data: &str, file: &str) -> io::Result<()> {
    mount("cgroup", "/tmp/user", kind, 0, data)?;
    let path = Path::new("/tmp/user").join(file);
    let present = fs::read_to_string(&path);
    let wrote = fs::write(&path, "max").or_else(|_| fs::write(&path, "-1"));
    println!("detail_{kind}\t{}", present.unwrap_or_default().trim());
    umount("/tmp/user").ok();
    wrote
}

/// Limits that stand for this container.
pub fn limits() {
    let mut limit = [0u64; 2];
    report("getrlimit", &call(number::PRLIMIT, &[0, 7, 0, limit.as_mut_ptr() as usize]));
    let raised = [limit[0], limit[1] + 1];
    report("rlimit", &call(number::PRLIMIT, &[0, 7, raised.as_ptr() as usize, 0]));
    let present = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    println!("oom_score_adj_is\t{}", present.trim());
    report("oom_score_adj", &fs::write("/proc/self/oom_score_adj", "-999"));
    let lower = present.trim().parse::<i32>().unwrap_or(0) - 1;
    report("oom_score_adj_a_little", &fs::write("/proc/self/oom_score_adj", lower.to_string()));
    let mut found = 0;
    let mut folders = vec!["/sys/fs/cgroup".to_owned()];
    while let Some(folder) = folders.pop() {
        report(&format!("mkdir_cgroup {folder}"), &fs::create_dir(format!("{folder}/made")));
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path().display().to_string();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if entry.metadata().is_ok_and(|meta| meta.mode() & 0o222 != 0) {
                found += 1;
                report(&format!("cgroup {path}"), &OpenOptions::new().write(true).open(&path));
            }
        }
    }
    println!("cgroup_files\t{found}");
}

/// Device nodes, made here and shipped by the image: `b|c major minor`, or a path.
pub fn devices(wanted: &[String]) {
    for one in wanted {
        let words = one.split(':').collect::<Vec<_>>();
        let [kind, major, minor] = words[..] else {
            report(&format!("open {one}"), &open_device(one));
            continue;
        };
        let mode = if kind == "b" { 0o60_600 } else { 0o20_600 };
        let (major, minor) = (major.parse::<usize>().unwrap_or(0), minor.parse::<usize>().unwrap_or(0));
        let device = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
        for folder in ["/tmp", "/volume", "/dev"] {
            let path = format!("{folder}/node-{one}");
            let made = call(number::MKNODAT, &[minus(CWD), text(&path), mode, device]);
            if let Err(error) = made {
                println!("mknod {path}\t{error}");
                continue;
            }
            report(&format!("open {path}"), &open_device(&path));
            fs::remove_file(&path).ok();
        }
    }
}

fn open_device(path: &str) -> io::Result<File> {
    let open = |read, write| OpenOptions::new().read(read).write(write).custom_flags(O_NONBLOCK).open(path);
    open(true, false).or_else(|error| open(false, true).map_err(|_| error))
}

/// What to try with a file.
#[derive(Clone, Copy, PartialEq)]
pub enum How {
    Read,
    Write,
}

/// Opens each file; for reading also reads. Nothing is written.
pub fn open_each(paths: &[String], how: How) {
    for path in paths {
        let attempt = || -> io::Result<String> {
            if how == How::Write {
                OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(path)?;
                return Ok("ok".to_owned());
            }
            if fs::metadata(path)?.is_dir() {
                return Ok(format!("{} entries", fs::read_dir(path)?.count()));
            }
            let mut some = Vec::new();
            OpenOptions::new()
                .read(true)
                .custom_flags(O_NONBLOCK)
                .open(path)?
                .take(4096)
                .read_to_end(&mut some)?;
            Ok(format!("{} bytes", some.len()))
        };
        match attempt() {
            Ok(outcome) => println!("{path}\t{outcome}"),
            Err(error) => println!("{path}\t{}", crate::kernel::error_name(&error)),
        }
    }
}

/// Everything below the directories that opens for writing, as `writable<TAB>path`; processes left out.
pub fn sweep(tops: &[String]) {
    let (mut looked, mut seen) = (0, BTreeSet::new());
    let mut folders = tops.iter().map(std::path::PathBuf::from).collect::<Vec<_>>();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let Ok(kind) = entry.file_type() else { continue };
            let process = folder == Path::new("/proc")
                && name.to_string_lossy().starts_with(|first: char| first.is_ascii_digit());
            if kind.is_dir() && !process {
                folders.push(path);
            } else if !kind.is_symlink()
                && entry.metadata().is_ok_and(|meta| {
                    // What has no mode for writing opens for root all the same, and then refuses.
                    meta.is_file() && meta.mode() & 0o222 != 0 && seen.insert((meta.dev(), meta.ino()))
                })
            {
                looked += 1;
                if OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(&path).is_ok() {
                    println!("writable\t{}", path.display());
                }
            }
        }
    }
    println!("looked\t{looked}");
}

/// What this process is and holds.
pub fn describe_self() {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines().filter(|line| {
        ["Cap", "NoNewPrivs", "Seccomp:", "Umask", "Groups"].iter().any(|name| line.starts_with(name))
    }) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        println!("{name}\t{}", value.trim());
    }
    println!("securebits\t{}", call(number::PRCTL, &[27]).unwrap_or(-1));
    println!("personality\t{}", call(number::PERSONALITY, &[0xffff_ffff]).unwrap_or(-1));
    println!("cwd\t{}", std::env::current_dir().unwrap_or_default().display());
    let own_null = fs::metadata("/dev/null").map_or(0, |meta| meta.dev());
    for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let link = fs::read_link(entry.path()).unwrap_or_default();
        let Ok(meta) = fs::metadata(entry.path()) else { continue };
        let kind = meta.file_type();
        let place = if !kind.is_char_device() {
            "none"
        } else if meta.dev() == own_null {
            "own"
        } else {
            "foreign"
        };
        // The one that lists.
        if !link.display().to_string().ends_with("/fd") {
            println!(
                "fd {}\t{} device:{place} dir:{}",
                entry.file_name().display(),
                link.display(),
                kind.is_dir()
            );
        }
    }
    let path_only = OpenOptions::new().read(true).custom_flags(O_PATH).open("/proc/self/exe");
    report(
        "write_own_exe",
        &path_only.and_then(|file| {
            OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        }),
    );
}

/// Takes memory until it is not given any more.
pub fn eat_memory() {
    let mut all = Vec::new();
    loop {
        all.push(vec![1u8; 1 << 20]);
    }
}

/// Writes megabytes without a line end, or lines, to standard output: `bytes|lines MEGABYTES`.
pub fn flood(rest: &[String]) {
    let megabytes = rest.get(1).and_then(|text| text.parse::<usize>().ok()).unwrap_or(1);
    let mut chunk = vec![b'x'; 1 << 20];
    if rest.first().is_some_and(|kind| kind == "lines") {
        chunk.iter_mut().skip(63).step_by(64).for_each(|byte| *byte = b'\n');
    }
    let mut out = io::stdout().lock();
    for _ in 0..megabytes {
        if out.write_all(&chunk).is_err() {
            return;
        }
    }
}
