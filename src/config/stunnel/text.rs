//! The lines of a stunnel.conf: `option = value`, `[section]`, comments.

use super::{support::is_known, warning::Warning};

/// Options whose values are secrets, or may hold some: passwords, PINs, headers, commands.
const SECRET: &[&str] = &[
    "config",
    "engineCtrl",
    "execArgs",
    "protocolHeader",
    "protocolPassword",
    "providerParameter",
    "PSKidentity",
    "PSKsecrets",
    "setEnv",
    "ticketKeySecret",
    "ticketMacSecret",
];
/// What the URI of an object in a token begins with (RFC 7512).
const TOKEN: &str = "pkcs11:";

fn is_token(value: &str) -> bool {
    value.get(..TOKEN.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(TOKEN))
}

/// One `option = value`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ConfLine {
    /// From 1.
    pub(super) line: usize,
    /// As written.
    pub(super) option: String,
    /// Empty where it may be a secret: nothing of it is needed.
    pub(super) value: String,
}

impl ConfLine {
    fn new(line: usize, option: &str, value: &str) -> Self {
        let (option, value) = (option.trim().to_owned(), value.trim());
        let mut line = Self { line, option, value: value.to_owned() };
        if !line.is_public() {
            // A token's URI may have its PIN in it; that it is one is all that is asked.
            line.value = if is_token(value) { TOKEN.into() } else { String::new() };
        }
        line
    }

    /// Whether its value may be printed. What is in an option that is not known, nobody knows.
    fn is_public(&self) -> bool {
        let secret = SECRET.iter().any(|option| self.is(option));
        let printed = self.value.to_ascii_lowercase();
        is_known(&self.option)
            && !secret
            && !is_token(&self.value)
            && !["pin-value", "pin:", "pin=", "password", "-----begin"]
                .iter()
                .any(|word| printed.contains(word))
    }

    /// The option, unless it is none: a line of base64 has a `=` at its end too.
    fn name(&self) -> String {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        match self.option.len() <= 30 && self.option.chars().all(legal) {
            true => self.option.clone(),
            false => "the key before the =".to_owned(),
        }
    }

    pub(super) fn is(&self, option: &str) -> bool {
        self.option.eq_ignore_ascii_case(option)
    }

    pub(super) fn warning(&self, grave: bool, why: &str) -> Warning {
        let message = match self.is_public() {
            true => shown(&format!("{} = {}: {why}", self.option, self.value)),
            false => shown(&format!("{}: {why}", self.name())),
        };
        Warning { line: self.line, message, grave }
    }
}

/// A text as it may stand in a comment: YAML forbids some characters everywhere (YAML 1.2.2 §5.1).
pub(super) fn shown(text: &str) -> String {
    let plain = |c: char| if is_plain(c) { c } else { ' ' };
    text.chars().take(400).map(plain).collect()
}

/// Whether a character may stand as it is.
pub(super) fn is_plain(c: char) -> bool {
    matches!(c, ' '..='~') || (!c.is_ascii() && c.is_alphanumeric())
}

/// What a section adds to what stands before all sections; all else it replaces. The versions of
/// TLS are reckoned together, in the order of their lines.
const ADD_UP: &[&str] = &[
    "accept",
    "checkEmail",
    "checkHost",
    "checkIP",
    "connect",
    "CRLfile",
    "options",
    "sslVersion",
    "sslVersionMax",
    "sslVersionMin",
];

/// The lines under one `[name]`; the first has none and stands before all others.
#[derive(Clone, Debug, Default)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) options: Vec<ConfLine>,
}

impl Section {
    pub(super) fn all<'a>(&'a self, option: &'a str) -> impl Iterator<Item = &'a ConfLine> {
        self.options.iter().filter(move |line| line.is(option))
    }

    /// The last line counts, as it does for stunnel.
    pub(super) fn get(&self, option: &str) -> Option<&ConfLine> {
        self.options.iter().rfind(|line| line.is(option))
    }

    /// The section once for each address where it listens.
    pub(super) fn each_accept(&self) -> Vec<Self> {
        let accepts = self.all("accept").count().max(1);
        let only = |nth: usize| {
            let mut at = 0;
            let mut one = self.clone();
            one.options.retain(|line| {
                at += usize::from(line.is("accept"));
                !line.is("accept") || at == nth
            });
            one
        };
        (1..=accepts).map(only).collect()
    }

    /// This section, and what `global` says where it says nothing itself, or both add up.
    pub(super) fn over(&self, global: &Self) -> Self {
        let adds = |line: &&ConfLine| ADD_UP.iter().any(|option| line.is(option));
        let inherited =
            global.options.iter().filter(|line| adds(line) || self.get(&line.option).is_none());
        let mut options: Vec<ConfLine> = inherited.cloned().collect();
        options.extend(self.options.iter().cloned());
        Self { name: self.name.clone(), line: self.line, options }
    }
}

/// The sections, and what is no line of such a file.
pub(super) fn sections(conf: &str) -> (Vec<Section>, Vec<Warning>) {
    let (mut sections, mut warnings) = (vec![Section::default()], Vec::new());
    let conf = conf.strip_prefix('\u{feff}').unwrap_or(conf);
    for (n, text) in conf.lines().enumerate() {
        let (line, text) = (n + 1, text.trim());
        if text.is_empty() || text.starts_with([';', '#']) {
            continue;
        }
        if text.contains(char::REPLACEMENT_CHARACTER) {
            let option = text.split_once('=').map_or("this line", |(option, _)| option.trim());
            let option = ConfLine::new(line, option, "").name();
            let message = format!("{option}: is not written in UTF-8");
            warnings.push(Warning { line, message, grave: true });
            if !text.starts_with('[') {
                continue;
            }
        }
        if let Some(name) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            sections.push(Section { name: shown(name.trim()), line, options: Vec::new() });
            continue;
        }
        // What follows belongs to no section before it, however its name is written.
        if let Some(name) = text.strip_prefix('[') {
            let message = format!("{}: is not a valid section name", shown(text));
            warnings.push(Warning { line, message, grave: true });
            let name = name.split(']').next().unwrap_or_default();
            sections.push(Section { name: shown(name.trim()), line, options: Vec::new() });
            continue;
        }
        match (text.split_once('='), sections.last_mut()) {
            (Some((option, value)), Some(section)) => {
                section.options.push(ConfLine::new(line, option, value));
            }
            _ => {
                let message = "expected `option = value`".to_owned();
                warnings.push(Warning { line, message, grave: true });
            }
        }
    }
    (sections, warnings)
}
