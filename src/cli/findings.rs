//! How reports are printed: for people, one line a rule, and for scripts.

use std::io::{self, Write};

use super::{
    FAILED, OK,
    output::{self, Format},
};
use crate::identity::lint::{Report, Verdict, printable, printable_json};

/// What the exit codes and verdicts mean, for the help of both commands.
pub(super) const LEGEND: &str = "\
Each rule is listed with its clause of the specification and a verdict:
  ok      the rule is kept
  warn    differs from the specification; adit and most others accept it
  FAIL    broken: implementations that follow the specification reject it
  -       not checked, and why

The exit code is 1 if a rule fails.";

/// Prints reports, each with where it comes from; the exit code.
pub(super) fn print(how: Format, reports: &[(String, Report)], quiet: bool) -> u8 {
    let failed = reports.iter().any(|(_, report)| report.failed());
    output::write(|| match how.is_json() {
        true => json(reports, failed),
        false => text(reports, quiet),
    });
    if failed { FAILED } else { OK }
}

fn json(reports: &[(String, Report)], failed: bool) -> io::Result<()> {
    let each = reports.iter().map(|(of, report)| {
        serde_json::json!({
            "of": of,
            "kind": report.kind,
            "subject": report.subject,
            "failed": report.failed(),
            "findings": report.findings,
        })
    });
    let all = serde_json::json!({ "failed": failed, "reports": each.collect::<Vec<_>>() });
    writeln!(io::stdout(), "{}", printable_json(&format!("{all:#}")))
}

fn text(reports: &[(String, Report)], quiet: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (of, report) in reports {
        let subject = printable(report.subject.as_deref().unwrap_or("no name"));
        writeln!(out, "{}: {}, {subject}", printable(of), report.kind)?;
        for finding in &report.findings {
            let mark = match finding.verdict {
                Verdict::Ok => "ok  ",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
                Verdict::NotChecked => "-   ",
            };
            if quiet && matches!(finding.verdict, Verdict::Ok) {
                continue;
            }
            let found = if finding.found.is_empty() { "kept" } else { &*finding.found };
            writeln!(out, "  {mark} {} [{}]: {found}", finding.rule, finding.clause)?;
            if !finding.advice.is_empty() {
                writeln!(out, "         → {}", finding.advice)?;
            }
        }
        let count = |verdict| report.count(verdict);
        writeln!(
            out,
            "  {}: {} ok, {} warn, {} fail, {} not checked",
            crate::identity::counted(report.findings.len(), "rule"),
            count(Verdict::Ok),
            count(Verdict::Warn),
            count(Verdict::Fail),
            count(Verdict::NotChecked),
        )?;
    }
    Ok(())
}
