//! A leader that the kernel cuts off: it runs in a network namespace of its own, whose one link to
//! Redis is taken away. Nothing is refused and nothing is reset; packets just do not arrive.

use std::process::Command;

use domain::Phase;
use foreshadow::storage::StoreChoice;

use crate::lab::{Lab, block_on, until, waits};
use crate::my_turn;

/// A namespace, and the link between it and that of the tests. Both end with it.
struct Namespace {
    name: String,
    link: String,
    /// The address of the tests' end.
    here: String,
}

fn ip(words: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(words).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("ip {}: {}", words.join(" "), said.trim()))
}

impl Namespace {
    /// Makes one, which takes root and `ip`.
    fn new() -> Result<Self, String> {
        if !rustix::process::getuid().is_root() {
            return Err("a network namespace needs root".to_owned());
        }
        let number = std::process::id() % 250;
        let made = Self {
            name: format!("foreshadow-{number}"),
            link: format!("fsh{number}"),
            here: format!("10.213.{number}.1"),
        };
        let (name, link, inner) = (&made.name, &made.link, format!("{}i", made.link));
        let there = format!("10.213.{number}.2/30");
        ip(&["netns", "add", name])?;
        ip(&["link", "add", link, "type", "veth", "peer", "name", &inner])?;
        ip(&["link", "set", &inner, "netns", name])?;
        ip(&["address", "add", &format!("{}/30", made.here), "dev", link])?;
        ip(&["link", "set", link, "up"])?;
        ip(&["-n", name, "address", "add", &there, "dev", &inner])?;
        ip(&["-n", name, "link", "set", &inner, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(made)
    }

    fn is_linked(&self, linked: bool) {
        let state = if linked { "up" } else { "down" };
        ip(&["link", "set", &self.link, state]).unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&["link", "delete", &self.link]);
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

#[test]
fn a_leader_that_the_kernel_cuts_off_is_followed_and_does_nothing_when_the_link_is_back() {
    let _turn = my_turn();
    let namespace = match Namespace::new() {
        Ok(namespace) => namespace,
        Err(why) => return println!("left out: {why}"),
    };
    block_on(async {
        let told = [
            "--bind",
            "127.0.0.1",
            &namespace.here,
            "--protected-mode",
            "no",
        ];
        let mut lab = Lab::on(&told, 2, |_| {}).await;
        if let StoreChoice::Redis(choice) = &mut lab.planes[0].config.store {
            choice.address = format!("{}:{}", namespace.here, lab.redis.port);
            lab.planes[0].config.insecure_remote = true;
        }
        lab.planes[0].namespace = Some(namespace.name.clone());
        lab.planes[0].spawn();
        assert_eq!(lab.leader().await, 0);
        lab.planes[1].start().await;
        until("the leader takes an order", async || {
            let told = lab.planes[0].cli(&["move", "a1", "--to", "host-b"]);
            told.status.success().then_some(())
        })
        .await;
        let id = until("its migration is seen", async || {
            let status = lab.planes[1].status().await?;
            Some(status.migrations.first()?.migration.id.clone())
        })
        .await;
        lab.planes[1].sees("it ramps", &id, waits).await;
        let (holder, before) = lab.redis.lease("migrator/default").unwrap();
        assert_eq!(holder, lab.planes[0].holder());

        namespace.is_linked(false);
        let newer = |m: &domain::Migration| m.epoch.0 > before && waits(m);
        lab.planes[1].sees("it is taken over", &id, newer).await;
        until("it says what is wrong", async || {
            let told = lab.planes[0].cli(&["status", "-o", "json"]);
            let said = [told.stdout, told.stderr].concat();
            String::from_utf8_lossy(&said)
                .contains("store")
                .then_some(())
        })
        .await;
        namespace.is_linked(true);

        let told = lab.planes[1].cli(&["abort", id.as_str()]);
        assert!(told.status.success(), "{told:?}");
        let over = |m: &domain::Migration| m.phase == Phase::RolledBack;
        let ended = lab.planes[1].sees("it is rolled back", &id, over).await;
        assert_eq!(ended.epoch.0, before + 1, "only one has driven it since");
        until("it sees the end, too", async || {
            let told = lab.planes[0].cli(&["status", "-o", "json"]);
            let status: foreshadow::status::Status = serde_json::from_slice(&told.stdout).ok()?;
            let mut all = status.migrations.iter();
            all.any(|one| one.migration.id == id && over(&one.migration))
                .then_some(())
        })
        .await;
        let (holder, epoch) = lab.redis.lease("migrator/default").unwrap();
        assert_eq!((holder, epoch), (lab.planes[1].holder(), before + 1));
        assert_eq!(lab.kept().await.len(), 2);
    });
}
