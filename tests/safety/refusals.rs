//! What a control plane refuses to start with: a named error, and nothing is touched.

use foreshadow::storage::{RedisChoice, StoreChoice};

use crate::lab::{Lab, Plane, Redis, block_on};
use crate::my_turn;

fn choice(plane: &mut Plane) -> &mut RedisChoice {
    match &mut plane.config.store {
        StoreChoice::Redis(choice) => choice,
        StoreChoice::Embedded | StoreChoice::EmbeddedAcknowledgeLoss => {
            panic!("this lab is on Redis")
        }
    }
}

async fn refused(plane: &mut Plane, exit: i32, words: &[&str]) {
    let (code, said) = plane.refuses().await;
    assert_eq!(code, Some(exit), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(
        !said.contains("open-sesame"),
        "a password was printed: {said}"
    );
}

#[test]
fn a_redis_that_cannot_be_the_truth_is_refused_by_name() {
    let _turn = my_turn();
    block_on(async {
        let mut lab = Lab::new(1, |_| {}).await;
        let secret = lab.folder.path().join("password");
        std::fs::write(&secret, "open-sesame\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&secret, mode).unwrap();
        let plane = &mut lab.planes[0];

        // A wrong password.
        choice(plane).user = Some("foreshadow".to_owned());
        choice(plane).password_file = Some(secret);
        refused(plane, 69, &["store refuses", "WRONGPASS"]).await;
        // The right one, but a right is missing.
        let user = [
            "ACL",
            "SETUSER",
            "foreshadow",
            "on",
            ">open-sesame",
            "~*",
            "&*",
            "+@all",
        ];
        lab.redis.command(&[&user[..], &["-hset"]].concat());
        refused(plane, 69, &["store refuses to join", "run this command"]).await;
        (choice(plane).user, choice(plane).password_file) = (None, None);
        // It would forget.
        lab.redis.command(&["CONFIG", "SET", "appendonly", "no"]);
        refused(plane, 69, &["not durable", "appendonly yes"]).await;
        lab.redis.command(&["CONFIG", "SET", "appendonly", "yes"]);
        // It belongs to a cluster in which another has the slot, or nobody.
        let folder = lab.folder.path().join("cluster");
        std::fs::create_dir_all(&folder).unwrap();
        let node = Redis::start(&folder, &["--cluster-enabled", "yes"]).await;
        let address = std::mem::replace(
            &mut choice(plane).address,
            format!("127.0.0.1:{}", node.port),
        );
        refused(plane, 69, &["elsewhere in the cluster"]).await;
        // It is not there.
        drop(node);
        refused(plane, 69, &["store is unavailable"]).await;
        choice(plane).address = address;
        // No time to lead at all.
        plane.config.migrator.lease_ms = 0;
        refused(plane, 64, &["migrator.lease_ms is 0", "allowed is 500"]).await;
        plane.config.migrator.lease_ms = 2_000;
        plane.config.migrator.shards = 0;
        refused(plane, 64, &["migrator.shards is 0"]).await;
        assert!(!lab.replicas().exists(), "nothing was started");
    });
}

#[test]
fn a_second_control_plane_on_one_embedded_file_is_refused_by_name_and_the_first_goes_on() {
    let _turn = my_turn();
    block_on(async {
        let mut lab = Lab::new(2, |config| config.store = StoreChoice::Embedded).await;
        lab.planes[1].config.data = lab.planes[0].config.data.clone();
        lab.planes[0].start().await;
        lab.planes[0].is_ready().await;
        refused(&mut lab.planes[1], 69, &["in use by another process"]).await;
        lab.planes[0].is_ready().await;
        assert_eq!(lab.kept().await.len(), 2);
    });
}
