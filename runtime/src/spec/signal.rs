//! The signal that asks a container to stop.
//!
//! In: CRI's enumeration or an image's text (`SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`). Out: Linux's number.

use pintle_cri_api::v1::Signal;

use super::Error;

/// The number of the usual request to stop.
pub const SIGTERM: i32 = 15;
/// The number of the order to stop.
pub const SIGKILL: i32 = 9;

/// The C library's first real-time signal for programs, as shells and Docker count.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The stop signal: the container's, else the image's, else TERM.
///
/// # Errors
/// When the text or number is no signal.
pub fn stop_signal(wanted: i32, image: &str) -> Result<i32, Error> {
    let signal = Signal::try_from(wanted)
        .map_err(|_| Error::invalid("stop_signal", format!("there is no signal {wanted}")))?;
    if signal != Signal::RuntimeDefault {
        return parse(signal.as_str_name());
    }
    if image.is_empty() { Ok(SIGTERM) } else { parse(image) }
}

/// CRI's name of a signal's number, as a container's status has it.
#[must_use]
pub fn of_number(number: i32) -> Signal {
    let all = (1..).map_while(|value| Signal::try_from(value).ok());
    let mut named = all.filter(|signal| parse(signal.as_str_name()) == Ok(number));
    named.next().unwrap_or(Signal::RuntimeDefault)
}

fn parse(text: &str) -> Result<i32, Error> {
    let unknown = || Error::invalid("stop_signal", format!("there is no signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number).ok_or_else(unknown);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    real_time(name).or_else(|| ordinary(name)).ok_or_else(unknown)
}

/// `RTMIN`, `RTMIN+n`, `RTMINPLUSn`, `RTMAX`, `RTMAX-n`, `RTMAXMINUSn`.
fn real_time(name: &str) -> Option<i32> {
    let offset = |rest: &str, sign: &str, word: &str| {
        let digits = rest.strip_prefix(sign).or_else(|| rest.strip_prefix(word));
        if rest.is_empty() { Some(0) } else { digits.and_then(|d| d.parse::<i32>().ok()) }
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        RTMIN.checked_add(offset(rest, "+", "PLUS")?)?
    } else {
        RTMAX.checked_sub(offset(name.strip_prefix("RTMAX")?, "-", "MINUS")?)?
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

fn ordinary(name: &str) -> Option<i32> {
    Some(match name {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ILL" => 4,
        "TRAP" => 5,
        "ABRT" | "IOT" => 6,
        "BUS" => 7,
        "FPE" => 8,
        "KILL" => 9,
        "USR1" => 10,
        "SEGV" => 11,
        "USR2" => 12,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => 15,
        "STKFLT" => 16,
        "CHLD" | "CLD" => 17,
        "CONT" => 18,
        "STOP" => 19,
        "TSTP" => 20,
        "TTIN" => 21,
        "TTOU" => 22,
        "URG" => 23,
        "XCPU" => 24,
        "XFSZ" => 25,
        "VTALRM" => 26,
        "PROF" => 27,
        "WINCH" => 28,
        "IO" | "POLL" => 29,
        "PWR" => 30,
        "SYS" => 31,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_goes_before_the_image_and_the_image_before_term() {
        assert_eq!(stop_signal(0, "").unwrap(), SIGTERM);
        assert_eq!(stop_signal(0, "SIGQUIT").unwrap(), 3);
        assert_eq!(stop_signal(Signal::Sigusr1 as i32, "SIGQUIT").unwrap(), 10);
    }

    #[test]
    fn names_numbers_and_real_time_signals_are_understood() {
        for (text, number) in
            [("INT", 2), ("sigint", 2), ("9", 9), ("SIGRTMIN", 34), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)]
        {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["", "0", "65", "SIGFOO", "RTMIN+99"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_signal_of_cri_has_a_number() {
        for value in 1..=65 {
            let number = stop_signal(value, "").unwrap();
            let signal = of_number(number);
            assert_eq!(stop_signal(signal.into(), "").unwrap(), number, "{signal:?}");
        }
        assert_eq!(of_number(SIGTERM), Signal::Sigterm);
        assert_eq!(of_number(0), Signal::RuntimeDefault);
        assert!(stop_signal(66, "").is_err());
    }
}
