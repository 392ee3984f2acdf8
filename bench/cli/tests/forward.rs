//! The bench runs: testpmd and our ingress forward, what comes back is right, and nothing stays behind.

use std::process::Command;

use serde_json::Value;

const FLOWS: u64 = 2000;

#[test]
fn both_systems_forward_all_packets_as_they_must() {
    let output = Command::new(env!("CARGO_BIN_EXE_jlb-bench"))
        .args(["forward", "--times", "1", "--seconds", "0.2", "--json"])
        .args(["--flows", &FLOWS.to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_str(said.lines().next_back().unwrap()).unwrap();
    for side in json["runs"][0].as_array().unwrap() {
        assert!(side["verified"].as_u64().unwrap() >= FLOWS, "{side}");
        assert!(side["mpps"].as_f64().unwrap() > 0.0, "{side}");
    }
    for key in ["ratio", "added_ns", "hot_path_ns", "testpmd_busy_ns", "jlb_busy_ns", "busy_ratio"]
    {
        assert!(json[key].is_f64(), "{key} in {json}");
    }
}
