//! `[[health]]` and `[admission]`: what they become, and what is refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use jlb_config::{
    ClusterFile, HealthProbe, Host, HostLimits, HttpProbe, KeyFile, Mistakes, parse_cluster,
};
use jlb_map::MemberRole;

const HOST: &str = r#"[node]
name = "backend-1"
[yann]
interfaces = ["eth0"]
"#;

const CLUSTER: &str = r#"generation = 1
epoch = 1
[keys]
hash_key_file = "hash.key"
mac_key_files = ["mac.key"]
[underlay]
prefixes = ["10.1.0.0/24"]
[[member]]
id = 3
name = "backend-1"
role = "backend"
addresses = ["10.1.0.3"]
[[member]]
id = 4
name = "backend-2"
role = "backend"
addresses = ["10.1.0.4"]
[[service]]
name = "web"
vips = ["203.0.113.10"]
port = 80
protocol = "tcp"
backends = ["backend-1"]
[[service]]
name = "dns"
vips = ["203.0.113.10"]
port = 53
protocol = "udp"
backends = ["backend-1"]
[[service]]
name = "other"
vips = ["203.0.113.10"]
port = 81
protocol = "tcp"
backends = ["backend-2"]
"#;

fn host(more: &str) -> Result<Host, Mistakes> {
    Host::parse("jlb.toml", &format!("{HOST}{more}"))
}

#[test]
fn a_short_check_gets_the_defaults_and_what_is_written_counts() {
    let h = host(
        "[[health]]\nservice = \"web\"\ntype = \"tcp\"\n\
         [[health]]\nservice = \"web\"\ntype = \"http\"\n\
         [[health]]\nservice = \"web\"\ntype = \"https\"\npath = \"/up?x=1\"\nhost = \"www.example.org\"\n\
         status = \"200, 301-303\"\nbody = \"fine\"\ntarget = \"[::1]:8080\"\ninterval = \"500ms\"\n\
         timeout = \"2s\"\nrise = 1\nfall = 5\n\
         [[health]]\nservice = \"dns\"\ntype = \"exec\"\ncommand = [\"/bin/true\", \"-x\"]\ninterval = \"1h\"\n\
         [[health]]\nservice = \"dns\"\nagent_check = \"127.0.0.1:9999\"\ninterval = \"2m\"\n\
         [admission]\ncpu = 0.95\nmemory = 1\n",
    );
    let h = h.unwrap_or_else(|m| panic!("{m}"));
    let [tcp, http, long, exec, agent] = &h.health[..] else { panic!("{:?}", h.health) };
    assert_eq!((tcp.service.as_str(), &tcp.probe), ("web", &Some(HealthProbe::Tcp)));
    let (two, one) = (Duration::from_secs(2), Duration::from_secs(1));
    assert_eq!((tcp.interval, tcp.timeout, tcp.rise, tcp.fall), (two, one, 2, 3));
    assert_eq!((tcp.target, tcp.agent_check), (None, None));
    let default =
        HttpProbe { tls: false, path: "/".into(), host: None, status: vec![200..=399], body: None };
    assert_eq!(http.probe, Some(HealthProbe::Http(default)));
    let asked = HttpProbe {
        tls: true,
        path: "/up?x=1".into(),
        host: Some("www.example.org".into()),
        status: vec![200..=200, 301..=303],
        body: Some("fine".into()),
    };
    assert_eq!(long.probe, Some(HealthProbe::Http(asked)));
    assert_eq!((long.interval, long.timeout, long.rise, long.fall), (one / 2, two, 1, 5));
    assert_eq!(long.target, Some("[::1]:8080".parse().unwrap()));
    let command = vec!["/bin/true".to_owned(), "-x".to_owned()];
    assert_eq!(exec.probe, Some(HealthProbe::Exec { command }));
    assert_eq!((agent.probe.as_ref(), agent.interval), (None, 60 * two));
    assert_eq!(agent.agent_check, Some("127.0.0.1:9999".parse().unwrap()));
    let limits = HostLimits { cpu: Some(0.95), memory: Some(1.0), pressure: None };
    assert_eq!(h.admission, limits);
    let nothing = host("").unwrap();
    assert_eq!((nothing.health, nothing.admission), (Vec::new(), HostLimits::default()));
}

#[test]
fn wrong_checks_and_limits_are_refused_with_line_and_column() {
    let check = "[[health]]\nservice = \"web\"\n";
    // Behind four lines of `HOST` and two of `check`.
    #[rustfmt::skip]
    let cases = [
        ("type = \"ftp\"\n", 7, 8, "health[0].type", "`ftp` is not known"),
        ("", 5, 1, "health[0].type", "`type` is missing"),
        ("type = \"tcp\"\npath = \"/\"\n", 8, 1, "health[0].path", "no key `path`"),
        ("type = \"http\"\npath = \"up\"\n", 8, 8, "health[0].path", "no path"),
        ("type = \"http\"\npath = \"/a b\"\n", 8, 8, "health[0].path", "no path"),
        ("type = \"http\"\nhost = \"a\\r\\nX: y\"\n", 8, 8, "health[0].host", "no name of a host"),
        ("type = \"http\"\nstatus = \"20\"\n", 8, 10, "health[0].status", "no list of status codes"),
        ("type = \"http\"\nstatus = \"399-200\"\n", 8, 10, "health[0].status", "no list of status codes"),
        ("type = \"http\"\nbody = \"\"\n", 8, 8, "health[0].body", "empty"),
        ("type = \"exec\"\n", 5, 1, "health[0].command", "`command` is missing"),
        ("type = \"exec\"\ncommand = []\n", 8, 11, "health[0].command", "1 to 64 words"),
        ("type = \"exec\"\ncommand = \"true\"\n", 8, 11, "health[0].command", "not a list"),
        ("type = \"tcp\"\ninterval = \"50ms\"\n", 8, 12, "health[0].interval", "`50ms` is not between 100ms and 3600s"),
        ("type = \"tcp\"\ninterval = \"2\"\n", 8, 12, "health[0].interval", "`2` is no time"),
        ("type = \"tcp\"\ninterval = 2\n", 8, 12, "health[0].interval", "this is a number, not a string"),
        ("type = \"tcp\"\ntimeout = \"99999999999999999999h\"\n", 8, 11, "health[0].timeout", "is no time"),
        ("type = \"tcp\"\nrise = 0\n", 8, 8, "health[0].rise", "0 is not between 1 and 100"),
        ("type = \"tcp\"\ntarget = \"localhost:80\"\n", 8, 10, "health[0].target", "no address with a port"),
        ("agent_check = \"9999\"\n", 7, 15, "health[0].agent_check", "no address with a port"),
        ("type = \"tcp\"\n[admission]\ncpu = 95\n", 9, 7, "admission.cpu", "95 is not between 0.05 and 1"),
        ("type = \"tcp\"\n[admission]\ncpu = nan\n", 9, 7, "admission.cpu", "nan is not between"),
        ("type = \"tcp\"\n[admission]\npressure = \"50%\"\n", 9, 12, "admission.pressure", "this is a string"),
        ("type = \"tcp\"\n[admission]\npsi = 50\n", 9, 1, "admission.psi", "no key `psi`"),
    ];
    for (more, line, column, key, what) in cases {
        let mistakes = host(&format!("{check}{more}")).unwrap_err();
        let [m] = &mistakes.0[..] else { panic!("one mistake expected for {more}: {mistakes}") };
        assert_eq!((m.line, m.column, m.key.as_str()), (line, column, key), "{more}:\n{m}");
        assert!(m.what.contains(what), "{more}:\n{m}");
    }
}

#[test]
fn they_are_the_agents() {
    let text = "[node]\nname = \"x\"\n[admission]\ncpu = 0.9\n[[health]]\nservice = \"web\"\ntype = \"tcp\"\n";
    let mistakes = Host::parse("jlb.toml", text).unwrap_err();
    let told: Vec<_> = mistakes.0.iter().map(|m| (m.line, m.key.as_str())).collect();
    assert_eq!(told, [(3, "admission"), (5, "health")], "{mistakes}");
}

#[test]
fn a_check_names_a_service_of_this_host_that_it_can_try() {
    let mut read =
        |path: &Path| Ok(KeyFile { text: format!("{:032x}", path.as_os_str().len()), mode: 0o600 });
    let cluster =
        parse_cluster(ClusterFile { name: "/etc/jlb/cluster.toml", text: CLUSTER }, &mut read);
    let cluster = cluster.unwrap_or_else(|m| panic!("{m}"));
    let checked = |check: &str| {
        let host = host(check).unwrap_or_else(|m| panic!("{m}"));
        // A daemon starts with whatever is wrong here.
        assert_eq!(host.find_in(&cluster, MemberRole::Backend).unwrap().as_u16(), 3);
        host.check_against(&cluster, MemberRole::Backend)
    };
    for right in [
        "[[health]]\nservice = \"web\"\ntype = \"tcp\"\n",
        "[[health]]\nservice = \"dns\"\ntype = \"tcp\"\ntarget = \"127.0.0.1:53\"\n",
        "[[health]]\nservice = \"dns\"\ntype = \"exec\"\ncommand = [\"true\"]\n",
        "[[health]]\nservice = \"dns\"\nagent_check = \"127.0.0.1:9999\"\n",
    ] {
        checked(right).unwrap();
    }
    for (wrong, what) in [
        ("[[health]]\nservice = \"wep\"\ntype = \"tcp\"\n", "no service named `wep`"),
        ("[[health]]\nservice = \"other\"\ntype = \"tcp\"\n", "no backend of `other`"),
        ("[[health]]\nservice = \"dns\"\ntype = \"tcp\"\n", "`dns` is UDP"),
    ] {
        let mistakes = checked(wrong).unwrap_err();
        let [m] = &mistakes.0[..] else { panic!("{mistakes}") };
        assert_eq!((m.line, m.column, m.key.as_str()), (6, 11, "health[0].service"), "{m}");
        assert!(m.what.contains(what), "{m}");
    }
}
