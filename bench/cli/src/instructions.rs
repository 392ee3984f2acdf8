//! `jlb-bench instructions`: one piece of the packet path, for an instruction counter around this process.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use jlb_speed::{Piece, run_piece};
use serde_json::json;

const HELP: &str =
    "Counts nothing itself: bench/speed/count runs it under callgrind, as make instructions does.

Examples:
  jlb-bench instructions --piece data --json | tail -n 1 | jq .packets
  bench/speed/count                                 all pieces, against the stored figures";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Arguments {
    /// What is run.
    #[arg(long, value_enum)]
    piece: Name,
    /// Say the result as JSON, in one last line on standard output.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Name {
    /// The ingress: a packet of an established flow.
    Data,
    /// The same, IPv6.
    DataV6,
    /// The ingress: a SYN of a new flow.
    Syn,
    /// The egress: a backend's reply.
    Egress,
    /// The flow tracker: an Open of a new flow.
    Open,
}

pub(crate) fn main(arguments: &Arguments) -> ExitCode {
    let piece = match arguments.piece {
        Name::Data => Piece::Data,
        Name::DataV6 => Piece::DataV6,
        Name::Syn => Piece::Syn,
        Name::Egress => Piece::Egress,
        Name::Open => Piece::Open,
    };
    let told = run_piece(piece).map_err(|e| e.to_string()).and_then(|packets| {
        let mut out = io::stdout();
        if arguments.json {
            writeln!(out, "{}", json!({ "bench": "instructions", "packets": packets }))
        } else {
            writeln!(out, "{packets} packets")
        }
        .map_err(|e| e.to_string())
    });
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "jlb-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
