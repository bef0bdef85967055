//! Attempts against other processes: neighbours, the supervisor, keys and sockets.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::kernel::{call, error_name, minus, number, report, text};

const SESSION: isize = 3;
const USER: isize = 4;

fn search(keyring: isize, name: &str) -> io::Result<i64> {
    call(number::KEYCTL, &[10, minus(keyring), text("user"), text(name), 0])
}

fn add(keyring: isize, name: &str) -> io::Result<i64> {
    call(number::ADD_KEY, &[text("user"), text(name), text("secret"), 6, minus(keyring)])
}

/// `add NAME`: to the session's keyring; `find NAME [SERIAL]`: there, and by its number.
pub fn keys(rest: &[String]) {
    let name = rest.get(1).map_or("", String::as_str);
    if rest.first().is_some_and(|what| what == "add") {
        match add(SESSION, name) {
            Ok(serial) => println!("serial\t{serial}"),
            Err(error) => println!("serial\t{}", error_name(&error)),
        }
        report("info_add_to_user", &add(USER, name));
        return;
    }
    report("search_session", &search(SESSION, name));
    report("info_search_user", &search(USER, name));
    if let Some(serial) = rest.get(2).and_then(|text| text.parse::<usize>().ok()) {
        let mut buffer = [0u8; 16];
        report("read_by_serial", &call(number::KEYCTL, &[11, serial, buffer.as_mut_ptr() as usize, 16]));
    }
}

/// Runs a program in a new session keyring that holds a key: `NAME PROGRAM ARGUMENT…`.
pub fn with_key(rest: &[String]) {
    let [name, program, arguments @ ..] = rest else { return };
    if call(number::KEYCTL, &[1, 0]).and_then(|_| add(SESSION, name)).is_err() {
        eprintln!("no keys here");
    }
    let error = Command::new(program).args(arguments).exec();
    eprintln!("{program}: {error}");
    std::process::exit(126);
}

/// Processes that must be out of reach, by the pids that the host knows them by.
pub fn processes(pids: &[String]) {
    for pid in pids {
        let Ok(target) = pid.parse::<usize>() else { continue };
        report(&format!("kill {pid}"), &call(number::KILL, &[target, 0]));
        report(&format!("pidfd_open {pid}"), &call(number::PIDFD_OPEN, &[target, 0]));
        // PTRACE_SEIZE.
        report(&format!("ptrace {pid}"), &call(number::PTRACE, &[0x4206, target, 0, 0]));
        let mut buffer = [0u8; 8];
        let vector = [buffer.as_mut_ptr() as usize, 8];
        let read = [target, vector.as_ptr() as usize, 1, vector.as_ptr() as usize, 1, 0];
        report(&format!("process_vm_readv {pid}"), &call(number::PROCESS_VM_READV, &read));
        report(&format!("proc {pid}"), &fs::metadata(format!("/proc/{pid}")));
    }
    let seen = fs::read_dir("/proc").into_iter().flatten().flatten();
    for entry in
        seen.filter(|entry| entry.file_name().to_string_lossy().starts_with(|c: char| c.is_ascii_digit()))
    {
        let pid = entry.file_name().display().to_string();
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        println!("sees {}\t{pid}", comm.trim());
        if pid == "1" {
            report("root_of_1", &fs::read_dir(entry.path().join("root")));
            report("write_root_of_1", &File::create(entry.path().join("root/made")));
            report("write_exe_of_1", &OpenOptions::new().write(true).open(entry.path().join("exe")));
            let links = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
            for link in links {
                let target = fs::read_link(link.path()).unwrap_or_default();
                println!("fd_of_1 {}\t{}", link.file_name().display(), target.display());
            }
            // PTRACE_ATTACH to init of a shared pid namespace is the pod's own affair; the host's init has another.
            report("kill_1", &call(number::KILL, &[1, 9]));
        }
    }
}

/// For some seconds, looks into every process that appears: whether something of the host can be read through it before
/// it becomes the container's program. Prints what it could open of a process whose executable is not the container's.
pub fn watch(rest: &[String]) {
    let seconds = rest.first().and_then(|text| text.parse().ok()).unwrap_or(1);
    let until = Instant::now() + Duration::from_secs(seconds);
    let own = std::process::id().to_string();
    let (mut looked, mut closed) = (0u64, 0u64);
    println!("watching\tyes");
    while Instant::now() < until {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with(|c: char| c.is_ascii_digit()) || name == own {
                continue;
            }
            looked += 1;
            let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if !comm.starts_with("pintle") {
                continue;
            }
            for what in ["exe", "root", "cwd", "fd/1", "mem", "environ", "maps"] {
                let path = entry.path().join(what);
                let opened = match what {
                    "fd/1" => fs::read_link(&path).map(drop),
                    // Of one that has ended there is nothing left to read.
                    "environ" | "maps" => File::open(&path).and_then(|mut file| {
                        (file.read(&mut [0])? > 0).then_some(()).ok_or(io::ErrorKind::UnexpectedEof.into())
                    }),
                    // On older kernels the memory of one that has ended can be opened, and is empty. At address 0 nothing is
                    // mapped: a living one's gives an error.
                    "mem" => File::open(&path).and_then(|mut file| match file.read(&mut [0]) {
                        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(_) | Err(_) => Ok(()),
                    }),
                    _ => File::open(&path).map(drop),
                };
                // By now it may have become the program, which is the container's own.
                let still = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                match opened {
                    Ok(()) if still == comm => println!("opened {what}\t{name} {}", comm.trim()),
                    Err(error) if error.raw_os_error() == Some(13) => closed += 1,
                    _ => {}
                }
            }
        }
    }
    println!("looked\t{looked}");
    println!("closed\t{closed}");
}

/// The names of unix sockets in this network namespace, abstract ones among them.
pub fn sockets() {
    for line in fs::read_to_string("/proc/net/unix").unwrap_or_default().lines().skip(1) {
        if let Some(name) = line.split_whitespace().nth(7) {
            println!("socket\t{name}");
        }
    }
}

/// Forks children that sleep, until it is stopped or has `MOST`.
pub fn fork_bomb(rest: &[String]) {
    let most = rest.first().and_then(|text| text.parse::<u32>().ok()).unwrap_or(100);
    let mut made = 0;
    while made < most {
        match Command::new("/attacker").args(["watch", "1"]).stdout(std::process::Stdio::null()).spawn() {
            Ok(_) => made += 1,
            Err(error) => {
                println!("fork\t{}", error_name(&error));
                break;
            }
        }
    }
    println!("forked\t{made}");
}
