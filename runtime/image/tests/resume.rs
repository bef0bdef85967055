//! Pulls from a server that cuts its connections: what arrived is not fetched again.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pintle_image::{Error, PullOptions};
use support::server::{Request, Server, answer, head};
use support::{Compression, Layout, TestStore, digest, tar};

/// An image of one layer of some 600 kB that compression leaves as they are.
fn image() -> (Layout, serde_json::Value, String) {
    let mut layout = Layout::new();
    let mut state = 1_u64;
    let noise: String = (0..600_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b' ' + u8::try_from((state >> 33) % 90).unwrap())
        })
        .collect();
    let layer = tar(&[("file", Some(&noise))]);
    let manifest = layout.image("a:1", &[(layer.clone(), Compression::None)], None);
    (layout, manifest, digest(&layer))
}

/// What the server does with the layer: how many bytes it sends before it cuts, and whether it knows ranges.
struct Flaky {
    cut_after: usize,
    ranges: bool,
    /// Answers that are cut.
    cuts: usize,
}

/// The offsets from which the layer was sent.
type Offsets = Arc<Mutex<Vec<usize>>>;

fn flaky(
    layout: &Layout,
    manifest: &serde_json::Value,
    layer: &str,
    how: &'static Flaky,
) -> (Server, Offsets) {
    let offsets = Offsets::default();
    let (log, name) = (Arc::clone(&offsets), layer.to_owned());
    let bytes = std::fs::read(layout.dir.path().join("blobs/sha256").join(&layer[7..])).unwrap();
    let serve = move |request: &Request, stream: &mut std::net::TcpStream| {
        let from = if how.ranges { request.from } else { 0 };
        let n = {
            let mut log = log.lock().unwrap();
            log.push(request.from);
            log.len()
        };
        let rest = &bytes[from..];
        if from > 0 {
            let range = format!("Content-Range: bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            write!(
                stream,
                "HTTP/1.1 206 Partial Content\r\nConnection: close\r\n{range}\r\nContent-Length: {}\r\n\r\n",
                rest.len()
            )?;
        } else {
            head(stream, "200 OK", rest.len() as u64)?;
        }
        let end = if n <= how.cuts { rest.len().min(how.cut_after) } else { rest.len() };
        stream.write_all(&rest[..end])
    };
    let server = Server::of_image(layout, manifest, move |request, stream| {
        request.path.ends_with(&name).then(|| serve(request, stream))
    });
    (server, offsets)
}

#[tokio::test]
async fn a_layer_that_breaks_off_goes_on_where_it_broke() {
    let (layout, manifest, layer) = image();
    const HOW: Flaky = Flaky { cut_after: 200_000, ranges: true, cuts: 2 };
    let (server, offsets) = flaky(&layout, &manifest, &layer, &HOW);
    let test = TestStore::new();
    let image = test.store.pull(&server.name("a:1"), PullOptions::default()).await.unwrap();
    assert_eq!(image.chain_ids, [layer]);
    let offsets = offsets.lock().unwrap().clone();
    assert!(offsets.len() == 3 && offsets[0] == 0, "{offsets:?}");
    // A cut may cost what was still on its way.
    assert!(
        offsets.is_sorted() && offsets[1] > 0 && offsets[2] > offsets[1] && offsets[2] <= 400_000,
        "{offsets:?}"
    );
}

#[tokio::test]
async fn a_server_that_knows_no_ranges_is_asked_again_and_what_is_here_is_passed_over() {
    let (layout, manifest, layer) = image();
    const HOW: Flaky = Flaky { cut_after: 200_000, ranges: false, cuts: 2 };
    let (server, offsets) = flaky(&layout, &manifest, &layer, &HOW);
    let test = TestStore::new();
    let image = test.store.pull(&server.name("a:1"), PullOptions::default()).await.unwrap();
    assert_eq!((image.chain_ids, offsets.lock().unwrap().len()), (vec![layer], 3));
}

#[tokio::test]
async fn a_layer_that_never_gets_on_is_given_up_and_one_of_two_kinds_is_refused() {
    let (layout, manifest, layer) = image();
    const HOW: Flaky = Flaky { cut_after: 1000, ranges: true, cuts: usize::MAX };
    let (server, offsets) = flaky(&layout, &manifest, &layer, &HOW);
    let test = TestStore::new();
    let error = test.store.pull(&server.name("a:1"), PullOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Network { .. }) && error.is_retryable(), "{error:?}");
    assert!(offsets.lock().unwrap().len() < 10);
    assert!(test.names("layers").is_empty() && test.names("images/ingest").is_empty());

    // Another server goes on with other bytes.
    let name = layer.clone();
    let server = Server::of_image(&layout, &manifest, move |request, stream| {
        request.path.ends_with(&name).then(|| {
            if request.from == 0 {
                head(stream, "200 OK", 602_112)?;
                return stream.write_all(&[b'x'; 100_000]);
            }
            let range = format!("Content-Range: bytes {}-602111/602112", request.from);
            let length = 602_112 - request.from;
            let status = format!("206 Partial Content\r\n{range}");
            head(stream, &status, length as u64)?;
            stream.write_all(&vec![b'y'; length])
        })
    });
    let error = test.store.pull(&server.name("a:1"), PullOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. } | Error::TooLarge { .. }), "{error:?}");
    test.assert_empty();
}

#[tokio::test]
async fn a_part_that_was_not_asked_for_is_not_taken() {
    let (layout, manifest, layer) = image();
    let name = layer.clone();
    let server = Server::of_image(&layout, &manifest, move |request, stream| {
        request.path.ends_with(&name).then(|| {
            if request.from == 0 {
                head(stream, "200 OK", 602_112)?;
                return stream.write_all(&[b'x'; 100_000]);
            }
            head(stream, "206 Partial Content\r\nContent-Range: bytes 7-9/602112", 3)?;
            stream.write_all(b"abc")
        })
    });
    let test = TestStore::new();
    let error = test.store.pull(&server.name("a:1"), PullOptions::default()).await.unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(source.contains("another part"), "{error:?}");
}

#[tokio::test]
async fn silence_in_the_middle_of_a_layer_is_an_error_after_the_deadline() {
    let (layout, manifest, layer) = image();
    let name = layer.clone();
    let server = Server::of_image(&layout, &manifest, move |request, stream| {
        request.path.ends_with(&name).then(|| {
            head(stream, "200 OK", 602_112)?;
            stream.write_all(&[b'x'; 1000])?;
            // Until the client goes.
            std::io::Read::read(stream, &mut [0]).map(drop)
        })
    });
    let test = TestStore::new();
    let began = Instant::now();
    let progress_deadline = Some(Duration::from_millis(300));
    let options = PullOptions { progress_deadline, ..PullOptions::default() };
    let error = test.store.pull(&server.name("a:1"), options).await.unwrap_err();
    assert!(matches!(error, Error::Network { .. }), "{error:?}");
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert!(server.requests.lock().unwrap().len() < 20);
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    use pintle_image::Auth;
    let (layout, manifest, _) = image();
    let own = Arc::new(Mutex::new(String::new()));
    let address = Arc::clone(&own);
    let server = Server::of_image(&layout, &manifest, move |request, stream| {
        if request.path == "/token" {
            let status = if request.method == "POST" { "200 OK" } else { "405 No" };
            return Some(answer(stream, status, br#"{"access_token":"t0k","token":"t0k"}"#));
        }
        (request.authorization != "Bearer t0k").then(|| {
            let realm = format!("http://{}/token", address.lock().unwrap());
            let challenge = format!("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"{realm}\"");
            head(stream, &challenge, 0)
        })
    });
    own.lock().unwrap().clone_from(&server.address);
    let test = TestStore::new();
    let auth = Some(Auth::Identity("refresh".into()));
    test.store.pull(&server.name("a:1"), PullOptions { auth, ..PullOptions::default() }).await.unwrap();
}
