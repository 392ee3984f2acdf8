//! The systemd units are well-formed, by systemd's own judgement.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("not checked: there is no systemd-analyze here");
        return;
    }
    let dir = env::temp_dir().join(format!("jlbt-cluster-units-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let mut units = Vec::new();
    for entry in
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/systemd")).unwrap()
    {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let start = format!("\nExecStart=/usr/bin/{name}\n");
        assert!(text.contains(&start), "{name} starts its own daemon");
        // The daemons need not be installed where this runs.
        let copy = dir.join(path.file_name().unwrap());
        let text = text.replace(&start, "\nExecStart=/bin/true\n");
        fs::write(&copy, text.replace("=/usr/bin/jlb-vip-watchdog ", "=/bin/true ")).unwrap();
        units.push(copy);
    }
    let output = Command::new("systemd-analyze").arg("verify").args(&units).output().unwrap();
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(units.len(), 3);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
}
