//! The demonstration: what JLB promises, shown in a lab of its own, in four steps.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use jlb_lab::topology::{CLIENT, HTTP_PORT, NodeKind, VIP};
use jlb_lab::traffic::{self, Request};
use jlb_lab::{Error, Jlb, Lab, LabConfig, Node};
use jlb_wire::Protocol;

/// Requests of each family.
const REQUESTS: u32 = 1000;
/// Requests while one backend refuses.
const REQUESTS_OVERLOADED: u32 = 400;
/// Requests whose way is shown.
const ROWS: usize = 5;
/// Requests among which one meets the busy backend first: one in four does, so none of them with 0.75^60 = 3 in 10^8.
const MOST_SHOWN: usize = 60;
/// The backend that refuses.
const BUSY: &str = "backend-2";
/// Longest that one request may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest that 100 MB may take, through user-space hops that share two cores.
const TRANSFER: Duration = Duration::from_secs(100);

/// Steps of `make demo`; the first two, packages and build, are those of deploy/demo.
const STEPS: u8 = 6;

/// Runs it in the lab of this name, which is removed at the end. Whether all was as promised.
pub(crate) fn run(name: &str) -> Result<bool, Error> {
    let mut print = Printer { step: 3, well: true };
    let config =
        LabConfig { payload_bytes: 100_000_000, jlb: Some(Jlb::default()), ..LabConfig::default() };

    let begin = Instant::now();
    let mut lab = Lab::up(name, &config)?;
    let client = lab.node("client")?;
    let hosts = config.nodes().len();
    print.line(
        "lab",
        &format!("{hosts} hosts, all daemons ready after {:.1} s", begin.elapsed().as_secs_f64()),
        true,
    );

    curl(&client, &mut print)?;
    transfer(&lab, &client, &mut print)?;
    overload(&mut lab, &client, &mut print)?;
    Ok(print.well)
}

fn curl(client: &Node, print: &mut Printer) -> Result<(), Error> {
    let mut text = String::new();
    let mut all = Vec::new();
    let mut well = true;
    for (family, vip) in ["v4", "v6"].into_iter().zip(VIP) {
        let requests = traffic::requests(client, vip, REQUESTS, PATIENCE)?;
        let succeeded = succeeded(&requests);
        // Writing to a String does not fail.
        let _ = write!(text, "{family} {succeeded}/{REQUESTS}  ");
        well &= succeeded == requests.len();
        all.extend(requests);
    }
    print.line("curl", &format!("{text:<42}p50 {:.1} ms", traffic::median(&all) * 1000.0), well);
    Ok(())
}

fn transfer(lab: &Lab, client: &Node, print: &mut Printer) -> Result<(), Error> {
    let up = traffic::upload(lab, client, VIP[0], "demo", TRANSFER)?;
    let down = traffic::download(lab, client, VIP[1], TRANSFER)?;
    let word = |well| if well { "ok" } else { "NOT equal" };
    print.line(
        "100 MB",
        &format!("up {}, down {} (sha256 equal)", word(up), word(down)),
        up && down,
    );
    Ok(())
}

fn overload(lab: &mut Lab, client: &Node, print: &mut Printer) -> Result<(), Error> {
    let backends = lab.nodes_of(NodeKind::Backend).into_iter().map(|node| node.name());
    let members = backends.map(|name| match name.as_str() {
        BUSY => format!("{{ member = \"{name}\", admission = \"refuse\" }}"),
        _ => format!("\"{name}\""),
    });
    let members: Vec<String> = members.collect();
    let before = refusals(lab)?;
    // By the default policy it would soon be asked last.
    lab.reload(|jlb| {
        jlb.services[0].backends = members;
        jlb.services[0].more.push_str("policy = \"random\"\n");
    })?;
    lab.wait_reloaded()?;
    let requests = traffic::requests(client, VIP[0], REQUESTS_OVERLOADED, PATIENCE)?;
    let refused = refusals(lab)? - before;
    let placed = succeeded(&requests);
    let elsewhere = !traffic::by_backend(&requests).contains_key(BUSY);
    let well = placed == requests.len() && elsewhere && refused > 0.0;
    let outcome = if placed == requests.len() && elsewhere {
        "all placed elsewhere".to_owned()
    } else {
        format!(
            "only {placed} of {} placed, {} there",
            requests.len(),
            if elsewhere { "none" } else { "some" }
        )
    };
    print.line("overload", &format!("{BUSY} refused {refused}; {outcome}"), well);
    table(lab, client, print)
}

/// A few requests one by one, the last of them one that the busy backend refused and that took a second try: where each
/// went.
fn table(lab: &Lab, client: &Node, print: &mut Printer) -> Result<(), Error> {
    print
        .row(&["client", "ingress", "primary", "secondary", "backend", "tries"].map(str::to_owned));
    let mut rows = VecDeque::new();
    for _ in 0..MOST_SHOWN {
        let before = refusals(lab)?;
        let requests = traffic::requests(client, VIP[0], 1, PATIENCE)?;
        let tries = 1.0 + refusals(lab)? - before;
        for request in requests {
            rows.push_back(row(lab, &request, tries)?);
        }
        if rows.len() > ROWS {
            rows.pop_front();
        }
        if rows.len() == ROWS && tries > 1.0 {
            break;
        }
    }
    for row in rows {
        print.row(&row);
    }
    Ok(())
}

fn row(lab: &Lab, request: &Request, tries: f64) -> Result<[String; 6], Error> {
    let from = SocketAddr::new(CLIENT[0], request.client_port);
    let path = match (from, SocketAddr::new(VIP[0], HTTP_PORT)) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => lab.path_of(from, to, Protocol::Tcp)?,
        (SocketAddr::V6(_), _) | (_, SocketAddr::V6(_)) => return Ok(Default::default()),
    };
    let mut trackers = path.trackers.into_iter();
    let mut tracker = || trackers.next().unwrap_or_default();
    let (primary, secondary) = (tracker(), tracker());
    let backend = request.backend.clone().unwrap_or_else(|| "none".to_owned());
    Ok([from.to_string(), path.ingress, primary, secondary, backend, tries.to_string()])
}

/// How often the agent of the busy backend has refused a flow.
fn refusals(lab: &Lab) -> Result<f64, Error> {
    Ok(lab.node(BUSY)?.metrics()?.sum("jlb_refusals_total", &[]).unwrap_or(0.0))
}

fn succeeded(requests: &[Request]) -> usize {
    requests.iter().filter(|request| request.backend.is_some()).count()
}

struct Printer {
    step: u8,
    well: bool,
}

impl Printer {
    fn line(&mut self, what: &str, text: &str, well: bool) {
        let mark = if well { "" } else { "   FAILED" };
        // A reader that has gone is no reason to stop.
        let _ = writeln!(std::io::stdout(), "[{}/{STEPS}] {what:<9} {text}{mark}", self.step);
        self.step += 1;
        self.well &= well;
    }

    fn row(&self, cells: &[String; 6]) {
        let [client, ingress, primary, secondary, backend, tries] = cells;
        let row = format!(
            "{client:<20} {ingress:<10} {primary:<10} {secondary:<10} {backend:<10} {tries}"
        );
        let _ = writeln!(std::io::stdout(), "{row}");
    }
}
