//! What a hostile program in a container tries: a static program without any crate, put into images by the escape tests.
//!
//! In: the name of a group of attempts and its arguments. Out: a line `name<TAB>outcome` for each attempt, where the
//! outcome is the error's name (`EPERM`, …), `ok` when it worked, or words. It judges nothing: the tests hold the table of
//! what has to be refused. Every attempt is made so that it does little harm to the host should it succeed.

mod attempts;
mod kernel;
mod peers;

fn main() {
    let arguments = std::env::args().collect::<Vec<_>>();
    let rest = arguments.get(2..).unwrap_or_default();
    match arguments.get(1).map(String::as_str) {
        Some("kernel") => attempts::kernel_calls(),
        Some("mounts") => attempts::mounts(),
        Some("namespaces") => attempts::namespaces(),
        Some("limits") => attempts::limits(),
        Some("devices") => attempts::devices(rest),
        Some("write") => attempts::open_each(rest, attempts::How::Write),
        Some("read") => attempts::open_each(rest, attempts::How::Read),
        Some("sweep") => attempts::sweep(rest),
        Some("self") => attempts::describe_self(),
        Some("keys") => peers::keys(rest),
        Some("with-key") => peers::with_key(rest),
        Some("processes") => peers::processes(rest),
        Some("watch") => peers::watch(rest),
        Some("sockets") => peers::sockets(),
        Some("memory") => attempts::eat_memory(),
        Some("fork") => peers::fork_bomb(rest),
        Some("flood") => attempts::flood(rest),
        _ => {
            eprintln!("attacker: which group?");
            std::process::exit(2);
        }
    }
}
