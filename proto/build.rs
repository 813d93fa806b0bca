//! Generates the crate's code from its tables: the Kafka messages from `schema/*.txt`, gRPC from
//! `src/rpc/*.proto`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;

#[path = "schema/generate/mod.rs"]
mod generate;

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    kafka(Path::new("schema"), &out)?;
    rpc(Path::new("src/rpc"), &out)?;
    Ok(())
}

/// Reads the schema tables and writes the message types, the internal ones, and the table of APIs.
fn kafka(folder: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={}", folder.display());
    let tables = generate::table::read(folder)?;
    fs::write(out.join("messages.rs"), generate::rust::messages(&tables))?;
    fs::write(out.join("internal.rs"), generate::rust::data(&tables))?;
    Ok(fs::write(out.join("api_table.rs"), generate::rust::api_table(&tables))?)
}

/// Compiles every `.proto` file of the folder: `rpc.rs` declares a module per package, without the
/// leading `tidemark`, and `rpc.bin` holds the descriptors that reflection serves.
fn rpc(folder: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut protos: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            protos.push(path);
        }
    }
    protos.sort();
    if protos.is_empty() {
        fs::write(out.join("rpc.rs"), "")?;
        return Ok(fs::write(out.join("rpc.bin"), "")?);
    }
    let descriptors = protox::compile(&protos, [folder])?;
    fs::write(out.join("rpc.bin"), descriptors.encode_to_vec())?;
    let mut packages: Vec<String> = descriptors
        .file
        .iter()
        .map(|file| file.package().to_owned())
        .filter(|package| package.starts_with("tidemark."))
        .collect();
    packages.sort();
    packages.dedup();
    tonic_prost_build::configure().build_transport(false).bytes(".").out_dir(out).compile_fds(descriptors)?;
    let modules: String = packages.iter().map(|package| module_of(package)).collect();
    Ok(fs::write(out.join("rpc.rs"), modules)?)
}

/// `tidemark.meta.v1` becomes `pub mod meta { pub mod v1 { … } }`. A package before the version has
/// one version for now; two would have to share the outer module.
fn module_of(package: &str) -> String {
    let names: Vec<&str> = package.split('.').skip(1).collect();
    let open: String =
        names.iter().map(|name| format!("#[allow(missing_docs)] pub mod {name} {{ ")).collect();
    let file = format!("include!(concat!(env!(\"OUT_DIR\"), \"/{package}.rs\"));");
    format!("{open}{file}{}\n", " }".repeat(names.len()))
}
