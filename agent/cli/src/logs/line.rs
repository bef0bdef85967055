//! One line of a CRI log file: `<RFC 3339 time> <stdout|stderr> <P|F> <text>`.
//!
//! In: a line without its newline. Out: its parts, borrowed; nothing when it is not in that format.

/// Where the container wrote a line to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Whether the container's line ends here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// `P`: more of the same line follows.
    Partial,
    /// `F`: the end of the line.
    Full,
}

/// A parsed line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogLine<'a> {
    pub(crate) time: &'a str,
    pub(crate) stream: Stream,
    pub(crate) part: Part,
    pub(crate) text: &'a [u8],
}

/// Takes a line apart.
pub(crate) fn parse(line: &[u8]) -> Option<LogLine<'_>> {
    let mut fields = line.splitn(4, |&byte| byte == b' ');
    let time = std::str::from_utf8(fields.next()?).ok().filter(|time| time.contains('T'))?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // More tags may follow the first one, after a colon.
    let part = match fields.next()?.split(|&byte| byte == b':').next()? {
        b"P" => Part::Partial,
        b"F" => Part::Full,
        _ => return None,
    };
    Some(LogLine { time, stream, part, text: fields.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_time_stream_tag_and_text() {
        let line = parse(b"2026-01-02T03:04:05.6Z stderr P a  b ").unwrap();
        assert_eq!(line.time, "2026-01-02T03:04:05.6Z");
        assert_eq!((line.stream, line.part, line.text), (Stream::Stderr, Part::Partial, &b"a  b "[..]));
    }

    #[test]
    fn an_empty_line_and_further_tags_are_fine() {
        assert_eq!(parse(b"2026-01-02T03:04:05Z stdout F ").unwrap().text, b"");
        assert_eq!(parse(b"2026-01-02T03:04:05Z stdout F").unwrap().text, b"");
        assert_eq!(parse(b"2026-01-02T03:04:05Z stdout P:x a").unwrap().part, Part::Partial);
    }

    #[test]
    fn text_need_not_be_utf8() {
        assert_eq!(parse(b"2026-01-02T03:04:05Z stdout F \xff\x00").unwrap().text, b"\xff\x00");
    }

    #[test]
    fn anything_else_is_not_a_log_line() {
        for line in
            ["", "hello", "2026-01-02T03:04:05Z stdin F a", "2026-01-02T03:04:05Z stdout X a", "x stdout F a"]
        {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }
}
