//! Which build this is, in the words in which programs of a mesh say it.

use std::fmt;

use serde::Serialize;

use super::Feature;

/// What is known of this build. Its text is one line, as `istioctl` and bug reports expect it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildInfo {
    /// Such as `0.1.0`.
    pub version: &'static str,
    /// The revision of the source, if the build was told.
    pub git_revision: &'static str,
    /// The compiler, such as `1.90.0`.
    pub rust_version: &'static str,
    /// `release` or `debug`.
    pub build_profile: &'static str,
    /// `Clean` or `Modified`, if the build was told.
    pub build_status: &'static str,
    /// The release of Istio that this process is deployed with.
    pub istio_version: String,
    /// Who makes the cryptography.
    pub crypto_provider: &'static str,
    /// The optional parts that are built in, such as `acme,rego`.
    pub features: String,
}

/// What stands for all that nobody has said.
const UNKNOWN: &str = "unknown";

impl BuildInfo {
    /// This build, deployed with this release of Istio.
    #[must_use]
    pub fn with_istio(version: Option<&str>) -> Self {
        // `rustc 1.90.0 (1159e78c4 2025-09-14)`
        let compiler = env!("ADIT_COMPILER").split(' ').nth(1);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            git_revision: option_env!("ADIT_GIT_REVISION").unwrap_or(UNKNOWN),
            rust_version: compiler.unwrap_or(UNKNOWN),
            build_profile: env!("ADIT_PROFILE"),
            build_status: option_env!("ADIT_BUILD_STATUS").unwrap_or(UNKNOWN),
            istio_version: version.unwrap_or(UNKNOWN).into(),
            crypto_provider: "tls-aws-lc",
            features: Feature::built().collect::<Vec<_>>().join(","),
        }
    }
}

impl fmt::Display for BuildInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "version.BuildInfo{{Version:{:?}, GitRevision:{:?}, RustVersion:{:?}, \
             BuildProfile:{:?}, BuildStatus:{:?}, IstioVersion:{:?}, CryptoProvider:{:?}, \
             Features:{:?}}}",
            self.version,
            self.git_revision,
            self.rust_version,
            self.build_profile,
            self.build_status,
            self.istio_version,
            self.crypto_provider,
            self.features
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_line_that_others_can_split() {
        let line = BuildInfo::with_istio(Some("1.31.0")).to_string();
        let fields = line.strip_prefix("version.BuildInfo{").unwrap().strip_suffix('}').unwrap();
        let names: Vec<&str> = fields.split(", ").map(|f| f.split(':').next().unwrap()).collect();
        let expected = [
            "Version",
            "GitRevision",
            "RustVersion",
            "BuildProfile",
            "BuildStatus",
            "IstioVersion",
            "CryptoProvider",
            "Features",
        ];
        assert_eq!(names, expected);
        assert!(line.contains("IstioVersion:\"1.31.0\""), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
}
