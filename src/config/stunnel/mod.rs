//! stunnel.conf as a file of `adit proxy`: what is carried, and by name every line that is not.
//! [`text`] reads the lines, [`service`] carries one section; the manual is stunnel(8), 5.7x.

mod address;
mod certificate;
mod options;
mod peers;
mod service;
mod support;
mod text;
mod versions;
mod warning;

pub use certificate::Certificate;
use certificate::CertificatesOf;
use text::Section;
use warning::Warning;

/// The result of an import.
#[derive(Debug)]
pub struct Imported {
    /// A file of `adit proxy`, with each remark as a comment.
    pub yaml: String,
    /// In the order of the lines.
    pub warnings: Vec<Warning>,
}

impl Imported {
    /// Whether a line that protects a service, or that it needs, was not translated.
    #[must_use]
    pub fn is_grave(&self) -> bool {
        self.warnings.iter().any(|remark| remark.grave)
    }
}

/// Translates a stunnel.conf.
#[must_use]
pub fn import(conf: &str, certificates_of: CertificatesOf<'_>) -> Imported {
    let (sections, mut warnings) = text::sections(conf);
    let Some((global, services)) = sections.split_first() else {
        return Imported { yaml: "services: []\n".into(), warnings };
    };
    warnings.extend(global.options.iter().filter_map(options::warning_on_global));
    let mut yaml = String::from("# Imported from stunnel.conf\n");
    for remark in &warnings {
        yaml.push_str(&format!("# line {}: {}\n", remark.line, remark.message));
    }
    let mut body = String::new();
    let inetd = Section { name: "stunnel".into(), line: 1, ..global.clone() };
    // What stands before the sections is the default of each; without any it is the service.
    let whole: Vec<Section> = match services {
        [] if inetd.options.is_empty() => {
            let message = "the file has no service: no [section] and no accept";
            let remark = Warning { line: 1, message: message.into(), grave: true };
            yaml.push_str(&format!("# line 1: {message}\n"));
            warnings.push(remark);
            Vec::new()
        }
        [] => vec![inetd],
        all => all.iter().map(|section| section.over(global)).collect(),
    };
    let mut names = Vec::new();
    for section in whole.iter().flat_map(Section::each_accept) {
        let carried = service::carry(&section, &mut names, certificates_of);
        for remark in carried.warnings {
            // A note on a line that many services inherit is made once.
            let said = warnings.contains(&remark);
            if !said || remark.grave {
                body.push_str(&format!("  # line {}: {}\n", remark.line, remark.message));
            }
            if !said {
                warnings.push(remark);
            }
        }
        body.push_str(&carried.yaml);
    }
    warnings.sort_by_key(|remark| remark.line);
    let some = body.lines().any(|line| line.starts_with("  - "));
    yaml.push_str(if some { "services:\n" } else { "services: []\n" });
    Imported { yaml: yaml + &body, warnings }
}

#[cfg(test)]
mod tests;
