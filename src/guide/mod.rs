//! The guides, as Markdown: shown here, on any forge, and by `adit guide NAME`.

mod screen;
#[cfg(test)]
mod tests;

/// A guide.
#[derive(Clone, Copy, Debug)]
pub struct Guide {
    /// What it is asked for by.
    pub name: &'static str,
    /// What it is about, in a line.
    pub about: &'static str,
    /// The text, Markdown.
    pub text: &'static str,
}

impl Guide {
    /// The text for a terminal of 80 columns.
    #[must_use]
    pub fn on_screen(&self) -> String {
        screen::on_screen(self.text)
    }
}

// Guides name each other as `[mesh guide]`, and say at their end which file that is. What stands
// first counts: in rustdoc these are pages.
macro_rules! links {
    () => {
        "[mesh guide]: crate::guide::mesh\n\
             [standalone guide]: crate::guide::standalone\n\
             [identity guide]: crate::guide::identity\n\
             [observability guide]: crate::guide::observability\n\
             [security guide]: crate::guide::security\n\
             [performance guide]: crate::guide::performance\n\
             [architecture guide]: crate::guide::architecture\n\n"
    };
}

macro_rules! guides {
    ($($name:ident $about:literal $file:literal)*) => {
        $(
            #[doc = links!()]
            #[doc = include_str!($file)]
            pub mod $name {}
        )*

        /// All of them, in the order in which to read them.
        pub const ALL: [Guide; [$(stringify!($name)),*].len()] = [$(
            Guide { name: stringify!($name), about: $about, text: include_str!($file) },
        )*];
    };
}

guides! {
    mesh "a mesh in one file, and the node proxy of an Istio ambient mesh" "mesh.md"
    standalone "TLS in front of one service, or of one client" "standalone.md"
    identity "where SPIFFE identities come from, and a CA of your own" "identity.md"
    observability "logs, metrics, status, and why a connection ended" "observability.md"
    security "what is protected, from whom, and what is not" "security.md"
    performance "figures beside other proxies, and how to repeat them" "performance.md"
    architecture "how a connection goes through the code" "architecture.md"
}
