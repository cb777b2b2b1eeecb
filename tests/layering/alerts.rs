//! Alerts (`deploy/dashboards/alerts.yaml`) name runbooks that exist, down to the section.

use std::fs;

const ALERTS: &str = "deploy/dashboards/alerts.yaml";
const MANIFEST: &str = "deploy/kubernetes/prometheusrule.yaml";
const RUNBOOKS: &str = "/blob/main/deploy/runbooks/";

/// How many alerts there are, and what is wrong with the runbooks of some.
pub(crate) fn without_runbook() -> (usize, Vec<String>) {
    let text = fs::read_to_string(ALERTS).unwrap();
    let alerts: Vec<&str> = text.split("- alert: ").skip(1).collect();
    let fault = |alert: &&str| {
        let name = alert.lines().next().unwrap_or_default();
        let url = alert.lines().find_map(|line| line.trim().strip_prefix("runbook_url: "));
        let Some((_, place)) = url.and_then(|url| url.split_once(RUNBOOKS)) else {
            return Some(format!("{name} has no runbook_url of deploy/runbooks"));
        };
        let (file, section) = place.split_once('#').unwrap_or((place, ""));
        let runbook = fs::read_to_string(format!("deploy/runbooks/{file}")).unwrap_or_default();
        let has = match section {
            "" => !runbook.is_empty(),
            section => runbook.lines().filter_map(anchor).any(|anchor| anchor == section),
        };
        (!has).then(|| format!("{name}: there is no {place}"))
    };
    (alerts.len(), alerts.iter().filter_map(fault).collect())
}

/// What a heading is linked to by.
fn anchor(line: &str) -> Option<String> {
    let title = line.strip_prefix('#')?.trim_start_matches('#').trim();
    let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    Some(kept.collect::<String>().to_lowercase().replace(' ', "-"))
}

/// Whether the manifest has the same groups, each line two columns further in, none empty.
pub(crate) fn manifest_is_in_step() -> bool {
    let groups = |file: &str, margin: &str| {
        let text = fs::read_to_string(file).unwrap();
        let begins = format!("{margin}groups:");
        let lines = text.lines().skip_while(|line| *line != begins);
        let cut = |line: &str| line.strip_prefix(margin).unwrap_or(line).to_owned();
        lines.filter(|line| !line.is_empty()).map(cut).collect::<Vec<_>>()
    };
    let alerts = groups(ALERTS, "");
    alerts.len() > 100 && groups(MANIFEST, "  ") == alerts
}
