//! The verbs that ask Pintle's extension, against a small server that speaks it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly anywhere")]

use std::{path::Path, pin::Pin, sync::Arc};

use clap::Parser;
use pintle_cli::{Cli, CliError, Io, run_to};
use pintle_cri_api::{
    ext::{
        Chunk, Damage, ExplainRequest, ExplainResponse, ExportRequest, ImportEvent, ImportFailure,
        ImportedImage, PodsRequest, PodsResponse, Progress, PullEvent, PullRequest, Verified, VerifyEvent,
        VerifyRequest, agent_server::Agent, images_server::Images, import_event, pull_event, verify_event,
    },
    ext_agent_server, ext_images_server,
};
use tokio::net::UnixListener;
use tokio_stream::{Stream, StreamExt, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

struct Fake;

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Images for Fake {
    type ImportStream = Events<ImportEvent>;
    type PullStream = Events<PullEvent>;
    type ExportStream = Events<Chunk>;
    type VerifyStream = Events<VerifyEvent>;

    async fn import(
        &self,
        request: Request<Streaming<Chunk>>,
    ) -> Result<Response<Self::ImportStream>, Status> {
        let mut chunks = request.into_inner();
        let (mut tag, mut size, mut announced) = (String::new(), 0, 0);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            if let Some(options) = chunk.options {
                (tag, announced) = (options.tag, options.size);
            }
            size += chunk.data.len() as u64;
        }
        let image = ImportedImage { image_id: format!("sha256:{announced}"), repo_tags: vec![tag], size };
        let broken =
            ImportFailure { name: "broken:1".into(), error: format!("layer 3 of {size} bytes is missing") };
        let events = [
            import_event::Event::Progress(Progress { blob: "sha256:aa".into(), ..Progress::default() }),
            import_event::Event::Imported(image),
            import_event::Event::Failed(broken),
        ];
        let events = events.map(|event| Ok(ImportEvent { event: Some(event) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }

    async fn pull(&self, request: Request<PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        let request = request.into_inner();
        let user = request.auth.map(|auth| auth.username).unwrap_or_default();
        if request.image == "secret" && user != "ann" {
            return Err(Status::permission_denied("the registry refuses"));
        }
        let progress =
            Progress { blob: "sha256:aa".into(), total_bytes: 5, done_bytes: 5, ..Progress::default() };
        let events = [
            pull_event::Event::Progress(progress),
            pull_event::Event::ImageRef(format!("sha256:{}", request.image)),
        ];
        let events = events.map(|event| Ok(PullEvent { event: Some(event) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }

    /// An archive is its images' names; one that is called broken ends in the middle.
    async fn export(&self, request: Request<ExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        let chunks = request.into_inner().images.into_iter().map(|name| match name.as_str() {
            "broken" => Err(Status::unknown("blob sha256:aa is corrupt")),
            _ => Ok(Chunk { options: None, data: name.into_bytes().into() }),
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks.collect::<Vec<_>>()))))
    }

    async fn verify(&self, _: Request<VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        let damage = Damage {
            what: "blob sha256:aa".into(),
            reason: "it is missing".into(),
            images: vec!["web:1".into(), "db:1".into()],
        };
        let events = [
            verify_event::Event::Damage(damage),
            verify_event::Event::Verified(Verified { images: 2, blobs: 5, bytes: 1_500_000, layers: 3 }),
        ];
        let events = events.map(|event| Ok(VerifyEvent { event: Some(event) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }
}

#[tonic::async_trait]
impl Agent for Fake {
    async fn explain(&self, _request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        Ok(Response::new(ExplainResponse { json: "{}".into() }))
    }

    async fn pods(&self, request: Request<PodsRequest>) -> Result<Response<PodsResponse>, Status> {
        let namespace = request.into_inner().namespace;
        let pod = serde_json::json!({
            "metadata": {"name": "web", "namespace": namespace},
            "spec": {"containers": [{"name": "a"}]},
            "status": {"phase": "Pending", "containerStatuses": [{
                "name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ContainerCreating"}}}]},
        });
        let items = if namespace == "empty" { Vec::new() } else { vec![pod] };
        let list = serde_json::json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items});
        Ok(Response::new(PodsResponse { json: list.to_string() }))
    }
}

async fn serve(dir: &Path) -> String {
    let socket = dir.join("pintle.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = Server::builder()
        .add_service(ext_images_server(Arc::new(Fake)))
        .add_service(ext_agent_server(Arc::new(Fake)));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    format!("unix://{}", socket.display())
}

async fn pintle(socket: &str, args: &[&str]) -> (String, String, Result<(), CliError>) {
    let cli = Cli::try_parse_from(["pintle", "-r", socket].iter().chain(args)).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut io = Io { out: Box::new(&mut out), err: Box::new(&mut err), terminal: false };
    let result = run_to(cli.command, cli.global, &mut io).await.map(|_| ());
    drop(io);
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), result)
}

#[tokio::test]
async fn an_archive_is_streamed_and_each_image_reported() {
    let dir = tempfile::tempdir().unwrap();
    let socket = serve(dir.path()).await;
    let archive = dir.path().join("a.tar");
    std::fs::write(&archive, vec![7; 700_000]).unwrap();
    let args = ["import", "--tag", "web:1", archive.to_str().unwrap()];
    let (out, _, result) = pintle(&socket, &args).await;
    assert_eq!(out, "Imported web:1 sha256:700000\n");
    let error = result.unwrap_err().to_string();
    assert_eq!(error, "cannot import broken:1: layer 3 of 700000 bytes is missing");
}

#[tokio::test]
async fn a_pull_with_bars_ends_with_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let socket = serve(dir.path()).await;
    let (out, _, result) = pintle(&socket, &["pull", "--progress=always", "busybox"]).await;
    result.unwrap();
    assert_eq!(out, "Image is up to date for sha256:busybox\n");
}

#[tokio::test]
async fn a_refused_pull_points_to_the_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let socket = serve(dir.path()).await;
    let (_, _, result) = pintle(&socket, &["pull", "--progress=always", "secret"]).await;
    let report = result.unwrap_err().report();
    assert!(
        report.starts_with("cannot pull secret: the registry refuses") && report.contains("--creds"),
        "{report}"
    );
    let args = ["pull", "--progress=always", "--creds", "ann:x", "secret"];
    pintle(&socket, &args).await.2.unwrap();
}

#[tokio::test]
async fn pods_are_listed_as_kubectl_does() {
    let dir = tempfile::tempdir().unwrap();
    let socket = serve(dir.path()).await;
    let (out, _, result) = pintle(&socket, &["get", "pods", "-n", "shop"]).await;
    result.unwrap();
    let expected = "NAME   READY   STATUS              RESTARTS   AGE\n\
                    web    0/1     ContainerCreating   0          <unknown>\n";
    assert_eq!(out, expected);
    let (out, err, _) = pintle(&socket, &["get", "pods", "-n", "empty"]).await;
    assert_eq!((out.as_str(), err.as_str()), ("", "No resources found in empty namespace.\n"));
    let (_, _, result) = pintle(&socket, &["get", "pods", "-n", "empty", "web"]).await;
    assert!(matches!(result, Err(CliError::NotFound { .. })));
    let (out, _, _) = pintle(&socket, &["get", "po", "-A", "-o", "json"]).await;
    assert!(out.contains("\"kind\": \"PodList\""), "{out}");
}

#[tokio::test]
async fn an_exported_archive_gets_its_name_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let socket = serve(dir.path()).await;
    let file = dir.path().join("a.tar");
    let file_name = file.to_str().unwrap();
    let (_, _, result) = pintle(&socket, &["export", "-o", file_name, "one", "broken"]).await;
    let error = result.unwrap_err().to_string();
    assert_eq!(error, "cannot export one, broken: blob sha256:aa is corrupt");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["pintle.sock"]);
    pintle(&socket, &["export", "-o", file_name, "one", "two"]).await.2.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "onetwo");
}

#[tokio::test]
async fn damage_is_told_with_what_mends_it_and_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let socket = serve(dir.path()).await;
    let (out, _, result) = pintle(&socket, &["image", "verify"]).await;
    let expected = "blob sha256:aa: it is missing\n  needed by web:1, db:1\n\
                    To mend it: pintle rmi db:1 && pintle pull db:1\nTo mend it: pintle rmi web:1 && pintle pull web:1\n\
                    Looked at 2 images: 5 blobs (1.5MB), 3 unpacked layers\n";
    assert_eq!(out, expected);
    assert_eq!(result.unwrap_err().to_string(), "the image store is damaged in 1 places");
}
