//! A policy as it lies in a file.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use flate2::bufread::GzDecoder;
use regorus::{Engine, Value};
use serde_json::Value as Json;

/// The most that is read of a file, and the most that it may unpack to.
const MOST: u64 = 64 * 1024 * 1024;
/// How many files a bundle may have.
const MOST_FILES: usize = 4096;

/// Reads a bundle, or one file of Rego; the first bytes tell.
pub(super) fn load(file: &Path) -> Result<Engine, String> {
    // Who opens a pipe waits for its writer.
    if std::fs::metadata(file).is_ok_and(|meta| !meta.is_file()) {
        return Err("is not a regular file".into());
    }
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(file)?.take(MOST + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MOST {
        return Err(format!("larger than {} MiB", MOST >> 20));
    }
    let mut engine = Engine::new();
    engine.set_rego_v0(true);
    // As in OPA: what a function cannot compute is undefined, and admits nobody.
    engine.set_strict_builtin_errors(false);
    if bytes.starts_with(&[0x1f, 0x8b]) {
        bundle(&mut engine, &bytes)?;
    } else {
        let text =
            String::from_utf8(bytes).map_err(|_| "not a tar.gz bundle and not UTF-8 text")?;
        if text.contains("-----BEGIN ") && text.contains("PRIVATE KEY-----") {
            return Err("contains a private key, not Rego".into());
        }
        let name = file.file_name().map_or("policy.rego".into(), |n| n.to_string_lossy());
        engine.add_policy(name.into_owned(), text).map_err(|e| super::told(&e))?;
    }
    Ok(engine)
}

/// `*.rego`, `data.json`, `.manifest`, wherever they lie; other files are none of a policy's.
fn bundle(engine: &mut Engine, bytes: &[u8]) -> Result<(), String> {
    let unpacked = GzDecoder::new(bytes).take(MOST + 1);
    let mut archive = tar::Archive::new(unpacked);
    let (mut policies, mut data) = (Vec::new(), Vec::new());
    let damaged =
        |e: io::Error| format!("damaged, or unpacks to more than {} MiB: {e}", MOST >> 20);
    for (n, entry) in archive.entries().map_err(damaged)?.enumerate() {
        if n >= MOST_FILES {
            return Err(format!("more than {MOST_FILES} files"));
        }
        let mut entry = entry.map_err(damaged)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().map_err(damaged)?.to_string_lossy().into_owned();
        let path = path.trim_start_matches("./").trim_start_matches('/').to_owned();
        let (at, name) = path.rsplit_once('/').unwrap_or(("", path.as_str()));
        let mut text = String::new();
        let mut read = || entry.read_to_string(&mut text).map_err(|e| format!("{path}: {e}"));
        match name {
            ".signatures.json" => {
                return Err(
                    "it is signed, but adit does not check the signatures of bundles: omit \
                            .signatures.json, and protect the file"
                        .into(),
                );
            }
            "data.yaml" | "data.yml" => {
                return Err(format!("{path}: data must be in files named data.json"));
            }
            ".manifest" => {
                read()?;
                manifest(engine, &text).map_err(|e| format!("{path}: {e}"))?;
            }
            "data.json" => {
                read()?;
                let json = serde_json::from_str(&text).map_err(|e| format!("{path}: {e}"))?;
                data.push((path.clone(), rooted(at, json)));
            }
            _ if name.ends_with(".rego") => {
                read()?;
                policies.push((path.clone(), text));
            }
            _ => {}
        }
    }
    if policies.is_empty() {
        return Err("the bundle has no .rego file".into());
    }
    for (path, text) in policies {
        engine.add_policy(path, text).map_err(|e| super::told(&e))?;
    }
    for (path, json) in data {
        let added = engine.add_data(Value::from(json));
        added.map_err(|e| format!("{path}: {}", super::told(&e)))?;
    }
    Ok(())
}

/// Which version of Rego the bundle is written in.
fn manifest(engine: &mut Engine, text: &str) -> Result<(), String> {
    let manifest: Json = serde_json::from_str(text).map_err(|e| e.to_string())?;
    match manifest.get("rego_version").map(Json::as_u64) {
        None | Some(Some(0)) => {}
        Some(Some(1)) => engine.set_rego_v0(false),
        Some(_) => return Err("rego_version must be 0 or 1".into()),
    }
    Ok(())
}

/// Data lies in the document where its file lies in the bundle.
fn rooted(at: &str, json: Json) -> Json {
    let parts = at.split('/').filter(|part| !part.is_empty());
    parts
        .rev()
        .fold(json, |inner, part| Json::Object([(part.to_owned(), inner)].into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn packed(files: &[(&str, &str)]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let zipped = flate2::write::GzEncoder::new(&mut file, flate2::Compression::fast());
        let mut archive = tar::Builder::new(zipped);
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            // `opa build` writes absolute paths, which the crate would not.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            archive.append(&header, text.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap().flush().unwrap();
        file
    }

    #[test]
    fn data_lies_where_its_file_lies() {
        let file = packed(&[
            ("/p.rego", "package p\nok { data.teams.ops.names[_] == \"app\" }"),
            ("/teams/ops/data.json", r#"{"names": ["app"]}"#),
            ("/README", "not ours"),
        ]);
        let mut engine = load(file.path()).unwrap();
        assert!(super::super::asked(&mut engine, "data.p.ok").unwrap());
        assert!(!super::super::asked(&mut engine, "data.p.other").unwrap());
    }

    #[test]
    fn the_manifest_names_the_version() {
        let v1 = ("p.rego", "package p\nok if true");
        assert!(load(packed(&[v1]).path()).is_err());
        assert!(load(packed(&[(".manifest", r#"{"rego_version": 1}"#), v1]).path()).is_ok());
        assert!(load(packed(&[(".manifest", r#"{"rego_version": 2}"#), v1]).path()).is_err());
    }

    #[test]
    fn what_cannot_be_taken_is_named() {
        let ok = ("p.rego", "package p");
        for (files, why) in [
            (&[("data.json", "{}")][..], "no .rego"),
            (&[ok, (".signatures.json", "{}")], "signed"),
            (&[ok, ("a/data.yaml", "")], "a/data.yaml: data must be in files named data.json"),
            (&[ok, ("a/data.json", "{")], "a/data.json: EOF"),
            (&[("x/broken.rego", "package p\n\nallow {")], "x/broken.rego:3"),
        ] {
            let error = load(packed(files).path()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    /// Seconds each.
    mod slow {
        use super::*;

        #[test]
        fn a_bundle_that_unpacks_to_too_much_is_refused() {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            let mut zipped = flate2::write::GzEncoder::new(&mut file, flate2::Compression::best());
            let mut header = tar::Header::new_gnu();
            header.set_path("p.rego").unwrap();
            header.set_size(2 * MOST);
            header.set_cksum();
            zipped.write_all(header.as_bytes()).unwrap();
            for _ in 0..2 * MOST / 65536 {
                zipped.write_all(&[b' '; 65536]).unwrap();
            }
            zipped.finish().unwrap();
            assert!(file.as_file().metadata().unwrap().len() < MOST / 100);
            let error = load(file.path()).unwrap_err();
            assert!(error.contains("unpacks to more than 64 MiB"), "{error}");
        }
    }
}
