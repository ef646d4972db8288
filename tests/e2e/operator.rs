//! What an operator sees and does: the command line and the page, against a running system.

use std::process::{Command, Output};

use domain::Phase;
use serde_json::Value;

use crate::ONE_AT_A_TIME;
use foreshadow_tests::processes;

use crate::lab::{Lab, block_on, is_over, nothing_was_lost, until};

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{words}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Exit code and words of a command that is refused.
fn refused(output: &Output) -> (i32, String) {
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), words)
}

/// The page as a browser shows it.
fn page(lab: &Lab, picture: &std::path::Path) -> String {
    let browser = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| {
            let found = Command::new(name).arg("--version").output();
            found.is_ok_and(|output| output.status.success())
        })
        .expect("a Chromium is there: run deploy/setup");
    let profile = tempfile::tempdir().unwrap();
    let browse = |what: &str| {
        let output = Command::new(browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu"])
            .args(["--disable-dev-shm-usage", "--no-first-run"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(["--window-size=1280,900", "--virtual-time-budget=4000"])
            .args([what, &format!("http://{}/", lab.page())])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output)
    };
    browse(&format!("--screenshot={}", picture.display()));
    browse("--dump-dom")
}

#[test]
fn an_operator_moves_an_instance_and_sees_all_of_it_in_the_terminal_and_on_the_page() {
    let _turn = ONE_AT_A_TIME.lock();
    block_on(async {
        let lab = Lab::start().await;
        let before = lab.host().await;
        assert_eq!(before, "host-a");
        let (code, words) = refused(&lab.cli(&["move", "nobody", "--to", "host-b"]));
        assert_eq!(
            (code, words.contains("instance nobody is unknown")),
            (1, true),
            "{words}"
        );
        let (code, words) = refused(&lab.cli(&["move", "a1", "--to", "host-a"]));
        assert_eq!(
            (code, words.contains("on host host-a already")),
            (1, true),
            "{words}"
        );
        let (code, words) = refused(&lab.cli(&["explain", "m-9-9"]));
        assert_eq!(
            (code, words.contains("m-9-9 is unknown")),
            (64, true),
            "{words}"
        );

        let begun = json(&lab.cli(&["move", "a1", "--to", "host-b", "-o", "json"]));
        let ended = lab.newest("an end", is_over).await;
        assert_eq!(ended.migration.phase, Phase::Done);
        assert_eq!(begun["migration"], ended.migration.id.as_str());
        assert_eq!(lab.host().await, "host-b");

        let status = json(&lab.cli(&["status", "-o", "json"]));
        assert_eq!(status["migrations"][0]["phase"], "done");
        assert!(text(&lab.cli(&["status"])).contains("host-a"));
        let plan = json(&lab.cli(&["plan", "-o", "json"]));
        let summary = plan["summary"].as_str().unwrap();
        assert!(summary.contains("policy none"), "{plan:#}");
        let explained = json(&lab.cli(&["explain", "-o", "json"]));
        let log = explained["log"].as_array().unwrap();
        let phases: Vec<_> = log
            .iter()
            .map(|l| l["phase"]["name"].as_str().unwrap())
            .collect();
        for phase in [
            "syncing",
            "verifying",
            "ramping",
            "draining",
            "committed",
            "done",
        ] {
            assert!(phases.contains(&phase), "{phase} is not in {phases:?}");
        }
        let told = text(&lab.cli(&["explain"]));
        assert!(told.contains("an operator asked for it"), "{told}");
        let (code, words) = refused(&lab.cli(&["abort", ended.migration.id.as_str()]));
        assert_eq!((code, words.contains("not running")), (1, true), "{words}");

        shows_everything(&lab);
        nothing_was_lost(&lab.end().await, 100);
    });
}

fn shows_everything(lab: &Lab) {
    let folder = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("FORESHADOW_SCREENSHOT").map(std::path::PathBuf::from);
    let picture = kept.unwrap_or_else(|| folder.path().join("page.png"));
    let dom = page(lab, &picture);
    // What is drawn, without the script that draws it.
    let dom = dom.split("<script>").next().unwrap();
    for host in ["host-a", "host-b"] {
        assert!(dom.contains(&format!(r#"data-host="{host}""#)), "{dom}");
    }
    let bands: Vec<_> = dom.split(r#"class="band" points=""#).skip(1).collect();
    assert_eq!(bands.len(), 2, "a forecast band per host: {dom}");
    for band in bands {
        let points = band.split('"').next().unwrap();
        assert!(points.split(' ').count() > 10, "{points}");
        assert!(!points.contains("NaN"), "{points}");
    }
    let pasts: Vec<_> = dom.split(r#"class="past" points=""#).skip(1).collect();
    assert_eq!(pasts.len(), 2, "the past per host: {dom}");
    for past in pasts {
        let points = past.split('"').next().unwrap();
        assert!(points.split(' ').count() > 5, "{points}");
    }
    assert!(dom.contains(r#"data-phase="done""#), "{dom}");
    assert!(dom.contains("original 0.00 % · shadow 100.00 %"), "{dom}");
    assert!(dom.contains("a1 from host-a to host-b"), "{dom}");
    let picture = std::fs::read(picture).unwrap();
    assert!(picture.starts_with(b"\x89PNG") && picture.len() > 20_000);
}

#[test]
fn a_page_address_in_use_ends_the_demo_with_69_and_leaves_nothing() {
    let _turn = ONE_AT_A_TIME.lock();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let temporary = tempfile::tempdir().unwrap();
    let output = Command::new(foreshadow_tests::binary())
        .args(["demo", "--short", "--page", &address])
        .env("TMPDIR", temporary.path())
        .output()
        .unwrap();
    let (code, words) = refused(&output);
    assert_eq!((code, words.contains(&address)), (69, true), "{words}");
    nothing_is_left(temporary.path());
}

/// No folder of a demo, and no process that names one.
fn nothing_is_left(temporary: &std::path::Path) {
    let entries = std::fs::read_dir(temporary).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let left: Vec<_> = names
        .filter(|name| name.starts_with("foreshadow"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let running = processes(&temporary.to_string_lossy());
    assert_eq!(running, Vec::<String>::new());
}

#[test]
fn an_interrupted_demo_leaves_no_process_file_or_port() {
    let _turn = ONE_AT_A_TIME.lock();
    let temporary = tempfile::tempdir().unwrap();
    let page = foreshadow::demo::planes::free_port().unwrap();
    let mut demo = Command::new(foreshadow_tests::binary())
        .args(["demo", "--page", &page.to_string()])
        .env("TMPDIR", temporary.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    block_on(until("requests flow", async || {
        let body = foreshadow::client::get(page, "/api/status").await.ok()?;
        let status: foreshadow::status::Status = serde_json::from_slice(&body).unwrap();
        let busy = status.hosts.iter().all(|host| host.demand > 50.0);
        busy.then_some(())
    }));
    let running = processes(&temporary.path().to_string_lossy());
    assert!(
        running.len() >= 8,
        "six instances, Envoy and the proxy: {running:#?}"
    );
    let pid = rustix::process::Pid::from_child(&demo);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    nothing_is_left(temporary.path());
    std::net::TcpListener::bind(page).expect("the port is free again");
}

#[test]
fn without_envoy_the_demo_says_how_to_get_it_and_goes_on_with_the_proxy_alone() {
    let _turn = ONE_AT_A_TIME.lock();
    let output = Command::new(foreshadow_tests::binary())
        .args(["demo", "--short", "--page", "127.0.0.1:0", "-o", "json"])
        .args(["--envoy", "/nowhere/envoy"])
        .output()
        .unwrap();
    let report = json(&output);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        words.contains("Envoy is missing") && words.contains("deploy/setup"),
        "{words}"
    );
    assert_eq!(report[0]["failed"], 0, "{report:#}");
    assert_eq!(report[0]["migrations"][0]["outcome"], "done", "{report:#}");
}
