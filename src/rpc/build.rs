//! Compiles the protocol files beside this one, without a `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    compiler()?;
    small_relocations();
    let here = "src/rpc/proto";
    let files = [
        "workload.proto",
        "istio_ca.proto",
        "broker.proto",
        "bans.proto",
        "discovery.proto",
        "address.proto",
        "authorization.proto",
        "zds.proto",
    ];
    println!("cargo::rerun-if-changed={here}");
    let described = protox::compile(files, [here])?;
    // A response has tens of thousands of resources: they stay parts of it, without a copy.
    let resource = ".envoy.service.discovery.v3.Any.value";
    tonic_prost_build::configure().bytes(resource).compile_fds(described)?;
    // What reflection shows: the Workload API and nothing else.
    let mut workload = protox::Compiler::new([here])?;
    workload.include_imports(true).open_file("workload.proto")?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("workload.bin"), workload.encode_file_descriptor_set())?;
    Ok(())
}

/// What `/_status` and `adit version` say of the build.
fn compiler() -> Result<(), Box<dyn std::error::Error>> {
    let rustc = std::env::var_os("RUSTC").ok_or("cargo did not say which rustc it uses")?;
    let said = std::process::Command::new(rustc).arg("--version").output()?.stdout;
    println!("cargo::rustc-env=ADIT_COMPILER={}", String::from_utf8(said)?.trim());
    println!("cargo::rustc-env=ADIT_PROFILE={}", std::env::var("PROFILE")?);
    Ok(())
}

/// A position-independent program of this size has 1.6 MB of relocations, or 50 kB in the form that
/// glibc 2.36 (Debian 12) and later read. A linker that does not know it leaves them as they are.
fn small_relocations() {
    let is = |what: &str, wanted: &str| std::env::var(what).is_ok_and(|found| found == wanted);
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
