//! Whether a table is as it was applied: nft lists rules in words of its own, so what is compared is
//! how many there are, and of which kinds.

/// What a listing has in common with what was applied, however this nft writes rules.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Shape {
    flags: usize,
    hooks: usize,
    rules: usize,
    accepts: usize,
    drops: usize,
}

impl Shape {
    pub(super) fn of(text: &str) -> Self {
        let mut shape = Self::default();
        let mut is_rule = false;
        for line in text.lines().map(str::trim) {
            match line.split(' ').next() {
                Some("chain") => is_rule = true,
                Some("}") => is_rule = false,
                Some("flags") if !is_rule => shape.flags += 1,
                Some("type") if is_rule => shape.hooks += 1,
                _ if is_rule => {
                    shape.rules += 1;
                    shape.accepts += usize::from(line.ends_with(" accept"));
                    shape.drops += usize::from(line.ends_with(" drop"));
                }
                _ => {}
            }
        }
        shape
    }
}
