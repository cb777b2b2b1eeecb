//! Functions of a file as rustfmt lays them out: a body ends where its indentation comes back.

/// One function.
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    pub(crate) first: usize,
    pub(crate) lines: usize,
    /// Without `self`.
    pub(crate) parameters: usize,
}

const BEFORE: &[&str] = &["pub", "const", "async", "unsafe", "extern"];

/// All that have a body.
pub(crate) fn of(text: &str) -> Vec<Function<'_>> {
    let lines: Vec<&str> = text.lines().collect();
    let found = lines.iter().enumerate().filter_map(|(at, line)| {
        let name = name(line)?;
        let indented = line.len() - line.trim_start().len();
        let end = format!("{}}}", &line[..indented]);
        let head = lines[at..].iter().find(|l| l.ends_with(['{', ';', '}']))?;
        let more = match head {
            head if head.ends_with(';') => return None,
            _ if line.ends_with('}') => 0,
            _ => lines[at..].iter().position(|l| *l == end)?,
        };
        let head = lines[at..=at + more].join(" ");
        Some(Function { name, first: at + 1, lines: more + 1, parameters: parameters(&head) })
    });
    found.collect()
}

fn name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let known =
        |w: &str| BEFORE.iter().any(|b| w.starts_with(b)) || matches!(w, "\"C\"" | "crate)");
    if !before.split_whitespace().all(known) {
        return None;
    }
    after.split(['(', '<']).next()
}

/// Commas between the outermost brackets say how many, and `: ` who is not `self`.
fn parameters(head: &str) -> usize {
    let after_name = &head[head.find("fn ").unwrap_or(0)..];
    let (mut depth, mut angles, mut parts) = (0_i32, 0_i32, vec![String::new()]);
    let mut before = ' ';
    for c in after_name.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            '<' => angles += 1,
            '>' if before != '-' => angles -= 1,
            ',' if depth == 1 && angles == 0 => parts.push(String::new()),
            _ => {}
        }
        if depth == 0 && c == ')' && angles == 0 {
            break;
        }
        if let Some(part) = parts.last_mut()
            && depth > 0
        {
            part.push(c);
        }
        before = c;
    }
    parts.iter().filter(|p| p.contains(": ")).count()
}
