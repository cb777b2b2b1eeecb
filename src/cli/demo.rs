//! `adit demo`: the main job, shown.

use clap::Args;
use serde_json::Value;

use super::{
    FAILED, OK,
    output::{complain, say},
};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  adit demo\n\n\
        Needs root or unprivileged user namespaces, and nft, ip, nginx and curl\n\
        (scripts/demo.sh installs them). Leaves nothing behind.")]
pub(super) struct DemoArgs {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DemoArgs) -> u8 {
    match crate::app::demo(&|step| complain!("· {step}")) {
        Ok(report) => {
            if args.json {
                say!("{report:#}");
            } else {
                print(&report);
            }
            OK
        }
        Err(error) => {
            complain!("the demonstration failed: {error:#}");
            FAILED
        }
    }
}

fn print(report: &Value) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let (call, denied) = (&report["call"], &report["denied"]);
    say!("\nAllowed connections");
    say!("  {}", text(&call["src.identity"]));
    say!("    → {}  ({})", text(&call["dst.identity"]), text(&call["dst.service"]));
    say!(
        "    {}, {}, {}",
        text(&call["tls.version"]),
        text(&call["tls.group"]),
        text(&call["tls.cipher"])
    );
    say!("    allowed by {}", text(&call["policy"]));
    say!("\nRefused connections");
    say!("  {}", text(&denied["src.identity"]));
    say!("    {}", text(&denied["error"]));
    let rotation = &report["rotation"];
    say!("\nA certificate rotated under a running connection");
    say!(
        "  serial {} → {}; the connection continued, new ones use the new certificate",
        text(&rotation["before"]),
        text(&rotation["after"])
    );
    let edit = &report["policyEdit"];
    say!("\nA policy edited live");
    say!("  closed exactly {}: {}", edit["closed"], text(&edit["record"]["src.identity"]));
    say!("    {}", text(&edit["record"]["error"]));
    let wire = &report["wire"];
    say!("\nOn the wire between the nodes");
    say!(
        "  {} packets, {} bytes, {} beginning a TLS record, {} with readable HTTP, {} off port \
         15008",
        wire["packets"],
        wire["bytes"],
        wire["tlsRecords"],
        wire["plaintextHits"],
        wire["otherPorts"]
    );
}
