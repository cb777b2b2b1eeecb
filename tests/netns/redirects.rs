//! `adit redirect`, and what rules of `adit run` leave behind: nothing half, nothing unneeded.

use std::process::{Command, Output};

use crate::{
    lab::{Lab, ip},
    mesh::{PODS, allow},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("redirects::the_nodes_rules_about_probes_go_with_the_last_who_needs_them", guard),
    ("redirects::a_namespace_whose_lo_is_down_is_named_and_closed", lo_down),
    ("redirects::what_cannot_be_applied_whole_is_not_applied", whole),
    ("redirects::rules_that_somebody_removed_are_not_called_complete", not_complete),
    ("redirects::what_is_said_of_rules_that_are_gone_can_be_pasted", flushed),
    ("redirects::a_rule_that_somebody_added_is_said_and_goes_with_the_command", added),
    ("redirects::rules_without_a_note_are_applied_again_once_and_not_for_ever", without_note),
    ("redirects::what_names_no_namespace_is_a_wrong_command_line", names_none),
];

fn redirect(words: &str) -> Output {
    redirect_with("", words)
}

/// With tools that are looked for here first.
fn redirect_with(tools: &str, words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adit"))
        .env("PATH", format!("{tools}:{}", std::env::var("PATH").unwrap_or_default()))
        .arg("redirect")
        .args(words.split(' '))
        .output()
        .expect("adit runs")
}

fn redirected(words: &str) -> String {
    let done = redirect(words);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{words}: {said}");
    said
}

/// In both families of tables, or in neither.
fn guarded() -> bool {
    let done = Command::new("nft").args(["list", "tables"]).output().expect("nft runs");
    let tables = String::from_utf8_lossy(&done.stdout).into_owned();
    let [routed, bridged] = ["inet", "bridge"]
        .map(|family| tables.lines().any(|line| line == format!("table {family} adit-probes")));
    assert_eq!(routed, bridged, "{tables}");
    routed
}

/// A namespace that goes with the test.
struct Other;

impl Other {
    fn new() -> Self {
        ip("netns add other");
        Self
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", "other"]).output();
        for family in ["inet", "bridge"] {
            let _ = Command::new("nft").args(["delete", "table", family, "adit-probes"]).output();
        }
    }
}

fn guard() {
    let _other = Other::new();
    ip("-n other link set lo up");
    let mut lab = Lab::new(PODS);
    lab.capture = "rules: nft, probes: kubelet, onStop: remove";
    lab.start(&allow(&["web"]));
    assert!(guarded());
    assert!(lab.stop().success());
    assert!(!guarded(), "nobody is left");

    let said = redirected("apply --kubelet-probes --netns other");
    assert!(said.contains("run this again"), "{said}");
    lab.start(&allow(&["web"]));
    redirected("apply --kubelet-probes --netns other");
    assert!(lab.stop().success());
    assert!(guarded(), "another command's exception stands");
    // Said anew without probes, it is not an exception any more.
    redirected("apply --netns other");
    assert!(!guarded());

    // An edit takes the pods' exceptions away, and a pod that is made anew leaves none.
    lab.start(&allow(&["web"]));
    lab.remake("spy", 3);
    lab.wait("carried again", || lab.log().matches("pod attached").count() == PODS.len() + 1);
    assert!(guarded());
    lab.capture = "rules: nft, onStop: remove";
    lab.write_mesh(&allow(&["web"]));
    lab.wait("gone", || !guarded());

    // Who is killed takes nothing away; by hand it goes with the last pod.
    lab.capture = "rules: nft, probes: kubelet";
    lab.write_mesh(&allow(&["web"]));
    lab.wait("back", guarded);
    lab.wait("applied", || {
        PODS.iter().all(|(pod, _)| {
            lab.tool(pod, "nft list table inet adit-nat").contains("saddr 169.254.7.127")
        })
    });
    lab.signal(nix::sys::signal::Signal::SIGKILL);
    lab.stop_dead();
    for (pod, _) in PODS {
        assert!(guarded(), "before {pod}");
        redirected(&format!("remove --netns {pod}"));
    }
    assert!(!guarded());

    // A firewall that is loaded anew forgets who needs them: then they stay.
    lab.start(&allow(&["web"]));
    let forget = || {
        for family in ["inet", "bridge"] {
            let done =
                Command::new("nft").args(["delete", "table", family, "adit-probes"]).output();
            done.expect("nft runs");
        }
    };
    forget();
    lab.wait("restored", || {
        let said = lab.log().contains("adit has restored them");
        // Whoever applies a pod's rules meanwhile restores them too, and says nothing.
        if !said && guarded() {
            forget();
        }
        said
    });
    lab.wait("there", guarded);
    lab.signal(nix::sys::signal::Signal::SIGKILL);
    lab.stop_dead();
    for (pod, _) in PODS {
        redirected(&format!("remove --netns {pod}"));
    }
    assert!(guarded(), "somebody who is not known may need them");
}

fn lo_down() {
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    ip("-n db link set lo down");
    lab.launch(&allow(&["web"]));
    lab.wait("named", || {
        let log = lab.log();
        log.lines().any(|line| {
            line.contains("pod shop/db: the interface lo is down")
                && line.contains("ip link set lo up")
        })
    });
    assert!(lab.tool("db", "nft list tables").contains("adit-filter"), "it is closed meanwhile");
    lab.wait("the others are carried", || lab.log().matches("pod attached").count() == 2);
    ip("-n db link set lo up");
    lab.wait("carried", || lab.log().matches("pod attached").count() == 3);
    assert!(lab.ask("web", "10.96.0.10:80").is_ok());
}

/// A tool that fails where `when` is true in a shell, and else does what it is for.
fn failing(dir: &std::path::Path, tool: &str, when: &str) {
    use std::os::unix::fs::PermissionsExt;
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir(dir).unwrap();
    let script = format!(
        "#!/bin/sh\nPATH=${{PATH#*:}}\ncase \"$*\" in '-f -' | *'-batch -') text=$(cat) ;; esac\n\
         if {when}; then echo no >&2; exit 1; fi\nprintf '%s\\n' \"$text\" | {tool} \"$@\"\n"
    );
    std::fs::write(dir.join(tool), script).unwrap();
    std::fs::set_permissions(dir.join(tool), std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn whole() {
    let lab = Lab::new(PODS);
    let _other = Other::new();
    let tools = lab.file("tools");
    let fails = |why: &str| {
        let done = redirect_with(tools.to_str().unwrap(), "apply --kubelet-probes --netns other");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.starts_with("other: ") && said.contains(why), "{said}");
    };
    let nothing_is_left = || {
        assert_eq!(lab.tool("other", "nft list tables"), "");
        assert!(!guarded());
        for family in ["-4", "-6"] {
            assert_eq!(lab.tool("other", &format!("ip {family} rule show priority 32764")), "");
            assert_eq!(lab.tool("other", &format!("ip {family} route show table 100")), "");
        }
        let shown = redirect("show --json --netns other").stdout;
        let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
        assert_eq!(shown["applied"], false);
    };
    fails("the interface lo is down");
    nothing_is_left();
    ip("-n other link set lo up");
    let cases = [
        ("ip", "[ \"$1 $2\" = '-6 -batch' ]", "ip failed: no"),
        ("nft", "[ \"${text#*adit-mangle}\" != \"$text\" ]", "nft failed: no"),
    ];
    for (tool, when, why) in cases {
        failing(&tools, tool, when);
        fails(why);
        nothing_is_left();
    }
    // What stood before stands as it did.
    redirected("apply --permissive --kubelet-probes --netns other");
    let before = lab.tool("other", "nft list ruleset");
    let rules = |family| lab.tool("other", &format!("ip {family} rule show priority 32764"));
    let routed = [rules("-4"), rules("-6")];
    for (tool, when, why) in cases {
        failing(&tools, tool, when);
        fails(why);
        assert_eq!(lab.tool("other", "nft list ruleset"), before);
        assert_eq!([rules("-4"), rules("-6")], routed);
        assert!(guarded());
    }
}

/// What `adit redirect show` says of the namespace `other`, to people and to scripts.
fn shown() -> (String, serde_json::Value) {
    let [said, json] = ["show --netns other", "show --json --netns other"].map(|words| {
        let done = redirect(words);
        assert_eq!(done.status.code(), Some(0), "{words}: it shows, whatever there is");
        String::from_utf8(done.stdout).unwrap()
    });
    (said, serde_json::from_str(&json).unwrap())
}

/// What is missing, and the command that is to restore it.
fn incomplete() -> (Vec<String>, String) {
    let (said, json) = shown();
    assert_eq!(json["complete"], false, "{json}");
    let missing: Vec<String> = serde_json::from_value(json["missing"].clone()).unwrap();
    assert!(said.contains(&format!("NOT COMPLETE, without {}\n", missing.join(", "))), "{said}");
    let (_, command) = said.split_once("what to do  adit redirect ").expect("it says what to do");
    (missing, command.lines().next().unwrap().to_owned())
}

fn is_complete() -> serde_json::Value {
    let (said, json) = shown();
    assert_eq!(json["complete"], true, "{json}");
    assert!(said.contains("rules       complete\n") && !said.contains("what to do"), "{said}");
    json
}

fn not_complete() {
    let _other = Other::new();
    ip("-n other link set lo up");
    let remove = |table: &str| ip(&format!("netns exec other nft delete table inet {table}"));
    let older = "the rules that block older plaintext connections";
    let not_tcp = "the rules about traffic that is not TCP";
    for (options, tables) in [
        ("", &[("adit-filter", older)][..]),
        (" --non-tcp count", &[("adit-non-tcp", not_tcp), ("adit-filter", older)]),
        (" --kubelet-probes --non-tcp drop", &[("adit-filter", older), ("adit-non-tcp", not_tcp)]),
        (" --permissive --non-tcp drop", &[("adit-non-tcp", not_tcp)]),
    ] {
        redirected(&format!("apply --netns other{options}"));
        let asked = is_complete()["asked"].clone();
        for (table, names) in tables {
            remove(table);
            let (missing, command) = incomplete();
            // The probes' exception in the table goes with it.
            assert_eq!(missing[0], *names, "{options}, without {table}");
            assert_eq!(shown().1["asked"], asked);
            redirected(&command);
            assert_eq!(is_complete()["asked"], asked, "{command}");
        }
    }
    assert!(shown().0.contains("is dropped and counted"));
    ip("netns exec other nft flush chain inet adit-non-tcp adit-input");
    assert_eq!(incomplete().0, [not_tcp], "emptied");

    // Who asks for less has nothing that could be missing.
    redirected("apply --permissive --netns other");
    assert_eq!(is_complete()["asked"]["mtls"], "permissive");
    assert!(shown().0.contains("continue (permissive)"));
    redirected("remove --netns other");
    assert!(shown().0.contains("rules       none\n"));
}

fn flushed() {
    let _other = Other::new();
    ip("-n other link set lo up");
    redirected("apply --netns other");
    let rules = is_complete()["ipRules"].clone();
    let rules: Vec<String> = serde_json::from_value(rules).unwrap();
    assert!(rules.len() == 2 && rules[0].starts_with("IPv4 ") && rules[1].starts_with("IPv6 "));
    for (gone, says_exceptions) in [("delete table inet adit-nat", true), ("flush ruleset", false)]
    {
        ip(&format!("netns exec other nft {gone}"));
        let (said, json) = shown();
        assert!(json["asked"].is_null(), "the note is gone with the table: {json}");
        assert_eq!(said.contains("exceptions"), says_exceptions, "{gone}: {said}");
        redirected(&incomplete().1);
        is_complete();
    }
}

fn added() {
    let _other = Other::new();
    ip("-n other link set lo up");
    for options in ["", " --permissive", " --kubelet-probes --non-tcp drop"] {
        redirected(&format!("apply --netns other{options}"));
        let asked = is_complete()["asked"].clone();
        ip("netns exec other nft insert rule inet adit-nat adit-prerouting tcp dport 8080 accept");
        let (said, json) = shown();
        assert_eq!((&json["complete"], &json["changed"][0]), (&false.into(), &"adit-nat".into()));
        assert_eq!(json["missing"], serde_json::json!([]));
        assert!(
            said.contains("rules       CHANGED: other rules than adit applied, in inet adit-nat;"),
            "{said}"
        );
        let (_, command) = said.split_once("what to do  adit redirect ").expect("it is said");
        redirected(command.lines().next().unwrap());
        assert_eq!(is_complete()["asked"], asked, "{options}");
    }
}

/// As an earlier version applied them, without a note of what was asked for.
fn without_note() {
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    let take_note_away = |lab: &Lab| {
        let rules = lab.tool("db", "nft -s list table inet adit-nat");
        let (before, rest) = rules.split_once(" comment \"adit applied: ").expect("noted");
        let (_, after) = rest.split_once('"').expect("it ends");
        let file = lab.file("earlier.nft");
        let earlier = format!("delete table inet adit-nat\n{before}{after}");
        std::fs::write(&file, earlier).unwrap();
        lab.tool("db", &format!("nft -f {}", file.display()));
    };
    let is_noted = |lab: &Lab| {
        lab.tool("db", "nft list table inet adit-nat").contains("comment \"adit applied: strict")
    };
    let show = || {
        let shown = redirect("show --json --netns db").stdout;
        serde_json::from_slice::<serde_json::Value>(&shown).unwrap()
    };
    redirected("apply --netns db");
    take_note_away(&lab);
    assert!(!is_noted(&lab));
    let shown = show();
    assert!(shown["complete"].is_null() && shown["asked"].is_null(), "{shown}");
    assert_eq!(shown["missing"], serde_json::json!([]));
    let said = redirect("show --netns db").stdout;
    assert!(String::from_utf8(said).unwrap().contains("rules       CANNOT TELL"));

    // A start applies them with a note; whoever takes that away has it restored once.
    lab.start(&allow(&["web"]));
    assert!(is_noted(&lab));
    take_note_away(&lab);
    lab.wait("restored", || is_noted(&lab));
    assert_eq!(show()["complete"], true);
    lab.wait("said", || lab.log().contains("changed this pod's capture rules"));
    assert!(!lab.log().contains("cannot be restored"), "{}", lab.log());

    // An edit that changes what is asked for changes the note.
    lab.write_mesh(&format!("mtls: permissive\n{}", allow(&["web"])));
    lab.wait("noted", || show()["asked"]["mtls"] == "permissive");
    assert_eq!(show()["complete"], true);
}

fn names_none() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let file = format!("show --netns {}", file.path().display());
    for words in ["apply --netns nosuch", "show --netns pid:999999999", &file] {
        let done = redirect(words);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(3), "{words}: {said}");
        assert!(said.contains("network namespace"), "{words}: {said}");
    }
}
