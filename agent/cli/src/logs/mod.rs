//! Container log files in CRI format: reading, the last lines of, following across rotation.
//!
//! In: the path of a log file. Out: its lines, as the container wrote them. Asks no runtime and knows no verbs.

mod file;
mod follow;
mod line;
mod print;
mod since;
mod tail;

pub(crate) use file::LogFile;
pub(crate) use follow::{Follower, Watch, Writer};
pub(crate) use print::{Printer, Stamps};
pub(crate) use since::parse as parse_since;
pub(crate) use tail::start_of_last;

use std::path::{Path, PathBuf};

/// The log of the attempt before the one that writes `path` (`<restart>.log`).
pub(crate) fn previous(path: &Path) -> Option<PathBuf> {
    let restart: u32 = path.file_stem()?.to_str()?.parse().ok()?;
    let before = restart.checked_sub(1)?;
    (path.extension()? == "log").then(|| path.with_file_name(format!("{before}.log")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_previous_log_is_the_one_with_the_number_before() {
        assert_eq!(previous(Path::new("/a/web/2.log")), Some(PathBuf::from("/a/web/1.log")));
        for none in ["/a/web/0.log", "/a/web/out.log", "/a/web/2.txt", "/"] {
            assert_eq!(previous(Path::new(none)), None, "{none}");
        }
    }
}
