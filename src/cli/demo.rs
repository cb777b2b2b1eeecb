//! `adit demo`: the main job, shown.

use clap::Args;
use serde_json::Value;

use super::{FAILED, OK};

#[derive(Debug, Args)]
#[command(
    after_help = "Needs root or unprivileged user namespaces, and nft, ip, nginx and curl\n(scripts/demo.sh installs them). Leaves nothing behind."
)]
pub(super) struct DemoArgs {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DemoArgs) -> u8 {
    match crate::app::demo(&|step| eprintln!("· {step}")) {
        Ok(report) => {
            if args.json {
                println!("{report:#}");
            } else {
                print(&report);
            }
            OK
        }
        Err(error) => {
            eprintln!("the demonstration failed: {error:#}");
            FAILED
        }
    }
}

fn print(report: &Value) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let (call, denied) = (&report["call"], &report["denied"]);
    println!("\nWho talked to whom");
    println!("  {}", text(&call["src.identity"]));
    println!("    → {}  ({})", text(&call["dst.identity"]), text(&call["dst.service"]));
    println!(
        "    {}, {}, {}",
        text(&call["tls.version"]),
        text(&call["tls.group"]),
        text(&call["tls.cipher"])
    );
    println!("    allowed by {}", text(&call["policy"]));
    println!("\nWho was refused");
    println!("  {}", text(&denied["src.identity"]));
    println!("    {}", text(&denied["error"]));
    let rotation = &report["rotation"];
    println!("\nA certificate rotated under a running connection");
    println!(
        "  serial {} → {}; the connection went on, new ones use the new one",
        text(&rotation["before"]),
        text(&rotation["after"])
    );
    let edit = &report["policyEdit"];
    println!("\nA policy edited live");
    println!("  closed exactly {}: {}", edit["closed"], text(&edit["record"]["src.identity"]));
    println!("    {}", text(&edit["record"]["error"]));
    let wire = &report["wire"];
    println!("\nOn the wire between the nodes");
    println!(
        "  {} packets, {} bytes, {} beginning a TLS record, {} with readable HTTP, {} off port 15008",
        wire["packets"],
        wire["bytes"],
        wire["tlsRecords"],
        wire["plaintextHits"],
        wire["otherPorts"]
    );
}
