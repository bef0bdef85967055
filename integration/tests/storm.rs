//! Many clients at once, each with mixed calls of which some are broken off: nobody waits for ever, nothing is left.
//!
//! `PINTLE_TEST_STORM` sets the clients and the calls of each: 100 for the promise, which `PINTLE_TEST_PROGRAMS` gives a
//! release build to. It prints how long the reads took.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly anywhere")]

use std::time::{Duration, Instant};

use pintle_cri_api::v1::image_service_client::ImageServiceClient;
use pintle_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use pintle_cri_api::{connect, image_client, runtime_client, v1};
use pintle_integration::{IMAGE, Node, time_out};
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Clients, and calls of each, unless said otherwise.
const USUAL: usize = 20;
/// How long any call may take, in seconds, that is not broken off.
const CALL_LIMIT: u32 = 60;

#[test]
fn a_storm_of_clients_of_which_some_break_off_neither_hangs_nor_leaves_anything() {
    let count = std::env::var("PINTLE_TEST_STORM").ok().and_then(|text| text.parse().ok()).unwrap_or(USUAL);
    let node = Node::start();
    let logs = node.path("logs").to_string_lossy().into_owned();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let begin = Instant::now();
    let (mut reads, broken_off) = runtime.block_on(async {
        let clients = (0..count).map(|number| {
            let (endpoint, logs) = (node.endpoint(), logs.clone());
            tokio::spawn(async move { Client::open(&endpoint, number, logs).await.play(count).await })
        });
        let (mut reads, mut broken_off) = (Vec::new(), 0);
        for client in clients.collect::<Vec<_>>() {
            let (took, given_up) = client.await.unwrap();
            reads.extend(took);
            broken_off += given_up;
        }
        remove_all(&node.endpoint()).await;
        (reads, broken_off)
    });
    reads.sort();
    let at = |part: usize| reads[(reads.len() - 1) * part / 100].as_secs_f64() * 1000.0;
    println!(
        "{count} clients, {count} calls each, {broken_off} broken off, in {:.1} s; {} reads: p50 {:.2} ms, p99 {:.2} ms, \
         max {:.2} ms",
        begin.elapsed().as_secs_f64(),
        reads.len(),
        at(50),
        at(99),
        at(100)
    );
    assert!(broken_off > 0, "no call was broken off");
    node.finish();
}

/// One of many, with a pod of its own that comes and goes.
struct Client {
    cri: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    config: v1::PodSandboxConfig,
    random: u64,
    pod: Option<String>,
    container: Option<String>,
    attempt: u32,
}

impl Client {
    async fn open(endpoint: &str, number: usize, logs: String) -> Self {
        let channel = connect(endpoint).await.unwrap();
        let config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: format!("storm-{number}"),
                uid: format!("storm-{number}"),
                namespace: "storm".to_owned(),
                attempt: 0,
            }),
            hostname: "storm".to_owned(),
            log_directory: format!("{logs}/{number}"),
            ..Default::default()
        };
        Self {
            cri: runtime_client(channel.clone()),
            images: image_client(channel),
            config,
            random: 0x9e37_79b9_7f4a_7c15 ^ (number as u64 + 1),
            pod: None,
            container: None,
            attempt: 0,
        }
    }

    /// The calls; how long the reads took, and how many calls were broken off.
    async fn play(mut self, calls: usize) -> (Vec<Duration>, usize) {
        let (mut reads, mut broken_off) = (Vec::new(), 0);
        for _ in 0..calls {
            let write = self.below(4) == 0;
            let patience = match self.below(5) {
                0 => Duration::from_millis(self.below(30)),
                _ => time_out(CALL_LIMIT),
            };
            let begin = Instant::now();
            let outcome = tokio::time::timeout(patience, async {
                if write { self.write().await } else { self.read().await }
            })
            .await;
            match outcome {
                Ok(result) => {
                    check(result);
                    if !write {
                        reads.push(begin.elapsed());
                    }
                }
                Err(_) if patience == time_out(CALL_LIMIT) => panic!("no answer in {patience:?}"),
                Err(_) => broken_off += 1,
            }
        }
        (reads, broken_off)
    }

    /// The next step of the pod's life. One that is broken off is asked for again the next time.
    async fn write(&mut self) -> Result<(), Status> {
        let Some(pod) = self.pod.clone() else {
            let request = v1::RunPodSandboxRequest {
                config: Some(self.config.clone()),
                runtime_handler: String::new(),
            };
            self.pod = Some(self.cri.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id);
            return Ok(());
        };
        match (self.container.clone(), self.below(4)) {
            (None, 0) | (Some(_), 3) => self.end_pod(pod).await,
            (None, _) => self.start_container(pod).await,
            (Some(id), 0) => {
                let request = v1::StopContainerRequest { container_id: id.clone(), timeout: 0 };
                self.cri.stop_container(request).await?;
                self.cri.remove_container(v1::RemoveContainerRequest { container_id: id }).await?;
                self.container = None;
                Ok(())
            }
            (Some(container_id), _) => {
                let cmd = vec!["/bin/true".to_owned()];
                self.cri.exec_sync(v1::ExecSyncRequest { container_id, cmd, timeout: 60 }).await.map(drop)
            }
        }
    }

    async fn start_container(&mut self, pod: String) -> Result<(), Status> {
        let metadata = v1::ContainerMetadata { name: "main".to_owned(), attempt: self.attempt };
        let config = v1::ContainerConfig {
            metadata: Some(metadata),
            image: Some(v1::ImageSpec { image: IMAGE.to_owned(), ..Default::default() }),
            command: vec!["/bin/sleep".to_owned(), "1000".to_owned()],
            log_path: "main.log".to_owned(),
            ..Default::default()
        };
        // Whatever becomes of this one, the next is another.
        self.attempt += 1;
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod,
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let id = self.cri.create_container(request).await?.into_inner().container_id;
        self.container = Some(id.clone());
        self.cri.start_container(v1::StartContainerRequest { container_id: id }).await.map(drop)
    }

    async fn end_pod(&mut self, pod: String) -> Result<(), Status> {
        let stop = v1::StopPodSandboxRequest { pod_sandbox_id: pod.clone() };
        self.cri.stop_pod_sandbox(stop).await?;
        self.cri.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: pod }).await?;
        (self.pod, self.container) = (None, None);
        Ok(())
    }

    async fn read(&mut self) -> Result<(), Status> {
        let pod_sandbox_id = self.pod.clone().unwrap_or_else(|| "none".to_owned());
        let container_id = self.container.clone().unwrap_or_else(|| "none".to_owned());
        match self.below(8) {
            0 => self.cri.version(v1::VersionRequest::default()).await.map(drop),
            1 => self.cri.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await.map(drop),
            2 => self.cri.list_containers(v1::ListContainersRequest::default()).await.map(drop),
            3 => {
                let request = v1::PodSandboxStatusRequest { pod_sandbox_id, verbose: false };
                self.cri.pod_sandbox_status(request).await.map(drop)
            }
            4 => {
                let request = v1::ContainerStatusRequest { container_id, verbose: false };
                self.cri.container_status(request).await.map(drop)
            }
            5 => self.cri.container_stats(v1::ContainerStatsRequest { container_id }).await.map(drop),
            6 => {
                let image = Some(v1::ImageSpec { image: IMAGE.to_owned(), ..Default::default() });
                let request = Request::new(v1::ImageStatusRequest { image, verbose: false });
                self.images.image_status(request).await.map(drop)
            }
            _ => self.cri.status(v1::StatusRequest::default()).await.map(drop),
        }
    }

    /// xorshift64*: the same storm in every run, as far as the order of answers allows.
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// What may come of a call when others of the same pod were broken off and go on: it was not there, or not in that state,
/// or is already, or a command's container went from under it. Anything else is a fault.
fn check(outcome: Result<(), Status>) {
    use tonic::Code::{AlreadyExists, FailedPrecondition, NotFound};
    if let Err(status) = outcome {
        let known = [NotFound, FailedPrecondition, AlreadyExists].contains(&status.code())
            || status.message().starts_with("running a command in the container");
        assert!(known, "{status:?}");
    }
}

async fn remove_all(endpoint: &str) {
    let mut cri = runtime_client(connect(endpoint).await.unwrap());
    // What was broken off may still be on its way.
    for _ in 0..2 {
        let all =
            cri.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
        let removals = all.into_iter().map(|pod| {
            let mut cri = cri.clone();
            async move {
                let stop = v1::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
                cri.stop_pod_sandbox(stop).await.unwrap();
                cri.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: pod.id }).await.unwrap();
            }
        });
        let tasks: Vec<_> = removals.map(tokio::spawn).collect();
        for task in tasks {
            task.await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
