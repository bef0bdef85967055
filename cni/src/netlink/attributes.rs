//! Netlink attributes as bytes: a writer that nests, and a reader that never panics. Pure.
//!
//! In and out: attribute lists. It knows no attribute's meaning.

const HEADER: usize = 4;
const NESTED: u16 = 1 << 15;
const KIND_MASK: u16 = 0x3fff;

/// Writes a list of attributes.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An attribute with these bytes. A value of 64 KiB or more cannot be told to the kernel and is left out.
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.append(kind, value);
        self
    }

    /// An attribute with a string that ends in NUL.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// An attribute with a number in network byte order.
    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// An attribute that holds a list.
    pub(crate) fn nest(self, kind: u16, list: &Writer) -> Self {
        self.bytes(kind | NESTED, &list.bytes)
    }

    /// An attribute that holds an encoded list.
    pub(crate) fn nested_bytes(self, kind: u16, list: &[u8]) -> Self {
        self.bytes(kind | NESTED, list)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn append(&mut self, kind: u16, value: &[u8]) {
        let Ok(length) = u16::try_from(HEADER + value.len()) else {
            debug_assert!(false, "attribute {kind} of {} bytes", value.len());
            return;
        };
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The value of the first attribute of this kind.
pub(crate) fn find(list: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = list;
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let found = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & KIND_MASK;
        let value = rest.get(HEADER..length)?;
        if found == kind {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// The values of all attributes of this kind; what is cut off ends the list.
pub(crate) fn all(list: &[u8], kind: u16) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut rest = list;
    let number = |at: usize, rest: &[u8]| Some(u16::from_ne_bytes(rest.get(at..at + 2)?.try_into().ok()?));
    while let (Some(length), Some(present)) = (number(0, rest).map(usize::from), number(2, rest)) {
        let Some(value) = rest.get(HEADER..length) else { break };
        if present & KIND_MASK == kind {
            found.push(value);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// A string value without its NUL.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

/// A number in the machine's byte order.
pub(crate) fn u32(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_found_again_nested_or_not() {
        let inner = Writer::default().text(2, "abc").be32(3, 7);
        let list = Writer::default().bytes(9, b"x").nest(4, &inner).finish();
        assert_eq!(list.len() % 4, 0);
        let nested = find(&list, 4).unwrap();
        assert_eq!(text(find(nested, 2).unwrap()), "abc");
        assert_eq!(find(nested, 3).unwrap(), [0, 0, 0, 7]);
        assert_eq!(find(&list, 5), None);
    }

    #[test]
    fn malformed_lists_end_the_search() {
        assert_eq!(find(&[0, 0, 0, 0, 1], 1), None);
        assert_eq!(find(&[3, 0, 1, 0], 1), None);
        assert_eq!(find(&[200, 0, 1, 0, 1, 2], 1), None);
    }
}
