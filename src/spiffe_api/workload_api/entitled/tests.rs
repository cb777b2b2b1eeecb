use super::*;

/// `name [hint] selector…`
fn entry(text: &str) -> Entry {
    let mut words = text.split_whitespace();
    let id = format!("spiffe://td/{}", words.next().unwrap()).parse().unwrap();
    let (mut hint, mut selectors) = ("", Selectors::default());
    for word in words {
        match word.split_once('=').unwrap() {
            ("hint", value) => hint = value,
            ("uid", value) => selectors.uid = value.parse().ok(),
            ("gid", value) => selectors.gid = value.parse().ok(),
            ("path", value) => selectors.path = Some(value.into()),
            ("workload", value) => selectors.workload = Some(value.into()),
            ("pod", value) => selectors.pod_uid = Some(value.into()),
            other => panic!("{other:?}"),
        }
    }
    Entry { id, hint: hint.into(), selectors }
}

fn pod(uid: &str, netns: u64) -> AttachedPod {
    let id = format!("spiffe://td/ns/{}", uid.replace('/', "/sa/")).parse().unwrap();
    AttachedPod { uid: uid.into(), id, netns: (4, netns) }
}

/// What is given, as `path#hint@held`.
fn given(entries: &[&str], caller: &CallerFacts) -> Vec<String> {
    let registered = Registrations {
        pods: vec![pod("shop/web", 1), pod("shop/db", 2)],
        entries: entries.iter().map(|e| entry(e)).collect(),
    };
    let all = entitled(&registered, caller);
    let show = |e: &Entitlement| {
        let held = if e.held_as.starts_with(HELD_AS) { "" } else { &*e.held_as };
        format!("{}#{}@{held}", e.id.path(), e.hint)
    };
    all.iter().map(show).collect()
}

#[test]
fn who_gets_what() {
    let nobody = CallerFacts { uid: 1000, gid: 100, ..CallerFacts::default() };
    let tool =
        CallerFacts { path: Some("/bin/tool".into()), netns: Some((4, 9)), ..nobody.clone() };
    let web = CallerFacts { netns: Some((4, 1)), ..nobody.clone() };
    let kube = CallerFacts { pod_uid: Some("1234".into()), ..nobody.clone() };
    let rows: &[(&str, &[&str], &CallerFacts, &[&str])] = &[
        ("nothing registered", &[], &nobody, &[]),
        ("an entry without selectors is for nobody", &["a"], &nobody, &[]),
        ("user", &["a uid=1000", "b uid=1001"], &nobody, &["/a#@"]),
        ("user 0 is a user, not any", &["a uid=0"], &nobody, &[]),
        ("group", &["a gid=100", "b gid=0"], &nobody, &["/a#@"]),
        ("all that is given must match", &["a uid=1000 gid=7"], &nobody, &[]),
        ("path", &["a path=/bin/tool", "b path=/bin/too"], &tool, &["/a#@"]),
        ("an executable that is not known", &["a path=/bin/tool"], &nobody, &[]),
        ("pod of this node", &[], &web, &["/ns/shop/sa/web#@shop/web"]),
        (
            "another device, same number",
            &[],
            &CallerFacts { netns: Some((5, 1)), ..web.clone() },
            &[],
        ),
        (
            "own identity first, the file's order then",
            &["b uid=1000 hint=two", "a uid=1000 hint=one"],
            &web,
            &["/ns/shop/sa/web#@shop/web", "/b#two@", "/a#one@"],
        ),
        (
            "selector workload",
            &["a workload=shop/web", "b workload=shop/db"],
            &web,
            &["/ns/shop/sa/web#@shop/web", "/a#@"],
        ),
        ("selector workload outside", &["a workload=shop/web"], &tool, &[]),
        ("pod UID", &["a pod=1234", "b pod=123"], &kube, &["/a#@"]),
        ("pod UID not known", &["a pod=1234"], &nobody, &[]),
        (
            "a hint for the pod's own, whose key stays the pod's",
            &["ns/shop/sa/web workload=shop/web hint=main"],
            &web,
            &["/ns/shop/sa/web#main@shop/web"],
        ),
        ("each identity once", &["a uid=1000", "a gid=100 hint=x"], &nobody, &["/a#x@"]),
        (
            "a hint once, for the first",
            &["a uid=1000 hint=x", "b uid=1000 hint=x"],
            &nobody,
            &["/a#x@", "/b#@"],
        ),
        (
            "no identity of a pod for the same name by an entry elsewhere",
            &["ns/shop/sa/db uid=1000"],
            &nobody,
            &["/ns/shop/sa/db#@"],
        ),
    ];
    for (what, entries, caller, expected) in rows {
        assert_eq!(given(entries, caller), *expected, "{what}");
    }
}
