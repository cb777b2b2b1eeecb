//! Compiles the protocol files beside this one, without a `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = "src/rpc/proto";
    let files = ["workload.proto", "istio_ca.proto", "broker.proto"];
    println!("cargo::rerun-if-changed={here}");
    let described = protox::compile(files, [here])?;
    tonic_prost_build::configure().compile_fds(described)?;
    Ok(())
}
