//! Circles of files: strongly connected parts of "uses an item that stands in".

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::File;

type Module<'a> = &'a [String];

/// One line for each circle, with who uses whom.
pub(crate) fn found(files: &[File]) -> Vec<String> {
    let by_module: BTreeMap<Module<'_>, &File> = files.iter().map(|f| (&f.module[..], f)).collect();
    let mut uses: BTreeMap<Module<'_>, BTreeSet<Module<'_>>> = BTreeMap::new();
    for file in files {
        for import in file.imports.iter().filter(|i| !i.passed_on) {
            let Some(used) = home(&by_module, &import.path, 0) else { continue };
            if used != &file.module[..] && used.first() == file.module.first() {
                uses.entry(&file.module).or_default().insert(used);
            }
        }
    }
    let reach: BTreeMap<Module<'_>, BTreeSet<Module<'_>>> =
        uses.keys().map(|from| (*from, reached(&uses, from))).collect();
    let mut circles: BTreeSet<Vec<Module<'_>>> = BTreeSet::new();
    for (from, there) in &reach {
        if !there.contains(from) {
            continue;
        }
        let back = |to: &&Module<'_>| reach.get(*to).is_some_and(|r| r.contains(from));
        circles.insert(there.iter().filter(back).copied().collect());
    }
    let said = |circle: &Vec<Module<'_>>| {
        let one = |m: &Module<'_>| {
            let used: Vec<String> =
                uses[m].iter().filter(|u| circle.contains(u)).map(|u| u.join("::")).collect();
            format!("{} -> {}", m.join("::"), used.join(", "))
        };
        circle.iter().map(one).collect::<Vec<_>>().join("; ")
    };
    circles.iter().map(said).collect()
}

fn reached<'a>(
    uses: &BTreeMap<Module<'a>, BTreeSet<Module<'a>>>,
    from: Module<'a>,
) -> BTreeSet<Module<'a>> {
    let (mut there, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(at) = next.pop() {
        for to in uses.get(at).into_iter().flatten() {
            if there.insert(*to) {
                next.push(to);
            }
        }
    }
    there
}

/// The file in which the item stands, behind every `pub use`.
fn home<'a>(
    files: &BTreeMap<Module<'a>, &'a File>,
    path: &[String],
    depth: usize,
) -> Option<Module<'a>> {
    let (length, file) = (1..=path.len()).rev().find_map(|n| Some((n, *files.get(&path[..n])?)))?;
    let led_on = path
        .get(length)
        .and_then(|item| file.imports.iter().find(|i| i.passed_on && i.path.last() == Some(item)));
    match led_on {
        Some(import) if depth < 8 && import.path != path => {
            let further = [&import.path[..], &path[length + 1..]].concat();
            home(files, &further, depth + 1)
        }
        _ => Some(&file.module),
    }
}
