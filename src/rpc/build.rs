//! Compiles the protocol files beside this one, without a `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = "src/rpc/proto";
    let files = ["workload.proto", "istio_ca.proto", "broker.proto"];
    println!("cargo::rerun-if-changed={here}");
    let described = protox::compile(files, [here])?;
    tonic_prost_build::configure().compile_fds(described)?;
    // What reflection shows: the Workload API and nothing else.
    let mut workload = protox::Compiler::new([here])?;
    workload.include_imports(true).open_file("workload.proto")?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("workload.bin"), workload.encode_file_descriptor_set())?;
    Ok(())
}
