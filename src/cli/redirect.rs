//! `adit redirect`: the capture rules of one network namespace.

use std::{
    io::{
        self,
        ErrorKind::{InvalidInput, NotADirectory, NotFound},
    },
    sync::Arc,
};

use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use super::{
    BAD_CONFIG, FAILED, OK,
    output::{Format, complain, say},
};
use crate::{
    mesh::{NetnsRef, NonTcp},
    pods::capture::{self, CaptureError, CaptureReport},
    sys::netns::Netns,
};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RedirectVerb {
    /// Redirect TCP of the namespace to adit
    Apply,
    /// Remove the redirection
    Remove,
    /// Show which rules are applied, and whether they are complete
    Show,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        adit redirect apply --netns shop-web\n  \
        adit redirect show --netns pid:4711\n\n\
        `adit run` does this by itself if the mesh file says `capture: { rules: nft }`.\n\
        The rules are applied all together or not at all.\n\
        `show` exits with 0 whatever it finds; `complete` of its JSON says whether the\n\
        rules are as they were applied (null: that cannot be told). `asked` is null if\n\
        the rules have no note of it: an earlier version of adit applied them, or the\n\
        rule with the note is gone (it is in the table inet adit-nat).")]
pub(super) struct RedirectArgs {
    /// What to do
    verb: RedirectVerb,
    /// Network namespace: a name under /run/netns, an absolute path, or pid:N
    #[arg(long, value_name = "NETNS")]
    netns: NetnsRef,
    #[command(flatten)]
    format: Format,
    /// Keep plaintext connections that are older than the rules (apply)
    ///
    /// As `mtls: permissive` of a mesh file.
    #[arg(long)]
    permissive: bool,
    /// Let the kubelet's probes pass, from istio-cni's address for them (apply)
    ///
    /// Rules of the node keep everybody else from using that address. They are lost when the
    /// node's firewall is reloaded: apply again then.
    #[arg(long)]
    kubelet_probes: bool,
    /// What to do with traffic that is not TCP: pass, count or drop (apply)
    ///
    /// DNS always passes, and so does the ICMP that IP needs.
    #[arg(long, value_name = "VERDICT", default_value = "pass")]
    non_tcp: NonTcp,
}

impl RedirectArgs {
    fn options(&self) -> capture::Options {
        let Self { permissive, kubelet_probes, non_tcp, .. } = *self;
        capture::Options { strict: !permissive, kubelet_probes, non_tcp }
    }
}

pub(super) fn run(args: &RedirectArgs) -> u8 {
    let failed = |error: &dyn std::fmt::Display, code| {
        complain!("{}: {error}", args.netns);
        code
    };
    let netns = match open(&args.netns) {
        Ok(netns) => Arc::new(netns),
        Err(error) => {
            let names_none = [NotFound, InvalidInput, NotADirectory].contains(&error.kind());
            return failed(&error, if names_none { BAD_CONFIG } else { FAILED });
        }
    };
    match act(args, &netns) {
        Ok(()) => OK,
        Err(error) => failed(&error, FAILED),
    }
}

/// What to repeat by hand, as nobody does it once this command has ended.
const AFTER_A_FLUSH: &str = "applied. Rules of the node keep everybody but the kubelet from using \
                             the address of its probes. They are lost when the node's firewall is \
                             reloaded: run this again then (`adit run` restores them by itself)";

fn open(named: &NetnsRef) -> io::Result<Netns> {
    let netns = Netns::open(&named.path())?;
    netns.run(|| ())?;
    Ok(netns)
}

fn act(args: &RedirectArgs, netns: &Arc<Netns>) -> Result<(), CaptureError> {
    let patience = CancellationToken::new();
    match args.verb {
        RedirectVerb::Apply => {
            capture::reachable(netns)?;
            if args.kubelet_probes {
                capture::guard_probes(netns, &patience)?;
            }
            let applied = capture::apply(netns, args.options(), &patience);
            match (args.kubelet_probes, &applied) {
                (false, _) => {}
                (true, Ok(())) => complain!("{}: {AFTER_A_FLUSH}", args.netns),
                (true, Err(_)) => capture::reconsider_guard(netns, &patience)?,
            }
            applied?;
        }
        RedirectVerb::Remove => capture::remove(netns, &patience)?,
        RedirectVerb::Show => {
            let report = capture::show(netns)?;
            match args.format.is_json() {
                true => say!("{:#}", serde_json::json!(report)),
                false => say!("{}", table(&args.netns.to_string(), &report)),
            }
        }
    }
    Ok(())
}

/// What is said of rules that do not note what was asked for.
const NOT_NOTED: &str = "CANNOT TELL whether complete: what always stands is there, but an earlier \
                         version of adit applied them, or another program changed them";

/// The report for people: a line for each question.
fn table(netns: &str, report: &CaptureReport) -> String {
    let by_others = |by: Option<bool>| by == Some(true);
    let others = by_others(report.inbound_by_others) || by_others(report.outbound_by_others);
    let changed = !report.changed.is_empty();
    let has_some = report.complete != Some(false) || !report.missing.is_empty() || changed;
    let rules = match (report.complete, has_some, others) {
        (Some(true), ..) => "complete".to_owned(),
        (None, ..) => NOT_NOTED.to_owned(),
        (_, true, _) if report.missing.is_empty() => {
            let tables = report.changed.join(", inet ");
            format!("CHANGED: other rules than adit applied, in inet {tables}; TCP may bypass adit")
        }
        (_, true, _) => format!("NOT COMPLETE, without {}", report.missing.join(", ")),
        (_, false, true) => "none of adit's; another program redirects TCP to adit".to_owned(),
        (_, false, false) => "none".to_owned(),
    };
    let is_there = |part: &str| has_some && !report.missing.iter().any(|m| m.contains(part));
    let captured = |part: &str, by: Option<bool>, to: &str| match is_there(part) || by_others(by) {
        true => format!("TCP goes to adit, {to}"),
        false => "NOT CAPTURED: TCP passes as it is".to_owned(),
    };
    let mut rows = vec![
        ("rules", rules),
        (
            "inbound",
            captured(
                "inbound TCP",
                report.inbound_by_others,
                "HBONE on port 15008, plaintext on port 15006",
            ),
        ),
        ("outbound", captured("outbound TCP", report.outbound_by_others, "port 15001")),
    ];
    let captures = is_there("inbound TCP") || is_there("outbound TCP");
    if has_some && (captures || report.strict) {
        rows.extend(exceptions(report));
    }
    if has_some && (captures || report.non_tcp != Some("pass")) {
        rows.push(("not TCP", not_tcp(report)));
    }
    if report.complete != Some(true) && !others {
        rows.push(("what to do", apply_again(netns, report)));
        if report.asked.is_none() {
            rows.push(("", OPTIONS_OF_THE_FILE.to_owned()));
        }
        rows.push(("", BY_ITSELF.to_owned()));
    }
    let rows = rows.into_iter().map(|(name, says)| format!("\n  {name:<12}{says}"));
    format!("network namespace {netns}{}", rows.collect::<String>())
}

/// What to add to the command where nothing is known of what was asked for.
const OPTIONS_OF_THE_FILE: &str =
    "with the options of your mesh file (mtls, probes, nonTcp): see `adit redirect --help`";

/// Who does the same without a command.
const BY_ITSELF: &str =
    "a running `adit run` restores the rules of its pods by itself within seconds";

/// The lines about what rules that stand let by of TCP.
fn exceptions(report: &CaptureReport) -> [(&'static str, String); 2] {
    let mut exceptions = vec!["loopback", "adit's own connections"];
    if report.kubelet_probes {
        exceptions.push("the kubelet's probes from 169.254.7.127");
    }
    let blocks = !report.missing.contains(&"the rules that block older plaintext connections");
    let older = match (report.strict && blocks, report.asked.map(|asked| asked.mtls)) {
        (true, _) => "plaintext connections from before the rules are blocked (strict)",
        (_, Some("strict")) => {
            "NOT BLOCKED, against `mtls: strict`: plaintext connections from \
                                before the rules continue"
        }
        (_, Some(_)) => "plaintext connections from before the rules continue (permissive)",
        (_, None) => {
            "plaintext connections from before the rules continue; they would be blocked \
                      under `mtls: strict`"
        }
    };
    [("exceptions", exceptions.join(", ")), ("older TCP", older.to_owned())]
}

/// What is done with all that is not TCP.
fn not_tcp(report: &CaptureReport) -> String {
    let not_tcp = match report.non_tcp {
        Some("pass") => "passes as it is",
        Some("count") => "passes as it is, and is counted",
        Some(_) => "is dropped and counted, but for DNS and the ICMP that IP needs",
        None => "NOT KNOWN: the rules about it were changed",
    };
    let against = match report.asked.map(|asked| asked.non_tcp) {
        Some(asked) if report.non_tcp.is_some_and(|stands| stands != asked) => {
            format!(", against `nonTcp: {asked}`")
        }
        _ => String::new(),
    };
    format!("{not_tcp}{against}")
}

/// The command that applies the rules with what was asked for, or with the defaults if that is not
/// known.
fn apply_again(netns: &str, report: &CaptureReport) -> String {
    let mut command = format!("adit redirect apply --netns {netns}");
    let Some(asked) = report.asked else { return command };
    if asked.mtls == "permissive" {
        command.push_str(" --permissive");
    }
    if asked.kubelet_probes {
        command.push_str(" --kubelet-probes");
    }
    if asked.non_tcp != "pass" {
        command.push_str(" --non-tcp ");
        command.push_str(asked.non_tcp);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::capture::Asked;

    fn report() -> CaptureReport {
        CaptureReport {
            applied: true,
            complete: Some(true),
            missing: Vec::new(),
            changed: Vec::new(),
            asked: Some(Asked { mtls: "strict", kubelet_probes: true, non_tcp: "count" }),
            strict: true,
            kubelet_probes: true,
            non_tcp: Some("count"),
            outbound_by_others: Some(false),
            inbound_by_others: Some(false),
            nft: String::new(),
            ip_rules: Vec::new(),
        }
    }

    #[test]
    fn complete_rules_are_said_to_be_and_nothing_is_to_do() {
        assert_eq!(
            table("web", &report()),
            "\
network namespace web
  rules       complete
  inbound     TCP goes to adit, HBONE on port 15008, plaintext on port 15006
  outbound    TCP goes to adit, port 15001
  exceptions  loopback, adit's own connections, the kubelet's probes from 169.254.7.127
  older TCP   plaintext connections from before the rules are blocked (strict)
  not TCP     passes as it is, and is counted"
        );
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let missing = vec!["the redirection of inbound TCP"];
        let some = CaptureReport { complete: Some(false), applied: false, missing, ..report() };
        let shown = table("web", &some);
        assert!(shown.contains("NOT COMPLETE, without the redirection of inbound TCP"), "{shown}");
        assert!(shown.contains("inbound     NOT CAPTURED"), "{shown}");
        assert!(shown.contains("outbound    TCP goes to adit"), "{shown}");
        let what_to_do =
            "\n  what to do  adit redirect apply --netns web --kubelet-probes --non-tcp count\n";
        assert!(shown.contains(what_to_do), "{shown}");
        assert!(
            shown.ends_with("by itself within seconds") && !shown.contains("of your mesh file")
        );
    }

    #[test]
    fn a_table_with_another_rule_in_it_is_not_called_complete() {
        let changed = vec!["adit-nat"];
        let some = CaptureReport { complete: Some(false), changed, ..report() };
        let shown = table("web", &some);
        assert!(
            shown.contains("rules       CHANGED: other rules than adit applied, in inet adit-nat;"),
            "{shown}"
        );
        assert!(shown.contains("what to do  adit redirect apply --netns web"), "{shown}");
        assert!(shown.contains("inbound     TCP goes to adit"), "{shown}");
    }

    #[test]
    fn a_filter_that_is_gone_is_not_called_permissive() {
        let says = |asked: Option<&'static str>| {
            let asked = asked.map(|mtls| Asked { mtls, kubelet_probes: false, non_tcp: "drop" });
            table("web", &CaptureReport { strict: false, asked, ..report() })
        };
        assert!(says(Some("permissive")).contains("continue (permissive)"));
        for gone in [says(Some("strict")), says(None)] {
            assert!(gone.contains("`mtls: strict`") && !gone.contains("permissive"), "{gone}");
        }
        assert!(says(Some("strict")).contains("and is counted, against `nonTcp: drop`"));
    }

    #[test]
    fn what_an_earlier_version_applied_is_called_neither_complete_nor_broken() {
        let earlier = CaptureReport { complete: None, asked: None, ..report() };
        let shown = table("web", &earlier);
        assert!(shown.contains("rules       CANNOT TELL") && !shown.contains("NOT COMPLETE"));
        // What can be pasted ends with its line.
        assert!(shown.contains("what to do  adit redirect apply --netns web\n"), "{shown}");
        assert!(shown.contains("\n              with the options of your mesh file"), "{shown}");
    }

    #[test]
    fn nothing_is_said_of_rules_that_are_not_there() {
        let none = CaptureReport { complete: Some(false), applied: false, ..report() };
        let shown = table("pid:7", &none);
        assert!(shown.contains("rules       none\n") && !shown.contains("older TCP"), "{shown}");
        assert!(shown.contains("inbound     NOT CAPTURED"), "{shown}");
        let missing = vec!["the redirection of inbound TCP", "the redirection of outbound TCP"];
        let flushed = CaptureReport {
            missing,
            strict: false,
            kubelet_probes: false,
            non_tcp: Some("pass"),
            asked: None,
            ..none.clone()
        };
        let shown = table("pid:7", &flushed);
        for row in ["exceptions", "older TCP", "not TCP"] {
            assert!(shown.contains("NOT COMPLETE") && !shown.contains(row), "{shown}");
        }
        let by_istio =
            CaptureReport { inbound_by_others: Some(true), outbound_by_others: Some(true), ..none };
        let shown = table("pid:7", &by_istio);
        assert!(shown.contains("another program redirects TCP to adit"), "{shown}");
        assert!(!shown.contains("NOT CAPTURED") && !shown.contains("what to do"), "{shown}");
    }
}
