//! Lists as streams: the calls whose names begin with Stream, for lists that are too large for one message.
//!
//! In: what is listed. Out: messages of bounded size, then the end; nothing listed: only the end. Each entry is put
//! together when its message is, at the reader's pace, so that a slow reader holds up nobody and costs one message; it
//! sees what was there when it called, each once. A stream that is cut off by the end of serving ends with an error.

use std::{iter::Peekable, pin::Pin};

use futures_util::{Stream, stream};
use prost::Message;
use tonic::Status;

/// Streams of the server: nobody may rely on more.
pub(super) type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The bytes after which a message is full: any entry fits into one, and a client takes messages of 16 MiB.
const FULL: usize = 256 * 1024;

/// The entries in as many messages as they need.
pub(super) fn messages<T, R>(
    entries: impl Iterator<Item = T> + Send + 'static,
    message: fn(Vec<T>) -> R,
) -> Streamed<R>
where
    T: Message + 'static,
    R: 'static,
{
    Box::pin(stream::iter(Messages { entries: entries.peekable(), message }))
}

struct Messages<I: Iterator, R> {
    entries: Peekable<I>,
    message: fn(Vec<I::Item>) -> R,
}

impl<I: Iterator<Item: Message>, R> Iterator for Messages<I, R> {
    type Item = Result<R, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut full = 0;
        let mut entries = Vec::new();
        while let Some(entry) = self.entries.next_if(|entry| {
            full += entry.encoded_len();
            entries.is_empty() || full <= FULL
        }) {
            entries.push(entry);
        }
        (!entries.is_empty()).then(|| Ok((self.message)(entries)))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use pintle_cri_api::v1 as cri;

    use super::*;

    async fn sizes(bytes: Vec<usize>) -> Vec<usize> {
        let entries =
            bytes.into_iter().map(|size| cri::Container { id: "x".repeat(size), ..Default::default() });
        let stream = messages(entries, |containers| cri::StreamContainersResponse { containers });
        stream.map(|message| message.unwrap().containers.len()).collect().await
    }

    #[tokio::test]
    async fn messages_are_full_but_not_more_and_a_large_entry_has_one_of_its_own() {
        assert_eq!(sizes(vec![]).await, [0; 0]);
        assert_eq!(sizes(vec![10; 3]).await, [3]);
        assert_eq!(sizes(vec![FULL / 4; 7]).await, [3, 3, 1]);
        assert_eq!(sizes(vec![10, 2 * FULL, 10, 10]).await, [1, 1, 2]);
    }
}
