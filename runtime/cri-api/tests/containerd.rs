//! Wire compatibility with a runtime we did not write: Debian's containerd, on a socket of its own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly anywhere")]

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use pintle_cri_api::{connect, image_client, runtime_client, v1};
use tonic::transport::Channel;

struct Containerd {
    child: Child,
    dir: tempfile::TempDir,
}

impl Containerd {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().display();
        let config = format!(
            "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n[grpc]\n  address = \"{at}/sock\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"{at}/opt\"\n"
        );
        fs::write(dir.path().join("config.toml"), config).expect("a configuration");
        let log = fs::File::create(dir.path().join("log")).expect("a log");
        let child = Command::new("containerd")
            .arg("--config")
            .arg(dir.path().join("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd is installed");
        Self { child, dir }
    }

    async fn channel(&self) -> Channel {
        let scale = std::env::var("PINTLE_TEST_TIMEOUT_SCALE").ok().and_then(|text| text.parse().ok());
        let end = Instant::now() + Duration::from_secs(30).mul_f64(scale.unwrap_or(1.0));
        let endpoint = format!("unix://{}", self.dir.path().join("sock").display());
        loop {
            if let Ok(channel) = connect(&endpoint).await
                && runtime_client(channel.clone()).version(v1::VersionRequest::default()).await.is_ok()
            {
                return channel;
            }
            assert!(Instant::now() < end, "containerd did not answer: {}", log(self.dir.path()));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("log")).unwrap_or_default()
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(
            killed.is_ok_and(|status| status.success()),
            "containerd ended early: {}",
            log(self.dir.path())
        );
        self.child.wait().expect("containerd ends");
    }
}

#[tokio::test]
async fn containerd_understands_us_and_we_understand_containerd() {
    let containerd = Containerd::start();
    let channel = containerd.channel().await;
    let mut runtime = runtime_client(channel.clone());
    let version = runtime.version(v1::VersionRequest::default()).await.unwrap().into_inner();
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("containerd", "v1"));
    let status = runtime.status(v1::StatusRequest { verbose: true }).await.unwrap().into_inner();
    let conditions = status.status.unwrap().conditions;
    assert!(conditions.iter().any(|condition| condition.r#type == "RuntimeReady" && condition.status));
    assert!(status.info.contains_key("config"));
    let mut images = image_client(channel);
    assert!(
        images.list_images(v1::ListImagesRequest::default()).await.unwrap().into_inner().images.is_empty()
    );
    let unknown = v1::ContainerStatusRequest { container_id: "nothing".into(), verbose: false };
    assert_eq!(runtime.container_status(unknown).await.unwrap_err().code(), tonic::Code::NotFound);
}
