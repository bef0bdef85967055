//! A case: a rule of the protocol, how it is asked for, and where a runtime is known to differ.
//!
//! In: a check, which fails in words. Out: [`Verdict`]s. A difference is named by a part of those words, so that another
//! failure than the known one is still a failure.

use std::{fmt, future::Future, pin::Pin};

use tonic::{Code, Status};

use crate::run::Run;

/// Which runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `pintle runtime`.
    Pintle,
    /// Debian's containerd 1.6 with runc and the CNI plug-ins.
    Containerd,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pintle => "pintle",
            Self::Containerd => "containerd",
        })
    }
}

/// Why a rule does not hold, in words.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

/// What came of a check.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self(format!("{:?}: {}", status.code(), status.message()))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

type Check = Box<dyn Fn(Run) -> Pin<Box<dyn Future<Output = Outcome>>>>;

/// A rule and how it is checked.
pub struct Case {
    /// What is expected, as a sentence.
    pub name: &'static str,
    /// What the protocol says, in words of our own.
    pub rule: &'static str,
    check: Check,
    differences: Vec<Difference>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy)]
struct Difference {
    of: Kind,
    sign: &'static str,
    why: &'static str,
    always: bool,
}

/// What became of a case.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The rule holds.
    Holds,
    /// It does not, as is known.
    Differs(&'static str),
    /// It does not, which nobody knew; or it holds and is noted as a difference.
    Wrong(String),
}

/// A case.
pub(crate) fn case<F, R>(name: &'static str, rule: &'static str, check: F) -> Case
where
    F: Fn(Run) -> R + 'static,
    R: Future<Output = Outcome> + 'static,
{
    Case { name, rule, check: Box::new(move |run| Box::pin(check(run))), differences: Vec::new() }
}

impl Case {
    /// containerd 1.6 fails with words that hold `sign`; `why` says who is right.
    pub(crate) fn containerd(self, sign: &'static str, why: &'static str) -> Self {
        self.differs(Difference { of: Kind::Containerd, sign, why, always: true })
    }

    /// The same of a difference that depends on chance.
    pub(crate) fn containerd_at_times(self, sign: &'static str, why: &'static str) -> Self {
        self.differs(Difference { of: Kind::Containerd, sign, why, always: false })
    }

    /// Pintle does not do it yet.
    pub(crate) fn not_yet(self) -> Self {
        self.differs(Difference { of: Kind::Pintle, sign: "", why: "not yet", always: false })
    }

    fn differs(mut self, difference: Difference) -> Self {
        self.differences.push(difference);
        self
    }

    /// Asks it of a runtime.
    pub(crate) async fn ask(&self, run: Run, kind: Kind) -> Verdict {
        let outcome = (self.check)(run).await;
        let known = self.differences.iter().find(|difference| difference.of == kind);
        match (outcome, known) {
            (Ok(()), None) => Verdict::Holds,
            (Ok(()), Some(known)) if !known.always => Verdict::Holds,
            (Ok(()), Some(known)) => {
                Verdict::Wrong(format!("it holds, and is noted as a difference: {}", known.why))
            }
            (Err(failure), Some(known)) if failure.0.contains(known.sign) => Verdict::Differs(known.why),
            (Err(failure), Some(known)) => {
                Verdict::Wrong(format!("{} (known is {:?}: {})", failure.0, known.sign, known.why))
            }
            (Err(failure), None) => Verdict::Wrong(failure.0),
        }
    }
}

/// Checks that a call was refused with one of these codes; gives its words.
pub(crate) fn refused<T: fmt::Debug>(result: Result<T, Status>, codes: &[Code]) -> Outcome<String> {
    match result {
        Ok(answer) => {
            Err(Failure(format!("it was not refused, which {codes:?} should have been: {answer:?}")))
        }
        Err(status) if codes.contains(&status.code()) => Ok(status.message().to_owned()),
        Err(status) => {
            Err(Failure(format!("{:?} instead of {codes:?}: {}", status.code(), status.message())))
        }
    }
}

/// Checks that a call was refused, with whatever code but those that say that the call is unknown or nobody answers.
pub(crate) fn fails<T: fmt::Debug>(result: Result<T, Status>) -> Outcome<String> {
    match result {
        Ok(answer) => Err(Failure(format!("it was not refused: {answer:?}"))),
        Err(status) if [Code::Unimplemented, Code::Unavailable].contains(&status.code()) => {
            Err(status.into())
        }
        Err(status) => Ok(status.message().to_owned()),
    }
}

/// Checks that two things are the same.
#[expect(
    clippy::needless_pass_by_value,
    reason = "what is compared is needed no more, and reads best without borrows"
)]
pub(crate) fn same<T: PartialEq<U> + fmt::Debug, U: fmt::Debug>(what: &str, found: T, wanted: U) -> Outcome {
    if found == wanted { Ok(()) } else { Err(Failure(format!("{what} is {found:?} and not {wanted:?}"))) }
}

/// Fails with words unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err($crate::case::Failure(format!($($words)+)));
        }
    };
}
pub(crate) use ensure;
