//! The checks against real servers and real commands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jlb_config::{ClusterFile, HttpProbe, KeyFile, parse_cluster};
use jlb_role::Samples;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// A server on loopback that says this to whoever connects, after it was sent something if it `listens` first.
async fn server(says: &'static [u8], listens: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            if listens {
                let mut request = [0; 1024];
                let len = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..len]).to_lowercase();
                assert!(request.starts_with("get /health http/1.1\r\n"), "{request}");
                assert!(request.contains("\r\nhost: www.example.org\r\n"), "{request}");
            }
            let _ = stream.write_all(says).await;
        }
    });
    address
}

fn asked(body: Option<&str>) -> HealthProbe {
    HealthProbe::Http(HttpProbe {
        tls: false,
        path: "/health".into(),
        host: Some("www.example.org".into()),
        status: vec![200..=299, 404..=404],
        body: body.map(str::to_owned),
    })
}

fn command(words: &[&str]) -> HealthProbe {
    HealthProbe::Exec { command: words.iter().map(|&w| w.to_owned()).collect() }
}

async fn tried(probe: &HealthProbe, target: SocketAddr, at_most: Duration) -> String {
    let result = probe::probe(probe, target, &Turn::default(), at_most).await;
    result.map_or_else(|e| e.to_string(), |()| "passed".into())
}

#[test]
fn a_connection_is_made_or_not() {
    run(async {
        let there = server(b"", false).await;
        assert_eq!(tried(&HealthProbe::Tcp, there, PATIENCE).await, "passed");
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let said = tried(&HealthProbe::Tcp, gone, PATIENCE).await;
        assert!(said.contains("refused"), "{said}");
    });
}

#[test]
fn an_answer_by_http_is_judged_by_status_and_text() {
    run(async {
        let answers: [(&[u8], &str, &str); 7] = [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nI'm fine", "fine", "passed"),
            (b"HTTP/1.1 404 Gone\r\nConnection: close\r\n\r\nI'm fine", "I'm", "passed"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nI'm fine", "fine", "passed"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nI'm fine", "well", "does not have"),
            (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nfine", "fine", "status 500"),
            (b"HTTP/1.1 302 No\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "", "status 302"),
            (b"SSH-2.0-x\r\n", "", "invalid HTTP"),
        ];
        for (answer, text, expected) in answers {
            let target = server(answer, true).await;
            let body = Some(text).filter(|text| !text.is_empty());
            let said = tried(&asked(body), target, PATIENCE).await;
            assert!(said.contains(expected), "{said}, not {expected}");
        }
    });
}

/// A server that speaks TLS, with a certificate that nobody signed, and answers 204 to whoever names a host.
async fn tls_server(host: &'static str) -> SocketAddr {
    let signed = rcgen::generate_simple_self_signed(vec!["other.example.org".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            assert_eq!(stream.get_ref().1.server_name(), Some(host));
            let mut request = [0; 1024];
            let len = stream.read(&mut request).await.unwrap();
            assert!(request[..len].starts_with(b"GET /health HTTP/1.1\r\n"));
            stream.write_all(b"HTTP/1.1 204 Fine\r\n\r\n").await.unwrap();
        }
    });
    address
}

#[test]
fn by_https_the_server_is_asked_by_its_name_and_any_certificate_will_do() {
    run(async {
        let HealthProbe::Http(plain) = asked(None) else { panic!("http") };
        let host = Some("www.example.org:8443".to_owned());
        let https = HealthProbe::Http(HttpProbe { tls: true, host, ..plain });
        let target = tls_server("www.example.org").await;
        assert_eq!(tried(&https, target, PATIENCE).await, "passed");
        let said = tried(&https, server(b"HTTP/1.1 200 OK\r\n\r\n", false).await, PATIENCE).await;
        assert!(said.contains("corrupt message"), "{said}");
        let said = tried(&asked(None), target, PATIENCE).await;
        assert_ne!(said, "passed", "without TLS");
    });
}

#[test]
fn what_takes_too_long_has_failed() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let short = Duration::from_millis(50);
        assert!(tried(&asked(None), target, short).await.contains("within 50ms"));
        let silent = probe::listen(target, short).await.unwrap_err();
        assert_eq!(silent.label(), "timeout");
    });
}

#[test]
fn a_command_is_judged_by_its_exit_code_and_no_shell_reads_it() {
    run(async {
        let target = "127.0.0.1:1".parse().unwrap();
        assert_eq!(tried(&command(&["true"]), target, PATIENCE).await, "passed");
        assert_eq!(
            tried(&command(&["test", "$HOME", "=", "$HOME"]), target, PATIENCE).await,
            "passed"
        );
        let failed = tried(&command(&["test", "a", "=", "b"]), target, PATIENCE).await;
        assert!(failed.contains("exit status: 1"), "{failed}");
        let missing = tried(&command(&["/no/such/program"]), target, PATIENCE).await;
        assert!(missing.contains("cannot run `/no/such/program`"), "{missing}");
    });
}

#[test]
fn a_command_that_hangs_is_killed_with_all_that_it_started() {
    run(async {
        let target = "127.0.0.1:1".parse().unwrap();
        // A number that no other process has in its command line.
        let time = format!("{}.{}", 7_000_000 + std::process::id(), 5);
        let script = format!("sleep {time} & sleep {time}");
        let begin = Instant::now();
        let probe = command(&["sh", "-c", &script]);
        let said = tried(&probe, target, Duration::from_millis(200)).await;
        assert!(said.contains("within 200ms") && begin.elapsed() < PATIENCE, "{said}");
        // Whoever adopts the orphan reaps it in a moment.
        while is_alive(&time) {
            assert!(begin.elapsed() < PATIENCE, "left behind");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Those of other tests are zombies for a moment, too.
        while children().any(|state| state == 'Z') {
            assert!(begin.elapsed() < PATIENCE, "zombies");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn a_command_that_is_given_up_is_killed_and_so_is_what_it_leaves_behind() {
    run(async {
        let begin = Instant::now();
        let (time, turn) = (format!("{}.{}", 7_000_000 + std::process::id(), 6), Turn::default());
        let (hangs, leaves) = (format!("sleep {time}"), format!("sleep {time} & exit 3"));
        let hangs = ["sh", "-c", &hangs].map(str::to_owned);
        let given_up = exec::run(&hangs, &turn, PATIENCE);
        assert!(tokio::time::timeout(Duration::from_millis(200), given_up).await.is_err());
        // It waits for the turn, so the first has ended.
        let leaves = ["sh", "-c", &leaves].map(str::to_owned);
        let said = exec::run(&leaves, &turn, PATIENCE).await.unwrap_err().to_string();
        assert!(said.contains("exit status: 3"), "{said}");
        while is_alive(&time) {
            assert!(begin.elapsed() < PATIENCE, "left behind");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn nothing_is_started_while_an_earlier_command_has_not_ended() {
    run(async {
        let turn = Turn::default();
        let _stuck = turn.lock().await;
        let words = ["true".to_owned()];
        let failure = exec::run(&words, &turn, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(failure.label(), "timeout");
        assert!(failure.to_string().contains("an earlier try has not ended"), "{failure}");
    });
}

#[test]
fn the_log_names_the_check_that_failed() {
    let target = "203.0.113.10:80".parse().unwrap();
    let name = |probe| name(&check("web", Some(probe), None), target);
    assert_eq!(name(HealthProbe::Tcp), "tcp 203.0.113.10:80");
    assert_eq!(name(asked(None)), "http 203.0.113.10:80/health");
    assert_eq!(name(command(&["test", "-d", "/x"])), "exec test -d /x");
}

/// Whether a process that is no zombie has that word in its command line.
fn is_alive(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes
        .filter_map(|p| std::fs::read(p.path().join("cmdline")).ok())
        .any(|line| line.split(|&b| b == 0).any(|w| w == word.as_bytes()))
}

/// States of our children.
fn children() -> impl Iterator<Item = char> {
    let ours = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes.filter_map(move |p| {
        let stat = std::fs::read_to_string(p.path().join("stat")).ok()?;
        // pid (name) state parent …
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?.chars().next()?;
        (fields.next()? == ours).then_some(state)
    })
}

fn check(service: &str, probe: Option<HealthProbe>, agent: Option<SocketAddr>) -> HealthCheck {
    HealthCheck {
        service: service.into(),
        probe,
        agent_check: agent,
        target: None,
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(1),
        rise: 1,
        fall: 2,
    }
}

/// As if a list had named their services, without a task that tries.
fn aim_anywhere(checks: &mut Checks) {
    for watched in &mut checks.watched {
        watched.target = Ok(SocketAddr::from(([127, 0, 0, 1], 1)));
    }
}

/// A list in which "web" is a service of this protocol, on that host of 3 and 4.
fn list(web_on: u16, protocol: &str) -> std::sync::Arc<Snapshot> {
    let text = format!(
        r#"generation = 1
epoch = 1
keys = {{ hash_key_file = "hash.key", mac_key_files = ["mac.key"] }}
underlay = {{ prefixes = ["10.1.0.0/24"] }}
member = [
    {{ id = 3, name = "host-3", role = "backend", addresses = ["10.1.0.3"] }},
    {{ id = 4, name = "host-4", role = "backend", addresses = ["10.1.0.4"] }},
]
[[service]]
name = "web"
vips = ["203.0.113.10"]
port = 80
protocol = "{protocol}"
backends = ["host-{web_on}"]
"#
    );
    let mut read = |path: &std::path::Path| {
        Ok(KeyFile { text: format!("{:032x}", path.as_os_str().len()), mode: 0o600 })
    };
    let file = ClusterFile { name: "/cluster.toml", text: &text };
    parse_cluster(file, &mut read).unwrap_or_else(|m| panic!("{m}"))
}

#[test]
fn a_check_of_what_is_not_served_here_rests_and_what_it_found_does_not_count() {
    run(async {
        let me = MemberId::new(3).unwrap();
        let mut checks = Checks::new(&[
            check("web", Some(HealthProbe::Tcp), None),
            check("gone", None, Some("127.0.0.1:1".parse().unwrap())),
        ]);
        checks.aim(&list(3, "tcp"), me);
        let vip = "203.0.113.10:80".parse().unwrap();
        let targets: Vec<_> = checks.watched.iter().map(|w| w.target).collect();
        assert_eq!(targets, [Ok(vip), Err(Rest::NoService)]);
        while !checks.take(0, Tried::Probe(Err(Failure::Body))) {}
        assert_eq!(checks.refusal("web", false), Some(RejectReason::Unhealthy));
        let is_shown = |checks: &Checks| {
            let mut samples = Samples::default();
            checks.collect(&mut samples);
            samples.0.iter().any(|sample| sample.metric.name == "jlb_health_up")
        };
        for (other, why) in [(list(4, "tcp"), Rest::NoBackend), (list(3, "udp"), Rest::Udp)] {
            assert!(is_shown(&checks));
            checks.aim(&other, me);
            assert_eq!(checks.watched[0].target, Err(why));
            assert_eq!((checks.refusal("web", false), is_shown(&checks)), (None, false));
            checks.aim(&list(3, "tcp"), me);
        }
        assert_eq!(checks.refusal("web", false), Some(RejectReason::Unhealthy));
    });
}

fn metric(checks: &Checks, name: &str, labels: &[(&str, &str)]) -> f64 {
    let mut samples = Samples::default();
    checks.collect(&mut samples);
    samples.sum(name, labels)
}

#[test]
fn what_checks_find_decides_about_their_own_service() {
    run(async {
        let mut checks = Checks::new(&[
            check("web", Some(HealthProbe::Tcp), None),
            check("web", Some(HealthProbe::Tcp), None),
            check("mail", None, Some("127.0.0.1:1".parse().unwrap())),
        ]);
        aim_anywhere(&mut checks);
        let fail = || Tried::Probe(Err(Failure::Status(500)));
        assert!(!checks.take(0, Tried::Probe(Ok(()))));
        assert!(!checks.take(0, fail()));
        assert_eq!(checks.refusal("web", false), None, "one failure is none");
        assert!(checks.take(0, fail()));
        assert!(!checks.take(1, Tried::Probe(Ok(()))));
        let unhealthy = Some(RejectReason::Unhealthy);
        assert_eq!(checks.refusal("web", false), unhealthy, "one of two");
        assert_eq!(checks.refusal("mail", true), Some(RejectReason::Overloaded));
        assert_eq!(checks.refusal("ftp", false), None);
        assert!(checks.take(2, Tried::Agent(Ok(b"drain\n".to_vec()))));
        assert!(checks.take(2, Tried::Agent(Ok(b"40%\n".to_vec()))), "another share");
        assert_eq!(
            (checks.share("mail"), checks.share("web"), checks.share("ftp")),
            (40, 100, 100)
        );
        assert!(checks.watched[2].heard);
        assert!(!checks.take(2, Tried::Agent(Err(Failure::Body))), "its last word stands");
        assert!(!checks.watched[2].heard);
        assert_eq!(metric(&checks, "jlb_service_share", &[("service", "mail")]), 40.0);
        assert_eq!(metric(&checks, "jlb_service_share", &[("service", "web")]), 0.0, "none asked");
        assert_eq!(checks.refusal("mail", true), Some(RejectReason::Drain));
        assert!(checks.take(0, Tried::Probe(Ok(()))));
        assert_eq!(checks.refusal("web", false), None);
        let results = |result| {
            metric(&checks, "jlb_health_checks_total", &[("service", "web"), ("result", result)])
        };
        assert_eq!((results("passed"), results("failed")), (3.0, 2.0));
        assert_eq!(metric(&checks, "jlb_health_up", &[("service", "web")]), 1.0);
        let words = [("service", "mail"), ("result", "understood")];
        assert_eq!(metric(&checks, "jlb_agent_checks_total", &words), 2.0);
    });
}

#[test]
fn tasks_try_and_what_an_application_says_is_heard() {
    run(async {
        // It says more than a line, and does not hang up.
        let agent = server(b"75% drain\nup ready\n", false).await;
        let mut checks = Checks::new(&[check("web", None, Some(agent))]);
        aim_anywhere(&mut checks);
        let (check, tell) = (checks.watched[0].check.clone(), checks.tell.clone());
        checks.tasks.spawn(watch(check, agent, Turn::default(), 0, tell));
        tokio::time::timeout(PATIENCE, checks.changed()).await.unwrap();
        assert_eq!(checks.refusal("web", false), Some(RejectReason::Drain));
    });
}
