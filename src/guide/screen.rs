//! A guide on a terminal of 80 columns: paragraphs wrapped, tables as columns where they fit, else
//! each row as a short list, links as what they name.
//!
//! Not all of Markdown: what the guides use of it.

/// Columns of the narrowest terminal that a guide is read on.
const WIDTH: usize = 80;
/// How far code stands from the margin.
const CODE: &str = "    ";
/// What the other columns of a table may take where the last one is wrapped.
const BEFORE_LAST: usize = 44;
/// What the first column of a table of figures has at least.
const LEAST_FIRST: usize = 14;
/// Stands for a blank at which no line is broken: in short code.
const TIED: char = '\u{1}';
const SHORT: usize = 40;

/// The text for a terminal.
pub(super) fn on_screen(markdown: &str) -> String {
    let mut screen = Screen::default();
    let mut lines = markdown.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(code) = line.trim_start().strip_prefix("```") {
            screen.end_paragraph();
            let indent = line.len() - line.trim_start().len();
            let of_file = code.split(' ').nth(1).filter(|name| name.contains('.'));
            if let Some(name) = of_file {
                screen.line(&format!("{name}:"));
            }
            let code = lines.by_ref().take_while(|line| line.trim() != "```");
            code.for_each(|line| {
                screen.line(&format!("{CODE}{}", &line[indent.min(line.len())..]))
            });
        } else if line.starts_with('|') {
            screen.end_paragraph();
            let mut rows = vec![cells(line)];
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                rows.push(cells(row));
            }
            screen.table(&rows);
        } else if line.starts_with('#') {
            screen.end_paragraph();
            screen.line(line);
        } else if line.is_empty() {
            screen.end_paragraph();
            screen.line("");
        } else if !is_link_target(line) {
            screen.text(line);
        }
    }
    screen.end_paragraph();
    screen.out.trim_end().to_owned() + "\n"
}

/// `[mesh guide]: mesh.md`
fn is_link_target(line: &str) -> bool {
    line.starts_with('[') && line.contains("]: ")
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
    inner.split('|').map(|cell| inline(cell.trim())).collect()
}

struct Screen {
    out: String,
    width: usize,
    /// The paragraph or item that goes on, as it is in the source but for its line breaks.
    paragraph: String,
    /// How far its further lines are indented.
    hanging: usize,
}

impl Default for Screen {
    fn default() -> Self {
        Self { out: String::new(), width: WIDTH, paragraph: String::new(), hanging: 0 }
    }
}

impl Screen {
    fn line(&mut self, text: &str) {
        self.out.push_str(&text.trim_end().replace(TIED, " "));
        self.out.push('\n');
    }

    /// One line of a paragraph or of an item of a list.
    fn text(&mut self, line: &str) {
        let indent = line.len() - line.trim_start().len();
        let rest = line.trim_start();
        if let Some(marker) = marker(rest) {
            self.end_paragraph();
            self.hanging = indent + marker;
            self.paragraph = line.to_owned();
        } else {
            if !self.paragraph.is_empty() {
                self.paragraph.push(' ');
            }
            self.paragraph.push_str(rest);
        }
    }

    fn end_paragraph(&mut self) {
        let paragraph = std::mem::take(&mut self.paragraph);
        if !paragraph.is_empty() {
            let indent = paragraph.len() - paragraph.trim_start().len();
            self.wrapped(&" ".repeat(indent), &inline(&paragraph), self.hanging);
        }
        self.hanging = 0;
    }

    /// Words up to the margin, after `first`; further lines are indented as far as `hanging`.
    fn wrapped(&mut self, first: &str, text: &str, hanging: usize) {
        let mut line = first.to_owned();
        let mut is_empty = true;
        for word in text.split_whitespace() {
            if !is_empty && length(&line) + 1 + length(word) > self.width {
                self.line(&line);
                line = " ".repeat(hanging);
                is_empty = true;
            }
            if !is_empty {
                line.push(' ');
            }
            line.push_str(word);
            is_empty = false;
        }
        self.line(&line);
    }

    fn table(&mut self, rows: &[Vec<String>]) {
        let [head, _, body @ ..] = rows else { return };
        let widest = |column: usize| {
            let cell = |row: &Vec<String>| row.get(column).map_or(0, |cell| length(cell));
            cell(head).max(body.iter().map(cell).max().unwrap_or(0))
        };
        let widths: Vec<usize> = (0..head.len()).map(widest).collect();
        let before_last: usize = widths.iter().rev().skip(1).map(|width| width + 2).sum();
        let all = before_last + widths.last().copied().unwrap_or(0);
        let after_first: usize = widths.iter().skip(1).map(|width| width + 2).sum();
        match () {
            () if all <= WIDTH || before_last <= BEFORE_LAST => {}
            () if WIDTH - LEAST_FIRST >= after_first => return self.figures(rows, &widths[1..]),
            () => return self.list(head, body),
        }
        for row in [head].into_iter().chain(body) {
            let Some((last, others)) = row.split_last() else { continue };
            let mut line = String::new();
            for (cell, width) in others.iter().zip(&widths) {
                line.push_str(cell);
                line.push_str(&" ".repeat(width + 2 - length(cell)));
            }
            if row.iter().any(|cell| !cell.is_empty()) {
                self.wrapped(&line, last, before_last);
            }
        }
    }

    /// A table of short cells: what they are about is wrapped before them.
    fn figures(&mut self, rows: &[Vec<String>], widths: &[usize]) {
        let first = WIDTH - widths.iter().map(|width| width + 2).sum::<usize>();
        for row in rows.iter().take(1).chain(rows.iter().skip(2)) {
            let mut about = Screen { width: first, ..Screen::default() };
            about.wrapped("", &row[0], 1);
            let mut lines = about.out.lines();
            let mut line = lines.next().unwrap_or_default().to_owned();
            line.push_str(&" ".repeat(first.saturating_sub(length(&line))));
            for (cell, width) in row[1..].iter().zip(widths) {
                line.push_str(&" ".repeat(width + 2 - length(cell)));
                line.push_str(cell);
            }
            self.line(&line);
            lines.for_each(|line| self.line(line));
        }
    }

    /// A table that is too wide: each row under its first cell.
    fn list(&mut self, head: &[String], body: &[Vec<String>]) {
        for (number, row) in body.iter().enumerate() {
            if number > 0 {
                self.line("");
            }
            self.wrapped("", &row[0], 0);
            let says = |cell: &str| !matches!(cell, "" | "–");
            for (title, cell) in head.iter().zip(row).skip(1).filter(|(_, cell)| says(cell)) {
                let title = match title.is_empty() || head.len() == 2 {
                    true => String::new(),
                    false => format!("{title}: "),
                };
                self.wrapped("    ", &format!("{title}{cell}"), 6);
            }
        }
    }
}

/// The length of what makes a line an item of a list: `- `, `1. `.
fn marker(line: &str) -> Option<usize> {
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    match digits {
        0 => line.starts_with("- ").then_some(2),
        _ => line[digits..].starts_with(". ").then_some(digits + 2),
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// Without marks: links say what they name and where it is, if that is not on this page or another
/// guide; bold and italic text is plain. Code keeps its backquotes.
fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['`', '[', '*', '!']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let taken = match rest.as_bytes()[0] {
            b'`' => {
                let end = rest[1..].find('`').map_or(rest.len(), |end| end + 2);
                match end <= SHORT {
                    true => out.push_str(&rest[..end].replace(' ', "\u{1}")),
                    false => out.push_str(&rest[..end]),
                }
                end
            }
            b'[' => link(rest, &mut out),
            b'!' if rest.starts_with("![") => {
                out.push_str("picture: ");
                1
            }
            b'*' => rest.len() - rest.trim_start_matches('*').len(),
            _ => {
                out.push_str(&rest[..1]);
                1
            }
        };
        rest = &rest[taken..];
    }
    out.push_str(rest);
    out
}

/// Writes what a link at the beginning of `text` says; the bytes that it takes.
fn link(text: &str, out: &mut String) -> usize {
    let Some(end) = text.find(']') else {
        out.push('[');
        return 1;
    };
    let name = &text[1..end];
    let target = text[end + 1..].strip_prefix('(').and_then(|after| after.split_once(')'));
    match target {
        Some((target, _)) => {
            out.push_str(&inline(name));
            let path = target.trim_start_matches("../");
            if !path.starts_with('#') && path != name {
                out.push_str(&format!(" ({path})"));
            }
            end + 1 + target.len() + 2
        }
        None if name.ends_with(" guide") => {
            out.push_str(name);
            end + 1
        }
        None => {
            out.push('[');
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_wrapped_and_links_are_named() {
        let shown = on_screen(
            "# A\n\nSee the [mesh guide], **not** [the\nrunbook](../../deploy/x.md), nor `a**b`.\n\n\
             - one\n  two\n- three\n\n[mesh guide]: mesh.md\n",
        );
        let expected = "# A\n\nSee the mesh guide, not the runbook (deploy/x.md), nor `a**b`.\n\n\
                        - one two\n- three\n";
        assert_eq!(shown, expected);
        let code = on_screen(&format!("{}`a b` c\n", "words ".repeat(13)));
        assert!(code.ends_with("\n`a b` c\n"), "{code}");
        let words = "word ".repeat(40);
        assert!(on_screen(&words).lines().all(|line| length(line) <= WIDTH));
    }

    #[test]
    fn code_stands_as_it_is_and_files_have_their_names() {
        let shown =
            on_screen("```yaml a.yaml\na: [b]  # *c*\n```\n\n1. x\n   ```sh\n   ls *\n   ```\n");
        assert_eq!(shown, "a.yaml:\n    a: [b]  # *c*\n\n1. x\n    ls *\n");
    }

    #[test]
    fn a_table_has_columns_where_they_fit_and_is_a_list_otherwise() {
        assert_eq!(on_screen("| A | B |\n|---|---|\n| `x` | y |\n"), "A    B\n`x`  y\n");
        let long = "word ".repeat(20);
        let shown = on_screen(&format!("| A | B |\n|---|---|\n| `x y` | {long} |\n"));
        assert!(shown.starts_with("A      B\n`x y`  word word"), "{shown}");
        assert!(shown.lines().nth(2).unwrap().starts_with("       word"), "{shown}");
        let shown =
            on_screen(&format!("| A | B | C | D |\n|---|---|---|\n| `x` | {long} | | – |\n"));
        assert!(shown.starts_with("`x`\n    B: word word"), "{shown}");
        assert!(shown.lines().all(|line| length(line) <= WIDTH), "{shown}");
        assert!(!shown.contains("C:") && !shown.contains("D:"), "{shown}");
        let numbers = "| 1.25 ".repeat(8);
        let head = "| proxy".repeat(8);
        let table = format!(
            "| more is better {head} |\n|---{}|\n| new connections, thousands {numbers} |\n",
            "|--:".repeat(8)
        );
        let shown = on_screen(&table);
        assert!(shown.ends_with("  1.25\n thousands\n"), "{shown}");
        assert_eq!(shown.lines().count(), 3, "{shown}");
    }
}
