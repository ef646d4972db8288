//! The workload as clients and drivers see it: real listeners, real journal.

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::workload::Fault;

/// A running instance.
struct Instance {
    port: u16,
    stop: CancellationToken,
    task: JoinHandle<Result<(), WorkloadError>>,
}

fn options(folder: &TempDir, name: &str, role: &str) -> WorkloadOptions {
    WorkloadOptions {
        port: 0,
        state: folder.path().join(name),
        journal: Some(folder.path().join("journal")),
        instance: "web".to_owned(),
        work_us: 200,
        shards: 16,
        shard_kib: 4,
        role: role.to_owned(),
        fault: None,
        fault_share: 0.5,
        fault_after: u64::MAX,
    }
}

async fn start(options: WorkloadOptions) -> Instance {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve_on(listener, options, stop.clone().cancelled_owned()));
    let instance = Instance { port, stop, task };
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while instance.get("/healthz").await.0 != StatusCode::OK {
        assert!(std::time::Instant::now() < end, "not healthy within 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    instance
}

impl Instance {
    async fn call(&self, method: Method, path: &str, body: &str) -> (StatusCode, Value, String) {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{}{path}", self.port))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.unwrap();
        let replica = response.headers()["x-replica"].to_str().unwrap().to_owned();
        assert_eq!(response.headers()["x-instance"], "web");
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (
            status,
            serde_json::from_slice(&body).unwrap_or(Value::Null),
            replica,
        )
    }

    async fn get(&self, path: &str) -> (StatusCode, Value, String) {
        self.call(Method::GET, path, "").await
    }

    async fn post(&self, path: &str, body: &str) -> (StatusCode, Value) {
        let (status, value, _) = self.call(Method::POST, path, body).await;
        (status, value)
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_writes_the_other_reads_and_their_states_are_equal() {
    let folder = tempfile::tempdir().unwrap();
    let original = start(options(&folder, "a", "original")).await;
    let shadow = start(options(&folder, "b", "shadow")).await;
    for number in 0..20 {
        let path = format!("/items/key-{number}");
        assert_eq!(
            original.post(&path, &format!("v{number}")).await.0,
            StatusCode::OK
        );
    }
    let (_, state, _) = original.get("/foreshadow/state").await;
    // The shadow goes on, and still knows the digest at the position that was asked for.
    shadow.post("/items/later", "x").await;
    let path = format!(
        "/foreshadow/state?position={}&timeout_ms=5000",
        state["position"]
    );
    let (status, theirs, _) = shadow.get(&path).await;
    assert_eq!((status, &theirs), (StatusCode::OK, &state));
    let (_, item, replica) = shadow.get("/items/key-7").await;
    assert_eq!(
        (item["value"].as_str(), replica.as_str()),
        (Some("v7"), "shadow/web")
    );
    assert_eq!(
        shadow.get("/foreshadow/state?position=3").await.0,
        StatusCode::CONFLICT
    );
    assert_eq!(shadow.get("/items/none").await.0, StatusCode::NOT_FOUND);
    original.end().await;
    shadow.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_the_state_directory_does_not_change_until_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let instance = start(options(&folder, "a", "original")).await;
    instance.post("/items/a", "1").await;
    let (status, rest) = instance
        .post("/foreshadow/quiesce?deadline_ms=300", "")
        .await;
    assert_eq!(status, StatusCode::OK);
    let place = folder.path().join("a").join("position");
    let before = std::fs::read(&place).unwrap();
    let began = std::time::Instant::now();
    // The journal takes it at once; it is applied when the rest is over, at the deadline.
    let (status, written) = instance.post("/items/a", "2").await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        began.elapsed() >= Duration::from_millis(150),
        "{:?}",
        began.elapsed()
    );
    assert!(written["set_at"].as_u64() > rest["position"].as_u64());
    assert_ne!(std::fs::read(&place).unwrap(), before);

    instance
        .post("/foreshadow/quiesce?deadline_ms=60000", "")
        .await;
    instance.post("/foreshadow/resume", "").await;
    assert_eq!(instance.post("/items/a", "3").await.0, StatusCode::OK);
    instance.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_directory_at_rest_is_the_same_state() {
    let folder = tempfile::tempdir().unwrap();
    let original = start(options(&folder, "a", "original")).await;
    for number in 0..30 {
        original.post(&format!("/items/k{number}"), "v").await;
    }
    original
        .post("/foreshadow/quiesce?deadline_ms=20000", "")
        .await;
    let (from, to) = (folder.path().join("a"), folder.path().join("b"));
    std::fs::create_dir_all(to.join("shards")).unwrap();
    std::fs::copy(from.join("position"), to.join("position")).unwrap();
    for shard in std::fs::read_dir(from.join("shards")).unwrap().flatten() {
        std::fs::copy(shard.path(), to.join("shards").join(shard.file_name())).unwrap();
    }
    original.post("/foreshadow/resume", "").await;
    let shadow = start(options(&folder, "b", "shadow")).await;
    let (_, ours, _) = original.get("/foreshadow/state").await;
    let (_, theirs, _) = shadow.get("/foreshadow/state").await;
    assert_eq!(ours, theirs);
    let body = r#"{"identity":"web~m1","seed":"00ff"}"#;
    assert_eq!(
        shadow.post("/foreshadow/reidentify", body).await.0,
        StatusCode::OK
    );
    assert_eq!(shadow.get("/work").await.2, "shadow/web~m1");
    original.end().await;
    shadow.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_costs_the_processor_time_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let instance = start(options(&folder, "a", "original")).await;
    let began = std::time::Instant::now();
    let (status, body, _) = instance.get("/work?cost=250").await;
    assert_eq!((status, body["cost"].as_u64()), (StatusCode::OK, Some(250)));
    assert!(
        began.elapsed() >= Duration::from_millis(50),
        "{:?}",
        began.elapsed()
    );
    instance.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_told_to_fail_fails_and_an_original_does_not() {
    let folder = tempfile::tempdir().unwrap();
    for (role, expected) in [("shadow", 5), ("original", 0)] {
        let options = WorkloadOptions {
            fault: Some(Fault::Errors),
            ..options(&folder, role, role)
        };
        let instance = start(options).await;
        let mut failed = 0;
        for _ in 0..10 {
            let status = instance.get("/work").await.0;
            failed += usize::from(status == StatusCode::INTERNAL_SERVER_ERROR);
        }
        assert_eq!(failed, expected, "{role}");
        instance.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_told_to_die_dies_after_its_first_requests() {
    let folder = tempfile::tempdir().unwrap();
    let options = WorkloadOptions {
        fault: Some(Fault::Dead),
        fault_after: 3,
        ..options(&folder, "a", "shadow")
    };
    let instance = start(options).await;
    for _ in 0..2 {
        assert_eq!(instance.get("/work").await.0, StatusCode::OK);
    }
    let url = format!("http://127.0.0.1:{}/work", instance.port);
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let _cut_off = client.get(url.parse().unwrap()).await;
    let outcome = tokio::time::timeout(Duration::from_secs(10), instance.task)
        .await
        .unwrap();
    assert!(matches!(outcome.unwrap(), Err(WorkloadError::Died)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_instance_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(options(&folder, "a", "original")).await;
    first.post("/items/a", "1").await;
    let before = first.get("/foreshadow/state").await.1;
    first.end().await;
    let second = start(options(&folder, "a", "original")).await;
    assert_eq!(second.get("/foreshadow/state").await.1, before);
    assert_eq!(second.get("/items/a").await.1["value"], "1");
    assert_eq!(
        second.post("/items/a%20b", "1").await.0,
        StatusCode::BAD_REQUEST
    );
    second.end().await;
}
