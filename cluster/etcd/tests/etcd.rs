//! The wrapper against Debian's own etcd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use core::future::Future;
use core::time::Duration;
use std::time::Instant;

use common::{Server, certificates, cluster_of, config, list_text, no_secrets};
use jlb_config::{Etcd, EtcdSecrets};
use jlb_etcd::{Follower, List, Presence, ReplaceError, Seen, Store, StoreError};

const PATIENCE: Duration = Duration::from_secs(5);

fn store(config: Etcd) -> Store {
    Store::new(config, no_secrets(), PATIENCE)
}

/// As a daemon's control thread does it.
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), test).await.unwrap() })
}

fn presence(generation: u64) -> Presence {
    Presence {
        role: "backend".into(),
        generation,
        epoch: 1,
        digest: "d".into(),
        newest_protocol: 1,
    }
}

fn follow(config: Etcd, name: &str) -> Follower {
    Follower::start(config, || Ok(no_secrets()), name, presence(1))
}

async fn see(follower: &mut Follower, what: impl Fn(&Seen) -> bool) -> Seen {
    loop {
        let seen = follower.seen();
        if what(&seen) {
            return seen;
        }
        follower.changed().await;
    }
}

fn text(seen: &Seen) -> Option<&str> {
    match &seen.list {
        List::Stored(stored) => Some(&stored.text),
        List::Unknown | List::Nothing => None,
    }
}

#[test]
fn a_list_is_written_once_and_everybody_sees_it() {
    let server = Server::start();
    run(async {
        let store = store(config([&server]));
        let empty = store.read().await.unwrap();
        assert!(empty.list.is_none() && empty.present.is_empty());
        let mut one = follow(config([&server]), "backend-1");
        let mut two = follow(config([&server]), "backend-2");
        see(&mut one, |s| s.is_connected && s.list == List::Nothing).await;

        let first = list_text(1, 1..=3);
        let revision = store.replace(0, &first).await.unwrap();
        for follower in [&mut one, &mut two] {
            see(follower, |s| text(s) == Some(&first)).await;
        }
        // Who has not seen the first does not write over it.
        let second = list_text(2, 1..=3);
        let lost = store.replace(0, &second).await.unwrap_err();
        assert!(matches!(lost, ReplaceError::Conflict), "{lost}");
        let lost = store.replace(revision - 1, &second).await.unwrap_err();
        assert!(matches!(lost, ReplaceError::Conflict), "{lost}");
        // An attempt whose answer was lost is repeated, and is no conflict.
        assert_eq!(store.replace(0, &first).await.unwrap(), revision);
        store.replace(revision, &second).await.unwrap();
        see(&mut two, |s| text(s) == Some(&second)).await;
        assert_eq!(store.read().await.unwrap().list.unwrap().text, second);
        // A deletion is seen, too: it is judged elsewhere.
        server.etcdctl(&["del", "/jlb/cluster"]);
        see(&mut one, |s| s.list == List::Nothing).await;
    });
}

#[test]
fn presence_follows_the_daemon() {
    let server = Server::start();
    run(async {
        let mut one = follow(config([&server]), "backend-1");
        let two = follow(config([&server]), "backend-2");
        let seen = see(&mut one, |s| s.present.len() == 2).await;
        assert_eq!(seen.present.get("backend-2"), Some(&presence(1)));
        two.say(presence(7));
        see(&mut one, |s| s.present.get("backend-2") == Some(&presence(7))).await;
        // Somebody deletes our own: it comes back.
        server.etcdctl(&["del", "/jlb/alive/backend-1"]);
        see(&mut one, |s| !s.present.contains_key("backend-1")).await;
        see(&mut one, |s| s.present.contains_key("backend-1")).await;
        // What is not ours to understand is there all the same.
        server.etcdctl(&["put", "/jlb/alive/later", "{\"v\": 2}"]);
        see(&mut one, |s| s.present.get("later") == Some(&Presence::default())).await;
        // An orderly end shows at once, a silent one after the lease.
        let begin = Instant::now();
        two.leave().await;
        see(&mut one, |s| !s.present.contains_key("backend-2")).await;
        assert!(begin.elapsed() < Duration::from_secs(3));
        drop(follow(config([&server]), "never"));
        let three = follow(config([&server]), "backend-3");
        see(&mut one, |s| s.present.contains_key("backend-3")).await;
        drop(three);
        let begin = Instant::now();
        see(&mut one, |s| !s.present.contains_key("backend-3")).await;
        assert!(begin.elapsed() > Duration::from_secs(2));
    });
}

#[test]
fn etcd_may_be_gone_for_a_while() {
    let mut server = Server::start();
    run(async {
        let store = store(config([&server]));
        let first = list_text(1, 1..=3);
        let revision = store.replace(0, &first).await.unwrap();
        let mut follower = follow(config([&server]), "backend-1");
        see(&mut follower, |s| text(s) == Some(&first) && s.is_connected).await;
        server.kill();
        let gone = see(&mut follower, |s| !s.is_connected).await;
        assert_eq!(text(&gone), Some(first.as_str()), "what was known stays known");
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.start_again();
        let second = list_text(2, 1..=3);
        store.replace(revision, &second).await.unwrap();
        see(&mut follower, |s| text(s) == Some(&second) && s.is_connected).await;
        // A server that hangs is as good as gone, though its socket is open.
        server.signal("-STOP");
        let begin = Instant::now();
        see(&mut follower, |s| !s.is_connected).await;
        assert!(begin.elapsed() < Duration::from_secs(3));
        server.signal("-CONT");
        see(&mut follower, |s| s.is_connected && s.present.contains_key("backend-1")).await;
    });
}

#[test]
fn a_restored_store_is_seen_as_it_is() {
    let mut server = Server::start();
    run(async {
        let store = store(config([&server]));
        let (old, new) = (list_text(1, 1..=3), list_text(2, 1..=3));
        let revision = store.replace(0, &old).await.unwrap();
        let backup = server.back_up();
        store.replace(revision, &new).await.unwrap();
        let mut follower = follow(config([&server]), "backend-1");
        see(&mut follower, |s| text(s) == Some(&new) && s.is_connected).await;
        // Its revision goes back, which must not keep the follower from seeing more.
        server.start_with(Some(&backup));
        see(&mut follower, |s| text(s) == Some(&old)).await;
        see(&mut follower, |s| s.is_connected && s.present.contains_key("backend-1")).await;
        store.replace(revision, &list_text(4, 1..=3)).await.unwrap();
        see(&mut follower, |s| text(s) == Some(&list_text(4, 1..=3))).await;
        // And a wiped one.
        server.start_with(None);
        see(&mut follower, |s| s.list == List::Nothing).await;
        see(&mut follower, |s| s.is_connected && s.present.contains_key("backend-1")).await;
    });
}

#[test]
fn the_leader_of_three_may_die_while_we_write() {
    let mut servers = cluster_of(3, None);
    let all = config(&servers);
    run(async {
        let store = store(all.clone());
        let mut revision = store.replace(0, &list_text(1, 1..=3)).await.unwrap();
        let mut follower = follow(all.clone(), "backend-1");
        see(&mut follower, |s| s.is_connected).await;
        let leader = servers.iter().position(is_leader).unwrap();
        servers[leader].kill();
        let begin = Instant::now();
        for generation in 2..=6 {
            let text = list_text(generation, 1..=3);
            revision = store.replace(revision, &text).await.unwrap();
        }
        assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
        let last = list_text(6, 1..=3);
        let seen = see(&mut follower, |s| text(s) == Some(&last) && s.is_connected).await;
        assert!(seen.present.contains_key("backend-1"));
        // Without a majority nothing is written, and it is said in time.
        let second = servers.iter_mut().find(|s| is_leader(s)).unwrap();
        second.kill();
        let short = Store::new(all, no_secrets(), Duration::from_millis(500));
        let error = short.replace(revision, &list_text(7, 1..=3)).await.unwrap_err();
        assert!(matches!(error, ReplaceError::Store(ref e) if !e.is_final()), "{error}");
        see(&mut follower, |s| !s.is_connected).await;
    });
}

fn is_leader(server: &Server) -> bool {
    let Some(status) = server.try_etcdctl(&["endpoint", "status", "-w", "fields"]) else {
        return false;
    };
    let field = |name: &str| {
        status.lines().find_map(|l| l.strip_prefix(&format!("\"{name}\" : "))).map(str::to_owned)
    };
    field("MemberID").is_some() && field("MemberID") == field("Leader")
}

#[test]
fn tls_and_certificates_are_checked_both_ways() {
    let pki = certificates();
    let server = Server::with_tls(&pki);
    let mut config = config([&server]);
    config.ca_file = Some("ca.pem".into());
    let read = |secrets: EtcdSecrets| {
        let store = Store::new(config.clone(), secrets, Duration::from_millis(500));
        run(async { store.read().await })
    };
    let right = EtcdSecrets {
        ca: Some(pki.ca.clone()),
        identity: Some(pki.client.clone()),
        password: None,
    };
    read(right.clone()).unwrap();
    let of_another = EtcdSecrets { ca: Some(certificates().ca), ..right.clone() };
    let error = read(of_another).unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    let stranger = EtcdSecrets { identity: Some(certificates().client), ..right.clone() };
    read(stranger).unwrap_err();
    read(EtcdSecrets { identity: None, ..right.clone() }).unwrap_err();
    let garbage = ("-----BEGIN CERTIFICATE-----".to_owned(), pki.client.1.clone());
    let error = read(EtcdSecrets { identity: Some(garbage), ..right.clone() }).unwrap_err();
    assert!(matches!(error, StoreError::Tls(_)), "{error}");
    run(async {
        let mut follower =
            Follower::start(config.clone(), move || Ok(right.clone()), "backend-1", presence(1));
        see(&mut follower, |s| s.is_connected && s.present.contains_key("backend-1")).await;
    });
}

#[test]
fn a_user_has_a_password_and_rights() {
    let server = Server::start();
    for args in [
        &["user", "add", "root:r"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "jlb:secret"],
        &["role", "add", "jlb"],
        &["role", "grant-permission", "jlb", "--prefix=true", "readwrite", "/jlb/"],
        &["user", "grant-role", "jlb", "jlb"],
        &["auth", "enable"],
    ] {
        server.etcdctl(args);
    }
    let try_with = |user: &str, password: &str, prefix: &str| {
        let mut config = config([&server]);
        config.prefix = prefix.into();
        config.user = (!user.is_empty()).then(|| (user.into(), "password".into()));
        let secrets = EtcdSecrets { password: Some(password.into()), ..no_secrets() };
        run(async { Store::new(config, secrets, PATIENCE).read().await })
    };
    try_with("jlb", "secret", "/jlb/").unwrap();
    for (user, password, prefix, hint) in [
        ("jlb", "wrong", "/jlb/", "authentication failed"),
        ("jlb", "secret", "/other/", "grant the user's role readwrite"),
        ("", "", "/jlb/", "add user and password_file"),
    ] {
        let begin = Instant::now();
        let error = try_with(user, password, prefix).unwrap_err();
        assert!(error.is_final() && error.to_string().contains(hint), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(4), "told at once");
    }
    let mut config = config([&server]);
    config.user = Some(("jlb".into(), "password".into()));
    run(async {
        let secrets = || Ok(EtcdSecrets { password: Some("secret".into()), ..no_secrets() });
        let mut follower = Follower::start(config, secrets, "backend-1", presence(1));
        see(&mut follower, |s| s.is_connected && s.present.contains_key("backend-1")).await;
    });
}
