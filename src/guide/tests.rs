//! What the guides list is all that there is, and nothing else: a name that is new in the code and
//! has no row fails here.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

const OBSERVABILITY: &str = include_str!("observability.md");

/// The rows of all tables whose first column has this title: what is in their cells.
fn rows(guide: &'static str, title: &str) -> Vec<Vec<&'static str>> {
    let cells = |line: &'static str| -> Vec<&'static str> {
        line.trim_matches('|').split('|').map(|cell| cell.trim()).collect()
    };
    let mut found = Vec::new();
    let mut is_wanted = None;
    for line in guide.lines() {
        match (line.starts_with('|'), is_wanted) {
            (false, _) => is_wanted = None,
            (true, None) => is_wanted = Some(cells(line)[0] == title),
            (true, Some(true)) if !line.starts_with("|--") => found.push(cells(line)),
            (true, Some(_)) => {}
        }
    }
    found
}

/// A name in backquotes.
fn name(cell: &'static str) -> &'static str {
    cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`')).expect("a name in backquotes")
}

#[test]
fn every_close_reason_has_a_row_that_says_what_to_do() {
    let source = include_str!("../net/close_reason.rs");
    let from_code: BTreeMap<&str, &str> = source
        .lines()
        .filter_map(|line| {
            let (reason, flags) = line.split_once(" = \"")?.1.split_once("\" / \"")?;
            Some((reason, flags.strip_suffix("\";")?))
        })
        .collect();
    assert!(from_code.len() > 30, "the source looks otherwise: {from_code:?}");
    let rows = rows(OBSERVABILITY, "Reason");
    let from_guide: BTreeMap<&str, &str> = rows.iter().map(|row| (name(row[0]), row[1])).collect();
    assert_eq!(from_guide, from_code);
    assert_eq!(rows.len(), from_code.len(), "a reason has two rows");
    assert!(rows.iter().all(|row| row.len() == 5 && row.iter().all(|cell| !cell.is_empty())));
}

/// Labels as the guide abbreviates them.
const ABBREVIATED: [(&str, &str); 2] = [
    (
        "Istio's",
        "connection_security_policy,destination_app,destination_canonical_revision,\
         destination_canonical_service,destination_cluster,destination_principal,\
         destination_region,destination_service,destination_service_name,\
         destination_service_namespace,destination_version,destination_workload,\
         destination_workload_namespace,destination_zone,reporter,request_protocol,response_flags,\
         source_app,source_canonical_revision,source_canonical_service,source_cluster,\
         source_principal,source_region,source_version,source_workload,source_workload_namespace,\
         source_zone",
    ),
    (
        "Query's",
        "request_protocol,request_query_type,source_canonical_revision,source_canonical_service",
    ),
];

fn labels(cell: &str) -> Vec<&str> {
    let of = |label: &'_ str| ABBREVIATED.iter().find(|(short, _)| *short == label);
    let mut all: Vec<&str> = cell
        .split(", ")
        .filter(|label| !label.is_empty())
        .flat_map(|label| match of(label) {
            Some((_, labels)) => labels.split(',').collect(),
            None => vec![label.trim_matches('`')],
        })
        .collect();
    all.sort_unstable();
    all
}

/// Names of metrics in the sources of the registries, whatever series they have.
fn registered() -> Vec<String> {
    let mut names = Vec::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut left = vec![src.join("observe/metrics"), src.join("authority/serve")];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(path).unwrap();
            let literals = text.split('"').skip(1).step_by(2);
            let is_name = |text: &&str| {
                let begins = ["adit_", "istio_", "tokio_", "process_", "workload_manager_"];
                begins.iter().any(|begin| text.starts_with(begin))
                    && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
            };
            names.extend(literals.filter(is_name).map(ToOwned::to_owned));
        }
    }
    assert!(names.len() > 40, "the sources look otherwise: {names:?}");
    names
}

#[test]
fn every_metric_has_a_row_with_its_kind_and_labels() {
    let families = include_str!("../observe/metrics/families.txt").lines().map(|line| {
        let (name, rest) = line.split_once(' ').unwrap();
        let (kind, rest) = rest.split_once(" {").unwrap();
        let mut labels: Vec<&str> = rest.split_once('}').unwrap().0.split(',').collect();
        labels.retain(|label| !label.is_empty());
        labels.sort_unstable();
        (name, (kind, labels))
    });
    let of_ca = [("adit_ca_issued_total", vec![]), ("adit_ca_refused_total", vec!["reason"])];
    let from_code: BTreeMap<&str, (&str, Vec<&str>)> =
        families.chain(of_ca.map(|(name, labels)| (name, ("counter", labels)))).collect();
    let rows = rows(OBSERVABILITY, "Metric");
    let from_guide: BTreeMap<&str, (&str, Vec<&str>)> = rows
        .iter()
        .map(|row| (name(row[0]), (row[1].split(',').next().unwrap(), labels(row[2]))))
        .collect();
    for name in registered() {
        assert!(from_code.contains_key(&*name), "{name}: it is not in families.txt, nor here");
    }
    for (name, is) in &from_code {
        assert_eq!(from_guide.get(name), Some(is), "the row of {name}");
    }
    let unknown: Vec<_> = from_guide.keys().filter(|name| !from_code.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "no such metric: {unknown:?}");
    assert_eq!(rows.len(), from_code.len(), "a metric has two rows");
    assert!(rows.iter().all(|row| row.len() == 5), "a row has too many cells");
}

#[test]
fn labels_that_the_guide_abbreviates_are_named_there() {
    for label in ABBREVIATED.iter().flat_map(|(_, labels)| labels.split(',')) {
        let of_ends = label.strip_prefix("source_").or_else(|| label.strip_prefix("destination_"));
        let named = |label: &str| OBSERVABILITY.contains(&format!("`{label}`"));
        assert!(named(label) || of_ends.is_some_and(named), "{label}");
    }
}

/// The names in an array of the source, up to its end.
fn names_in(source: &'static str, array: &str) -> Vec<&'static str> {
    let begin = source.find(array).expect("the array is there");
    let text = source[begin..].split("];").next().unwrap();
    text.split('"').skip(1).step_by(2).collect()
}

#[test]
fn every_variable_of_the_node_proxy_has_a_row() {
    let known = include_str!("../config/environment/known.rs");
    let open = names_in(known, "const OPEN").into_iter().map(|name| format!("{name}…"));
    let mut from_code: Vec<String> =
        names_in(known, "const KNOWN").into_iter().map(ToOwned::to_owned).chain(open).collect();
    let rows = rows(include_str!("mesh.md"), "Variable");
    assert!(rows.iter().all(|row| row.len() == 3 && !row[2].is_empty()));
    let of_row =
        |row: &Vec<&'static str>| -> Vec<&'static str> { row[0].split(", ").map(name).collect() };
    let mut from_guide: Vec<&str> = rows.iter().flat_map(of_row).collect();
    from_code.sort_unstable();
    from_guide.sort_unstable();
    assert_eq!(from_guide, from_code);
}

/// Markdown files of the repository, by their paths there.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = Vec::new();
    for place in ["", "src/guide", "deploy/runbooks", ".github", "tests", "tests/ambient"] {
        for entry in fs::read_dir(root.join(place)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap();
                pages.push((path, text));
            }
        }
    }
    assert!(pages.len() > 15, "{pages:?}");
    pages
}

/// The anchors that a forge makes of headings.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept =
                words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn links_lead_to_files_and_headings_that_are_there() {
    let mut broken = Vec::new();
    for (path, text) in pages() {
        let targets = text.split("](").skip(1).filter_map(|after| after.split_once(')'));
        let of_references =
            text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: "));
        let targets = targets.map(|(target, _)| target).chain(of_references.map(|(_, to)| to));
        for target in targets.filter(|target| !target.starts_with("http")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            let there = match (anchor, fs::read_to_string(&file)) {
                ("", _) => file.exists(),
                (anchor, Ok(text)) => anchors(&text).iter().any(|a| a == anchor),
                (_, Err(_)) => false,
            };
            if !there {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Rustdoc has no page `mesh.md`, but knows `[mesh guide]`; see the macro.
#[test]
fn guides_name_each_other_in_one_way() {
    for guide in super::ALL {
        for other in super::ALL.map(|guide| guide.name) {
            let file = format!("{other}.md");
            assert!(!guide.text.contains(&format!("]({file}")), "{}: {file}", guide.name);
            let named = guide.text.contains(&format!("[{other} guide]"));
            let defined = guide.text.ends_with('\n')
                && guide.text.contains(&format!("\n[{other} guide]: {file}\n"));
            assert_eq!(named, defined, "{} names {other}", guide.name);
        }
    }
}

#[test]
fn files_that_guides_name_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (path, text) in pages() {
        let words = text.split('`').skip(1).step_by(2).filter_map(|code| code.split(' ').next());
        let of_tree = ["src/", "tests/", "scripts/", "deploy/", "benches/"];
        for word in words.filter(|word| of_tree.iter().any(|top| word.starts_with(top))) {
            assert!(root.join(word).exists(), "{}: {word}", path.display());
        }
    }
}

#[test]
fn a_guide_on_a_screen_is_no_wider_than_it_and_has_no_marks() {
    for guide in super::ALL {
        let shown = guide.on_screen();
        for line in shown.lines().filter(|line| !line.starts_with("    ")) {
            let wide = line.chars().count() > 80 && line.trim().contains(' ');
            assert!(
                !wide && !line.contains("](") && !line.starts_with('|'),
                "{}: {line}",
                guide.name
            );
        }
    }
}

#[test]
fn runbooks_know_every_alert_and_no_reason_that_there_is_not() {
    let alerts = include_str!("../../deploy/dashboards/alerts.yaml");
    let mut alerts: Vec<&str> =
        alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let rows_of_alerts = rows(include_str!("../../deploy/runbooks/alerts.md"), "Alert");
    let mut listed: Vec<&str> = rows_of_alerts.iter().map(|row| row[0]).collect();
    alerts.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, alerts);
    let reasons = rows(OBSERVABILITY, "Reason");
    let known: Vec<&str> = reasons.iter().map(|row| name(row[0])).collect();
    for row in rows(include_str!("../../deploy/runbooks/denied.md"), "Reason") {
        for reason in row[0].split(", ").map(name) {
            assert!(known.contains(&reason), "denied.md: {reason}");
        }
    }
}
