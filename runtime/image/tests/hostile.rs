//! Pulls from a server that misbehaves, breaks off, stalls, or wants tokens.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pintle_image::{Auth, Error, PullOptions};
use support::server::{Request, Server, answer, head};
use support::{Compression, Layout, TestStore, digest, tar};

fn image() -> (Layout, serde_json::Value, String) {
    let mut layout = Layout::new();
    let layer = tar(&[("file", Some(&"text ".repeat(100_000)))]);
    let manifest = layout.image("a:1", &[(layer.clone(), Compression::None)], None);
    (layout, manifest, digest(&layer))
}

async fn until(condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited too long");
}

#[tokio::test]
async fn a_bearer_token_is_fetched_with_the_password_and_the_password_goes_nowhere_else() {
    let (layout, manifest, _) = image();
    let own = Arc::new(Mutex::new(String::new()));
    let address = Arc::clone(&own);
    let server = Server::of_image(&layout, &manifest, move |request, stream| {
        if request.path.starts_with("/token") {
            // ann:secret
            let right = request.authorization == "Basic YW5uOnNlY3JldA==";
            let scoped = request.path.contains("repository%3Aa%3Apull");
            let status = if right && scoped { "200 OK" } else { "401 Unauthorized" };
            return Some(answer(stream, status, br#"{"token":"t0k"}"#));
        }
        (request.authorization != "Bearer t0k").then(|| {
            let realm = format!("http://{}/token", address.lock().unwrap());
            write!(
                stream,
                "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\
                 WWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\"\r\n\r\n"
            )
        })
    });
    own.lock().unwrap().clone_from(&server.address);
    let test = TestStore::new();
    let with = |password: &str| PullOptions {
        auth: Some(Auth::Basic { username: "ann".into(), password: password.into() }),
        ..PullOptions::default()
    };
    let error = test.store.pull(&server.name("a:1"), with("wrong")).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    server.requests.lock().unwrap().clear();
    test.store.pull(&server.name("a:1"), with("secret")).await.unwrap();
    for request in server.requests.lock().unwrap().iter() {
        assert!(
            request.path.starts_with("/token") || !request.authorization.starts_with("Basic"),
            "{request:?}"
        );
    }
}

#[tokio::test]
async fn an_endless_manifest_is_refused_early() {
    let sent = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&sent);
    let server = Server::start(Arc::new(move |request, stream| {
        if request.path == "/v2/" {
            return answer(stream, "200 OK", b"{}");
        }
        head(stream, "200 OK", u64::MAX / 2)?;
        loop {
            stream.write_all(&[b' '; 1 << 20])?;
            counter.fetch_add(1, Ordering::SeqCst);
        }
    }));
    let test = TestStore::new();
    let error = test.store.pull(&server.name("a:1"), PullOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }) && !error.is_retryable(), "{error:?}");
    assert!(sent.load(Ordering::SeqCst) < 40);
    test.assert_empty();
}

#[tokio::test]
async fn a_manifest_with_another_digest_than_asked_for_is_refused() {
    let (layout, manifest, layer) = image();
    let server = Server::of_image(&layout, &manifest, |_, _| None);
    let test = TestStore::new();
    // The server answers a digest with the blob of that digest, and a layer is no manifest.
    let error =
        test.store.pull(&server.name(&format!("a@{layer}")), PullOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. } | Error::TooLarge { .. }), "{error:?}");
    let body = serde_json::json!({"schemaVersion": 2, "manifests": []}).to_string();
    let other = Server::start(Arc::new(move |_, stream| answer(stream, "200 OK", body.as_bytes())));
    let name = other.name(&format!("a@{}", digest(b"wanted")));
    let error = test.store.pull(&name, PullOptions::default()).await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt { reason, .. } if reason.contains("digest")), "{error:?}");
    test.assert_empty();
}

#[tokio::test]
async fn a_layer_whose_connection_breaks_is_fetched_again() {
    let (layout, manifest, layer) = image();
    let (broken, blobs) = (AtomicBool::new(false), layout.dir.path().join("blobs/sha256"));
    let name = layer.clone();
    let server = Server::of_image(&layout, &manifest, move |request, stream| {
        let first = request.path.ends_with(&name) && !broken.swap(true, Ordering::SeqCst);
        first.then(|| {
            let bytes = std::fs::read(blobs.join(&name[7..])).unwrap();
            head(stream, "200 OK", bytes.len() as u64)?;
            stream.write_all(&bytes[..bytes.len() / 2])
        })
    });
    // Any request may be the first; what breaks is the layer's first answer.
    let test = TestStore::new();
    let image = test.store.pull(&server.name("a:1"), PullOptions::default()).await.unwrap();
    assert_eq!(image.chain_ids, [layer]);
    assert_eq!((test.names("images/ingest").len(), test.names("layers").len()), (0, 1));
}

#[tokio::test]
async fn a_pull_that_is_given_up_leaves_nothing_and_blocks_nobody() {
    let (layout, manifest, layer) = image();
    let (stalls, name) = (Arc::new(AtomicBool::new(true)), layer);
    let stalling = Arc::clone(&stalls);
    let blobs = layout.dir.path().join("blobs/sha256");
    let server = Server::of_image(&layout, &manifest, move |request, stream| {
        (request.path.ends_with(&name) && stalling.load(Ordering::SeqCst)).then(|| {
            let bytes = std::fs::read(blobs.join(&name[7..])).unwrap();
            head(stream, "200 OK", bytes.len() as u64)?;
            stream.write_all(&bytes[..700])?;
            while stalling.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        })
    });
    let test = TestStore::new();
    let (reference, store) = (server.name("a:1"), test.store.clone());
    let pull = tokio::spawn(async move { store.pull(&reference, PullOptions::default()).await });
    until(|| !test.names("layers").is_empty()).await;
    pull.abort();
    assert!(pull.await.unwrap_err().is_cancelled());
    until(|| test.names("layers").is_empty() && test.names("images/ingest").is_empty()).await;
    stalls.store(false, Ordering::SeqCst);
    let image = test.store.pull(&server.name("a:1"), PullOptions::default()).await.unwrap();
    test.store.remove(&image.id).unwrap();
    test.assert_empty();
}

#[tokio::test]
async fn a_registry_that_hangs_keeps_only_its_own_images_waiting() {
    let mut many = Layout::new();
    let layers: Vec<_> =
        (0..12).map(|i| (tar(&[("file", Some(&format!("layer {i}")))]), Compression::None)).collect();
    let names: Vec<_> = layers.iter().map(|(layer, _)| digest(layer)).collect();
    let manifest = many.image("b:1", &layers, None);
    let hangs = Server::of_image(&many, &manifest, move |request, stream| {
        let is_layer = names.iter().any(|name| request.path.ends_with(name));
        // Until the client goes.
        is_layer.then(|| stream.read(&mut [0]).map(drop))
    });
    let (layout, manifest, _) = image();
    let answers = Server::of_image(&layout, &manifest, |_, _| None);
    let test = TestStore::new();
    let (reference, store) = (hangs.name("b:1"), test.store.clone());
    let hung = tokio::spawn(async move { store.pull(&reference, PullOptions::default()).await });
    let blobs =
        || hangs.requests.lock().unwrap().iter().filter(|request| request.path.contains("/blobs/")).count();
    // The configuration, and as many layers of one image as may be under way.
    until(|| blobs() > 4).await;
    let reference = answers.name("a:1");
    let pull = test.store.pull(&reference, PullOptions::default());
    tokio::time::timeout(Duration::from_secs(20), pull).await.unwrap().unwrap();
    hung.abort();
    assert!(hung.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn a_large_layer_passes_through_without_being_held_in_memory() {
    let block = tar(&[("big", Some(&"0123456789abcdef".repeat(64 << 10)))]);
    let body = &block[..block.len() - 1024];
    let mut large = Vec::new();
    for _ in 0..200 {
        large.extend_from_slice(body);
    }
    large.extend_from_slice(&[0; 1024]);
    let mut layout = Layout::new();
    let manifest = layout.image("a:1", &[(large, Compression::None)], None);
    let blobs = layout.dir.path().join("blobs/sha256");
    let server = Server::of_image(&layout, &manifest, move |request, stream| {
        let (_, digest) = request.path.rsplit_once("sha256:")?;
        let mut file = std::fs::File::open(blobs.join(digest)).ok()?;
        let length = file.metadata().ok()?.len();
        Some(head(stream, "200 OK", length).and_then(|()| std::io::copy(&mut file, stream).map(drop)))
    });
    let test = TestStore::new();
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    // Forget the peak from building the image.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = resident();
    test.store.pull(&server.name("a:1"), PullOptions::default()).await.unwrap();
    let grown = resident() - before;
    assert!(grown < 48 << 10, "pulling 200 MiB took {grown} KiB more memory");
}

/// Sends a head that promises `length` bytes (none: until the end), and a megabyte of spaces after the other.
fn endless(stream: &mut TcpStream, status: &str, headers: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n")?;
    loop {
        stream.write_all(&[b' '; 1 << 20])?;
    }
}

fn challenge(stream: &mut TcpStream, value: &str) -> std::io::Result<()> {
    let head = "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n";
    write!(stream, "{head}WWW-Authenticate: {value}\r\n\r\n")
}

type Answer = fn(&Request, &mut TcpStream, &str) -> Option<std::io::Result<()>>;

/// What the server does to whom it concerns, and what the error says in all.
const MISBEHAVIOUR: [(&str, Answer, &str); 11] = [
    (
        "a manifest that leads in circles",
        |r, s, _| {
            r.path.contains("/manifests/").then(|| {
                let head = "HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: 0\r\n";
                write!(s, "{head}Location: {}\r\n\r\n", r.path)
            })
        },
        "redirect",
    ),
    (
        "a blob that leads to the host's files",
        |r, s, _| {
            r.path.contains("/blobs/").then(|| {
                let head = "HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: 0\r\n";
                write!(s, "{head}Location: file:///etc/passwd\r\n\r\n")
            })
        },
        "answered 302",
    ),
    ("blobs without end", |r, s, _| r.path.contains("/blobs/").then(|| endless(s, "200 OK", "")), "limit"),
    (
        "blobs that are shorter and say so",
        |r, s, _| r.path.contains("/blobs/").then(|| answer(s, "200 OK", b"{}")),
        "bytes",
    ),
    (
        "errors without end",
        |r, s, _| r.path.contains("/manifests/").then(|| endless(s, "500 No", "")),
        "answered 500",
    ),
    (
        "a page where a manifest should be",
        |r, s, _| r.path.contains("/manifests/").then(|| answer(s, "200 OK", b"<html>welcome</html>")),
        "manifest",
    ),
    (
        "no token is ever good enough",
        |r, s, own| {
            let is_token = r.path.starts_with("/token");
            Some(if is_token {
                answer(s, "200 OK", br#"{"token":"t"}"#)
            } else {
                challenge(s, &format!("Bearer realm=\"http://{own}/token\""))
            })
        },
        "not authorized",
    ),
    (
        "a token without end",
        |r, s, own| {
            Some(if r.path.starts_with("/token") {
                endless(s, "200 OK", "")
            } else {
                challenge(s, &format!("Bearer realm=\"http://{own}/token\""))
            })
        },
        "1048576 bytes",
    ),
    (
        "a token that is none",
        |r, s, own| {
            Some(if r.path.starts_with("/token") {
                answer(s, "200 OK", br#"{"token":{"a":1}}"#)
            } else {
                challenge(s, &format!("Bearer realm=\"http://{own}/token\""))
            })
        },
        "token is malformed",
    ),
    ("a token server that is no address", |_, s, _| Some(challenge(s, "Bearer realm=\"nowhere\"")), "URL"),
    (
        "a challenge of a megabyte",
        |_, s, _| Some(challenge(s, &format!("Bearer realm=\"{}\"", "x".repeat(1 << 20)))),
        "failed",
    ),
];

fn chain(error: &Error) -> String {
    let (mut text, mut source) = (error.to_string(), std::error::Error::source(error));
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[tokio::test]
async fn a_registry_that_misbehaves_is_told_so_after_a_few_requests_and_nothing_stays() {
    let (layout, manifest, _) = image();
    for (what, misbehave, reason) in MISBEHAVIOUR {
        let own = Arc::new(Mutex::new(String::new()));
        let address = Arc::clone(&own);
        let server = Server::of_image(&layout, &manifest, move |request, stream| {
            let own = address.lock().unwrap().clone();
            misbehave(request, stream, &own)
        });
        own.lock().unwrap().clone_from(&server.address);
        let test = TestStore::new();
        let error = test.store.pull(&server.name("a:1"), PullOptions::default()).await.unwrap_err();
        let text = chain(&error);
        assert!(text.contains(reason) && text.len() < 2000, "{what}: {text}");
        let requests = server.requests.lock().unwrap().len();
        assert!(requests < 50, "{what}: {requests} requests");
        // What came before a broken connection is kept for the next try; a lie leaves nothing.
        if !error.is_retryable() {
            test.assert_empty();
        }
    }
}

#[tokio::test]
async fn a_token_that_expires_between_layers_is_replaced() {
    let (layout, manifest, layer) = image();
    let own = Arc::new(Mutex::new(String::new()));
    let (address, given) = (Arc::clone(&own), AtomicU32::new(0));
    let server = Server::of_image(&layout, &manifest, move |request, stream| {
        if request.path.starts_with("/token") {
            let n = given.fetch_add(1, Ordering::SeqCst) + 1;
            return Some(answer(stream, "200 OK", format!("{{\"access_token\":\"t{n}\"}}").as_bytes()));
        }
        let wanted = if request.path.ends_with(&layer) { "Bearer t2" } else { "Bearer t1" };
        let realm = format!("Bearer realm=\"http://{}/token\"", address.lock().unwrap());
        (request.authorization != wanted).then(|| challenge(stream, &realm))
    });
    own.lock().unwrap().clone_from(&server.address);
    let test = TestStore::new();
    test.store.pull(&server.name("a:1"), PullOptions::default()).await.unwrap();
}

#[tokio::test]
async fn a_layer_that_hangs_at_one_registry_comes_from_another() {
    let (layout, manifest, layer) = image();
    let hangs = Server::of_image(&layout, &manifest, move |request, stream| {
        // Until the client goes.
        request.path.ends_with(&layer).then(|| stream.read(&mut [0]).map(drop))
    });
    let answers = Server::of_image(&layout, &manifest, |_, _| None);
    let test = TestStore::new();
    let (reference, store) = (hangs.name("a:1"), test.store.clone());
    let hung = tokio::spawn(async move { store.pull(&reference, PullOptions::default()).await });
    until(|| hangs.requests.lock().unwrap().iter().filter(|r| r.path.contains("/blobs/")).count() > 1).await;
    let reference = answers.name("a:1");
    let pull = test.store.pull(&reference, PullOptions::default());
    tokio::time::timeout(Duration::from_secs(40), pull).await.unwrap().unwrap();
    hung.abort();
    assert!(hung.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn a_first_pull_that_fails_does_not_fail_a_second_that_waits_for_its_layer() {
    let (layout, manifest, layer) = image();
    let (both, lied) = (Arc::new(AtomicU32::new(0)), AtomicBool::new(false));
    let asked = Arc::clone(&both);
    let server = Server::of_image(&layout, &manifest, move |request, stream| {
        if request.path.contains("/manifests/") {
            asked.fetch_add(1, Ordering::SeqCst);
        }
        (request.path.ends_with(&layer) && !lied.swap(true, Ordering::SeqCst)).then(|| {
            while asked.load(Ordering::SeqCst) < 2 {
                std::thread::sleep(Duration::from_millis(10));
            }
            answer(stream, "200 OK", b"a lie")
        })
    });
    let test = TestStore::new();
    let name = server.name("a:1");
    let (first, second) = tokio::join!(
        test.store.pull(&name, PullOptions::default()),
        test.store.pull(&name, PullOptions::default())
    );
    let failed = [&first, &second].into_iter().filter(|result| result.is_err()).count();
    assert_eq!(failed, 1, "{first:?} {second:?}");
    test.store.pull(&name, PullOptions::default()).await.unwrap();
}
